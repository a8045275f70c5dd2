"""`python -m inference.serve` with vLLM and a tiny model, through the real OpenAI client: one process for all tests."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")
pytest.importorskip("fastapi")
pytest.register_assert_rewrite("server_suite")
from server_suite import *  # noqa: E402, F403
from server_suite import ANSWER, BUDGETS, MESSAGES, Served, reference_on  # noqa: E402
from tiny_model import tiny_model  # noqa: E402
from vllm_server import START_SECONDS, wait_for  # noqa: E402

import inference.ask  # noqa: E402
from core.chat import ChatFormat  # noqa: E402
from inference.ask_config import AskConfig  # noqa: E402
from inference.engine import EngineConfig, load_engine  # noqa: E402

pytestmark = pytest.mark.slow
KEY = "key-of-the-tests"
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
def engine_and_tokenizer(model_folder):
    """The same engine in this process."""
    engine, tokenizer = load_engine(str(model_folder), EngineConfig(**ENGINE))
    yield engine, tokenizer
    engine.close()


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory, request):
    log = tmp_path_factory.mktemp("log") / "server.txt"
    port = free_port()
    engine = [f"engine.{key}={value}" for key, value in ENGINE.items()]
    pairs = [f"model={model_folder}", f"port={port}", "profile=s1", "api_keys_env=TINY_KEYS", *engine]
    with open(log, "w") as file:
        running = subprocess.Popen(
            [sys.executable, "-m", "inference.serve", *pairs],
            cwd=ROOT, stderr=file, env=os.environ | {"TINY_KEYS": f"another,{KEY}"},
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    reference, tokenizer = request.getfixturevalue("engine_and_tokenizer")  # loads while the other one starts
    wait_for(f"{url}/health", running, log, START_SECONDS)
    assert f"address  {url}/v1" in log.read_text() and KEY not in log.read_text()
    yield Served(url, "tiny", ChatFormat("s1", tokenizer), CONTEXT, reference_on(reference), KEY)
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.parametrize("fields", BUDGETS, ids=str)
def test_ask_says_the_same(served, engine_and_tokenizer, model_folder, monkeypatch, capsys, fields):
    class Kept:
        """The engine, which ask would close."""

        def __getattr__(self, name):
            return getattr(engine_and_tokenizer[0], name)

        def close(self):
            pass

    monkeypatch.setattr(inference.ask, "load_engine", lambda *_: (Kept(), engine_and_tokenizer[1]))
    system, question = (message["content"] for message in MESSAGES)
    inference.ask.main(
        AskConfig(question, str(model_folder), system=system, profile="s1", output="json",
                  engine=EngineConfig(**ENGINE), **fields, **ANSWER)
    )  # fmt: skip
    asked = json.loads(capsys.readouterr().out)
    [choice] = served.ask(extra=fields | ANSWER).choices
    assert (choice.message.reasoning_content, choice.message.content) == (asked["thinking"], asked["answer"])
    assert (choice.thinking["ended"], choice.finish_reason) == (asked["ended"], asked["answer_finish"])
