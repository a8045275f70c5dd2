"""What stands between the network and the server: who may ask, how much, how slowly, and how many at once.

`guarded(app, ...)` wraps an ASGI app: host name, key and kind of body are looked at before the body is read, and the
body is counted while it comes. `server_config(app, ...)` is uvicorn with a protocol that also ends what uvicorn 0.54
would keep for ever: connections that do not send a whole request, heads without an end (httptools has no limit), and
readers who do not read. Refusals have the shape of OpenAI's errors.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.config import UserError, option

if TYPE_CHECKING:
    from uvicorn import Config

OPEN_PATHS = {"/health"}  # need no key
MAX_HEAD_BYTES = 64 << 10  # request line and headers
SEND_BUFFER_BYTES = 128 << 10  # in the kernel, for each connection; Linux would let it grow to 4 MB
GRACE_SECONDS = 10  # for the answers under way when the server is told to stop

App = Callable[[dict, Callable[[], Awaitable[dict]], Callable[[dict], Awaitable[None]]], Awaitable[None]]


@dataclass
class HttpLimits:
    max_body_bytes: int = option(10_000_000, help="of a request; more is refused with 413 while it comes")
    max_connections: int = option(512, help="beyond it, one that has sent no whole request makes room, or 503")
    request_timeout: float = option(30.0, help="seconds in which a connection has to send a whole request")
    send_timeout: float = option(30.0, help="seconds after which a client that does not read is given up")
    keep_alive: float = option(5.0, help="seconds that a connection may idle between two requests")


class ApiKeys:
    """Knows keys by their digests alone, so no repr, traceback or log can show one."""

    def __init__(self, keys: Iterable[str]):
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def accepts(self, authorization: bytes) -> bool:
        """authorization: the header's value. As much work for a wrong key as for a right one."""
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def read_keys(variable: str | None) -> ApiKeys | None:
    """The comma-separated keys in an environment variable; None where no variable is named."""
    if variable is None:
        return None
    keys = [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]
    if not keys:
        raise UserError(f"api_keys_env={variable}: that environment variable has no keys; export {variable}=key1,key2")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError(f"api_keys_env={variable}: a key has characters that no Authorization header can carry")
    return ApiKeys(keys)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_host(host: str, keys: ApiKeys | None, insecure: bool) -> None:
    """Refuses to serve other machines without keys."""
    if keys is None and not insecure and not is_loopback(host):
        raise UserError(f"host={host} is reachable from other machines: name the variable with its keys "
                        "(api_keys_env=...), serve this machine alone (host=127.0.0.1), or say insecure=true")  # fmt: skip


# ASGI


