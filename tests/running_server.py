"""The real server over a scripted engine: uvicorn on a loopback port, in a thread."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tiny_model import weightless_model
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from inference.engine import EngineConfig
from inference.scripted_engine import ScriptedEngine
from inference.serve_config import ServeConfig

CONTEXT = 256
ROOT = Path(__file__).parent.parent
PROCESS = """
import sys
sys.path[:0] = ["tests"]
import inference.engine
from running_server import SlowEngine, tiny_tokenizer
inference.engine.load_engine = lambda *_: (SlowEngine({engine}), tiny_tokenizer())
from core.config import run_entry
from inference.serve import main
from inference.serve_config import ServeConfig
run_entry(main, ServeConfig, "", {pairs})
"""


def scripted_text(prefix: tuple[int, ...], seed: int | None) -> int:
    """Letters and words at random, some ends among them; a function of prefix and seed."""
    delimiter, end, answer, num_ids = _ids()
    digest = hashlib.blake2b(repr((prefix[-12:], len(prefix), seed)).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    if prefix[-1] == delimiter and number % 4:
        return answer
    if number % 23 == 0:
        return end if number % 2 else delimiter
    return 5 + number % (num_ids - 5)


@cache
def _ids() -> tuple[int, int, int, int]:
    """Of the two ends, of "answer", and how many there are."""
    tokenizer = tiny_tokenizer()
    ends = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    return *ends, tokenizer.encode("answer", add_special_tokens=False)[0], len(tokenizer)


class SlowEngine(ScriptedEngine):
    """One that takes its time for a step. num_cancelled: requests taken from it."""

    def __init__(self, seconds: float = 0.0, script=scripted_text, **kwargs):
        super().__init__(script, max_model_len=kwargs.pop("max_model_len", CONTEXT), **kwargs)
        self.num_token_ids = len(tiny_tokenizer())
        self.seconds, self.num_cancelled = seconds, 0

    def step(self):
        if self._active:
            time.sleep(self.seconds)
        return super().step()

    def cancel(self, key):
        self.num_cancelled += key in self._active
        super().cancel(key)


def chat_format(profile: str = "s1") -> ChatFormat:
    return ChatFormat(profile, tiny_tokenizer())


@contextmanager
def running_server(engine: Any, chat: ChatFormat | None = None, max_num_seqs: int = 8, **config) -> Iterator[str]:
    """Yields its URL (without /v1). config: keys of ServeConfig."""
    import uvicorn

    from inference.http_limits import uvicorn_config
    from inference.served_model import ServedModel
    from inference.server import create_app

    config = ServeConfig(model="tiny", shutdown_seconds=2, engine=EngineConfig(max_num_seqs=max_num_seqs), **config)
    app = create_app(engine, ServedModel("tiny", chat or chat_format(), engine, config), config)
    server = uvicorn.Server(uvicorn_config(app, config))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server hangs"


@contextmanager
def server_process(folder: Path, *pairs: str, engine: str = "0.002", env: dict[str, str] | None = None):
    """inference.serve as a process over SlowEngine(<engine>); yields (process, port, the file of all it says)."""
    weightless_model(folder / "model")
    output = folder / "output.txt"
    pairs = [
        f"model={folder / 'model'}",
        "served_model_name=tiny",
        "port=0",
        "profile=s1",
        "shutdown_seconds=1",
        *pairs,
    ]
    code = PROCESS.format(engine=engine, pairs=pairs)
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=file, stderr=file, env=os.environ | (env or {})
        )
    try:
        yield process, _port_of(process, output), output
    finally:
        process.terminate()
        process.wait(20)


def _port_of(process: subprocess.Popen, output: Path) -> int:
    """As soon as it listens."""
    deadline = time.monotonic() + 180  # imports take long on a busy machine
    while process.poll() is None and time.monotonic() < deadline:
        addresses = [line.split()[1] for line in output.read_text().splitlines() if line.startswith("address")]
        if addresses:
            port = int(addresses[0].removesuffix("/v1").rsplit(":", 1)[1])
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
                return port
        time.sleep(0.05)
    raise AssertionError(f"it never listened: {output.read_text()}")
