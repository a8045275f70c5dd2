"""A real server process, with a key, under requests that mean no good. After each, an ordinary one works."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")
import httpx2  # noqa: E402
from running_server import server_process  # noqa: E402

from core.config import UserError  # noqa: E402
from inference.serve_config import ServeConfig, check  # noqa: E402

pytestmark = pytest.mark.slow

KEY = "sk-right-7f3a9c"
WRONG, OTHER = "sk-wrong-51bd02", "sk-other-e6c811"
PRIVATE = "the spiders' private matter"
MESSAGES = [{"role": "user", "content": PRIVATE}]
ORDINARY = {"messages": MESSAGES, "max_thinking_tokens": 5, "max_answer_tokens": 5}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LIMIT = 10_000_000  # bytes of a body


@dataclass
class Attacked:
    port: int
    process: psutil.Process
    output: Path

    def ask(self, body: dict | bytes, path: str = CHAT, key: str = KEY, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"} | headers
        return httpx2.post(f"http://127.0.0.1:{self.port}{path}", content=content, headers=headers, timeout=60)

    def get(self, path: str, key: str = KEY) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=60)

    def raw(self, sent: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(sent)
        return connection

    def gauge(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"budget_forcing_{name}"))

    def assert_works(self) -> None:
        answer = self.ask(ORDINARY)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 5


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Attacked]:
    pairs = ["api_keys_env=TEST_KEYS", "log_requests=true", "request_seconds=1", "send_seconds=1", "max_connections=64"]
    folder = tmp_path_factory.mktemp("server")
    # 200 tokens take it longer than send_seconds, on the fastest machine too
    keys, engine = {"TEST_KEYS": f"{KEY},{OTHER}"}, "0.01"
    with server_process(folder, *pairs, engine=engine, env=keys) as (process, port, output):
        yield Attacked(port, psutil.Process(process.pid), output)
        assert process.poll() is None, "it has ended"
        said = output.read_text()
        assert f"{CHAT} 200" in said  # it does log
        for secret in (KEY, WRONG, OTHER, PRIVATE, "Traceback"):
            assert secret not in said


def error_of(response: httpx2.Response, *statuses: int) -> str:
    """The message of an error in OpenAI's shape, which is valid JSON and does not give back what was sent at length."""
    assert response.status_code in statuses, (response.status_code, response.text[:500])
    error = json.loads(response.text, parse_constant=lambda text: pytest.fail(text))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert len(response.text) < 2000 and not {"set-cookie", "x-injected"} & set(response.headers)
    return error["message"]


@pytest.mark.parametrize(
    "model",
    ["../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "..\\..\\boot.ini", "%2e%2e%2f", "tiny/../../x", ".",
     "a\r\nset-cookie: b=c", "a\nx-injected: b", "\x00", "tiny\x00", "\u202e", "x" * 1_000_000],
    ids=lambda name: repr(name[:20]),
)  # fmt: skip
def test_a_model_is_a_name_and_no_path(server, model):
    message = error_of(server.ask({**ORDINARY, "model": model}), 404)
    assert message.isprintable() and "root:" not in message
    server.assert_works()