def guarded(app: App, keys: ApiKeys | None, limits: HttpLimits, local_only: bool = False) -> App:
    """`app` behind its limits.

    local_only: answers to no name but this machine's own. Without keys a web page could otherwise reach the server
        through the browser of its user, by a host name that it then points at 127.0.0.1 (DNS rebinding).
    """

    async def guard(scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusal = _refusal(scope, headers, keys, limits, local_only)
        if refusal is None:
            body = await _read_body(receive, limits.max_body_bytes)
            if body is None:
                return  # the client is gone
            refusal = _too_large(limits) if len(body) > limits.max_body_bytes else None
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await app(scope, _replay(body, receive), send)

    return guard


def _refusal(
    scope: dict, headers: dict[bytes, bytes], keys: ApiKeys | None, limits: HttpLimits, local_only: bool
) -> tuple[int, str, str] | None:
    """(status, message, code) by the head of the request alone."""
    if local_only and not _is_local_name(headers.get(b"host", b"")):
        return 421, "this server answers to localhost and loopback addresses alone", "unknown_host"
    if keys is not None and scope["path"] not in OPEN_PATHS and not keys.accepts(headers.get(b"authorization", b"")):
        return 401, "missing or wrong key: send `Authorization: Bearer <key>`", "invalid_api_key"
    if int(headers.get(b"content-length", 0)) > limits.max_body_bytes:  # digits, the parser has seen to that
        return _too_large(limits)
    # forms and plain text are what a web page may post to another host without asking it first
    if scope["method"] == "POST" and headers.get(b"content-type", b"").split(b";")[0].strip().lower() != (
        b"application/json"
    ):
        return 415, "expected `Content-Type: application/json`", "unsupported_media_type"
    return None


def _is_local_name(host: bytes) -> bool:
    name = host.decode("latin-1")
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return is_loopback(name)


def _too_large(limits: HttpLimits) -> tuple[int, str, str]:
    return 413, f"the body has more than {limits.max_body_bytes:,} bytes", "request_too_large"


async def _read_body(receive: Callable, max_bytes: int) -> bytearray | None:
    """The body, or its beginning where it has more than max_bytes; None where the client went away."""
    body, more = bytearray(), True
    while more and len(body) <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replay(body: bytearray, receive: Callable) -> Callable[[], Awaitable[dict]]:
    """The body in one message, then whatever comes."""
    messages = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def replay() -> dict:
        return messages.pop() if messages else await receive()

    return replay


def error_body(status: int, message: str, code: str) -> bytes:
    """As OpenAI's: an object `error` with message, type, param and code."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


async def _refuse(send: Callable, status: int, message: str, code: str) -> None:
    body = error_body(status, message, code)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# connections


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with an end to the client's turn: `limits.request_timeout` after a connection began to wait
    for its client (since it was made, or since its last answer), a request has to be there, body and all. A refused
    body is read and forgotten as long, so that the client can send it to its end and finds the refusal.
    """

    limits: HttpLimits
    _turn_ends: asyncio.TimerHandle | None = None
    _read_by: asyncio.TimerHandle | None = None
    _in_head, _num_head_bytes = True, 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        _end_dead_peers(transport.get_extra_info("socket"), self.limits.send_timeout)
        if len(self.connections) > self.limits.max_connections and not self._make_room():
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

    def on_message_complete(self) -> None:
        self._in_head, self._num_head_bytes = True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_by = self.loop.call_later(self.limits.send_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._read_by)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self._read_by)
        _cancel(self._turn_ends)

    @property
    def is_clients_turn(self) -> bool:
        """Is there no whole request that is being answered?"""
        return self.cycle is None or self.cycle.more_body or self.cycle.response_complete

    def _watch(self) -> None:
        """The clock runs exactly while it is the client's turn."""
        if not self.is_clients_turn or self.transport.is_closing():
            _cancel(self._turn_ends)
            self._turn_ends = None
        elif self._turn_ends is None:
            self._turn_ends = self.loop.call_later(self.limits.request_timeout, self._end_turn)

    def _end_turn(self) -> None:
        half_a_head = self._in_head and self._num_head_bytes > 0
        half_a_body = self.cycle is not None and self.cycle.more_body and not self.cycle.response_started
        if half_a_head or half_a_body:
            self._say_and_close(408, "the request did not come to its end in time", "request_timeout")
        else:
            self.transport.close()

    def _make_room(self) -> bool:
        """Ends the connection that has kept the server waiting for longest, if there is one."""
        waiting = [c for c in self.connections if c._turn_ends is not None]
        if not waiting:
            return False
        min(waiting, key=lambda c: c._turn_ends.when()).transport.abort()
        return True

    def _say_and_close(self, status: int, message: str, code: str) -> None:
        """Without the app. In the middle of an answer nothing can be said."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        body = error_body(status, message, code)
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


def server_config(app: App, host: str, port: int, limits: HttpLimits, **options: Any) -> "Config":
    """uvicorn's settings for an app that is guarded already. options: more of them, verbatim."""
    protocol = type("LimitedProtocol", (GuardedProtocol,), {"limits": limits})
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,
        ws="none",
        timeout_keep_alive=limits.keep_alive,
        timeout_graceful_shutdown=GRACE_SECONDS,
        access_log=False,  # counted in /metrics; its lines would hold what clients put into their addresses
        proxy_headers=False,
        server_header=False,
        **options,
    )
