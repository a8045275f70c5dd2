"""Finished eval runs to report on, made without an engine: their tokens are bytes."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from core.runs import open_run
from core.types import Segment, write_jsonl
from eval.cells import Cells, cells_of
from eval.config import EvalConfig
from eval.scores import scores_of

BLOCKS = [Cells([64, 256]), Cells([256], num_ignore=[1, 2])]
CELLS = cells_of(BLOCKS, "s1", "\nFinal Answer:", 32, False)
CHANCE = {"max=64": 0.2, "max=256": 0.5, "max=256 ignore=1": 0.6, "max=256 ignore=2": 0.55}
MEASURES = [{"benchmark": "sums", "method": "budget_forcing", "num_cells": 4, "num_questions": 12,
             "control": [75.0, 75.0, 75.0], "scaling": [9.5, 2.5, 16.0],
             "performance": [60.0, 40.0, 80.0]}]  # fmt: skip


class ByteTokenizer:
    """One token a byte of UTF-8."""

    def decode(self, ids, **options) -> str:
        return bytes(ids).decode("utf-8", "replace")


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def thought(rng: random.Random, num_chars: int = 60) -> str:
    text = ""
    while len(text) < num_chars:
        text += rng.choice(["so ", "the sum is ", "let me see, ", f"{rng.randrange(10**6)} "])
    return text


def make_row(question: int, cell, correct: bool | None, thinking: str, answer: str) -> dict:
    segments = [Segment("thinking", "sampled", ids_of(thinking))]
    for _ in range(cell.budget.num_ignore):
        segments += [
            Segment("thinking", "forced", ids_of("Wait")),
            Segment("thinking", "sampled", ids_of(thinking[:30])),
        ]
    segments += [Segment("answer", "forced", ids_of("\nFinal Answer:")), Segment("answer", "sampled", ids_of(answer))]
    num_thinking = sum(len(s.token_ids) for s in segments if s.phase == "thinking")
    return {
        "benchmark": "sums", "cell": cell.label, "question_id": f"{question:016x}", "repeat": 0,
        "segments": [vars(segment) for segment in segments], "ended": "budget", "answer_finish": "stop",
        "num_ignored": cell.budget.num_ignore, "num_suppressed": 0, "repetition": False, "error": None,
        "num_prompt_tokens": 20, "domain": "ab"[question % 2], "response": f"\nFinal Answer:{answer}",
        "num_thinking_tokens": num_thinking, "num_answer_tokens": len(answer),
        "num_sampled_tokens": num_thinking + len(answer), "num_forced_tokens": 13,
        "correct": correct, "extracted": answer, "grader": "rules-2",
    }  # fmt: skip


def make_run(
    name: str = "sums",
    num_questions: int = 12,
    num_chars: int = 60,
    change: Callable[[dict], dict | None] = lambda row: row,
    cells=CELLS,
    text: Callable[[int], str] = "What is {0} + {0}?".format,
) -> Path:
    """change: of each row; None leaves it out. text: of a question."""
    rng = random.Random(name)
    rows = []
    for i in range(num_questions):
        thinking = thought(rng, num_chars)
        for cell in cells:
            row = make_row(i, cell, rng.random() < CHANCE[cell.label], thinking, str(2 * i))
            if (row := change(row)) is not None:
                rows.append(row)
    with open_run("eval", EvalConfig(name=name, model="m", questions="q")) as run:
        write_jsonl(run.path / "samples.jsonl", rows)
        scores = {"cells": scores_of(rows, ["sums"], cells), "measures": MEASURES, "parallel": []}
        (run.path / "scores.json").write_text(json.dumps(scores))
        questions = ({"id": f"{i:016x}", "text": text(i), "answer": str(2 * i)} for i in range(num_questions))
        write_jsonl(run.path / "questions.jsonl", questions)
        run.finish()
    return run.path
