"""vLLM's own server, as a plain process: what the front mode drives."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
START_SECONDS = 420  # 40 s on two free cores


@contextmanager
def vllm_server(model: Path, log: Path, context: int, *more: str, name: str = "tiny") -> Iterator[str]:
    """Yields its address, without /v1; ends its whole process group. Skips the test where there is no vLLM.

    more: arguments of its command line. name: the model's, for its clients."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed on this platform")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # not `vllm serve`: that asks for the version of a package named vllm, which the CPU build is not
    args = ["--model", str(model), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port),
            "--dtype", "float32", "--max-model-len", str(context), "--max-num-seqs", "8",
            "--enforce-eager", "--no-enable-chunked-prefill", "--block-size", "32", *more]  # fmt: skip
    ours = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(ROOT)}
    environment = os.environ | ours | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}  # a test of LLM may have switched it off
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *args],
            stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process, log, START_SECONDS)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what is left of it


def wait_for(url: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            said = log.read_text(encoding="utf-8", errors="replace")[-3000:]
            assert process.poll() is None, f"the server has ended:\n{said}"
            assert time.monotonic() < deadline, f"the server does not answer:\n{said}"
            time.sleep(0.5)
