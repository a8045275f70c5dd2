"""From rows of samples.jsonl to numbers: accuracy with its interval, lengths, why thinking ended."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from eval.metrics import mean_interval

Row = dict[str, Any]


def by_question(rows: Iterable[Row]) -> dict[str, list[float]]:
    """{question id: [1.0 or 0.0 for each graded repeat]}; answers that could not be graded are left out."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["correct"] is not None:
            scores.setdefault(row["question_id"], []).append(float(row["correct"]))
    return scores


def score(rows: list[Row]) -> dict[str, Any]:
    """One cell. accuracy, low and high are percent with the question-clustered 95% interval; None where nothing could
    be graded. Lengths are means in tokens."""
    graded = by_question(rows)
    interval = [100.0 * x for x in mean_interval(graded)] if graded else [None, None, None]
    return {
        "num_questions": len({r["question_id"] for r in rows}),
        "num_samples": len(rows),
        "num_ungraded": sum(r["correct"] is None for r in rows),
        **dict(zip(("accuracy", "low", "high"), interval, strict=True)),
        "thinking_tokens": _mean(r["num_thinking_tokens"] for r in rows),
        "answer_tokens": _mean(r["num_answer_tokens"] for r in rows),
        "ended": dict(sorted(Counter(r["ended"] for r in rows).items())),
        "num_ignored": sum(r["num_ignored"] for r in rows),
        "num_repetitions": sum(r["repetition"] for r in rows),
    }


def scores_of(rows: list[Row], cells: dict[str, Row]) -> list[Row]:
    """Scores of every cell, in the grid's order, overall and by domain. cells: {label: its budget as a dict}."""
    scores = []
    for label, budget in cells.items():
        own = [r for r in rows if r["cell"] == label]
        domains = sorted({r["domain"] for r in own})
        by_domain = {d: score([r for r in own if r["domain"] == d]) for d in domains}
        scores.append({"cell": label, **budget, **score(own), "by_domain": by_domain})
    return scores


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
