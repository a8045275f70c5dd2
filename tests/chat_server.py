"""A chat-completions endpoint on this machine that answers, or fails, by a script, and counts what it was asked."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from local_http import QuietHandler, serving_script

PROMPT_TOKENS, COMPLETION_TOKENS = 1000, 100  # of every reply


def completion(text: str | None, finish_reason: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text, "refusal": refusal},
            }
        ],
        "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": 1100},
    }


class ChatServer:
    """script(user message, how often it was asked about this problem before) -> what to send:

    a text (a finished reply), a dict (the body), bytes (verbatim), an int or (int, headers) (an error status),
    "HANG" (nothing, until the test is over) or "CUT" (half a body, then the connection closes).
    """

    def __init__(self, script: Callable[[str, int], Any]):
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_asked: Counter[str] = Counter()  # by problem
        self.num_paid: Counter[str] = Counter()
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.url = ""

    def receive(self, body: dict[str, Any], headers: dict[str, str]) -> Any:
        user = body["messages"][-1]["content"]
        problem = user.split("<problem>\n")[1].split("\n</problem>")[0]
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            before = self.num_asked[problem]
            self.num_asked[problem] += 1
            reply = self.script(user, before)
            if isinstance(reply, dict) or (isinstance(reply, str) and reply not in ("HANG", "CUT")):
                self.num_paid[problem] += 1
        return reply

    def cost(self, price_input: float, price_output: float) -> float:
        return self.num_paid.total() * (PROMPT_TOKENS * price_input + COMPLETION_TOKENS * price_output) / 1e6


@contextmanager
def chat_server(script: Callable[[str, int], Any]) -> Iterator[ChatServer]:
    server = ChatServer(script)

    class Handler(QuietHandler):
        wbufsize = -1  # headers and body in one packet: two would wait for each other some 40 ms

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reply = server.receive(body, dict(self.headers))
            if reply == "HANG":
                server.over.wait(30)
                self.close_connection = True
                return
            status, headers = reply if isinstance(reply, tuple) else (reply if isinstance(reply, int) else 200, {})
            if status != 200:
                reply = {"error": {"message": f"status {status}, {self.headers['authorization']}"}}
            if isinstance(reply, str) and reply != "CUT":
                reply = completion(reply)
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data) + 100 * (reply == "CUT")))
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = reply == "CUT"

    with serving_script(server, Handler):
        yield server
