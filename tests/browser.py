"""A headless Chromium driven through its DevTools protocol, over a pipe, so that nothing has to be installed beside it.

Root without a sandbox, network cut off: for pages of our own alone.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """An open tab. errors: what its console reported, exceptions included. requests: addresses it asked for."""

    def __init__(self, process: subprocess.Popen, commands: int, replies: int, seconds: float):
        self._process, self._commands, self._replies, self._seconds = process, commands, replies, seconds
        self._buffer, self._last_id, self._session = b"", 0, None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1,
                  uploadThroughput=-1)  # fmt: skip
        self.size(1280, 900)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next(method)
            if reply.get("id") == self._last_id:
                assert "error" not in reply, f"{method}: {reply['error']}"
                return reply["result"]

    def open(self, address: str) -> None:
        """Returns when the page has loaded."""
        self.loaded = False
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self._next(f"load of {address}")

    def js(self, expression: str) -> Any:
        """The value of an expression, or of what it promises. Raises AssertionError for what it throws."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """Waits for an expression to become true, and returns its value (of an element {})."""
        end = time.monotonic() + self._seconds
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"still not so: {expression}; errors: {self.errors}"
            time.sleep(0.02)
        return self.js(expression)

    def press(self, key: str) -> None:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38}
        code = codes.get(key, ord(key.upper()[0]))
        for kind in ("keyDown", "keyUp"):
            own = {"text": text} if kind == "keyDown" and text else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **own)

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """light or dark, as the system of the reader would."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _next(self, waiting_for: str) -> dict[str, Any]:
        end = time.monotonic() + self._seconds
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            ready = select.select([self._replies], [], [], max(left, 0))[0]
            assert ready, f"no answer within {self._seconds} seconds: {waiting_for}"
            data = os.read(self._replies, 1 << 20)
            assert data, f"Chromium ended with status {self._process.poll()}: {waiting_for}"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, params: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str([arg.get("value") for arg in params["args"]]))
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Page.loadEventFired":
            self.loaded = True


@contextmanager
def open_browser(chromium: str, folder: Path, seconds: float = 30) -> Iterator[Page]:
    """A new browser with one tab. folder: for its profile. seconds: to wait for any answer."""
    for_it, commands = os.pipe()
    replies, from_it = os.pipe()

    def as_chromium_expects() -> None:  # it reads from 3 and writes to 4; the pipes may have these numbers crosswise
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (for_it, from_it)]
        for end, number in zip(ends, (3, 4), strict=True):
            os.dup2(end, number)

    process = subprocess.Popen(
        [chromium, *OPTIONS, f"--user-data-dir={folder / 'profile'}"],
        preexec_fn=as_chromium_expects, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(for_it)
    os.close(from_it)
    try:
        yield Page(process, commands, replies, seconds)
    finally:
        process.terminate()
        process.wait(20)
        os.close(commands)
        os.close(replies)
