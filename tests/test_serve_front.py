"""The front mode, `inference.serve` and the engine under it, over vLLM's own server and over one that has no token ids.
The tests of the other engines and of the embedded server, taken over.
"""

import json
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.register_assert_rewrite("server_suite")
import httpx2  # noqa: E402
from server_suite import *  # noqa: E402, F403
from server_suite import ANSWER, MESSAGES, Served, reference_on  # noqa: E402
from test_engines import CONTEXT as ENGINE_CONTEXT  # noqa: E402
from test_engines import (  # noqa: E402, F401
    SLOTS,
    model,
    requests_of_many_lengths,
    test_a_cancelled_request_says_nothing_more,
    test_end_of_turn_stops_only_where_asked,
    test_greedy_equals_the_naive_loop_also_in_a_full_batch,
    test_ids_without_text_are_never_sampled,
    test_it_fills_the_context_to_the_last_token,
    test_min_tokens_masks_stops,
    test_sampling_follows_the_distribution,
    test_seeded_sampling_repeats_whatever_else_is_in_the_batch,
    test_stop_ids_end_a_request_and_are_the_last_id,
    test_the_same_prompt_many_times,
)
from test_forced_engines import (  # noqa: E402, F401
    CONTEXT,
    model_folder,
    reference,
    test_an_engine_equals_the_reference_shared_and_cell_by_cell,
    test_the_papers_grid_from_shared_trajectories_is_that_of_separate_runs,
)
from test_openai_engine import script  # noqa: E402
from text_server import text_server  # noqa: E402
from tiny_model import weightless_model  # noqa: E402
from tiny_tokenizer import tiny_tokenizer  # noqa: E402
from vllm_server import vllm_server, wait_for  # noqa: E402

from core.chat import ChatFormat  # noqa: E402
from core.config import UserError  # noqa: E402
from inference.engine import EngineConfig, Request, Sampling, load_engine  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(model_folder):  # noqa: F811
    """Ends thinking now and then, and would be decoded with a penalty if that were not taken back."""
    path = model_folder / "generation_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(config | {"repetition_penalty": 1.8, "temperature": 0.9, "top_k": 3}))
    return model_folder


@pytest.fixture(scope="module")
def vllm_url(folder, tmp_path_factory):
    with vllm_server(folder, tmp_path_factory.mktemp("vllm") / "log.txt", CONTEXT) as url:
        yield url


def front(folder, vllm_url: str, **changes):
    config = EngineConfig(backend="openai", base_url=f"{vllm_url}/v1", **changes)
    return load_engine(str(folder), config)


