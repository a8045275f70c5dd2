"""From rows of samples.jsonl to numbers: accuracy with its interval, lengths, why thinking ended."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from core.log import say
from eval.cells import Cell
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


def cost(rows: list[Row]) -> dict[str, Any]:
    """Means a sample, as if each had been drawn alone; None where not known. flops is an estimate (core/cost.py)."""
    names = {"prompt": "num_prompt_tokens", "sampled": "num_sampled_tokens", "forced": "num_forced_tokens",
             "cached": "num_cached_tokens", "seconds": "seconds", "flops": "flops"}  # fmt: skip
    values = {name: [r.get(column) for r in rows] for name, column in names.items()}
    return {name: None if not known or None in known else _mean(known) for name, known in values.items()}


def scores_of(rows: list[Row], benchmarks: Iterable[str], cells: Sequence[Cell]) -> list[Row]:
    """Scores of every benchmark and cell, in the grid's order, overall and by domain."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["benchmark"], row["cell"]), []).append(row)
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


def print_cells(name: str, scores: Iterable[Row]) -> None:
    """One table a benchmark: n, accuracy with its interval, mean tokens, why thinking ended."""
    for benchmark, own in groupby(scores, key=lambda s: s["benchmark"]):
        own = list(own)
        width = max(len(s["cell"]) for s in own)
        say(f"{name} {benchmark}: {own[0]['num_questions']} questions")
        say(f"  {'cell':<{width}} {'n':>6} {'accuracy':>9}  {'95% interval':<14} {'thinking':>9} {'answer':>7}  ended")
        for s in own:
            accuracy = "-" if s["accuracy"] is None else f"{s['accuracy']:.1f}%"
            interval = "" if s["accuracy"] is None else f"[{s['low']:.1f}, {s['high']:.1f}]"
            ended = " ".join(f"{k}={v}" for k, v in s["ended"].items())
            ungraded = f" ungraded={s['num_ungraded']}" if s["num_ungraded"] else ""
            say(f"  {s['cell']:<{width}} {s['num_samples']:>6} {accuracy:>9}  {interval:<14} "
                f"{s['thinking_tokens']:>9.1f} {s['answer_tokens']:>7.1f}  {ended}{ungraded}")  # fmt: skip


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
