"""Rejection sampling, searches and the parallel methods in eval.run, on a scripted engine."""

import json
from functools import cache
from statistics import fmean

import pytest
from scripted_eval import script, scripted_engines
from tiny_tokenizer import tiny_tokenizer

import eval.prm
import inference.engine
from core.config import UserError, load
from core.types import Question, read_jsonl, write_jsonl
from eval.compare import CompareConfig, compare
from eval.prm import Prm
from eval.run import EvalConfig, main

STEPS = "max_thinking_tokens: 40, max_step_tokens: 15, step_delimiter: a"
GRID = [
    "cells=[{max_thinking_tokens: [20, 60]}]",
    "rejection={limits: [5, 25], max_tries: 3}",
    f"searches=[{{method: beam_search, {STEPS}}}, {{method: dvts, {STEPS}}}, {{method: rebase, {STEPS}}}]",
    "repeats=4",
    "sampling.temperature=1",
    "max_answer_tokens=12",
    "engine.max_model_len=300",
]
PRM = "scorer={kind: prm, model: tiny, prompt: '{question}', step_delimiter: a}"


@cache
def digits_and_answer() -> tuple[list[int], list[int]]:
    """Ids of 0, 2 and 4, and those of "answer"."""
    return [tiny_tokenizer().encode(d)[0] for d in "024"], tiny_tokenizer().encode("answer")


def answering(prefix, seed):
    """Thinks anything, and answers 0, 2 or 4, not always right."""
    digits, close = digits_and_answer()
    if prefix[-1] in digits and seed is not None and closed(prefix, close):
        return tiny_tokenizer().eos_token_id
    if closed(prefix, close):
        return digits[seed % 3]
    return script(prefix, seed)


def closed(prefix, close) -> bool:
    """Was thinking closed a few tokens ago? After a natural close the answer begins at once, else after the cue."""
    tail = list(prefix[-12 - len(close) :])
    return any(tail[i : i + len(close)] == close for i in range(len(tail)))


class FakeBackend:
    """A step is the better the longer the text so far. Counts the texts it reads."""

    def __init__(self):
        self.read: list[tuple] = []

    def logits(self, token_ids, positions):
        self.read += map(tuple, token_ids)
        return [[[position / 100 - 1] for position in row] for row in positions]

    def close(self):
        pass


@pytest.fixture(autouse=True)
def engines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engines = scripted_engines(monkeypatch, answering)
    questions = [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(3)]
    write_jsonl("q.jsonl", questions)
    return engines


@pytest.fixture
def prm(monkeypatch):
    """A scorer that needs no model; the steps of rows are read with the tiny tokenizer."""
    backend = FakeBackend()
    monkeypatch.setattr(eval.prm, "load_prm", lambda config: Prm(config, tiny_tokenizer(), backend))
    monkeypatch.setattr("inference.checkpoint.resolve", lambda *args, **kwargs: "nowhere")
    monkeypatch.setattr("inference.checkpoint.load_tokenizer", lambda path: tiny_tokenizer())
    return backend


def run(name: str, *args: str):
    return main(load(EvalConfig, [f"name={name}", "model=m", "questions=q.jsonl", *GRID, *args]))


def rows(path):
    return list(read_jsonl(path / "samples.jsonl"))


def lasting(path):
    """All but how long it took, which is another matter each time."""
    scores = json.loads((path / "scores.json").read_text())
    for score in scores["cells"]:
        del score["cost"]["seconds"]
    aside = ("seconds",)
    return [{k: v for k, v in row.items() if k not in aside} for row in rows(path)], scores["cells"], scores["parallel"]


@pytest.mark.slow
def test_every_method_has_its_rows_its_scores_and_its_costs(engines):
    path = run("whole", "scorer.kind=mean_logprob")
    cells, parallel = lasting(path)[1:]
    assert [c["method"] for c in cells] == [
        *["budget_forcing"] * 2, *["rejection_sampling"] * 2, "beam_search", "dvts", "rebase"
    ]  # fmt: skip
    assert [c["num_samples"] for c in cells] == [12, 12, 3, 3, 3, 3, 3]
    for cell in cells:
        assert cell["low"] <= cell["accuracy"] <= cell["high"]
    keys = {(e["cell"], e["method"], e["k"]) for e in parallel}
    methods = ("pass_at_k", "majority", "best_of_n", "weighted_vote")
    assert keys == {
        *((cell, method, k) for cell in ("max=20", "max=60") for method in methods for k in (1, 2, 4)),
        *((c["cell"], method, 2 if c["method"] == "dvts" else 4) for c in cells[4:] for method in methods),
    }
    for e in parallel:
        assert e["low"] <= e["accuracy"] <= e["high"] and e["num_questions"] == 3
        if e["cell"] == "max=20":
            mean = next(c["cost"]["sampled"] for c in cells if c["cell"] == "max=20")
            assert e["tokens"] == pytest.approx(e["k"] * mean)
    assert len(engines) == 1 and run("whole", "scorer.kind=mean_logprob") == path
    assert len(engines) == 1, "a rerun loads no engine"


