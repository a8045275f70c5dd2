"""From rows of samples.jsonl to numbers: accuracy with its interval, lengths, why thinking ended."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from eval.cells import Cell
from eval.metrics import Limit, mean_interval, measures
from eval.samples import Row, by_cell, num_thinking


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
        "num_ignored": sum(r["num_ignored"] or 0 for r in rows),
        "num_repetitions": sum(r["repetition"] for r in rows),
        "num_exhausted": sum(r.get("exhausted", False) for r in rows),
    }


def cost(rows: list[Row]) -> dict[str, Any]:
    """Means a sample, as if each had been drawn alone; None where not known. flops is an estimate (core/cost.py)."""
    names = {"prompt": "num_prompt_tokens", "sampled": "num_sampled_tokens", "forced": "num_forced_tokens",
             "cached": "num_cached_tokens", "seconds": "seconds", "flops": "flops"}  # fmt: skip
    values = {name: [r.get(column) for r in rows] for name, column in names.items()}
    return {name: None if not known or None in known else _mean(known) for name, known in values.items()}


def scores_of(rows: list[Row], benchmarks: Iterable[str], cells: Sequence[Cell]) -> list[Row]:
    """Scores of every benchmark and cell, in the grid's order, overall and by domain."""
    grouped = by_cell(rows)
    scores = []
    for benchmark in benchmarks:
        for cell in cells:
            own = grouped.get((benchmark, cell.label), [])
            domains = sorted({r["domain"] for r in own})
            by_domain = {d: score([r for r in own if r["domain"] == d]) for d in domains}
            settings = {"method": cell.method, "control": cell.control, "asked": cell.asked, "limit": cell.limit}
            scores.append({"benchmark": benchmark, "cell": cell.label, **settings, **asdict(cell.budget), **score(own),
                           "cost": cost(own), "by_domain": by_domain})  # fmt: skip
    return scores


def measures_of(rows: list[Row], benchmarks: Iterable[str], cells: Sequence[Cell]) -> list[Row]:
    """Control, Scaling and Performance of every method with at least two cells, over the questions graded in all of
    them. Control of asking for short or long thinking needs the same cell without asking; it is None otherwise."""
    grouped = by_cell(rows)
    measured = []
    for benchmark in benchmarks:
        for method in dict.fromkeys(cell.method for cell in cells):
            own = [c for c in cells if c.method == method and _knows_lengths(grouped.get((benchmark, c.label), []))]
            graded = {c.label: by_question(grouped[benchmark, c.label]) for c in own}
            questions = set.intersection(*map(set, graded.values())) if graded else set()
            if len(own) < 2 or not questions:
                continue
            scores = {label: {q: fmean(values[q]) for q in questions} for label, values in graded.items()}
            lengths = {c.label: _tokens_by_question(grouped[benchmark, c.label], questions) for c in own}
            default = next(
                (c for c in cells if c.control == "none" and c.way is None and c.budget == own[0].budget), None
            )
            default_tokens = default and _mean_tokens(grouped.get((benchmark, default.label), []))
            found = measures(lengths, scores, {c.label: _limit(c, default_tokens) for c in own})
            knows_limits = method != "class_conditional" or default_tokens is not None
            measured.append({
                "benchmark": benchmark, "method": method, "num_cells": len(own), "num_questions": found.num_questions,
                "control": _interval(found.control) if knows_limits else None,
                "scaling": _interval(found.scaling), "performance": _interval(found.performance),
            })  # fmt: skip
    return measured


def _limit(cell: Cell, default_tokens: float | None) -> Limit:
    bounds = {"short": (None, default_tokens), "long": (default_tokens, None)}
    return bounds.get(cell.control, cell.limit)


def _knows_lengths(rows: list[Row]) -> bool:
    return bool(rows) and all(row["num_thinking_tokens"] is not None for row in rows)


def _tokens_by_question(rows: list[Row], questions: set[str]) -> dict[str, float]:
    tokens: dict[str, list[int]] = {}
    for row in rows:
        if row["question_id"] in questions:
            tokens.setdefault(row["question_id"], []).append(num_thinking(row))
    return {question: fmean(values) for question, values in tokens.items()}


def _mean_tokens(rows: list[Row]) -> float | None:
    return fmean(row["num_thinking_tokens"] for row in rows) if rows else None


def _interval(values: tuple[float, float, float]) -> list[float | None]:
    """[value, low, high]; None for what cannot be said."""
    return [None if math.isnan(value) else value for value in values]


def _mean(values: Iterable[float | None]) -> float | None:
    """None where one is not known (an imported row, a chat endpoint that does not count its reasoning)."""
    values = list(values)
    if None in values:
        return None
    return sum(values) / len(values) if values else 0.0
