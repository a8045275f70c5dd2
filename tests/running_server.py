"""The real server over a scripted engine: uvicorn on a loopback port, in a thread."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from inference.engine import EngineConfig
from inference.scripted_engine import ScriptedEngine
from inference.serve_config import ServeConfig

CONTEXT = 256


def scripted_text(prefix: tuple[int, ...], seed: int | None) -> int:
    """Letters and words at random, some ends among them; a function of prefix and seed."""
    tokenizer = tiny_tokenizer()
    delimiter, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    answer = tokenizer.encode("answer", add_special_tokens=False)[0]
    digest = hashlib.blake2b(repr((prefix[-12:], len(prefix), seed)).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little")
    if prefix[-1] == delimiter and number % 4:
        return answer
    if number % 23 == 0:
        return end if number % 2 else delimiter
    return 5 + number % (len(tokenizer) - 5)


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
