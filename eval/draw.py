"""Draws samples: every cell of a grid, for every question and repeat, through one driver."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.chat import ChatFormat
from core.config import UserError
from core.runs import finished
from core.types import Question, Sample, question_from_row, read_jsonl
from eval.cells import Cell
from inference.budget import ForcedDecode, derived_seed
from inference.engine import Driver, Sampling

Key = tuple[str, str, str, int]  # benchmark, cell, question id, repeat


@dataclass(frozen=True)
class Task:
    """One sample to draw."""

    cell: Cell
    question: Question
    repeat: int = 0
    benchmark: str = "questions"

    @property
    def key(self) -> Key:
        return self.benchmark, self.cell.label, self.question.id, self.repeat


@dataclass(frozen=True)
class Drawn:
    """A sample, and the seconds from its start to its end among all that ran beside it."""

    task: Task
    sample: Sample
    seconds: float


def tasks_of(
    questions: Iterable[Question], cells: Sequence[Cell], repeats: int = 1, benchmark: str = "questions"
) -> list[Task]:
    """Question by question, the longest budget first, so that shorter ones are cut from its trajectory."""

    def length(cell: Cell) -> tuple[float, int]:
        limit = cell.budget.max_thinking_tokens
        return (limit if isinstance(limit, int) else float("inf")), cell.budget.num_ignore

    ordered = sorted(cells, key=length, reverse=True)
    most = max([repeats, *(cell.repeats or 0 for cell in cells)])
    return [
        Task(cell, q, r, benchmark)
        for q in questions
        for r in range(most)
        for cell in ordered
        if r < (cell.repeats or repeats)
    ]


def draw(
    driver: Driver,
    chat: ChatFormat,
    tasks: Iterable[Task],
    sampling: Sampling,
    seed: int,
    system: str | None = None,
    logprobs: bool = False,
) -> Iterator[Drawn]:
    """Runs the tasks; yields each sample as it finishes. A question and repeat has one seed in all cells, so cells
    differ by what they ask and force alone (common random numbers)."""
    prompts: dict[tuple[str, str], list[int]] = {}
    formats = {chat.name: chat}
    running: dict[Key, tuple[Task, float]] = {}

    def decodings():
        for task in tasks:
            q, cell = task.question, task.cell
            profile = cell.profile(chat.name)
            if profile not in formats:
                formats[profile] = ChatFormat(profile, chat.tokenizer)
            text = cell.prompt(q.text)
            if (profile, text) not in prompts:
                prompts[profile, text] = formats[profile].prompt_ids(text, system)
            running[task.key] = task, time.monotonic()
            yield task.key, ForcedDecode(
                prompts[profile, text], cell.budget, formats[profile], driver.engine.max_model_len, sampling,
                derived_seed(seed, q.id, task.repeat), question_id=q.id, repeat=task.repeat, logprobs=logprobs,
            )  # fmt: skip

    for key, decoding in driver.run(decodings()):
        task, started = running.pop(key)
        yield Drawn(task, decoding.sample(), time.monotonic() - started)


def load_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """Questions of a finished data.collect run, or of a .jsonl file. Raises UserError naming what is wrong."""
    path = Path(path)
    file = path if path.suffix == ".jsonl" else finished(path) / "questions.jsonl"
    questions = [question_from_row(row) for row in read_jsonl(file)]
    if not questions:
        raise UserError(f"{file} holds no questions")
    return questions[:limit]