@pytest.fixture(scope="module")
def engine(folder, vllm_url):
    engine, _ = front(folder, vllm_url, max_model_len=ENGINE_CONTEXT, max_num_seqs=SLOTS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def engine_and_chat(folder, vllm_url):
    engine, tokenizer = front(folder, vllm_url, max_model_len=CONTEXT, max_num_seqs=8)
    yield engine, ChatFormat("s1", tokenizer)
    engine.close()


@contextmanager
def serving(path: Path, base_url: str, log: Path, *args: str):
    """`python -m inference.serve` in front of a server; yields its address, without /v1."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"engine.base_url={base_url}", f"engine.max_model_len={CONTEXT}", "engine.max_num_seqs=8"]
    command = [sys.executable, "-m", "inference.serve", f"model={path}", "profile=s1", f"port={port}", *options, *args]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log, 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def served(folder, vllm_url, tmp_path_factory):
    transformers = EngineConfig(backend="transformers", dtype="float32", max_model_len=CONTEXT, max_num_seqs=8)
    engine, tokenizer = load_engine(str(folder), transformers)
    with serving(folder, f"{vllm_url}/v1", tmp_path_factory.mktemp("front") / "log.txt") as url:
        yield Served(url, folder.name, ChatFormat("s1", tokenizer), CONTEXT, reference_on(engine))
    engine.close()


def num_running_there(vllm_url: str) -> float:
    """Requests that vLLM decodes or lets wait."""
    text = httpx2.get(f"{vllm_url}/metrics").text
    return sum(float(n) for n in re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)", text, re.M))


def until_nothing_runs_there(vllm_url: str) -> None:
    deadline = time.monotonic() + 20
    while num_running_there(vllm_url) > 0:
        assert time.monotonic() < deadline, "requests are left behind"
        time.sleep(0.05)


def test_logprobs_are_those_of_the_model(engine, model):  # noqa: F811
    import torch

    requests = {
        key: Request(r.prefix, 8, frozenset({61, 62}), 0, sampling, 5, logprobs=True)
        for key, r in requests_of_many_lengths(6, seed=9).items()
        for sampling in (Sampling(), Sampling(1.5, top_k=20))
    }
    got: dict = {key: [] for key in requests}
    for key, request in requests.items():
        engine.submit(key, request)
    while any(not deltas or deltas[-1].finish_reason is None for deltas in got.values()):
        for key, delta in engine.step():
            got[key].append(delta)
    for key, deltas in got.items():
        ids = [id for delta in deltas for id in delta.token_ids]
        prefix = list(requests[key].prefix)
        with torch.inference_mode():
            logits = model(torch.tensor([prefix + ids])).logits[0, len(prefix) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[range(len(ids)), ids].tolist()
        assert [p for delta in deltas for p in delta.logprobs] == pytest.approx(expected, abs=1e-3)


def test_cancelling_leaves_nothing_running_on_the_server(engine, vllm_url):
    for key in range(2 * SLOTS):
        engine.submit(key, Request((7, 60, 21 + key), ENGINE_CONTEXT - 10, frozenset()))
    seen = set()
    while len(seen) < SLOTS // 2:
        seen |= {key for key, _ in engine.step()}
    assert 0 < num_running_there(vllm_url) <= SLOTS, "as many connections as engine.max_num_seqs"
    for key in range(2 * SLOTS):
        engine.cancel(key)
    until_nothing_runs_there(vllm_url)
    assert engine.step() == []


def test_a_client_that_goes_away_leaves_nothing_running_behind_the_front(served, vllm_url):
    extra = {"min_thinking_tokens": CONTEXT, "max_thinking_tokens": CONTEXT}
    stream = served.ask(extra=extra, stream=True, n=4)
    for _ in zip(stream, range(8), strict=False):
        pass
    assert num_running_there(vllm_url) > 0
    stream.close()
    until_nothing_runs_there(vllm_url)


def test_what_is_exact_is_not_called_retokenized(served):
    assert "retokenized" not in served.ask(extra={"max_thinking_tokens": 3} | ANSWER).model_dump()


def test_the_tokenizer_of_another_model_is_refused(vllm_url, tmp_path):
    weightless_model(tmp_path)
    other = tiny_tokenizer(special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<x>", "<think>", "</think>"))
    other.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="as other ids than the tokenizer of model="):
        front(tmp_path, vllm_url, max_model_len=CONTEXT)


# a server that knows text alone


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    weightless_model(folder, vocab_size=len(tiny_tokenizer()))
    return folder


def test_every_response_over_text_says_that_it_is_retokenized(tokenizer_folder, tmp_path):
    body = {"messages": MESSAGES, "max_thinking_tokens": 20, "num_ignore": 1, "max_answer_tokens": 9}
    with (
        text_server(script) as server,
        serving(tokenizer_folder, server.url, tmp_path / "log.txt", "engine.retokenize=true") as url,
    ):
        whole = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
        stream = httpx2.post(f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=60).text
        plain = {"prompt": "bcd", "max_tokens": 5}
        completion = httpx2.post(f"{url}/v1/completions", json=plain, timeout=60).json()
    *chunks, done = [event.removeprefix("data: ") for event in stream.split("\n\n")[:-1]]
    chunks = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]" and len(chunks) > 5
    assert whole["retokenized"] is completion["retokenized"] is True
    assert all(chunk["retokenized"] is True for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    message = whole["choices"][0]["message"]
    for name in ("reasoning_content", "content"):
        assert "".join(delta.get(name, "") for delta in deltas) == message[name] != ""
    assert completion["choices"][0]["text"]


def test_without_retokenize_a_text_server_is_refused_in_one_line(tokenizer_folder):
    with text_server(script) as server:
        command = [sys.executable, "-m", "inference.serve", f"model={tokenizer_folder}", "port=0",
                   f"engine.base_url={server.url}", f"engine.max_model_len={CONTEXT}"]  # fmt: skip
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "engine.retokenize=true" in ended.stderr.strip().splitlines()[-1] and "Traceback" not in ended.stderr
