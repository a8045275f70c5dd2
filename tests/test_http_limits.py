"""What protects the server, around an app that only says how many bytes it was sent."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("httptools")
pytest.importorskip("fastapi")

from core.config import UserError  # noqa: E402
from inference.api_keys import ApiKeys, read_api_keys  # noqa: E402
from inference.http_limits import MAX_HEAD_BYTES, guarded, uvicorn_config  # noqa: E402
from inference.serve_config import ServeConfig, check  # noqa: E402

SLOW = ServeConfig(model="none", max_body_bytes=1000, max_connections=8, shutdown_seconds=1)
QUICK = replace(SLOW, request_seconds=0.1, send_seconds=0.1, keep_alive_seconds=0.05)
KEY = "sk-a-key-that-nobody-should-see"
KEYS = ApiKeys(["other", KEY])


@contextmanager
def serving(config: ServeConfig, keys: ApiKeys | None = None, loop: str = "auto") -> Iterator[SimpleNamespace]:
    """A server in a thread. `.cancelled`: set when the app saw its client go. loop: uvicorn's word for it."""
    state = SimpleNamespace(port=0, cancelled=threading.Event())

    async def app(scope, receive, send):
        body = (await receive())["body"]
        if scope["path"] == "/pour":  # without end, as long as somebody reads
            await send({"type": "http.response.start", "status": 200, "headers": []})
            pouring = asyncio.create_task(pour(send))
            while (await receive())["type"] != "http.disconnect":
                pass
            pouring.cancel()
            state.cancelled.set()
            return
        headers = [(b"content-length", str(len(str(len(body)))).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    async def pour(send):
        while True:
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            await asyncio.sleep(0.001)

    settings = uvicorn_config(guarded(app, keys, config), config)
    settings.loop = loop
    server = uvicorn.Server(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    state.port = listener.getsockname()[1]
    state.connections = server.server_state.connections
    try:
        yield state
    finally:
        server.force_exit = server.should_exit = True
        thread.join()


@pytest.fixture(scope="module", params=["auto", "asyncio"])  # uvloop where it is installed, which macOS has not
def slow(request):
    with serving(SLOW, loop=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def quick():
    with serving(QUICK) as server:
        yield server


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    while chunk := connection.recv(1 << 16):
        received += chunk
    return received


def head(*lines: str, path: str = "/", method: str = "POST", host: str = "localhost") -> bytes:
    kind = ["content-type: application/json"] if method == "POST" else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"host: {host}", *kind, *lines, "", ""]).encode()


def ask(port: int, request: bytes) -> tuple[int, bytes, bytes]:
    """(status, head, body) of the answer, by its content-length."""
    with connect(port) as connection:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(1 << 16) or pytest.fail(f"closed after {received!r}")
        top, _, body = received.partition(b"\r\n\r\n")
        length = int(next(line for line in top.lower().split(b"\r\n") if line.startswith(b"content-length")).split()[1])
        while len(body) < length:
            body += connection.recv(1 << 16)
        return int(top.split()[1]), top, body


def assert_serves(port: int) -> None:
    assert ask(port, head("content-length: 3") + b"abc")[::2] == (200, b"3")


def refused(answer: tuple[int, bytes, bytes]) -> tuple[int, str]:
    """(status, code), from OpenAI's shape of errors."""
    error = json.loads(answer[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer[0], error["code"]


def test_a_body_is_refused_by_what_it_says_and_by_what_comes(slow):
    large = (413, "request_too_large")
    assert refused(ask(slow.port, head("content-length: 1001"))) == large  # before any of it was sent
    assert refused(ask(slow.port, head("content-length: 100000000"))) == large
    chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
    assert refused(ask(slow.port, head("transfer-encoding: chunked") + chunk * 2)) == large  # and not yet whole
    assert ask(slow.port, head("transfer-encoding: chunked") + chunk + b"0\r\n\r\n")[2] == b"512"
    assert ask(slow.port, head("content-length: 5", "content-length: 1001") + b"x" * 1001)[0] == 400
    assert ask(slow.port, head("content-length: 5", "transfer-encoding: chunked") + chunk)[0] == 400
    assert ask(slow.port, head("content-length: 99999999999999999999999"))[0] == 400
    assert_serves(slow.port)


def test_a_client_that_sends_a_refused_body_to_its_end_finds_the_refusal(slow):
    num_bytes = 5_000_000
    request = head(f"content-length: {num_bytes}") + b"x" * num_bytes
    assert refused(ask(slow.port, request)) == (413, "request_too_large")


def test_a_request_has_to_come_to_its_end(quick):
    half_sent = {
        b"": b"",
        b"POST / HTTP/1.1\r\nhost: loc": b"HTTP/1.1 408",
        head("content-length: 10") + b"half": b"HTTP/1.1 408",
        head("transfer-encoding: chunked") + b"5\r\nhal": b"HTTP/1.1 408",
        head("content-length: 5000") + b"refused, and more to come": b"HTTP/1.1 413",
    }
    connections = [connect(quick.port) for _ in half_sent]
    for connection, sent in zip(connections, half_sent, strict=True):
        connection.sendall(sent)
    started = time.monotonic()
    assert [said(connection)[:12] for connection in connections] == list(half_sent.values())
    assert 0.05 < time.monotonic() - started < 2
    assert_serves(quick.port)


@pytest.mark.slow
def test_nothing_is_said_in_the_middle_of_an_answer(quick):
    pour = head("content-length: 0", path="/pour")
    for more in (b"no http\r\n\r\n", head("content-length: 10") + b"half"):
        with connect(quick.port) as connection:
            connection.sendall(pour + more)
            received, until = b"", time.monotonic() + 0.3  # longer than a request may take
            with suppress(ConnectionResetError):
                while time.monotonic() < until and (chunk := connection.recv(1 << 16)):
                    received += chunk
        assert received.count(b"HTTP/1.1 ") <= 1
    assert_serves(quick.port)


def test_bytes_in_drops_win_no_time(quick):
    with connect(quick.port) as connection:
        started = time.monotonic()
        with pytest.raises(OSError):  # reset, as the server has closed
            for byte in head("content-length: 100") * 20:
                connection.sendall(bytes([byte]))
                time.sleep(0.01)
        assert time.monotonic() - started < 2


def test_a_connection_may_be_used_again_but_not_kept_for_nothing(quick):
    with connect(quick.port) as connection:
        for _ in range(3):
            connection.sendall(head("content-length: 1") + b"x")
            answer = b""
            while not answer.endswith(b"\r\n\r\n1"):  # it may come in two pieces
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"\r\n")  # no request, but it ends uvicorn's own timer
        assert said(connection)[:12] in (b"", b"HTTP/1.1 408")


def test_a_head_without_end_is_refused(slow):
    with connect(slow.port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * (MAX_HEAD_BYTES + 1))
        assert said(connection).startswith(b"HTTP/1.1 431 ")
    assert_serves(slow.port)


def test_a_reader_that_reads_nothing_is_given_up(quick):
    quick.cancelled.clear()
    with connect(quick.port) as connection:
        connection.sendall(head("content-length: 0", path="/pour"))
        assert quick.cancelled.wait(5)
    assert_serves(quick.port)


def test_a_client_that_pipelined_requests_and_went_is_told_to_the_one_in_work(slow, caplog):
    errors = logging.getLogger("uvicorn.error")  # uvicorn's loggers pass nothing on to the root's
    errors.addHandler(caplog.handler)
    slow.cancelled.clear()
    with connect(slow.port) as connection:
        connection.sendall(head("content-length: 0", path="/pour") * 8)
        assert connection.recv(9) == b"HTTP/1.1 "
    try:
        assert slow.cancelled.wait(5)
        assert_serves(slow.port)
        assert not caplog.records
    finally:
        errors.removeHandler(caplog.handler)


def test_silent_connections_make_room_and_busy_ones_do_not(slow):
    silent = [connect(slow.port) for _ in range(3 * SLOW.max_connections)]
    assert_serves(slow.port)
    assert len(slow.connections) <= SLOW.max_connections
    busy = [connect(slow.port) for _ in range(SLOW.max_connections)]
    for connection in busy:
        connection.sendall(head("content-length: 0", path="/pour"))
        assert connection.recv(9) == b"HTTP/1.1 "
    with connect(slow.port) as one_more:
        assert said(one_more).startswith(b"HTTP/1.1 503 ")
    slow.cancelled.clear()
    for connection in silent + busy:
        connection.close()
    assert slow.cancelled.wait(5)
    assert_serves(slow.port)


def test_keys(caplog):
    with serving(SLOW, KEYS) as server, caplog.at_level(logging.DEBUG):
        closed = (401, "invalid_api_key")
        for value in (
            "",
            "Bearer",
            "Bearer ",
            f"Bearer {KEY[:-1]}",
            f"Bearer {KEY}x",
            f"Basic {KEY}",
            KEY,
            "Bearer \xff",
        ):
            answer = ask(server.port, head(f"authorization: {value}", "content-length: 100000000"))  # not read
            assert refused(answer) == closed and KEY[:-1].encode() not in answer[1] + answer[2]
        assert ask(server.port, head(path="/metrics", method="GET"))[0] == 401
        assert ask(server.port, head(path="/health", method="GET"))[0] == 200
        assert ask(server.port, head(path="/health/../metrics", method="GET"))[0] == 401
        for scheme in ("Bearer", "bearer"):
            assert ask(server.port, head(f"authorization: {scheme} {KEY}", "content-length: 0"))[0] == 200
    assert KEY[:-1] not in caplog.text and KEY not in repr(vars(KEYS))


def test_keys_come_from_a_variable(monkeypatch):
    monkeypatch.setenv("KEYS", " one, two ,")
    keys = read_api_keys("KEYS")
    assert keys.accepts(b"Bearer two") and not keys.accepts(b"Bearer one, two") and read_api_keys(None) is None
    for value in ("", " , ", "secret with spaces", "secr\u00e9t"):
        monkeypatch.setenv("KEYS", value)
        with pytest.raises(UserError, match="api_keys_env=KEYS") as error:
            read_api_keys("KEYS")
        assert "secr" not in str(error.value)


def test_other_machines_are_served_with_keys_alone():
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        check(ServeConfig("m", host=host))
    for host in ("0.0.0.0", "::", "", "192.168.1.7", "example.org", "127.0.0.1.example.org"):
        with pytest.raises(UserError, match="insecure=true"):
            check(ServeConfig("m", host=host))
        check(ServeConfig("m", host=host, insecure=True))
        check(ServeConfig("m", host=host, api_keys_env="KEYS"))


def test_a_web_page_cannot_reach_a_server_without_keys(slow):
    for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        assert ask(slow.port, head("content-length: 0", host=host))[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "[evil", ""):
        assert refused(ask(slow.port, head("content-length: 0", host=host))) == (421, "unknown_host")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json"):
        request = head("content-length: 2").replace(b"application/json", kind.encode()) + b"{}"
        assert refused(ask(slow.port, request)) == (415, "unsupported_media_type")
    request = head("content-length: 2").replace(b"json", b"json; charset=utf-8") + b"{}"
    assert ask(slow.port, request)[0] == 200


def test_what_is_no_http_is_refused(quick):
    for sent in (
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\na\x00b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb: c\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
    ):
        with connect(quick.port) as connection:
            connection.sendall(sent)
            assert said(connection).startswith(b"HTTP/1.1 400 "), sent
    assert_serves(quick.port)
