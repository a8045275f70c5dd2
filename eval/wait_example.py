"""A sample whose end of thinking was ignored, as text: what the paper's Figure 3 shows, found in a finished run.

example = find_example(read_run("outputs/eval/tuned-1234abcd", "tuned"))
write_example(example, "wait.json");  read_example("wait.json")
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.config import UserError
from core.types import read_jsonl
from eval.report_texts import check_tokenizer, decoder_of, pieces_of, question_texts
from eval.sample_stats import tokenizer_of
from eval.samples import Row
from eval.whole_run import WholeRun

Key = tuple[str, str, str, int]  # benchmark, cell, question, repeat


@dataclass(frozen=True)
class Piece:
    """phase, source: as of core.types.Segment."""

    phase: str
    source: str
    text: str


@dataclass(frozen=True)
class WaitExample:
    """before, after: is the answer right without the ignored ends, and with them? None: not known.
    origin: run, cell, question id, repeat, commit."""

    question: str
    pieces: tuple[Piece, ...]
    before: bool | None
    after: bool | None
    origin: dict[str, Any]


def find_example(run: WholeRun, tokenizer: str | None = None) -> WaitExample | None:
    """The sample of a run that shows best what ignoring an end does: one that turned from wrong to right, then one that
    stayed right, then any; the shortest of them. None: the run ignored no end.

    tokenizer: folder or hub id; None: that of the run's model. Raises UserError where the tokenizer or the question's
    text is not at hand.
    """
    rows = {_key(row): row for row in read_jsonl(run.path / "samples.jsonl") if "paths" not in row}
    cells = {(cell.benchmark, cell.cell): cell.settings for cell in run.cells}
    waiting = [row for row in rows.values() if row.get("num_ignored") and row["segments"]]
    if not waiting:
        return None
    before = {_key(row): _without_waits(row, rows, cells) for row in waiting}
    best = min(waiting, key=lambda row: (*_rank(before[_key(row)], row), len(_ids(row))))
    loaded = tokenizer_of(tokenizer, run.config)
    if loaded is None:
        raise UserError(f"run {run.path} has no tokenizer at hand to read its samples with; give tokenizer=<folder>")
    check_tokenizer(str(run.path), best, loaded)
    benchmark, cell, question_id, repeat = key = _key(best)
    question, _ = question_texts([run]).get((benchmark, question_id), (None, None))
    if question is None:
        raise UserError(f"run {run.path}: the text of its question {question_id} is not at hand any more")
    origin = {"run": run.path.name, "benchmark": benchmark, "cell": cell, "question_id": question_id, "repeat": repeat,
              "commit": run.record["commit"]}  # fmt: skip
    pieces = tuple(Piece(*piece) for piece in pieces_of(best["segments"], decoder_of(loaded)))
    return WaitExample(question, pieces, before[key] and before[key]["correct"], best["correct"], origin)


def _key(row: Row) -> Key:
    return row.get("benchmark", "questions"), row["cell"], row["question_id"], row["repeat"]


def _without_waits(row: Row, rows: dict[Key, Row], cells: dict[tuple[str, str], Row]) -> Row | None:
    """The same question and repeat where no end is ignored and all else is the same."""
    names = ("method", "control", "asked", "max_thinking_tokens", "min_thinking_tokens")
    own = cells.get(_key(row)[:2])
    for (benchmark, label), cell in cells.items():
        same = own is not None and all(cell.get(name) == own.get(name) for name in names)
        if same and benchmark == _key(row)[0] and not cell["num_ignore"]:
            return rows.get((benchmark, label, row["question_id"], row["repeat"]))
    return None


def _rank(before: Row | None, row: Row) -> tuple[bool, bool, bool]:
    """The smallest is shown: what turned right, what is right, what does not go in circles."""
    turned = before is not None and before["correct"] is False and row["correct"] is True
    return not turned, row["correct"] is not True, bool(row.get("repetition"))


def _ids(row: Row) -> list[int]:
    return [id for segment in row["segments"] for id in segment["token_ids"]]


def write_example(example: WaitExample, file: str | Path) -> None:
    Path(file).write_text(json.dumps(asdict(example), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_example(file: str | Path) -> WaitExample:
    """Raises UserError for a file that is missing or was not written by `write_example`."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        return WaitExample(**{**content, "pieces": tuple(Piece(**piece) for piece in content["pieces"])})
    except FileNotFoundError:
        raise UserError(f"wait_example={file} does not exist") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{file} is no recorded example of ignored ends (eval/wait_example.py)") from None
