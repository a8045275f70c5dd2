"""What an evaluation will take: bounds, shared trajectories, and what it says where something is not known."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import inference.engine
from core.config import UserError, load
from core.cost import ModelShape
from core.endpoint import ApiConfig
from core.types import Question, write_jsonl
from eval.benchmarks import find_benchmark
from eval.cells import Cells
from eval.chat_model import ChatModelConfig
from eval.config import EvalConfig
from eval.plan import ANSWER, gpu_seconds, lines_of, plan_of
from eval.rejection import RejectionConfig
from eval.run import main
from eval.search import SearchConfig
from inference.engine import EngineConfig, Sampling

MODEL = "Qwen/Qwen2.5-32B-Instruct"
SHAPE = ModelShape.of(MODEL)


READ_ONCE = cache(find_benchmark)


@pytest.fixture(autouse=True)
def benchmarks_read_once(monkeypatch):
    monkeypatch.setattr("eval.plan.find_benchmark", READ_ONCE)


def config(**changes) -> EvalConfig:
    given = {"model": MODEL, "max_answer_tokens": 1000, "expected_thinking_tokens": {"aime24": 1000}}
    engine = EngineConfig(max_model_len=10000)
    return EvalConfig("t", benchmarks=["aime24"], engine=engine, **given | changes)


def tokens(*cells: Cells, **changes) -> list[tuple[int, int]]:
    """(at most, expected) of each cell."""
    return [(one.at_most, one.expected) for one in plan_of(config(cells=list(cells), **changes)).cells]


def test_tokens_of_a_cell_are_bounded_by_its_budget_and_the_context():
    assert tokens(Cells([100, 5000, 20000, "auto"])) == [
        (1100, 100 + ANSWER), (6000, 1000 + ANSWER), (10000, 1000 + ANSWER), (10000, 1000 + ANSWER),
    ]  # fmt: skip
    assert tokens(Cells(num_ignore=[2]), Cells(min_thinking_tokens=[3000])) == [
        (10000, 1140 + ANSWER), (10000, 3000 + ANSWER),
    ]  # fmt: skip
    assert tokens(Cells([None]), profile="plain", max_answer_tokens=4000) == [(4000, 1000 + ANSWER)]
    assert tokens(Cells([100], num_ignore=[2]), budget_per_round=True) == [(1300, 300 + ANSWER)]
    assert tokens(Cells([0]), max_answer_tokens=10) == [(10, 10)]
    steps = Cells(["auto", "asked"], control="steps", asked=[4])
    assert tokens(steps, profile="steps") == [(10000, 1000 + ANSWER), (10000, 400 + ANSWER)]


def test_what_a_run_would_refuse_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    endpoint = ChatModelConfig(ApiConfig("http://localhost:1/v1", "m"))
    for changes, message in [
        ({"model": str(tmp_path / "no-such")}, "no-such does not exist"),
        ({"model": str(tmp_path / "empty")}, "has no config.json"),
        ({"model": None, "chat_model": endpoint, "cells": [Cells([100])]}, "an endpoint cannot be forced"),
    ]:
        with pytest.raises(UserError, match=message):
            plan_of(config(**{"cells": [Cells()]} | changes))
    with pytest.raises(UserError, match="one is named twice"):
        plan_of(replace(config(cells=[Cells()]), benchmarks=["aime24", "aime24"]))
    with pytest.raises(UserError, match="limit=0: at least one question"):
        main(replace(config(cells=[Cells()]), limit=0, dry_run=True))


def test_what_cells_share_is_counted_once():
    def sampled(*cells: Cells) -> int:
        return plan_of(config(cells=list(cells))).sampled

    assert sampled(Cells([100])) == 30 * (100 + ANSWER)
    assert sampled(Cells([100, 500, "auto"])) == 30 * (1000 + 3 * ANSWER)
    assert sampled(Cells(num_ignore=[0, 1, 2])) == 30 * (1140 + 3 * ANSWER)
    assert sampled(Cells(num_ignore=[2], ignore_text=["Wait", "Hmm"])) == 30 * (1000 + 2 * 140 + 2 * ANSWER)
    assert sampled(Cells(), Cells(control="short"), Cells(control="long")) == 30 * 3 * (1000 + ANSWER)


def test_repeats_pools_and_limits():
    warm = Sampling(temperature=1)
    rejection = RejectionConfig([500, 2000], max_tries=8)
    plan = plan_of(config(sampling=warm, rejection=rejection, limit=5))
    assert [(one.num_samples, one.at_most, one.expected) for one in plan.cells] == [
        (5, 8 * 500 + 1000, 8 * 500 + ANSWER), (5, 8 * 2000 + 1000, 1000 + ANSWER),
    ]  # fmt: skip
    assert plan.sampled == 5 * (8 * 500 + 2 * ANSWER), "one pool of tries"
    known = replace(rejection, expected_tries=[5, 1])
    assert plan_of(config(sampling=warm, rejection=known)).cells[0].expected == 5 * 500 + ANSWER
    with pytest.raises(UserError, match="one number for each of the limits"):
        plan_of(config(sampling=warm, rejection=replace(rejection, expected_tries=[5])))
    search = plan_of(config(sampling=warm, searches=[SearchConfig("rebase", n=4, max_thinking_tokens=500)]))
    assert [(one.num_samples, one.at_most, one.expected) for one in search.cells] == [(30, 6000, 4 * (500 + ANSWER))]
    sampled = plan_of(config(sampling=warm, cells=[Cells([100])])).sampled
    assert sampled == 16 * 30 * (100 + ANSWER), "aime24's own repeats"
    assert plan_of(config(sampling=warm, cells=[Cells([100])], repeats=3)).cells[0].num_samples == 90


def test_gpu_seconds_are_those_of_the_slower_of_memory_and_arithmetic():
    alone = gpu_seconds(SHAPE, "bfloat16", parallel=1, context=0)
    assert alone == pytest.approx(2 * SHAPE.num_matmul_parameters / 3.35e12 / 0.5)
    assert gpu_seconds(SHAPE, "bfloat16", 8, 0) == pytest.approx(alone / 8)
    assert gpu_seconds(SHAPE, "bfloat16", 8, 5000) > alone / 8
    crowded = gpu_seconds(SHAPE, "float32", 10_000, 0)
    assert crowded == pytest.approx(2 * SHAPE.num_matmul_parameters / 67e12 / 0.5)
    plan = plan_of(config(cells=[Cells([100])]))
    assert plan.gpu_hours == pytest.approx(plan.sampled * gpu_seconds(SHAPE, "auto", 30, (1000 + ANSWER) / 2) / 3600)


def test_sizes_come_from_the_model_or_from_the_one_that_is_named():
    unknown = config(model="simplescaling/s1-32B", cells=[Cells([100])])
    assert plan_of(unknown).gpu_hours is None
    last = lines_of(plan_of(unknown), unknown)[-1]
    assert "GPU-hours: not known, as the sizes of simplescaling/s1-32B are not at hand" in last
    named = replace(unknown, sizes_of=MODEL)
    assert plan_of(named).gpu_hours == plan_of(replace(unknown, model=MODEL)).gpu_hours > 0
    assert f"32.76 billion parameters in auto, sizes of {MODEL})" in lines_of(plan_of(named), named)[-1]
    known = replace(named, model="Qwen/Qwen2.5-7B-Instruct")
    assert plan_of(known).sizes == known.model, "a model's own sizes go first"
    endpoint = config(model=None, chat_model=ChatModelConfig(ApiConfig("http://localhost:1/v1", "m")))
    assert lines_of(plan_of(endpoint), endpoint)[-1].startswith("GPU-hours: none here, the endpoint is paid by token")


def test_a_dry_run_of_questions_here_loads_no_engine_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inference.engine, "load_engine", lambda *_: pytest.fail("an engine was loaded"))
    write_jsonl("q.jsonl", [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(7)])
    given = ["name=t", f"model={MODEL}", "questions=q.jsonl", "cells=[{}]", "dry_run=true"]
    assert main(load(EvalConfig, given)) is None
    assert "questions  max=auto  7 x 1" in capsys.readouterr().err and not Path("outputs").exists()
    with pytest.raises(UserError, match="no-such.jsonl"):
        main(load(EvalConfig, [*given, "questions=no-such.jsonl"]))
    with pytest.raises(UserError, match="cells is empty"):
        main(load(EvalConfig, [*given, "cells=[]"]))
