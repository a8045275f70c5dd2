"""For the benchmarks of serving: servers as processes of their own, and a client of streams that costs little."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from core.config import UserError

SECONDS_TO_START = 300
SECONDS_TO_END = 30
MAX_LINE_BYTES = 1 << 20


class Refused(Exception):
    """The server answered with an error. status: of HTTP; body: what it said."""

    def __init__(self, status: int, body: bytes):
        super().__init__(f"{status}: {body[:500].decode(errors='replace')}")
        self.status, self.body = status, body


@asynccontextmanager
async def connected(port: int, path: str, body: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    """An answer of 200 whose body is to be read; leaving before its end is what a client does that goes away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_LINE_BYTES)
    try:
        data = json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", "host: localhost", "connection: close", "content-type: application/json",
                f"content-length: {len(data)}", "", ""]  # fmt: skip
        writer.write("\r\n".join(head).encode() + data)
        status = int((await reader.readuntil(b"\r\n\r\n")).split(maxsplit=2)[1])
        if status != 200:
            raise Refused(status, await reader.read())
        yield reader
    finally:
        writer.transport.abort()


async def events(port: int, path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """The data of each server-sent event, as JSON, until [DONE].

    Lines are read as they are and those of the chunked encoding passed over, as every event lies in one chunk: both
    vLLM's server and ours write them so. Raises ConnectionError where the stream ends before [DONE].
    """
    async with connected(port, path, body | {"stream": True}) as reader:
        async for line in reader:
            if line.startswith(b"data: "):
                if line.startswith(b"data: [DONE]"):
                    return
                yield line[6:]
    raise ConnectionError("the stream ended before [DONE]")


@dataclass(frozen=True)
class Streamed:
    """One stream to its end. Seconds of a clock that is the same for all; num_tokens: as the server counts."""

    started: float
    first: float
    ended: float
    num_tokens: int


async def stream_to_end(port: int, path: str, body: dict[str, Any]) -> Streamed:
    started, first, last = time.perf_counter(), None, b""
    body = body | {"stream_options": {"include_usage": True}}
    async with aclosing(events(port, path, body)) as received:
        async for data in received:
            if first is None and b'"role"' not in data:  # chats begin with an event that has no text
                first = time.perf_counter()
            last = data
    assert first is not None, "an answer without events"
    return Streamed(started, first, time.perf_counter(), json.loads(last)["usage"]["completion_tokens"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, env: dict[str, str] | None = None
) -> Iterator[psutil.Process]:
    """A server started with `command`, from when its /health answers. Ended, with its children, on the way out.

    Raises UserError, with the end of its log, for one that does not start.
    """
    with open(log, "wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=os.environ | (env or {})
        )
    try:
        _wait_until_healthy(server, port, log)
        yield psutil.Process(server.pid)
    finally:
        server.terminate()
        try:
            server.wait(SECONDS_TO_END)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # what it has left behind


def _wait_until_healthy(server: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with suppress(httpx2.TransportError):
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    said = log.read_text(errors="replace").splitlines()[-20:]
    raise UserError(f"{' '.join(server.args)} did not start (log: {log}):\n" + "\n".join(said))


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def resident_bytes(process: psutil.Process) -> int:
    """Of the process and its children."""
    return sum(one.memory_info().rss for one in tree(process))


def cpu_seconds(process: psutil.Process) -> float:
    """Of the process and its children."""
    times = [one.cpu_times() for one in tree(process)]
    return sum(t.user + t.system for t in times)


def our_command(model: str, port: int, *pairs: str) -> list[str]:
    return [sys.executable, "-m", "inference.serve", f"model={model}", f"port={port}", *pairs]
