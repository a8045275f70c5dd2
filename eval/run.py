"""Answers questions under a grid of thinking budgets, and grades the answers.

    python -m eval.run configs/demo/eval-tuned.yaml model=outputs/train/demo-1234abcd/model questions=outputs/data/...
    python -m eval.run configs/demo/eval-tuned.yaml model=... questions=... "cells=[{max_thinking_tokens: [64, auto]}]"

Cells of one grid share their trajectories (inference/continuations.py), so a curve costs little more than its longest
point. Writes samples.jsonl (one row a sample, as they finish) and scores.json (one entry a cell, with intervals).
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.config import UserError, option, run_entry
from core.log import Progress, say
from core.runs import finished, open_run
from core.types import Question, Sample, question_from_row, read_jsonl
from eval.grading import grade
from eval.scores import scores_of
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.engine import Driver, EngineConfig, Sampling, open_driver


@dataclass
class Cells:
    """A block of the grid: every combination of its lists is one cell."""

    max_thinking_tokens: list[Any] = option(["auto"], help="numbers, auto, or null (plain profile: no thinking)")
    min_thinking_tokens: list[int] = option([0], help="shorter thinking is made to go on")
    num_ignore: list[int] = option([0], help="how many ends of thinking become the ignore text")
    ignore_text: list[str] = option(["Wait"], help="what is appended there")


@dataclass
class EvalConfig:
    name: str = option(help="run name; the folder is outputs/eval/<name>-<digest>")
    model: str = option(help="local folder or hub id")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    profile: str = option("s1", help="delimiters: s1, think-tags, steps, plain")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    cells: list[Cells] = option([], help="blocks of budgets; each is the product of its lists")
    max_answer_tokens: int = option(512, help="answer limit, reserved in the context")
    cue: str = option("\nFinal Answer:", help="written after a forced close")
    budget_per_round: bool = option(False, help="a fresh budget after each ignored end, as the released evaluator")
    repeats: int = option(1, help="samples per question and cell; needs temperature > 0 to differ")
    sampling: Sampling = option(Sampling, help="temperature 0 is greedy")
    seed: int = option(0, help="of the sampling")
    limit: int | None = option(None, help="only the first so many questions")
    engine: EngineConfig = option(EngineConfig, help="how to load the model")


@dataclass(frozen=True)
class Task:
    """One sample to draw: a cell, a question, a repeat."""

    cell: str
    question: Question
    repeat: int
    budget: Budget

    @property
    def key(self) -> tuple[str, str, int]:
        return self.cell, self.question.id, self.repeat


def budgets_of(config: EvalConfig) -> dict[str, Budget]:
    """{label: budget} of every cell. Raises UserError for an empty grid, a wrong value, or a cell given twice."""
    budgets: dict[str, Budget] = {}
    for block in config.cells:
        lists = (block.max_thinking_tokens, block.min_thinking_tokens, block.num_ignore, block.ignore_text)
        for limit, minimum, num_ignore, text in itertools.product(*lists):
            try:
                budget = Budget(
                    limit, minimum, num_ignore, text, config.cue, config.max_answer_tokens, config.budget_per_round
                )
            except ValueError as error:
                raise UserError(f"cells: {error}") from None
            label = cell_label(budget)
            if label in budgets:
                raise UserError(f"cells: {label!r} is asked for twice")
            budgets[label] = budget
    if not budgets:
        raise UserError("cells is empty: name at least one thinking budget, e.g. cells=[{max_thinking_tokens: [auto]}]")
    return budgets


def cell_label(budget: Budget) -> str:
    label = f"max={'none' if budget.max_thinking_tokens is None else budget.max_thinking_tokens}"
    if budget.min_thinking_tokens:
        label += f" min={budget.min_thinking_tokens}"
    if budget.num_ignore:
        label += f" ignore={budget.num_ignore}"
    if (budget.num_ignore or budget.min_thinking_tokens) and budget.ignore_text != "Wait":
        label += f" text={budget.ignore_text!r}"
    return label


def tasks_of(questions: Iterable[Question], budgets: dict[str, Budget], repeats: int) -> list[Task]:
    """Question by question, the longest budget first, so that shorter ones are cut from its trajectory."""

    def length(budget: Budget) -> tuple[float, int]:
        limit = budget.max_thinking_tokens
        return (limit if isinstance(limit, int) else float("inf")), budget.num_ignore

    ordered = sorted(budgets.items(), key=lambda item: length(item[1]), reverse=True)
    return [Task(cell, q, r, budget) for q in questions for r in range(repeats) for cell, budget in ordered]


def draw(
    driver: Driver, chat: ChatFormat, tasks: Iterable[Task], sampling: Sampling, seed: int, system: str | None = None
) -> Iterator[tuple[Task, Sample]]:
    """Runs the tasks; yields each sample as it finishes. A question and repeat has one seed in all cells, so cells
    differ by their budget alone (common random numbers)."""
    prompts: dict[str, list[int]] = {}

    def decodings():
        for task in tasks:
            q = task.question
            if q.id not in prompts:
                prompts[q.id] = chat.prompt_ids(q, system)
            yield task, ForcedDecode(
                prompts[q.id], task.budget, chat, driver.engine.max_model_len, sampling,
                derived_seed(seed, q.id, task.repeat), question_id=q.id, repeat=task.repeat,
            )  # fmt: skip

    for task, decoding in driver.run(decodings()):
        yield task, decoding.sample()


def graded_row(task: Task, sample: Sample, chat: ChatFormat) -> dict[str, Any]:
    """A row of samples.jsonl: the sample, its answer as text, its grade."""
    response = chat.answer_text(sample.ids("answer"))
    grade_ = grade(response, task.question)
    return {
        "cell": task.cell, **asdict(sample), "domain": task.question.domain, "response": response,
        "num_thinking_tokens": sample.num_thinking_tokens, "num_answer_tokens": sample.num_answer_tokens,
        "correct": grade_.correct, "extracted": grade_.extracted, "grader": grade_.grader,
    }  # fmt: skip


def load_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """Questions of a finished data.collect run, or of a .jsonl file. Raises UserError naming what is wrong."""
    path = Path(path)
    file = path if path.suffix == ".jsonl" else finished(path) / "questions.jsonl"
    questions = [question_from_row(row) for row in read_jsonl(file)]
    if not questions:
        raise UserError(f"{file} holds no questions")
    return questions[:limit]


def main(config: EvalConfig) -> Path:
    budgets = budgets_of(config)
    questions = load_questions(config.questions, config.limit)
    tasks = tasks_of(questions, budgets, config.repeats)
    with open_run("eval", config, {"model": config.model, "questions": config.questions}) as run:
        if run.is_done:
            return run.path
        journal = run.journal("samples.jsonl")
        rows = list(journal.rows)
        finished_keys = {(r["cell"], r["question_id"], r["repeat"]) for r in rows}
        todo = [t for t in tasks if t.key not in finished_keys]
        sampled = _sample_and_grade(config, run, todo, journal, rows, len(tasks)) if todo else {}
        scores = scores_of(rows, {label: asdict(budget) for label, budget in budgets.items()})
        (run.path / "scores.json").write_text(json.dumps({"cells": scores, "sampled_tokens": sampled}, indent=2) + "\n")
        _print_table(config.name, scores)
        run.finish(accuracy={s["cell"]: s["accuracy"] for s in scores}, sampled_tokens=sampled)
    return run.path


def _sample_and_grade(config: EvalConfig, run, todo, journal, rows, total: int) -> dict[str, int]:
    """Draws what is left, appending to the journal and to rows. Returns the tokens sampled in this sitting."""
    correct = Counter(r["correct"] for r in rows)
    with (
        open_driver(config.model, config.engine, writer=run.path.name) as (driver, tokenizer),
        Progress(f"eval {config.name}", total, "samples", done_before=len(rows)) as progress,
    ):
        chat = ChatFormat(config.profile, tokenizer)
        for task, sample in draw(driver, chat, todo, config.sampling, config.seed, config.system):
            row = graded_row(task, sample, chat)
            journal.append(row)
            rows.append(row)
            correct[row["correct"]] += 1
            tokens = sum(driver.num_sampled.values())
            progress.update(len(rows), f"{tokens:,} tokens sampled | {100 * correct[True] / len(rows):.1f}% so far")
    return dict(driver.num_sampled)


def _print_table(name: str, scores: list[dict[str, Any]]) -> None:
    say(f"{name}: {'cell':<20} {'n':>5} {'accuracy':>9}  {'95% interval':<15} {'thinking':>9} {'answer':>7}  ended")
    for s in scores:
        accuracy = "   -" if s["accuracy"] is None else f"{s['accuracy']:8.1f}%"
        interval = "" if s["accuracy"] is None else f"[{s['low']:.1f}, {s['high']:.1f}]"
        ended = " ".join(f"{k}={v}" for k, v in s["ended"].items())
        lengths = f"{s['thinking_tokens']:>9.1f} {s['answer_tokens']:>7.1f}"
        say(f"{name}: {s['cell']:<20} {s['num_samples']:>5} {accuracy:>9}  {interval:<15} {lengths}  {ended}")


if __name__ == "__main__":
    run_entry(main, EvalConfig, __doc__)
