"""The parallel methods over samples that are there already: pass@k, majority vote, best-of-N, weighted vote.

One set of n samples a question gives the whole curve in k (eval/parallel.py). k samples cost k times the mean of one.
The leaves of a search vote too, all at once.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from core.chat import ChatFormat
from core.types import Question
from eval.cells import Cell
from eval.grading import same_answer
from eval.metrics import mean_interval
from eval.parallel import Candidate, answer_classes, best_of_k, majority_at_k, pass_at_k, weighted_vote_at_k
from eval.samples import Row, by_cell
from eval.scorers import ScoredPath, Scorer
from eval.search import texts_of

UNSCORED: dict[str, Callable[[Sequence[Candidate], int], float]] = {"pass_at_k": pass_at_k, "majority": majority_at_k}
SCORED = {"best_of_n": best_of_k, "weighted_vote": weighted_vote_at_k}


def parallel_of(
    rows: Iterable[Row], questions: dict[str, list[Question]], cells: Sequence[Cell], ks: Sequence[int] = ()
) -> list[Row]:
    """An entry for every benchmark, cell, method and k: accuracy with its interval in percent, mean tokens, and by
    question its score (0 to 1) and tokens. sampling_error: the standard error, in points, that accuracy has where the
    weighted vote looked at some of the subsets only; 0 is exact.

    questions: of each benchmark. ks: those up to n are taken; none: the powers of two, and for a search all leaves.
    The methods that need scores are left out where samples have none. Answers that could not be graded are no
    candidates, and a question with fewer than k candidates is not counted at k.
    """
    grouped = by_cell(rows)
    entries = []
    for benchmark, own in questions.items():
        types = {question.id: question.answer_type for question in own}
        for cell in cells:
            by_question: dict[str, list[Row]] = {}
            for row in grouped.get((benchmark, cell.label), []):
                by_question.setdefault(row["question_id"], []).append(row)
            if cell.way is None:
                found = _of_samples(by_question, types, ks)
            elif cell.way == "rejection_sampling":
                continue
            else:
                found = _of_leaves(by_question, types)
            entries += [{"benchmark": benchmark, "cell": cell.label, **entry} for entry in found]
    return entries


def _of_samples(by_question: dict[str, list[Row]], types: dict[str, str], ks: Sequence[int]) -> list[Row]:
    candidates = {question: _candidates(rows, types[question]) for question, rows in by_question.items()}
    most = max(map(len, candidates.values()), default=0)
    if most < 2:
        return []
    rows = [row for rows in by_question.values() for row in rows]
    tokens = {question: _mean(rows, "num_sampled_tokens") for question, rows in by_question.items()}
    read = _mean(rows, "num_scorer_tokens")
    entries = []
    for method, estimate in _methods(rows).items():
        for k in ks or _powers_of_two(most):
            values = {question: estimate(own, k) for question, own in candidates.items() if len(own) >= k}
            if values:
                prices = {question: each and k * each for question, each in tokens.items()}
                entries.append(_entry(method, k, values, prices, k * read if method in SCORED else 0.0))
    return entries


def _of_leaves(by_question: dict[str, list[Row]], types: dict[str, str]) -> list[Row]:
    """All leaves of a tree at once, each tree (question and repeat) at the cost of all its paths."""
    rows = [row for rows in by_question.values() for row in rows]
    trees = [(row, _candidates(row["paths"], types[row["question_id"]])) for row in rows]
    trees = [(row, own) for row, own in trees if own]
    if not trees:
        return []
    k = max(len(own) for _, own in trees)
    tokens = {question: _mean(rows, "num_sampled_tokens") for question, rows in by_question.items()}
    read = _mean(rows, "num_scorer_tokens")
    entries = []
    for method, estimate in (UNSCORED | SCORED).items():
        values: dict[str, list[float]] = {}
        for row, own in trees:
            values.setdefault(row["question_id"], []).append(estimate(own, len(own)))
        entries.append(_entry(method, k, {q: fmean(v) for q, v in values.items()}, tokens, read))
    return entries


def _entry(
    method: str, k: int, values: dict[str, float], tokens: dict[str, float | None], scorer_tokens: float
) -> dict[str, Any]:
    """values, tokens: of each question; values 0 to 1. Mean tokens are None where those of one question are."""
    scores = {question: min(1.0, max(0.0, float(value))) for question, value in values.items()}
    accuracy, low, high = (100.0 * x for x in mean_interval({question: [s] for question, s in scores.items()}))
    error = 100.0 * math.hypot(*(getattr(value, "stderr", 0.0) for value in values.values())) / len(values)
    mean_tokens = None if None in tokens.values() else fmean(tokens.values())
    return {"method": method, "k": k, "accuracy": accuracy, "low": low, "high": high, "num_questions": len(values),
            "tokens": mean_tokens, "scorer_tokens": scorer_tokens, "sampling_error": error,
            "scores": scores, "prices": {question: tokens[question] for question in scores}}  # fmt: skip


def overall(entry: Row) -> Row:
    """An entry without what it has by question, for scores.json."""
    return {key: value for key, value in entry.items() if key not in ("scores", "prices")}


def question_by_question(entry: Row) -> Row:
    """What an entry has by question, for parallel.jsonl: comparisons take it up."""
    names = ("benchmark", "cell", "method", "k")
    return {**{name: entry[name] for name in names}, "scores": entry["scores"], "tokens": entry["prices"]}


def _candidates(rows: Sequence[Row], answer_type: str) -> list[Candidate]:
    graded = [row for row in rows if row["correct"] is not None]
    classes = answer_classes([row["extracted"] for row in graded], partial(same_answer, answer_type=answer_type))
    return [Candidate(c, row["correct"], row.get("score", 0.0)) for c, row in zip(classes, graded, strict=True)]


def _methods(rows: Sequence[Row]) -> dict[str, Callable[[Sequence[Candidate], int], float]]:
    return UNSCORED | (SCORED if all("score" in row for row in rows) else {})


def _powers_of_two(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length())]


def _mean(rows: Sequence[Row], column: str) -> float | None:
    """None where one is not known (an imported row, a chat endpoint without an account)."""
    values = [row.get(column, 0) for row in rows]
    return None if None in values else fmean(values)


def with_scores(rows: Sequence[Row], questions: dict[tuple[str, str], Question], scorer: Scorer,
                chat: ChatFormat | None, step_delimiter: str) -> list[Row]:  # fmt: skip
    """The rows of single samples with their score and the tokens that the scorer read for it; others as they are.

    questions: by benchmark and id. chat: to read the thinking; None for a scorer that reads no text.
    """
    paths = {}
    for i, row in enumerate(rows):
        if "paths" not in row and "exhausted" not in row and "score" not in row:
            question = questions[row["benchmark"], row["question_id"]].text
            steps = () if chat is None else (*steps_of_row(row, chat, step_delimiter), *_stripped(row["response"]))
            paths[i] = ScoredPath(question, steps, row["mean_logprob"])
    scores = dict(zip(paths, scorer.score(list(paths.values())), strict=True))
    read = {i: scorer.num_tokens(path) for i, path in paths.items()}
    return [
        row | {"score": scores[i], "num_scorer_tokens": read[i]} if i in scores else row for i, row in enumerate(rows)
    ]


def steps_of_row(row: Row, chat: ChatFormat, delimiter: str) -> tuple[str, ...]:
    ids = [t for s in row["segments"] if s["phase"] == "thinking" for t in s["token_ids"]]
    return tuple(step for text in texts_of([ids], chat) for part in text.split(delimiter) for step in _stripped(part))


def _stripped(text: str) -> tuple[str, ...]:
    return (text.strip(),) if text.strip() else ()
