"""What stands between the network and the server: who may ask, how much, how slowly, and how many at once.

`guarded(app, ...)` looks at host name, key and kind of body before the body is read, and counts it while it comes.
`uvicorn_config(app, ...)` is uvicorn with a protocol that also ends what uvicorn 0.54 would keep for ever: connections
that do not send a whole request, heads without an end (httptools has no limit), readers who do not read, and the work
for clients who pipelined requests and went. Refusals have the shape of OpenAI's errors.
"""

import asyncio
import json
import socket
from http import HTTPStatus

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from inference.api import ApiError
from inference.api_keys import ApiKeys
from inference.serve_config import ServeConfig, is_loopback

OPEN_PATHS = {"/health"}  # need no key
MAX_HEAD_BYTES = 64 << 10  # request line and headers
SEND_BUFFER_BYTES = 128 << 10  # in the kernel, for each connection; Linux would let it grow to 4 MB


# requests


def guarded(app: ASGIApp, keys: ApiKeys | None, config: ServeConfig) -> ASGIApp:
    """`app` behind what may be asked. Only bodies of at most `config.max_body_bytes` reach it, whole."""
    # Without keys a web page could reach the server through its user's browser, by a host name of its own that it then
    # points at 127.0.0.1 (DNS rebinding).
    local_only = keys is None and is_loopback(config.host)

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        try:
            _check_head(scope, keys, config.max_body_bytes, local_only)
            body = await _read_body(receive, config.max_body_bytes)
        except ApiError as error:
            await _refuse(send, error)
            return
        if body is not None:
            await app(scope, _replay(body, receive), send)

    return guard


def _check_head(scope: Scope, keys: ApiKeys | None, max_body_bytes: int, local_only: bool) -> None:
    """Raises ApiError for what is refused by the head of the request alone."""
    headers = dict(scope["headers"])
    if local_only and not _is_local_name(headers.get(b"host", b"")):
        raise ApiError("this server answers to localhost and loopback addresses alone", status=421, code="unknown_host")
    if keys is not None and scope["path"] not in OPEN_PATHS and not keys.accepts(headers.get(b"authorization", b"")):
        message = "missing or wrong key: send the header `Authorization: Bearer <key>`"
        raise ApiError(message, status=401, code="invalid_api_key")
    if int(headers.get(b"content-length", 0)) > max_body_bytes:  # digits: the parser has seen to that
        raise _too_large(max_body_bytes)
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if scope["method"] == "POST" and kind != b"application/json":  # forms and plain text are what any web page may post
        raise ApiError("expected `Content-Type: application/json`", status=415, code="unsupported_media_type")


def _is_local_name(host: bytes) -> bool:
    name = host.decode("latin-1")
    return is_loopback(name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0])


def _too_large(max_body_bytes: int) -> ApiError:
    return ApiError(f"the body has more than {max_body_bytes:,} bytes", status=413, code="request_too_large")


async def _read_body(receive: Receive, max_bytes: int) -> bytes | None:
    """None where the client went away. Raises ApiError as soon as there are too many bytes."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        more = message.get("more_body", False)
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body in one message, then whatever comes."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay():
        return messages.pop() if messages else await receive()

    return replay


async def _refuse(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# connections


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with an end to the client's turn: `request_seconds` after the connection was made, or after
    its last answer, a request has to be there, body and all. A refused body is read and forgotten as long, so that
    the client can send it to its end and finds the refusal.
    """

    limits: ServeConfig
    _turn_ends: asyncio.TimerHandle | None = None
    _read_by: asyncio.TimerHandle | None = None
    _in_head, _num_head_bytes = True, 0
    _unanswered: tuple[RequestResponseCycle, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        _end_dead_peers(transport.get_extra_info("socket"), self.limits.send_seconds)
        if not self._has_room():
            self._say_and_close(503, "too many connections", "overloaded")
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._num_head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._say_and_close(
                431, f"the head of the request has more than {MAX_HEAD_BYTES:,} bytes", "head_too_large"
            )
        self._watch()

    def send_400_response(self, msg: str) -> None:
        self._say_and_close(400, msg, "bad_request")

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        self._unanswered = (*(c for c in self._unanswered if not c.response_complete), self.cycle)

    def on_message_complete(self) -> None:
        self._in_head, self._num_head_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_by = self.loop.call_later(self.limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._read_by)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for cycle in self._unanswered:  # uvicorn tells the last of pipelined requests alone, and the first is in work
            cycle.disconnected |= not cycle.response_complete
            cycle.message_event.set()
        _cancel(self._read_by)
        _cancel(self._turn_ends)

    @property
    def is_clients_turn(self) -> bool:
        """Is there no whole request that is being answered? `pipeline` holds those that wait until one is."""
        return not self.pipeline and (self.cycle is None or self.cycle.more_body or self.cycle.response_complete)

    def _watch(self) -> None:
        """The clock runs exactly while it is the client's turn."""
        if not self.is_clients_turn or self.transport.is_closing():
            _cancel(self._turn_ends)
            self._turn_ends = None
        elif self._turn_ends is None:
            self._turn_ends = self.loop.call_later(self.limits.request_seconds, self._end_turn)

    def _end_turn(self) -> None:
        half_a_head = self._in_head and self._num_head_bytes > 0
        half_a_body = self.cycle is not None and self.cycle.more_body and not self.cycle.response_started
        if half_a_head or half_a_body:
            self._say_and_close(408, "the request did not come to its end in time", "request_timeout")
        else:
            self.transport.close()

    def _has_room(self) -> bool:
        """If need be, by ending the connection that has kept the server waiting for longest."""
        live = [c for c in self.connections if not c.transport.is_closing()]  # the others are told of later
        if len(live) <= self.limits.max_connections:
            return True
        waiting = [c for c in live if c._turn_ends is not None]
        if not waiting:
            return False
        min(waiting, key=lambda c: c._turn_ends.when()).transport.abort()
        return True

    def _say_and_close(self, status: int, message: str, code: str) -> None:
        """Without the app. In the middle of an answer nothing can be said."""
        if self.pipeline or (self.cycle and self.cycle.response_started and not self.cycle.response_complete):
            self.transport.abort()
            return
        body = json.dumps(ApiError(message, status=status, code=code).body).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _end_dead_peers(connection: socket.socket, timeout: float) -> None:
    """The kernel gives up who is gone without a word, or reads nothing, also after the last byte was written."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(timeout)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))


def uvicorn_config(app: ASGIApp, config: ServeConfig) -> uvicorn.Config:
    """uvicorn's settings for a guarded app; it is given its socket when it runs."""
    return uvicorn.Config(
        app,
        http=type("LimitedProtocol", (GuardedProtocol,), {"limits": config}),
        ws="none",
        timeout_keep_alive=config.keep_alive_seconds,
        timeout_graceful_shutdown=config.shutdown_seconds,
        log_level="warning",
        access_log=False,  # its lines would hold what clients put into their addresses
        proxy_headers=False,
        server_header=False,
    )