@pytest.mark.slow
def test_rows_of_rejection_and_search_say_what_was_spent():
    seen = {"exhausted": 0, "accepted": 0}
    for row in rows(run("whole")):
        total = row["num_prompt_tokens"] + row["num_sampled_tokens"] + row["num_forced_tokens"]
        assert row["num_sampled_tokens"] == row["num_thinking_tokens"] + row["num_answer_tokens"] < total
        if row["cell"].startswith("rejection"):
            limit = int(row["cell"].split("=")[1])
            assert row["accepted_thinking_tokens"] <= limit and 1 <= row["num_tries"] <= 3
            seen["exhausted" if row["exhausted"] else "accepted"] += 1
            if row["exhausted"]:
                assert row["correct"] is False and row["num_tries"] == 3 and row["num_thinking_tokens"] <= 3 * limit
        elif "paths" in row:
            chosen = row["paths"][row["chosen"]]
            shared = ("response", "correct", "extracted", "ended", "segments", "score")
            assert {k: row[k] for k in shared} == {k: chosen[k] for k in shared}
            assert row["num_answer_tokens"] == sum(p["num_answer_tokens"] for p in row["paths"])
            assert row["num_thinking_tokens"] >= max(p["num_thinking_tokens"] for p in row["paths"])
            assert 0 < chosen["score"] <= 1 and len(row["paths"]) == (2 if row["cell"].startswith("dvts") else 4)
    assert min(seen.values()) > 0, "both outcomes are tested"


@pytest.mark.slow
def test_some_answers_are_right_and_some_wrong():
    """Otherwise the equalities here would prove little."""
    found = rows(run("whole"))
    assert {row["correct"] for row in found} == {True, False}
    assert len({path["extracted"] for row in found for path in row.get("paths", [])}) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_and_resumed_equals_uninterrupted_and_pays_no_score_twice(engines, prm, monkeypatch, share):
    whole = lasting(run("whole", PRM))
    texts = len(prm.read)
    assert len(set(prm.read)) == texts > 30, "no text is read twice"
    prm.read.clear()
    after = round(share * engines[0].num_sampled)
    load_engine = inference.engine.load_engine

    def failing_engine(model, config):
        engine, tokenizer = load_engine(model, config)
        engine.fail_after, engine.fingerprint = after, "another"  # without the first run's continuations
        return engine, tokenizer

    monkeypatch.setattr(inference.engine, "load_engine", failing_engine)
    with pytest.raises(RuntimeError, match="scripted failure"):
        run("killed", PRM)
    monkeypatch.setattr(inference.engine, "load_engine", load_engine)
    assert lasting(run("killed", PRM)) == whole
    assert len(prm.read) == len(set(prm.read)) == texts


@pytest.mark.slow
def test_merged_shards_are_the_whole_run(prm):
    whole = lasting(run("whole", PRM))
    for shard in range(2):
        run("parts", PRM, "num_shards=2", f"shard={shard}")
    assert lasting(run("parts", PRM, "num_shards=2", "merge=true")) == whole


@pytest.mark.slow
def test_grading_again_decides_again_without_an_engine(engines, prm, monkeypatch):
    from dataclasses import replace

    import eval.samples

    path = run("whole", PRM)
    grade, num_read = eval.samples.grade, len(prm.read)
    monkeypatch.setattr(eval.samples, "grade", lambda *args: replace(grade(*args), correct=True, extracted="7"))
    run("whole", PRM, "regrade=true")
    assert len(engines) == 1 and len(prm.read) == num_read
    after = rows(path)
    assert {row["correct"] for row in after if not row.get("exhausted")} == {True}
    assert {row["correct"] for row in after if row.get("exhausted")} == {False}
    for row in after:
        if "paths" in row:
            best = max(row["paths"], key=lambda p: p["score"])
            assert row["response"] == best["response"], "all agree, so the best-scored path speaks"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sampling.temperature=0"], "set sampling.temperature"),
        (["searches=[{method: mcts}]"], "method is one of"),
        (["searches=[{method: rebase}, {method: rebase}]"], "asked for twice"),
        (["scorer={kind: prm}"], "needs scorer.model"),
        (["scorer={kind: prm, model: m, in_pieces: true}"], "needs {question}"),
        (["ks=[0]"], "ks="),
    ],
)
def test_what_cannot_be_is_refused_before_an_engine_is_loaded(engines, args, message):
    with pytest.raises(UserError, match=message):
        run("bad", *args)
    assert not engines


@pytest.mark.slow
def test_its_methods_can_be_compared_and_chosen_from(engines):
    path, other = (run(name, "scorer.kind=mean_logprob", f"seed={i}") for i, name in enumerate(("whole", "other")))
    entries, by_question = lasting(path)[2], list(read_jsonl(path / "parallel.jsonl"))
    for entry, row in zip(entries, by_question, strict=True):
        assert all(entry[name] == row[name] for name in ("benchmark", "cell", "method", "k"))
        assert entry["accuracy"] == pytest.approx(100 * fmean(row["scores"].values()))
        assert entry["tokens"] == pytest.approx(fmean(row["tokens"].values()))
        assert entry["sampling_error"] == 0 and "scores" not in entry
    keys = ["optimal={run: other, cell: max=60}", "num_resamples=50"]
    result = compare(load(CompareConfig, [f"runs=[{path},{other}]", *keys]))
    methods = {m["method"] for m in result["methods"]["questions"]}
    search = "beam_search n=4 width=2 max=40 weighted_vote"
    assert {"max=20", "majority@4 max=60", "weighted vote@2 max=20", search, f"best@4 {search}"} <= methods
    chosen_from = result["optimal"][0]["points"][-1]["methods"]
    assert "whole majority@4 max=60" in chosen_from and "other majority@4 max=20" in chosen_from
    assert not any("pass@" in name or "other majority@4 max=60" in name for name in chosen_from)