def test_paths_of_requests_lead_nowhere(server):
    for path in (
        "/etc/passwd", "//etc/passwd", "/v1/models/../../../etc/passwd", "/v1/%2e%2e/%2e%2e/etc/passwd",
        "/%0d%0aset-cookie:%20a=b", "/v1/chat/completions%00", "/v1/" + "x" * 9000,
    ):  # fmt: skip
        error_of(server.get(path), 404)
    for method in (b"PUT", b"DELETE", b"TRACE", b"OPTIONS", b"PATCH"):
        request = method + b" /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        with server.raw(request) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 405 ")
    server.assert_works()


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\x00", b"\r\n "], ids=repr)
def test_headers_cannot_be_broken(server, end):
    request = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx-id: a" + end + b"set-cookie: b=c\r\nconnection: close\r\n"
    with server.raw(request + b"authorization: Bearer " + KEY.encode() + b"\r\n\r\n") as connection:
        head = connection.recv(10_000).partition(b"\r\n\r\n")[0]
    assert head[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 200") and b"set-cookie" not in head
    server.assert_works()


BILLION = 10**9
NUMBERS = {
    "max_thinking_tokens": [BILLION, 10**400, -1, 1e9, "1e9", True],
    "min_thinking_tokens": [BILLION, 10**400, -1],
    "num_ignore": [BILLION, 10**400, -1, 65],
    "max_answer_tokens": [BILLION, 10**400, 0],
    "max_tokens": [BILLION, 10**400, 0, -1],
    "max_completion_tokens": [BILLION, 0],
    "n": [BILLION, 10**400, 0, -1, 17],
    "top_k": [BILLION, 10**400, -2],
    "seed": [BILLION, -1, 10**30, 10**400],
    "temperature": [float("nan"), float("inf"), float("-inf"), -1, 1e-9, 1e9, 10**400, "NaN"],
    "top_p": [float("nan"), 0, 2, -1],
    "min_p": [float("nan"), -1, 1.5],
    "stop": [["x"] * 100_000, [""], "", "x" * 1_000_000],
    "ignore_text": ["x" * 1_000_000, "\ud800"],
    "cue": ["x" * 1_000_000, "\ud800"],
    "tools": [[{"type": "function", "function": {"name": "\ud800"}}]],
    "reasoning_effort": ["../high", "x" * 1_000_000, 3],
}


@pytest.mark.parametrize("field, value", [(f, v) for f, vs in NUMBERS.items() for v in vs], ids=lambda v: repr(v)[:20])
def test_no_value_is_too_much(server, field, value):
    started = time.monotonic()
    response = server.ask({"messages": MESSAGES, "max_answer_tokens": 5, field: value})
    if response.status_code == 200:
        assert response.json()["usage"]["total_tokens"] <= 256  # the context
    else:
        error_of(response, 400)
    assert time.monotonic() - started < 10
    server.assert_works()


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return opening.encode() * depth + closing.encode() * depth


@pytest.mark.parametrize(
    "path, body",
    [
        (CHAT, b'{"messages": ' + nested(1_000_000) + b"}"),
        (CHAT, b'{"messages": ' + nested(200_000, '{"a":', "}").replace(b":}", b":1}") + b"}"),
        (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "tools": ' + nested(100_000) + b"}"),
        (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "metadata": {"a": ' + nested(100_000) + b"}}"),
        (CHAT, json.dumps({"messages": MESSAGES * 150_000}).encode()),
        (CHAT, b'{"messages": [' + b"{}," * 2_000_000 + b"{}]}"),
        (CHAT, b'{"messages": [{"role": "user", "content": [' + b"{}," * 2_000_000 + b"{}]}]}"),
        (CHAT, json.dumps({"messages": [{"role": "user", "content": "spiders " * 1_100_000}]}).encode()),
        (CHAT, json.dumps({"messages": MESSAGES} | {f"field{i}": i for i in range(300_000)}).encode()),
        (COMPLETIONS, b'{"prompt": [' + b"1," * 4_000_000 + b"1]}"),
        (COMPLETIONS, b'{"prompt": [' + b'"a",' * 2_000_000 + b'"a"]}'),
        (COMPLETIONS, b'{"prompt": [' + b"[]," * 3_000_000 + b"[1]]}"),
        (COMPLETIONS, b'{"prompt": [' + b"1," * 1_000_000 + b'"a"]}'),
        (CHAT, b'{"messages": "\xff\xfe\xfd"}'),
        (CHAT, '{"messages": []}'.encode("utf-16")),
        (CHAT, b"\x00" * 1000),
        (CHAT, b"\x1f\x8b" + b"\x00" * 1000),
        (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "n": ' + b"1" * 1_000_000 + b"}"),
        (CHAT, b'{"messages": [{"role": "user\\r\\nset-cookie: a", "content": "a"}]}'),
        (CHAT, b'{"messages": [{"role": "user", "content": "a"}], "a\\r\\nset-cookie: b": 1}'),
        (CHAT, b"null"),
    ],
    ids=lambda value: repr(value[:24]) + f"_{len(value)}" if isinstance(value, bytes) else value[4:8],
)
def test_no_body_is_too_much(server, path, body):
    assert len(body) < LIMIT
    started = time.monotonic()
    error_of(server.ask(body, path), 400)
    assert time.monotonic() - started < 10
    server.assert_works()


def test_null_bytes_in_a_text_are_text(server):
    assert server.ask({**ORDINARY, "messages": [{"role": "user", "content": "a\x00b"}]}).status_code == 200
    server.assert_works()


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
def test_other_kinds_of_bodies_are_refused(server, kind):
    error_of(server.ask(ORDINARY, **{"content-type": kind}), 415)
    server.assert_works()


@pytest.mark.parametrize("key", [KEY, WRONG])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes_are_not_held(server, key, chunked):
    chunk = b"x" * 1_000_000
    head = [f"POST {CHAT} HTTP/1.1", "host: a", f"authorization: Bearer {key}", "content-type: application/json"]
    head.append("transfer-encoding: chunked" if chunked else "content-length: 100000000")
    before, most = server.process.memory_info().rss, 0
    with server.raw("\r\n".join([*head, "", ""]).encode()) as connection:
        for _ in range(100):
            try:
                connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" if chunked else chunk)
            except OSError:
                break  # the server has had enough
            most = max(most, server.process.memory_info().rss)
        assert connection.recv(1000)[9:12] == (b"413" if key == KEY else b"401")
    assert most - before < 3 * LIMIT
    server.assert_works()


def test_sockets_that_say_half_of_it(server):
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    beginnings = [b"", b"POST /v1/ch", head.encode(), f"{head}content-length: 100\r\n\r\n".encode() + b'{"messages"',
                  f"{head}transfer-encoding: chunked\r\n\r\n10\r\n{{".encode()]  # fmt: skip
    with ExitStack() as stack:
        connections = [stack.enter_context(server.raw(sent)) for sent in beginnings for _ in range(40)]
        server.assert_works()  # more of them than connections are allowed
        started = time.monotonic()
        for connection in connections:
            try:
                while connection.recv(1000):
                    pass
            except ConnectionResetError:
                pass  # it had to make room
        assert time.monotonic() - started < 10
    server.assert_works()


def pouring(**more) -> bytes:
    """A request for streams as long as the context."""
    asked = {"messages": MESSAGES, "min_thinking_tokens": 200, "stream": True, "temperature": 1}
    body = json.dumps(asked | more).encode()
    head = [f"POST {CHAT} HTTP/1.1", "host: a", f"authorization: Bearer {KEY}", "content-type: application/json",
            f"content-length: {len(body)}"]  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode() + body


def test_pipelined_requests_of_a_client_who_goes_end(server):
    with server.raw(8 * pouring()) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    deadline = time.monotonic() + 30
    while server.gauge("running") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.gauge("running") == server.gauge("waiting") == 0
    assert "Traceback" not in server.output.read_text()
    server.assert_works()


def test_a_reader_that_never_reads_is_given_up_and_its_samples_with_it(server):
    def cancelled() -> float:
        return server.gauge('thinking_ended_total{reason="cancelled"}')

    before = cancelled()
    request = pouring(n=16, return_token_ids=True)
    connections = [socket.socket() for _ in range(4)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request)
    deadline = time.monotonic() + 30
    while (server.gauge("running") or server.gauge("waiting") or cancelled() == before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.gauge("running") == server.gauge("waiting") == 0
    assert cancelled() > before
    for connection in connections:
        connection.close()
    server.assert_works()


def test_keys_are_asked_for_and_shown_nowhere(server):
    for path in ("/v1/models", "/metrics", "/", "/docs", "/openapi.json", "/v1/other"):
        assert "key" in error_of(server.get(path, WRONG), 401)
        assert server.get(path, "x").status_code == 401
    assert WRONG not in server.ask(ORDINARY, key=WRONG).text
    assert server.get("/health", WRONG).status_code == 200
    assert server.get(f"/v1/{KEY}?api_key={KEY}").status_code == 404
    assert server.get("/v1/models", OTHER).status_code == 200
    error_of(server.ask({**ORDINARY, KEY: 1, "user": KEY}), 400)
    metrics = server.get("/metrics").text
    assert "budget_forcing_requests_total" in metrics
    assert KEY not in metrics and WRONG not in metrics and PRIVATE not in metrics
    assert KEY not in " ".join(server.process.cmdline())
    server.assert_works()


def test_it_listens_to_this_machine_alone(server):
    listening = [c.laddr for c in server.process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", server.port)]


def test_a_public_address_needs_keys_before_anything_is_loaded(tmp_path):
    with pytest.raises(UserError, match="host=0.0.0.0"):
        check(ServeConfig("m", host="0.0.0.0"))
    with pytest.raises(AssertionError, match="insecure=true"), server_process(tmp_path, "host=0.0.0.0"):
        pass
    with (
        pytest.raises(AssertionError, match="holds no keys"),
        server_process(tmp_path, "api_keys_env=NOT_SET_ANYWHERE"),
    ):
        pass
