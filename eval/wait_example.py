"""A sample whose end of thinking was ignored, as text: what the paper's Figure 3 shows, found in a finished run.

example = find_example("outputs/eval/tuned-1234abcd", tokenizer=None)
write_example(example, "wait.json");  read_example("wait.json")
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.config import UserError, load
from core.runs import read_record
from core.types import read_jsonl
from eval.samples import Row

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


def find_example(path: str | Path, tokenizer: str | None = None) -> WaitExample | None:
    """The sample of a finished run that shows best what ignoring an end does: one that turned from wrong to right, then
    one that stayed right, then any; the shortest of them. None: the run ignored no end.

    tokenizer: folder or hub id; None: that of the run's model. Raises UserError where run or tokenizer is missing.
    """
    record, path = read_record(path), Path(path)
    rows = {_key(row): row for row in read_jsonl(path / "samples.jsonl") if "paths" not in row}
    cells = {_cell_key(cell): cell for cell in json.loads((path / "scores.json").read_text())["cells"]}
    waiting = [row for row in rows.values() if row.get("num_ignored") and row["segments"]]
    if not waiting:
        return None
    before = {_key(row): _without_waits(row, rows, cells) for row in waiting}
    best = min(waiting, key=lambda row: (*_rank(before[_key(row)], row), len(_ids(row))))
    pieces = _pieces(best, _tokenizer_of(path, tokenizer))
    origin = {"run": path.name, "benchmark": best.get("benchmark", "questions"), "cell": best["cell"],
              "question_id": best["question_id"], "repeat": best["repeat"], "commit": record["commit"]}  # fmt: skip
    earlier = before[_key(best)]
    return WaitExample(_question_of(path, best), pieces, earlier and earlier["correct"], best["correct"], origin)


def _key(row: Row) -> Key:
    return row.get("benchmark", "questions"), row["cell"], row["question_id"], row["repeat"]


def _cell_key(cell: Row) -> tuple[str, str]:
    return cell.get("benchmark", "questions"), cell["cell"]


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


def _tokenizer_of(path: Path, tokenizer: str | None) -> Any:
    from omegaconf import OmegaConf

    from inference import checkpoint

    config = OmegaConf.load(path / "config.yaml")
    named = tokenizer or config.get("tokenizer") or config.get("model")
    if named is None:
        raise UserError(f"run {path} names no tokenizer, so its samples cannot be read; give tokenizer=<folder>")
    return checkpoint.load_tokenizer(checkpoint.resolve(str(named), weights=False))


def _pieces(row: Row, tokenizer: Any) -> tuple[Piece, ...]:
    return tuple(Piece(s["phase"], s["source"], tokenizer.decode(s["token_ids"])) for s in row["segments"])


def _question_of(path: Path, row: Row) -> str:
    """The question's text, read where the run read it. Raises UserError where that is gone."""
    from eval.config import EvalConfig
    from eval.work import work_of

    questions = work_of(load(EvalConfig, [str(path / "config.yaml")])).questions()
    question = questions.get((row.get("benchmark", "questions"), row["question_id"]))
    if question is None:
        raise UserError(f"run {path}: its questions have none with the id {row['question_id']} any more")
    return question.text


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
