"""HTTP servers of this machine, for tests: what all of the scripted ones stand on. Standard library alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass


class LocalServer(ThreadingHTTPServer):
    """On a free port."""

    request_queue_size = 128  # connections that come at once; more wait for a second, or are reset
    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves in a thread; yields the address."""
    server = LocalServer(handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving_script(server: Any, handler: type[BaseHTTPRequestHandler]) -> Iterator[Any]:
    """Yields a scripted server with its url; in the end sets its event `over`, which requests that hang wait for."""
    with serving(handler) as url:
        server.url = f"{url}/v1"
        try:
            yield server
        finally:
            server.over.set()
