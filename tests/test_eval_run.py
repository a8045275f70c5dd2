"""eval.run on a scripted engine: what it writes, what it shares, what it refuses."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from chat_server import chat_server
from scripted_eval import scripted_engines

from core.config import UserError, load
from core.runs import read_record
from core.types import Question, question_from_row, read_jsonl, write_jsonl
from eval import samples
from eval.grading import GRADER
from eval.judge import JUDGE
from eval.run import EvalConfig, main
from inference.scripted_engine import ScriptedEngine

GRID = "cells=[{max_thinking_tokens: [10, 40, auto], num_ignore: [0, 1]}, {control: short}]"


@pytest.fixture(autouse=True)
def scripted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engines = scripted_engines(monkeypatch)
    write_jsonl("q.jsonl", [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(7)])
    return engines


def config(*args: str) -> EvalConfig:
    own = [] if any(a.startswith("cells=") for a in args) else [GRID]
    return load(EvalConfig, ["name=t", "model=m", "questions=q.jsonl", *own, "max_answer_tokens=12",
                             "engine.max_model_len=300", *args])  # fmt: skip


def rows(path):
    return list(read_jsonl(path / "samples.jsonl"))


def result(path):
    """Ids, grades and scores; how long it took is another matter each time."""
    aside = ("seconds", "num_cached_tokens")
    scores = json.loads((path / "scores.json").read_text())["cells"]
    for score in scores:
        score["cost"] = {k: v for k, v in score["cost"].items() if k not in ("seconds", "cached")}
    return [{k: v for k, v in row.items() if k not in aside} for row in rows(path)], scores


def test_every_sample_has_a_row_and_every_cell_a_score(scripted):
    path = main(config("repeats=2", "sampling.temperature=1"))
    assert len(rows(path)) == 7 * 2 * 7 and len(scripted) == 1
    keys = [(r["question_id"], r["repeat"], r["cell"]) for r in rows(path)]
    questions = [question_from_row(row).id for row in read_jsonl("q.jsonl")]
    assert [k[0] for k in keys[::14]] == questions, "in the order of the questions"
    assert len(set(keys)) == len(keys)
    scores = json.loads((path / "scores.json").read_text())["cells"]
    assert [s["cell"] for s in scores][:2] == ["max=10", "max=10 ignore=1"] and scores[-1]["cell"] == "short max=auto"
    for score in scores:
        assert score["num_questions"] == 7 and score["num_samples"] == 14
        assert score["low"] <= score["accuracy"] <= score["high"]
        own = [r for r in rows(path) if r["cell"] == score["cell"]]
        assert score["cost"]["sampled"] == pytest.approx(sum(r["num_sampled_tokens"] for r in own) / 14)
    (measured,) = json.loads((path / "scores.json").read_text())["measures"]
    assert (measured["method"], measured["num_cells"], measured["num_questions"]) == ("budget_forcing", 6, 7)
    assert measured["control"] == [100.0] * 3, "forcing keeps to every budget"
    assert measured["performance"][0] == max(s["accuracy"] for s in scores[:-1])
    for row in rows(path):
        text = sum(len(s["token_ids"]) for s in row["segments"])
        assert row["num_sampled_tokens"] + row["num_forced_tokens"] == text and row["num_prompt_tokens"] > 0
    assert main(config("repeats=2", "sampling.temperature=1")) == path and len(scripted) == 1, "a rerun loads no engine"


@pytest.mark.slow
def test_conditional_cells_ask_another_prompt():
    path = main(config())
    by_cell = {r["cell"]: r["num_prompt_tokens"] for r in rows(path)}
    assert by_cell["short max=auto"] > by_cell["max=auto"]


@pytest.mark.slow
def test_merged_shards_are_the_whole_run():
    whole = result(main(config("name=whole")))
    for shard in range(3):
        main(config("name=parts", "num_shards=3", f"shard={shard}"))
    parts = main(config("name=parts", "num_shards=3", "merge=true"))
    assert result(parts) == whole
    with pytest.raises(UserError, match="2 of 2 shards are not finished"):
        main(config("name=parts", "num_shards=2", "merge=true"))


@pytest.mark.slow
def test_grading_again_needs_no_engine(scripted, monkeypatch):
    path = main(config())
    before = rows(path)

    def all_right(response, question):
        return replace(inner(response, question), correct=True, grader="rules-of-tomorrow")

    inner = samples.grade
    monkeypatch.setattr(samples, "grade", all_right)
    assert main(config("regrade=true")) == path and len(scripted) == 1
    assert {(r["correct"], r["grader"]) for r in rows(path)} == {(True, "rules-of-tomorrow")}
    assert list(read_jsonl(path / "samples.before.jsonl")) == before and before[0]["grader"].startswith(GRADER)
    record = read_record(path)
    changed = sum(r["correct"] is not True for r in before)
    assert record["regraded"] == [{"graders": ["rules-of-tomorrow"], "num_changed": changed}]
    assert set(record["headline"]["accuracy"]["questions"].values()) == {100.0}
    with pytest.raises(UserError, match="is not finished; run the command without it first"):
        main(config("name=other", "regrade=true"))


@pytest.mark.slow
def test_what_failed_in_the_engine_is_no_wrong_answer(scripted, monkeypatch):
    step, failed = ScriptedEngine.step, []

    def failing_step(self):
        deltas = step(self)
        if deltas and not failed:
            key, delta = deltas[0]
            failed.append(key)
            self.cancel(key)
            deltas[0] = key, replace(delta, token_ids=(), finish_reason="error", error="out of luck")
        return deltas

    monkeypatch.setattr(ScriptedEngine, "step", failing_step)
    with pytest.raises(UserError, match=r"failed in the engine, the first \(questions, .*: out of luck; the others"):
        main(config())
    path = main(config())
    assert len(rows(path)) == 49 and all(r["error"] is None for r in rows(path))
    assert result(path) == result(main(config("name=whole")))


@pytest.mark.slow
def test_a_judge_settles_what_rules_leave_open(monkeypatch):
    write_jsonl("q.jsonl", [Question.of(f"Say {i}.", f"word {i}", "open", "t", "words") for i in range(3)])
    monkeypatch.setenv("KEY", "x" * 20)
    with chat_server(lambda user, before: "Equal.\nYes") as server:
        judge = [f"judge.api.base_url={server.url}", "judge.api.model=j", "judge.requests.api_key_env=KEY"]
        judge.append("judge.requests.stream=false")
        path = main(config("cells=[{max_thinking_tokens: [10]}]", *judge))
        paid = server.num_paid.total()
        main(config("cells=[{max_thinking_tokens: [10]}]", *judge, "regrade=true"))
        assert server.num_paid.total() == paid > 0, "what was judged is not judged again"
    judged = list(read_jsonl(path / "judged.jsonl"))
    assert judged and {(r["correct"], r["grader"]) for r in judged} == {(True, f"{JUDGE} j")}
    assert all(r["correct"] for r in rows(path) if r["response"].strip() and r["answer_finish"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cells=[]"], "cells is empty"),
        (["benchmarks=[aime24]"], "one of the two"),
        (["questions=null"], "one of the two"),
        (["repeats=0"], "repeats must be at least 1"),
        (["shard=2", "num_shards=2"], "shards count from 0"),
        (["merge=true"], "give the num_shards"),
        (["questions=nowhere.jsonl"], "nowhere.jsonl does not exist"),
    ],
)
def test_bad_configs_are_refused_before_an_engine_is_loaded(scripted, args, message):
    with pytest.raises(UserError, match=message):
        main(config(*args))
    assert not scripted


def test_an_address_with_a_secret_is_refused_before_anything_is_recorded(scripted, tmp_path):
    with pytest.raises(UserError, match="engine.base_url holds credentials"):
        main(config("engine.base_url=http://me:secret@host/v1"))
    assert not scripted and not list(tmp_path.rglob("config.yaml"))


@pytest.mark.slow
def test_benchmarks_are_read_and_their_files_recorded(tmp_path):
    write_jsonl("aime.jsonl", [{"problem": f"{i} + {i} = ?", "answer": f"{2 * i:03}"} for i in range(1, 4)])
    for name, repeats in (("first", 3), ("second", 1)):
        text = f"name: {name}\nfiles: [aime.jsonl]\nanswer_type: integer\nrepeats: {repeats}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    both = ["questions=null", "benchmarks=[first.yaml, second.yaml]", "limit=2"]
    greedy, sampled = main(config(*both)), main(config(*both, "sampling.temperature=1"))
    counts = [Counter(r["benchmark"] for r in rows(path)) for path in (greedy, sampled)]
    assert counts == [{"first": 14, "second": 14}, {"first": 42, "second": 14}], "greedy repeats are all the same"
    assert {"first", "first.yaml", "second", "second.yaml", "model"} == set(read_record(greedy)["inputs"])
    (tmp_path / "aime.jsonl").write_text("{}")
    with pytest.raises(UserError, match="aime.jsonl, row 1"):
        main(config(*both))
    write_jsonl("aime.jsonl", [{"problem": "1 + 1 = ?", "answer": "2"}] + [{"problem": "x", "answer": "3"}])
    with pytest.raises(UserError, match="input first, second changed since this run began"):
        main(config(*both))
