"""A /v1/completions server of this machine over a script: text alone, as simple servers are, or with token ids; and it
fails as asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from local_http import QuietHandler, serving_script
from tiny_tokenizer import tiny_tokenizer

KEY = "sk-secret-key-123"


@dataclass
class TextServer:
    """script(text so far, seed) -> the next id. An end of turn ends an answer without text.

    tokenizer: of its model. with_ids: takes prompts of ids and returns ids, under vLLM's names.
    fault: of every completion: an int (a status), "die" (half a chunk, then the connection closes), "hang" (after one
        chunk), "end" (without finish_reason), or bytes (sent verbatim as a chunk).
    wants_key: of every request. bodies: of the completions asked for. num_gone: clients that hung up in the middle.
    """

    script: Callable[[str, int | None], int]
    tokenizer: Any = field(default_factory=tiny_tokenizer)
    with_ids: bool = False
    fault: Any = None
    wants_key: bool = False
    models: list[dict] = field(default_factory=lambda: [{"id": "tiny", "max_model_len": 256}])
    bodies: list[dict] = field(default_factory=list)
    num_gone: int = 0
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def chunks(self, body: dict) -> Iterator[dict[str, Any]]:
        """The choices of an answer. Raises ValueError for a body that text-only servers refuse."""
        tokenizer, prompt = self.tokenizer, body["prompt"]
        if not self.with_ids and not isinstance(prompt, str):
            raise ValueError("prompt must be a string")
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        banned = {int(id) for id in body.get("logit_bias", {})}
        for i in range(body["max_tokens"]):
            id = self.script(text, body.get("seed"))
            if id in banned or (i < body.get("min_tokens", 0) and id in body["stop_token_ids"]):
                id = 0
            is_end, is_last = id == tokenizer.eos_token_id and not self.with_ids, i == body["max_tokens"] - 1
            new = "" if is_end else tokenizer.decode([id])
            text += new
            reason = "stop" if is_end or id in body.get("stop_token_ids", ()) else "length" if is_last else None
            ids = {"token_ids": [id], "stop_reason": None} if body.get("return_token_ids") and self.with_ids else {}
            if ids and i == 0:
                ids["prompt_token_ids"] = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            yield {"index": 0, "text": new, "finish_reason": reason, **ids}
            if reason == "stop":
                return


@contextmanager
def text_server(script: Callable[[str, int | None], int], **how) -> Iterator[TextServer]:
    """url: up to and with /v1."""
    server = TextServer(script, **how)

    class Handler(QuietHandler):
        wbufsize = 0

        def do_GET(self):
            if self._is_known() and self.path == "/v1/models":
                self._json(200, {"object": "list", "data": server.models})
            elif self._is_known():
                self._json(404, {"detail": "Not Found"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if server.over.is_set():  # a connection that was kept
                self.close_connection = True
                return
            if not self._is_known():
                return
            server.bodies.append(body)
            if isinstance(server.fault, int):
                self._refuse(server.fault, f"status {server.fault}, {self.headers['authorization']}")
                return
            chunks = server.chunks(body)
            try:
                first = next(chunks)
            except ValueError as error:
                self._refuse(400, str(error))
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                self._stream(first, chunks)
            except (BrokenPipeError, ConnectionResetError):
                server.num_gone += 1
                self.close_connection = True

        def _stream(self, first: dict, chunks: Iterator[dict]) -> None:
            self._event({"choices": [first]})
            if server.fault == "die":
                self.wfile.write(b"40\r\ndata: {")
                self.close_connection = True
                return
            if server.fault == "hang":
                server.over.wait(30)
                self.close_connection = True
                return
            if isinstance(server.fault, bytes):
                self._send(b"data: " + server.fault + b"\n\n")
            elif server.fault is None:
                for choice in chunks:
                    self._event({"choices": [choice]})
            self._send(b"data: [DONE]\n\n")
            self._send(b"")

        def _event(self, body: dict) -> None:
            self._send(b": keeps the connection\ndata: " + json.dumps(body).encode() + b"\n\n")

        def _send(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def _is_known(self) -> bool:
            if server.wants_key and self.headers["authorization"] != f"Bearer {KEY}":
                self._refuse(401, f"wrong key {self.headers['authorization']}")
                return False
            return True

        def _refuse(self, status: int, message: str) -> None:
            self._json(status, {"error": {"message": message}})

        def _json(self, status: int, body: dict) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with serving_script(server, Handler):
        yield server
