"""The nouns that flow through the pipeline: Question, Trace, Segment, Sample, Grade."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.config import UserError

AnswerType = Literal["integer", "letter", "latex", "code", "open"]
Phase = Literal["thinking", "answer"]
TokenSource = Literal["sampled", "forced"]
Ended = Literal["natural", "budget", "context", "cancelled", "error"]


def question_id(text: str) -> str:
    """First 16 hex digits of the SHA-256 of the question text: the id s1 gave its rows (released gemini.py)."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Question:
    """One question with its reference answer.

    answer: the reference as text, or None when the source has none.
    answer_type: which rule of `eval.grading` decides (an "open" answer is compared as normalised text).
    source: where it came from (hub id, or `reasoning_gym/<family>`). domain: what diversity sampling balances.
    """

    id: str
    text: str
    answer: str | None
    answer_type: AnswerType
    source: str
    domain: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, text: str, answer: str | None, answer_type: AnswerType, source: str, domain: str, **metadata
    ) -> "Question":
        return cls(question_id(text), text, answer, answer_type, source, domain, metadata)


@dataclass(frozen=True)
class Trace:
    """A worked solution: `thinking` goes between the delimiters, `attempt` is the answer part.

    num_thinking_tokens counts `thinking` alone, with the tokenizer of the model to be trained.
    """

    question: Question
    thinking: str
    attempt: str
    teacher: str
    num_thinking_tokens: int | None = None


@dataclass(frozen=True)
class Segment:
    """A run of token ids of one origin: sampled by the model, or forced by us (ignore text, close, cue)."""

    phase: Phase
    source: TokenSource
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """What one forced decoding produced. `prompt + token_ids` is exactly what the model saw and wrote.

    ended: why thinking ended: the model's own end (natural), the budget, the context window,
        a cancelled request, or an engine error (then `error` says which).
    answer_finish: "stop" (the model ended its answer), "length" (cut at max_answer_tokens), or None (no answer).
    num_ignored: ends of thinking replaced by the ignore text because `num_ignore` asked for it.
    num_suppressed: ends replaced because thinking was still shorter than `min_thinking_tokens`.
    repetition: the thinking closes on a loop (the same span again and again).
    num_prompt_tokens: before thinking. num_cached_tokens: ids that the engine did not have to read again, over all
        requests of this sample; None where it does not say.
    mean_logprob: of all sampled ids, ends of thinking and of turn included; None where nobody asked.
    """

    question_id: str
    repeat: int
    segments: tuple[Segment, ...]
    ended: Ended
    answer_finish: str | None = None
    num_ignored: int = 0
    num_suppressed: int = 0
    repetition: bool = False
    error: str | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int | None = None
    mean_logprob: float | None = None

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(t for s in self.segments for t in s.token_ids)

    def ids(self, phase: Phase, source: TokenSource | None = None) -> tuple[int, ...]:
        """Token ids of one phase, optionally only the sampled or the forced ones."""
        return tuple(t for s in self.segments if s.phase == phase and source in (None, s.source) for t in s.token_ids)

    @property
    def num_thinking_tokens(self) -> int:
        """Sampled thinking and ignore texts; the closing delimiter and the cue are not thinking."""
        return len(self.ids("thinking"))

    @property
    def num_answer_tokens(self) -> int:
        """Sampled answer tokens, without the closing delimiter, the cue and the end of turn."""
        return len(self.ids("answer", "sampled"))


@dataclass(frozen=True)
class Grade:
    """correct is None when the answer cannot be graded (no reference, no tests, undecidable): never silently wrong."""

    correct: bool | None
    extracted: str | None
    grader: str


def question_from_row(row: dict[str, Any]) -> Question:
    return Question(**row)


def trace_from_row(row: dict[str, Any]) -> Trace:
    return Trace(**{**row, "question": Question(**row["question"])})


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(number, from 1, and line) of a file, split on newline only (rows may hold U+2028). Raises UserError where there
    is no such file."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    with file:
        yield from enumerate(file, 1)


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON Lines file.

    Raises UserError naming the file and the line of a row that is not JSON, or the missing file.
    """
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            yield json.loads(line.decode())
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from None
        except UnicodeDecodeError as error:  # a torn line can end within a character
            raise UserError(f"{path}, line {number}: not UTF-8 ({error.reason})") from None


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> int:
    """Writes dicts or the dataclasses above, one a line, replacing the file atomically. Returns the count."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row if isinstance(row, dict) else asdict(row), ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count
