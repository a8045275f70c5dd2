"""Rows that earlier steps or people wrote, taken as data: one that cannot be used is named, and the rest goes on."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from core.log import say
from core.runs import finished
from core.types import AnswerType, Question, Trace, numbered_lines

T = TypeVar("T")

# About 25,000 tokens: a longer question leaves little of a context of 32,768 to think in, and costs every step dearly
MAX_QUESTION_CHARS = 100_000
SHOWN = 5  # unusable rows of a file that are also said on the terminal


class BadRow(Exception):
    """Why a row cannot be used: BadRow(reason, detail)."""


class Ledger:
    """The rows that could not be read: what dropped/unreadable.jsonl holds."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def read(self, path: str | Path, parse: Callable[[Any], T], id_of: Callable[[T], str] | None = None) -> Iterator[T]:
        """`parse` of every row of a JSON Lines file, without those for which it raises BadRow.

        id_of: of rows with the same id the first is taken. Lines end at a newline byte alone (rows may hold U+2028),
        and each is decoded by itself. Raises UserError where there is no such file.
        """
        path, before, ids = Path(path), len(self.rows), set()
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            try:
                item = parse(row_of(line))
                if id_of is not None and (id := id_of(item)) in ids:
                    raise BadRow("duplicate_id", id)
            except BadRow as error:
                reason, detail = error.args
                name = f"{path.parent.name}/{path.name}"
                self.rows.append({"file": name, "line": number, "reason": reason, "detail": detail})
                if len(self.rows) - before <= SHOWN:
                    say(f"{path}, line {number}: {reason}: {detail}")
                continue
            if id_of is not None:
                ids.add(id)
            yield item
        if len(self.rows) - before > SHOWN:
            say(f"{path}: {len(self.rows) - before:,} rows cannot be used; dropped/unreadable.jsonl names them")

    def counts(self) -> dict[str, dict[str, int]]:
        """File -> reason -> rows."""
        files = sorted({row["file"] for row in self.rows})
        return {
            file: dict(sorted(Counter(row["reason"] for row in self.rows if row["file"] == file).items()))
            for file in files
        }


def file_of(path: str | Path, name: str) -> Path:
    """The file `name` of a finished run, or a .jsonl file itself. Raises UserError for an unfinished run."""
    path = Path(path)
    return path if path.suffix == ".jsonl" and path.is_file() else finished(path) / name


def row_of(line: bytes) -> Any:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise BadRow("not_utf8", f"byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:  # RecursionError: brackets without end
        raise BadRow("not_json", getattr(error, "msg", type(error).__name__)) from None
    # Escapes can hide what no file or table takes. Few lines have any of the two, so few are walked.
    if b"\\u0000" in line and any("\0" in text for text in texts_in(row)):
        raise BadRow("nul_byte", "a NUL character")
    if (b"\\ud" in line or b"\\uD" in line) and any("\ud800" <= c <= "\udfff" for t in texts_in(row) for c in t):
        raise BadRow("not_utf8", "half of a surrogate pair")
    return row


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)


def field(row: Any, name: str, *types: type) -> Any:
    """row[name], if it has one of these types. A bool is no int."""
    if not isinstance(row, dict):
        raise BadRow("wrong_type", f"the row is {_json_name(row)}, not an object")
    if name not in row:
        raise BadRow("missing_field", f"no {name}")
    if type(row[name]) not in types:
        raise BadRow("wrong_type", f"{name} is {_json_name(row[name])}")
    return row[name]


def _json_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def identifier(row: Any, name: str) -> str:
    value = field(row, name, str)
    if not value:
        raise BadRow("missing_field", f"{name} is empty")
    return value


def question_of(row: Any) -> Question:
    text = field(row, "text", str)
    if len(text) > MAX_QUESTION_CHARS:
        raise BadRow("too_long", f"a question of {len(text):,} characters; {MAX_QUESTION_CHARS:,} are the most")
    if field(row, "answer_type", str) not in get_args(AnswerType):
        raise BadRow("wrong_type", f"answer_type is {row['answer_type'][:40]!r}")
    return Question(
        identifier(row, "id"), text, field(row, "answer", str, type(None)), row["answer_type"],
        field(row, "source", str), identifier(row, "domain"), field({"metadata": {}} | row, "metadata", dict),
    )  # fmt: skip


def trace_of(row: Any) -> Trace:
    length = field(row, "num_thinking_tokens", int)
    if length < 0:
        raise BadRow("wrong_type", f"num_thinking_tokens is {length}")
    texts = (field(row, name, str) for name in ("thinking", "attempt", "teacher"))
    return Trace(question_of(field(row, "question", dict)), *texts, length)


def grade_of(row: Any) -> tuple[str, str, bool | None]:
    """(question id, model, correct)."""
    return identifier(row, "question_id"), identifier(row, "model"), field(row, "correct", bool, type(None))


def domain_of(row: Any) -> tuple[str, str]:
    """(question id, domain)."""
    return identifier(row, "question_id"), identifier(row, "domain")


def drop_of(row: Any) -> tuple[str, str]:
    """(question id, reason) of a row that an earlier step dropped; it names its question or carries it."""
    reason = identifier(row, "reason")
    if "question_id" in row:
        return identifier(row, "question_id"), reason
    return identifier(field(row, "question", dict), "id"), reason
