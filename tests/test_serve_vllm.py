"""`python -m inference.serve` with vLLM and a tiny model, through the real OpenAI client: one process for all tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")
pytest.importorskip("fastapi")
pytest.register_assert_rewrite("server_suite")
from server_suite import *  # noqa: E402, F403
from server_suite import Served, reference_on  # noqa: E402
from tiny_model import tiny_model  # noqa: E402

from core.chat import ChatFormat  # noqa: E402
from inference.engine import EngineConfig, load_engine  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
CONTEXT = 256
ENGINE = {"dtype": "float32", "max_model_len": CONTEXT, "max_num_seqs": 8, "backend": "vllm"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A model that ends its thinking and its answer now and then."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny", tie_word_embeddings=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for text in ("<|im_start|>", "<|im_end|>", "answer"):
            model.lm_head.weight[tokenizer.encode(text, add_special_tokens=False)[0]] *= 2.5
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.txt"
    engine = [f"engine.{key}={value}" for key, value in ENGINE.items()]
    with open(log, "w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "inference.serve", f"model={model_folder}", "port=0", "profile=s1", *engine],
            cwd=ROOT, stderr=file, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    reference, tokenizer = load_engine(str(model_folder), EngineConfig(**ENGINE))  # while the other one starts
    url = address(running, log)
    yield Served(url, "tiny", ChatFormat("s1", tokenizer), CONTEXT, reference_on(reference))
    reference.close()
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def address(running: subprocess.Popen, log: Path, seconds: float = 240) -> str:
    import time

    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and running.poll() is None:
        lines = [line for line in log.read_text().splitlines() if line.startswith("address")]
        if lines:
            url = lines[0].split()[1].removesuffix("/v1")
            try:
                assert httpx.get(f"{url}/health").status_code == 200
                return url
            except httpx.ConnectError:
                pass  # the address is known a moment before it is served
        time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def test_it_says_how_to_use_it(served):
    """The lines at the start are checked by reading them once: see `served`."""
    assert served.client.models.list().data[0].max_model_len == CONTEXT
