"""What eval.report shows of finished eval runs, as plain data: cells, curves, flips of each Wait, questions, samples.

Accuracies and differences are in percent. Cells, questions and samples are numbered in the order of their lists, and
others name them by these numbers.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from eval.comparison import EvalCell, compare_pair, methods_by_price, wait_pairs
from eval.samples import Row, num_thinking
from eval.scores import by_question
from eval.whole_run import WholeRun

SETTINGS = (
    "method", "control", "asked", "max_thinking_tokens", "min_thinking_tokens", "num_ignore", "ignore_text",
    "thinking_tokens", "answer_tokens", "ended", "num_ungraded", "num_repetitions",
)  # fmt: skip
CHARS_SHOWN = 200  # of a question or an answer, in a table

Asked = Mapping[tuple[str, str], tuple[str, str | None]]  # by benchmark and id: a question's text and its reference


def report_data(runs: Sequence[WholeRun], asked: Asked, num_resamples: int, seed: int) -> dict[str, Any]:
    """Everything but the samples and the texts (eval/report_texts.py)."""
    cells = [cell for run in runs for cell in run.cells]
    number = {(cell.run, cell.benchmark, cell.cell): i for i, cell in enumerate(cells)}
    questions = _questions(runs, asked)
    names = list(dict.fromkeys(cell.benchmark for cell in cells))
    settings = {"num_resamples": num_resamples, "seed": seed}
    return {
        "runs": [
            {"name": run.name, "path": str(run.path), "record": run.record, "config": run.config_text} for run in runs
        ],
        "benchmarks": names,
        "cells": [_cell(cell) for cell in cells],
        "curves": [curve for name in names for curve in curves_of(runs, name)],
        "measures": [{"run": run.name, **measures} for run in runs for measures in run.measures],
        "waits": [_pair(a, b, number, questions, **settings) for a, b in wait_pairs(cells) if _is_comparable(a, b)],
        "differences": [
            _pair(a, b, number, questions, **settings) for a, b in _same_cells(cells) if _is_comparable(a, b)
        ],
        "questions": columns(list(questions.values())),
    }


def _cell(cell: EvalCell) -> Row:
    shown = {key: cell.settings.get(key) for key in ("accuracy", "low", "high", *SETTINGS)}
    return {
        "run": cell.run, "benchmark": cell.benchmark, "cell": cell.cell, **shown,
        "num_questions": len(cell.questions), "num_samples": len(cell.rows),
        "sampled_tokens": fmean(cell.tokens().values()) if cell.tokens() else None,
        "domains": {
            name: {"accuracy": own["accuracy"], "n": own["num_questions"]}
            for name, own in cell.settings.get("by_domain", {}).items()
        },
    }  # fmt: skip


def curves_of(runs: Sequence[WholeRun], benchmark: str) -> list[Row]:
    """Accuracy against thinking tokens (eval.samples.num_thinking), a curve a run and method, and against all sampled
    tokens, where the votes are curves, too. Points are {"label", "x", "accuracy", "low", "high"}, in the order of x, a
    mean in tokens."""
    cells = [cell for run in runs for cell in run.cells if cell.benchmark == benchmark]
    thinking = [
        {"run": cell.run, "family": cell.settings["method"].replace("_", " "),
         "label": cell.cell, "x": _mean_thinking(cell), "is_bound": False,
         **{key: cell.settings[key] for key in ("accuracy", "low", "high")}}
        for cell in cells
    ]  # fmt: skip
    votes = [vote for run in runs for vote in run.votes]
    sampled = [
        {**method, "label": method["method"], "x": method["tokens"]}
        for method in (*methods_by_price(cells, [], benchmark), *methods_by_price([], votes, benchmark))
    ]
    curves = []
    for axis, points in (("thinking", thinking), ("sampled", sampled)):
        for (run, family), own in _grouped(points, "run", "family"):
            known = [p for p in own if p["x"] is not None and p["accuracy"] is not None]
            if known:
                kept = [{key: p[key] for key in ("label", "x", "accuracy", "low", "high")} for p in known]
                kept.sort(key=lambda point: point["x"])
                name = f"{run}: {family}" if len(runs) > 1 else family
                is_bound = any(p["is_bound"] for p in known)
                curves.append({"benchmark": benchmark, "axis": axis, "name": name, "is_bound": is_bound,
                               "points": kept})  # fmt: skip
    return curves


def _mean_thinking(cell: EvalCell) -> float | None:
    lengths = [length for row in cell.rows if (length := num_thinking(row)) is not None]
    return fmean(lengths) if lengths else None


def _grouped(points: Sequence[Row], *keys: str) -> list[tuple[tuple, list[Row]]]:
    """In the order in which groups first appear."""
    groups: dict[tuple, list[Row]] = {}
    for point in points:
        groups.setdefault(tuple(point[key] for key in keys), []).append(point)
    return list(groups.items())


def _same_cells(cells: Sequence[EvalCell]) -> list[tuple[EvalCell, EvalCell]]:
    """(cell, the cell of that name in the first run that has it), for every later run."""
    first: dict[tuple[str, str], EvalCell] = {}
    for cell in cells:
        first.setdefault((cell.benchmark, cell.cell), cell)
    return [(c, first[c.benchmark, c.cell]) for c in cells if c is not first[c.benchmark, c.cell]]


def _is_comparable(a: EvalCell, b: EvalCell) -> bool:
    return len(by_question(a.rows).keys() & by_question(b.rows).keys()) > 1


def _pair(a: EvalCell, b: EvalCell, number: dict, questions: dict, **settings: Any) -> Row:
    """eval.comparison's words on a pair, over the questions of both, and which questions flipped."""
    compared = compare_pair(a, b, common=True, **settings)
    order = {key: i for i, key in enumerate(questions)}
    to_right, to_wrong = flipped(a, b)
    return {
        **compared, "a": number[a.run, a.benchmark, a.cell], "b": number[b.run, b.benchmark, b.cell],
        "to_right": [order[a.benchmark, id] for id in to_right],
        "to_wrong": [order[a.benchmark, id] for id in to_wrong],
    }  # fmt: skip


