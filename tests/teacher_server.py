"""An OpenAI-compatible chat server that fails on purpose, in a process of its own, and keeps its own account.

A question "<word>: 3 + 4" says by its word how the server misbehaves (see `Handler.do_POST`); without one it answers.
The first part of the path names a space with its own state: /<space>/chat/completions, /<space>/stats, /<space>/heal
(from now on no word is obeyed). A space "plain..." ignores idempotency keys, a space "slow..." takes its time.
It charges when it begins to answer, whether or not the answer arrives.
"""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from typing import Any

from local_http import LocalServer, QuietHandler

RETRY_AFTER = 0.12


class TeacherServer:
    """Starts the server; `with TeacherServer() as server`."""

    def __enter__(self) -> "TeacherServer":
        self._process = subprocess.Popen([sys.executable, "-S", __file__], stdout=subprocess.PIPE, text=True)
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def stats(self, space: str) -> dict[str, Any]:
        """calls: {question text: requests}; usage: tokens charged; keys: Authorization headers seen;
        gaps: seconds between the first two requests of a question; num_charged."""
        with urllib.request.urlopen(f"{self.url}/{space}/stats") as response:
            return json.load(response)

    def heal(self, space: str) -> None:
        urllib.request.urlopen(f"{self.url}/{space}/heal").close()


class Space:
    def __init__(self):
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        self.charges: dict[str, dict[str, int]] = {}
        self.keys: set[str] = set()
        self.is_healed = False

    def stats(self) -> dict[str, Any]:
        usage: Counter[str] = Counter()
        for charge in self.charges.values():
            usage.update(charge)
        gaps = {text: times[1] - times[0] for text, times in self.arrivals.items() if len(times) > 1}
        return {"calls": self.calls, "usage": usage, "keys": sorted(self.keys), "gaps": gaps,
                "num_charged": len(self.charges)}  # fmt: skip


SPACES: dict[str, Space] = defaultdict(Space)


class Handler(QuietHandler):
    def do_GET(self) -> None:
        _, name, what = self.path.split("/")
        if what == "heal":
            SPACES[name].is_healed = True
        self._send(200, SPACES[name].stats())

    def do_POST(self) -> None:
        name = self.path.split("/")[1]
        space = SPACES[name]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with space.lock:
            space.calls[text] += 1
            space.arrivals[text].append(time.monotonic())
            space.keys.add(self.headers.get("Authorization", ""))
            is_first = space.calls[text] == 1
        word = text.split(":")[0] if ":" in text and not space.is_healed else ""
        if self.headers["Content-Type"] != "application/json":  # vLLM insists on it
            self._send(400, {"error": {"message": "unsupported media type"}})
        elif word == "429" and is_first:
            self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": str(RETRY_AFTER)})
        elif word == "500" and is_first or word == "down":
            self._send(500, {"error": {"message": "out of order"}})
        elif word == "400":
            self._send(400, {"error": {"message": f"cannot serve {self.headers['Authorization']}"}})
        elif word == "locked":
            self._send(401, {"error": {"message": f"wrong key {self.headers['Authorization']}"}})
        else:
            self._answer(name, body, text, word, is_first)

    def _answer(self, name: str, body: dict[str, Any], text: str, word: str, is_first: bool) -> None:
        space = SPACES[name]
        thinking, answer, finish = said(word, text)
        num_output = body["max_tokens"] if finish == "length" else len(f"{thinking} {answer}".split())
        num_output += 1000 * (word == "greedy")  # takes no notice of max_tokens
        usage = {"input": len(text.split()), "cached": len(text.split()) // 2, "output": num_output}
        with space.lock:
            is_honoured = not name.startswith("plain")
            key = self.headers["Idempotency-Key"] if is_honoured else str(len(space.charges))
            space.charges.setdefault(key, usage)
        if word == "hang" and is_first:
            time.sleep(30)
        elif word == "garbage":
            self._send(200, "<html>gateway</html>")
        elif body.get("stream"):
            self._stream(chunks(word, thinking, answer, finish, usage), word, is_first, name.startswith("slow"))
        else:
            message = {"role": "assistant", "reasoning_content": thinking, "content": answer}
            self._send(200, {"choices": [{"message": message, "finish_reason": finish}], "usage": reported(usage)})

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, datas: list[str], word: str, is_first: bool, is_slow: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, data in enumerate([": a comment", *(f"data: {data}" for data in datas)]):
            if number == 4 and is_first and word == "cut":  # inside a line, without the end of the body
                self._chunk(b'data: {"choi')
                self.close_connection = True
                return
            if number == 4 and is_first and word == "short":  # a body that ends well, of an answer that does not
                break
            time.sleep(0.004 if is_slow else 0)
            self._chunk(f"{data}\n\n".encode())
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def said(word: str, text: str) -> tuple[str, str, str]:
    """(thinking, answer, finish_reason). U+2028 is legal inside JSON and ends a line for str.splitlines."""
    a, b = map(int, re.search(r"(\d+) \+ (\d+)", text).groups())
    total = a + b + (word == "wrong")
    thinking = "" if word == "empty" else f"Add {a} and {b}.\u2028That is {total}."
    answer = "" if word == "mute" else f"Answer: {total}"
    return thinking, answer, {"long": "length", "filter": "content_filter"}.get(word, "stop")


def chunks(word: str, thinking: str, answer: str, finish: str, usage: dict[str, int]) -> list[str]:
    name = "reasoning" if word == "vllm" else "reasoning_content"
    if word == "tags":
        thinking, answer = "", f"{thinking}\n</think>\n\n{answer}"  # the template has opened them
    deltas = [{"role": "assistant", "content": ""}]
    deltas += [{name: piece} for piece in re.findall(r"\S+\s*", thinking)]
    deltas += [{"content": piece} for piece in re.findall(r"\S+\s*", answer)]
    if word == "refusal":
        deltas = [{"refusal": "I will "}, {"refusal": "not."}]
    datas = [json.dumps({"model": "t-1", "choices": [{"delta": d}]}, ensure_ascii=False) for d in deltas]
    if word == "malformed":
        datas[2] = '{"choices": [{"delta": {"content": "th'
    end = {"choices": [{"delta": {}, "finish_reason": finish}]}
    return [*datas, json.dumps(end), json.dumps({"choices": [], "usage": reported(usage)}), "[DONE]"]


def reported(usage: dict[str, int]) -> dict[str, Any]:
    details = {"cached_tokens": usage["cached"]}
    return {"prompt_tokens": usage["input"], "completion_tokens": usage["output"], "prompt_tokens_details": details}


if __name__ == "__main__":
    server = LocalServer(Handler)
    print(server.url, flush=True)
    server.serve_forever()
