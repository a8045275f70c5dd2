"""Finished runs, read whole or refused: nothing is drawn or shown of a crashed, a partial or a foreign one."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from core.config import UserError
from core.runs import finished
from eval.comparison import EvalCell, load_cells, vote_name
from eval.samples import Row
from eval.scores import score

RECORD_KEYS = ("package", "name", "status", "commit", "command")
CELL_KEYS = ("cell", "num_samples", "accuracy", "thinking_tokens", "max_thinking_tokens", "num_ignore")
SAMPLE_KEYS = ("question_id", "repeat", "correct", "num_thinking_tokens", "num_answer_tokens", "ended", "num_ignored",
               "repetition")  # fmt: skip
SCORES = ("num_questions", "num_ungraded", "accuracy", "low", "high", "thinking_tokens", "answer_tokens")  # compared


@dataclass(frozen=True)
class WholeRun:
    """A finished run of eval.run or eval.import_samples. record: run.json. config: config.yaml, as text and as values.
    cells, votes: as eval.comparison reads them; each cell names its method. measures: of its methods."""

    name: str
    path: Path
    record: Row
    config_text: str
    config: Row
    cells: list[EvalCell]
    votes: list[Row]
    measures: list[Row]


def check_run(path: str | Path) -> Path:
    """The folder of a finished run. Raises UserError (one line, naming it) for one that is missing, unfinished, or not
    of this project."""
    record = read_json(Path(path), "run.json") if Path(path).is_dir() else {}  # before DONE, which others do not write
    path = finished(path)
    missing = [name for name in RECORD_KEYS if name not in record]
    if missing:
        raise UserError(f"{path / 'run.json'} lacks {', '.join(missing)}, so it is no run of this project")
    if record["status"] != "done":
        raise UserError(f"run {path} is not finished (status {record['status']!r} in run.json); run its step again")
    return path


def read_run(path: str | Path, name: str) -> WholeRun:
    """name: what to call it.

    Raises UserError (one line, naming the run) for what `check_run` refuses, a run of another step, one shard of
    several, and scores that are not those of the samples.
    """
    path = check_run(path)
    record = read_json(path, "run.json")
    if record["package"] != "eval":
        raise UserError(f"run {path} is of {record['package']}, not of eval.run")
    scores = read_json(path, "scores.json")
    entries = rows_of(scores, "cells", CELL_KEYS, path / "scores.json")
    config_text, config = _config(path)
    if config.get("num_shards", 1) > 1 and not config.get("merge"):
        shard, num_shards = config["shard"], config["num_shards"]
        raise UserError(
            f"run {path} is shard {shard} of {num_shards}; join them first: num_shards={num_shards} merge=true"
        )
    if not (path / "samples.jsonl").exists():
        raise UserError(f"run {path} is not whole: it has no samples.jsonl")
    try:
        cells, votes = load_cells(path, name)
    except KeyError as error:
        raise UserError(f"{path / 'samples.jsonl'} is of another make: a row lacks {error}") from None
    except (TypeError, AttributeError):
        raise UserError(f"{path / 'samples.jsonl'} is of another make: its rows are no samples") from None
    _check_samples(path, entries, cells)
    for cell in cells:
        _check_scores(path, cell)
        # runs of before there were other methods do not name theirs
        is_forced = cell.settings["max_thinking_tokens"] is not None
        cell.settings.setdefault("method", "budget_forcing" if is_forced else "unforced")
    _check_votes(path, votes)
    return WholeRun(name, path, record, config_text, config, cells, votes, scores.get("measures") or [])


def read_json(path: Path, name: str) -> Row:
    """A file of a run. Raises UserError where it is missing, or no JSON."""
    try:
        content = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} has no {name}, so it is no run of this project") from None
    except ValueError:
        raise UserError(f"{path / name} is not JSON") from None
    return content if isinstance(content, dict) else {}


def rows_of(content: Row, key: str, names: Sequence[str], file: Path) -> list[Row]:
    """content[key], a list of rows with these names. Raises UserError where it is another thing."""
    rows = content.get(key)
    is_good = isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    missing = [name for name in names if not is_good or any(name not in row for row in rows)]
    if missing:
        raise UserError(f"{file} is of another make: its {key} lack {', '.join(missing)}")
    return rows


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        text = (path / "config.yaml").read_text(encoding="utf-8")
        values = OmegaConf.to_container(OmegaConf.create(text))
    except FileNotFoundError:
        raise UserError(f"{path} has no config.yaml, so it is no run of this project") from None
    except (YAMLError, ValueError):
        raise UserError(f"{path / 'config.yaml'} is not YAML") from None
    return text, values if isinstance(values, dict) else {}


def _check_samples(path: Path, entries: Sequence[Row], cells: Sequence[EvalCell]) -> None:
    """That the samples are those which were scored: a crash while a finished run was graded again, or files of two runs
    in one folder, would show here."""
    by_key = {(cell.benchmark, cell.cell): cell for cell in cells}
    scored = {(entry.get("benchmark", "questions"), entry["cell"]): entry for entry in entries}
    for key, entry in scored.items():
        num_samples = len(by_key[key].rows) if key in by_key else 0
        if num_samples != entry["num_samples"]:
            raise UserError(
                f"run {path} is not whole: samples.jsonl has {num_samples} of the {entry['num_samples']} samples of "
                f"{' '.join(key)} in scores.json"
            )
    for key, cell in by_key.items():
        if key not in scored:
            raise UserError(f"run {path} is not whole: samples.jsonl has {' '.join(key)}, scores.json does not")
        missing = [name for name in SAMPLE_KEYS if any(name not in row for row in cell.rows)]
        if missing:
            raise UserError(f"{path / 'samples.jsonl'} is of another make: its rows lack {', '.join(missing)}")
        if len({(row["question_id"], row["repeat"]) for row in cell.rows}) < len(cell.rows):
            raise UserError(f"run {path}: samples.jsonl has a sample of {' '.join(key)} twice")


def _check_scores(path: Path, cell: EvalCell) -> None:
    """That scores.json says of a cell what its samples say: an edit would show here, too."""
    now = score(cell.rows)
    for name in SCORES:
        was = cell.settings.get(name, now[name])
        if not _is_same(now[name], was):
            raise UserError(
                f"run {path}: {name} of {cell.benchmark} {cell.cell} is {_shown(now[name])} by samples.jsonl, "
                f"{_shown(was)} by scores.json; the same eval.run command with regrade=true scores them again"
            )


def _check_votes(path: Path, votes: Sequence[Row]) -> None:
    """The same of votes and their scores question by question."""
    for vote in votes:
        if "scores" in vote and not _is_same(100 * fmean(vote["scores"].values()), vote["accuracy"]):
            raise UserError(
                f"run {path}: the accuracy of {vote_name(vote)} in scores.json is not that of parallel.jsonl"
            )


def _is_same(a: float | None, b: float | None) -> bool:
    return a is b if None in (a, b) else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6)


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.6g}"
