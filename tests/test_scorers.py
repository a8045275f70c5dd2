"""Scorers, what they are shown of a sample, and the parallel methods by hand."""

import math

import pytest
from tiny_tokenizer import tiny_tokenizer

import eval.prm
from core.chat import ChatFormat
from core.config import UserError
from core.journal import Journal
from core.types import Question
from eval.cells import Cell
from eval.parallel_scores import parallel_of, with_scores
from eval.scorers import MeanLogprob, ModelScorer, ScoredPath, ScorerConfig, aggregate
from inference.budget import Budget

QUESTION = Question.of("1 + 1 = ?", "2", "integer", "t", "sums")
CELL = Cell("max=9", Budget(9))


class Judge:
    """Instead of a model: each step by its length, two tokens a step."""

    def __init__(self):
        self.judged = []

    def judge(self, solutions):
        self.judged += solutions
        return [([len(step) / 10 for step in steps], 2 * len(steps)) for _, steps in solutions]

    def close(self):
        pass


def test_mean_logprob_is_a_probability_and_has_to_be_there():
    path = ScoredPath("q", ("a",), -0.5)
    assert MeanLogprob().score([path, path]) == [math.exp(-0.5)] * 2 and MeanLogprob().num_tokens(path) == 0
    with pytest.raises(UserError, match="no log-probability"):
        MeanLogprob().score([ScoredPath("q", ("a",))])


def test_scores_of_steps_become_one():
    assert [aggregate([0.5, 0.2, 0.4], how) for how in ("last", "min", "prod")] == [0.4, 0.2, pytest.approx(0.04)]


def test_a_text_is_judged_once_also_by_the_next_sitting(tmp_path, monkeypatch):
    judge = Judge()
    monkeypatch.setattr(eval.prm, "load_prm", lambda config: judge)
    paths = [
        ScoredPath("q", ("a", "bb")),
        ScoredPath("q", ("a",)),
        ScoredPath("other", ("a",)),
        ScoredPath("q", ("a",)),
    ]
    config = ScorerConfig(kind="prm", model="m", aggregate="min")
    journal = Journal(tmp_path / "scorer.jsonl", can_redo=True)
    scorer = ModelScorer(config, journal)
    assert scorer.score(paths) == [0.1, 0.1, 0.1, 0.1] and scorer.num_read == 8
    assert [scorer.num_tokens(path) for path in paths] == [4, 2, 2, 2] and len(judge.judged) == 3
    journal.close()
    again = ModelScorer(config, Journal(tmp_path / "scorer.jsonl", can_redo=True))
    assert again.score(paths[::-1]) == [0.1] * 4 and again.num_read == 0 and len(judge.judged) == 3


def test_a_scorer_sees_the_steps_of_thinking_and_then_the_answer():
    chat = ChatFormat("s1", tiny_tokenizer())
    segment = {"phase": "thinking", "source": "sampled", "token_ids": chat.encode("\none\n\n two \n\n\n\n")}
    answer = {"phase": "answer", "source": "sampled", "token_ids": chat.encode("never read here")}
    row = {"benchmark": "b", "question_id": QUESTION.id, "segments": [segment, answer], "response": " 2\n",
           "mean_logprob": None}  # fmt: skip
    seen = []

    class Recorder:
        def score(self, paths):
            seen.extend(paths)
            return [0.5] * len(paths)

        def num_tokens(self, path):
            return 7

    others = [row | {"exhausted": True}, row | {"paths": []}, row | {"score": 0.1}]
    scored = with_scores([row, *others], {("b", QUESTION.id): QUESTION}, Recorder(), chat, "\n\n")
    assert scored == [row | {"score": 0.5, "num_scorer_tokens": 7}, *others]
    assert seen == [ScoredPath("1 + 1 = ?", ("one", "two", "2"))]


def sampled(repeat: int, extracted: str | None, score: float, correct: bool | None) -> dict:
    return {"benchmark": "b", "cell": CELL.label, "question_id": QUESTION.id, "repeat": repeat, "extracted": extracted,
            "correct": correct, "score": score, "num_sampled_tokens": 10, "num_scorer_tokens": 3}  # fmt: skip


def test_parallel_methods_by_hand():
    rows = [sampled(0, "2", 0.9, True), sampled(1, "3", 0.5, False), sampled(2, "3", 0.2, False),
            sampled(3, "7", 0.1, None)]  # fmt: skip
    entries = {(e["method"], e["k"]): e for e in parallel_of(rows, {"b": [QUESTION]}, [CELL], ks=[1, 2, 3, 4])}
    accuracy = {key: e["accuracy"] for key, e in entries.items()}
    assert accuracy == pytest.approx({
        ("pass_at_k", 1): 100 / 3, ("pass_at_k", 2): 200 / 3, ("pass_at_k", 3): 100.0,
        ("majority", 1): 100 / 3, ("majority", 2): 100 / 3, ("majority", 3): 0.0,
        ("best_of_n", 1): 100 / 3, ("best_of_n", 2): 200 / 3, ("best_of_n", 3): 100.0,
        ("weighted_vote", 1): 100 / 3, ("weighted_vote", 2): 200 / 3, ("weighted_vote", 3): 100.0,
    }), "three candidates: what could not be graded is none"  # fmt: skip
    assert [entries["majority", k]["tokens"] for k in (1, 2, 3)] == [10, 20, 30]
    assert entries["majority", 3]["scorer_tokens"] == 0 and entries["best_of_n", 3]["scorer_tokens"] == 9


def test_without_scores_there_are_votes_and_passes_alone():
    rows = [sampled(i, "2", 0.0, True) for i in range(2)]
    for row in rows:
        del row["score"], row["num_scorer_tokens"]
    assert {e["method"] for e in parallel_of(rows, {"b": [QUESTION]}, [CELL])} == {"pass_at_k", "majority"}
    assert parallel_of(rows[:1], {"b": [QUESTION]}, [CELL]) == [], "one sample is no vote"


def test_the_leaves_of_a_search_vote_all_at_once_at_the_cost_of_the_tree():
    cell = Cell("rebase n=3", Budget(9), way="rebase")
    paths = [
        {"extracted": e, "correct": c, "score": s}
        for e, c, s in (("2", True, 0.9), ("3", False, 0.5), ("3", False, 0.3))
    ]
    row = {"benchmark": "b", "cell": cell.label, "question_id": QUESTION.id, "repeat": 0, "paths": paths,
           "num_sampled_tokens": 50, "num_scorer_tokens": 20}  # fmt: skip
    entries = {e["method"]: e for e in parallel_of([row], {"b": [QUESTION]}, [cell])}
    assert {method: e["accuracy"] for method, e in entries.items()} == {
        "pass_at_k": 100.0, "majority": 0.0, "best_of_n": 100.0, "weighted_vote": 100.0
    }  # fmt: skip
    assert {(e["k"], e["tokens"], e["scorer_tokens"]) for e in entries.values()} == {(3, 50, 20)}
