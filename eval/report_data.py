"""What eval.report shows of finished eval runs, as plain data: cells, curves, flips of each Wait, questions, samples.

Accuracies and differences are in percent. Cells, questions and samples are numbered in the order of their lists, and
others name them by these numbers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from core.config import UserError
from core.runs import finished
from core.types import read_jsonl
from eval.comparison import EvalCell, compare_pair, load_cells, methods_by_price, wait_pairs
from eval.metrics import mean_interval
from eval.samples import Row
from eval.scores import by_question

SETTINGS = (
    "method", "control", "asked", "max_thinking_tokens", "min_thinking_tokens", "num_ignore", "ignore_text",
    "thinking_tokens", "answer_tokens", "ended", "num_ungraded", "num_repetitions",
)  # fmt: skip
CHARS_SHOWN = 200  # of a question or an answer, in a table


@dataclass(frozen=True)
class ReportRun:
    """A finished eval run. config: config.yaml, as text and as values. cells, votes: as eval.comparison reads them."""

    name: str
    path: Path
    record: Row
    config_text: str
    config: Row
    cells: list[EvalCell]
    votes: list[Row]
    measures: list[Row]


# Reading, and refusing


def read_run(path: str | Path, name: str) -> ReportRun:
    """name: what to call it.

    Raises UserError, in one line, for a folder that is missing or unfinished, no eval run, one shard of several, or
    whose scores are not those of its samples.
    """
    path = finished(path)
    record, scores = _json(path / "run.json"), _json(path / "scores.json")
    if record.get("package") != "eval" or "cells" not in scores:
        raise UserError(f"{path} is a run of {record.get('package')}, not of eval.run")
    if record.get("status") != "done":
        raise UserError(f"{path} is marked as finished, but its record says {record.get('status')}; run its step again")
    config_text, config = _config(path / "config.yaml")
    if config.get("num_shards", 1) > 1 and not config.get("merge"):
        shard, num_shards = config["shard"], config["num_shards"]
        raise UserError(f"{path} is shard {shard} of {num_shards}; join them first: num_shards={num_shards} merge=true")
    try:
        cells, votes = load_cells(path, name)
        for cell in cells:
            _check_scores(path, cell)
        _check_all_there(path, scores["cells"], cells)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: samples.jsonl or scores.json lacks {error}: not written by eval.run") from None
    return ReportRun(name, path, record, config_text, config, cells, votes, scores.get("measures", []))


def _json(file: Path) -> Row:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file.parent} has no {file.name}: not a run of eval.run") from None
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not as eval.run writes it")
    return value


def _config(file: Path) -> tuple[str, Row]:
    from omegaconf import OmegaConf

    if not file.is_file():
        raise UserError(f"{file.parent} has no {file.name}: not a run of eval.run")
    return file.read_text(encoding="utf-8"), OmegaConf.to_container(OmegaConf.load(file))


def _check_scores(path: Path, cell: EvalCell) -> None:
    """A crash while a finished run was graded again, or files of two runs in one folder, would show here."""
    where = f"{path}: {cell.benchmark} {cell.cell}"
    if not cell.settings:
        raise UserError(f"{where} has samples, but no entry in scores.json")
    if cell.settings["num_samples"] != len(cell.rows):
        raise UserError(f"{where} has {len(cell.rows):,} samples, scores.json counts {cell.settings['num_samples']:,}")
    graded = by_question(cell.rows)
    accuracy = 100 * mean_interval(graded)[0] if graded else None
    said = cell.settings["accuracy"]
    if (accuracy is None) != (said is None) or (accuracy is not None and abs(accuracy - said) > 1e-6):
        raise UserError(
            f"{where}: {accuracy} percent of its samples are right, scores.json says {said}; the same eval.run command "
            "with regrade=true scores them again"
        )


def _check_all_there(path: Path, scores: Sequence[Row], cells: Sequence[EvalCell]) -> None:
    there = {(cell.benchmark, cell.cell) for cell in cells}
    for entry in scores:
        key = entry.get("benchmark", "questions"), entry["cell"]
        if entry["num_samples"] and key not in there:
            raise UserError(f"{path}: {' '.join(key)} is in scores.json, but samples.jsonl has none of its samples")


# What is shown


def report_data(runs: Sequence[ReportRun], num_resamples: int, seed: int) -> dict[str, Any]:
    """Everything but the texts (eval/report_texts.py)."""
    cells = [cell for run in runs for cell in run.cells]
    number = {(cell.run, cell.benchmark, cell.cell): i for i, cell in enumerate(cells)}
    questions = _questions(runs)
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


def curves_of(runs: Sequence[ReportRun], benchmark: str) -> list[Row]:
    """Accuracy against thinking tokens, a curve a run and method, and against all sampled tokens, where the votes are
    curves, too. Points are {"label", "x", "accuracy", "low", "high"}, in the order of x, a mean in tokens."""
    cells = [cell for run in runs for cell in run.cells if cell.benchmark == benchmark]
    thinking = [
        {"run": cell.run, "family": cell.settings.get("method", "budget_forcing").replace("_", " "),
         "label": cell.cell, "x": cell.settings["thinking_tokens"], "is_bound": False,
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


def _questions(runs: Sequence[ReportRun]) -> dict[tuple[str, str], Row]:
    """By benchmark and id: what the table shows. text and answer are None where the runs do not hold them."""
    texts = question_texts(runs)
    questions: dict[tuple[str, str], Row] = {}
    for run in runs:
        for cell in run.cells:
            for row in cell.rows:
                key = cell.benchmark, row["question_id"]
                if key not in questions:
                    text, answer = texts.get(key, (None, None))
                    questions[key] = {
                        "benchmark": cell.benchmark, "id": row["question_id"], "domain": row.get("domain", ""),
                        "text": _start(text), "answer": _start(answer),
                    }  # fmt: skip
    return questions


def question_texts(runs: Sequence[ReportRun]) -> dict[tuple[str, str], tuple[str, str | None]]:
    """(text, reference) by benchmark and id, as the runs themselves keep them: in questions.jsonl (an import), or in
    what they wrote for lm-evaluation-harness."""
    texts: dict[tuple[str, str], tuple[str, str | None]] = {}
    for run in runs:
        for benchmark in dict.fromkeys(cell.benchmark for cell in run.cells):
            missing = {row["question_id"] for c in run.cells if c.benchmark == benchmark for row in c.rows}
            for file in sorted(run.path.glob(f"harness/*/samples_{benchmark}_*.jsonl")):
                missing -= {id for name, id in texts if name == benchmark}
                if not missing:
                    break
                for row in read_jsonl(file):
                    texts[benchmark, row["doc"]["id"]] = row["doc"]["problem"], row["doc"]["answer"]
        if (run.path / "questions.jsonl").exists():
            for row in read_jsonl(run.path / "questions.jsonl"):
                own = row.get("question", row)
                for benchmark in {cell.benchmark for cell in run.cells}:
                    texts.setdefault((benchmark, own["id"]), (own["text"], own["answer"]))
    return texts


def sample_entry(cell: int, question: int, row: Row) -> Row:
    """A line of the table of samples. cell, question: their numbers. row: of samples.jsonl."""
    return {
        "cell": cell, "question": question, "repeat": row["repeat"], "correct": row["correct"],
        "extracted": _start(row.get("extracted")), "thinking": row["num_thinking_tokens"],
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