def flipped(a: EvalCell, b: EvalCell) -> tuple[list[str], list[str]]:
    """Questions (wrong in b and right in a, right in b and wrong in a), as compare_pair counts them: by the majority of
    the repeats, halves being neither."""
    means_a, means_b = ({q: fmean(v) for q, v in by_question(cell.rows).items()} for cell in (a, b))
    both = [q for q in means_a if q in means_b]
    to_right = [q for q in both if means_b[q] < 0.5 < means_a[q]]
    return to_right, [q for q in both if means_a[q] < 0.5 < means_b[q]]


# Questions and samples


def _questions(runs: Sequence[WholeRun], asked: Asked) -> dict[tuple[str, str], Row]:
    """By benchmark and id: what the table shows. text and answer are None where they are not at hand."""
    questions: dict[tuple[str, str], Row] = {}
    for run in runs:
        for cell in run.cells:
            for row in cell.rows:
                key = cell.benchmark, row["question_id"]
                if key not in questions:
                    text, answer = asked.get(key, (None, None))
                    questions[key] = {
                        "benchmark": cell.benchmark, "id": row["question_id"], "domain": row.get("domain", ""),
                        "text": _start(text), "answer": _start(answer),
                    }  # fmt: skip
    return questions


def sample_entry(cell: int, question: int, row: Row) -> Row:
    """A line of the table of samples. cell, question: their numbers. row: of samples.jsonl."""
    return {
        "cell": cell, "question": question, "repeat": row["repeat"], "correct": row["correct"],
        "extracted": _start(row.get("extracted")), "thinking": num_thinking(row),
        "answer": row["num_answer_tokens"], "ended": row.get("ended"),
    }  # fmt: skip


def _start(text: str | None) -> str | None:
    return text if text is None or len(text) <= CHARS_SHOWN else text[:CHARS_SHOWN] + "\u2026"


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """A list a column; of words that repeat {"words": [...], "of": [numbers of words]}, which is shorter."""
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    for name, values in columns.items():
        words = list(dict.fromkeys(values))
        if len(words) < len(values) / 2 and any(isinstance(word, str) for word in words):
            at = {word: i for i, word in enumerate(words)}
            columns[name] = {"words": words, "of": [at[value] for value in values]}
    return columns
