"""Lets a model attempt every question once; what it solves is too easy to keep (s1's difficulty criterion).

    python -m data.attempt configs/demo/attempt.yaml questions=outputs/data/demo-pool-1234abcd model=<folder or hub id>
    python -m data.attempt configs/data/attempt-qwen2.5-7b.yaml questions=outputs/data/<run> dry_run=true
    python -m data.attempt configs/data/attempt-qwen2.5-7b.yaml questions=outputs/data/<run> num_shards=8 shard=3
    python -m data.attempt configs/data/attempt-qwen2.5-7b.yaml questions=outputs/data/<run> num_shards=8 merge=true

Writes attempts.jsonl, appended as the answers come, so a killed run resumes; and at the end grades.jsonl, a row a
question. Rules grade (eval/grading.py); with `judge`, a language model decides what they cannot (eval/judge.py).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from core import ask
from core.chat import ChatFormat
from core.config import UserError, option, run_entry
from core.log import Progress, say
from core.runs import Run, open_run
from core.shards import check_shards, in_shard, merge
from core.types import Question, write_jsonl
from eval import judge
from eval.cells import Cell, Cells
from eval.config import EvalConfig
from eval.draw import Task, draw, load_questions
from eval.grading import GRADER
from eval.judge import JudgeConfig
from eval.plan import lines_of, plan_of
from eval.samples import graded_row
from inference.budget import Budget, derived_seed
from inference.engine import Driver, EngineConfig, Sampling, open_driver


@dataclass
class AttemptConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    num_questions: int | None = option(None, help="attempt only so many, drawn by seed; null attempts all")
    model: str = option(help="local folder or hub id of the model that attempts them")
    model_name: str = option("base", help="short name, used in the drop reason solved_by_<model_name>")
    profile: str = option("plain", help="chat format of that model")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    max_answer_tokens: int = option(32768, help="length of an attempt (s1: 32,768), or what the context leaves")
    sampling: Sampling = option(Sampling, help="s1 attempted at temperature 0.05")
    seed: int = option(0, help="of the sampling, and of the draw of num_questions")
    judge: JudgeConfig | None = option(
        None, help=f"endpoint that judges what rules cannot: {{{', '.join(f.name for f in fields(JudgeConfig))}}}"
    )
    shard: int = option(0, help="attempt only the questions of this shard")
    num_shards: int = option(1, help="how many there are")
    merge: bool = option(False, help="join the finished shards into one run")
    dry_run: bool = option(
        False, help="say attempts, tokens and GPU-hours (estimates), and load and attempt nothing", affects_result=False
    )
    sizes_of: str | None = option(
        None, help="dry_run: a model of the same sizes, for a hub id whose own are not known", affects_result=False
    )
    engine: EngineConfig = option(EngineConfig, help="how to load the model")


def main(config: AttemptConfig) -> Path | None:
    check(config)
    if config.dry_run:
        evaluation = as_evaluation(config)
        for line in lines_of(plan_of(evaluation), evaluation):
            say(line)
        return None
    questions = drawn(load_questions(config.questions), config.num_questions, config.seed)
    inputs = {"model": config.model, "questions": config.questions}
    if config.merge:
        return merge("data", config, inputs, [q.id for q in questions], ["grades.jsonl"])
    questions = [q for q in questions if in_shard(q.id, config.shard, config.num_shards)]
    with open_run("data", config, inputs) as run:
        if run.is_done:
            return run.path
        rows = attempt(config, run, questions)
        spent = {}
        if config.judge:
            pairs = {q.id: (q, rows[q.id]) for q in questions}
            _, spent["judge"] = judge.settle(config.judge, pairs, run, config.num_shards)
        write_jsonl(run.path / "grades.jsonl", (rows[q.id] for q in questions))
        correct = Counter(rows[q.id]["correct"] for q in questions)
        say(f"{len(questions):,} attempts by {config.model_name}: {correct[True]:,} right, {correct[False]:,} wrong, "
            f"{correct[None]:,} ungraded")  # fmt: skip
        run.finish(num_questions=len(questions), num_solved=correct[True], num_ungraded=correct[None], **spent)
    return run.path


def check(config: AttemptConfig) -> None:
    """Raises UserError for a config that could only fail later."""
    check_shards(config)
    if config.num_questions is not None and config.num_questions < 1:
        raise UserError(f"num_questions must be at least 1, not {config.num_questions}; null attempts all")
    if config.judge is not None and not config.merge:
        ask.check(config.judge, with_key=not config.dry_run)


def as_evaluation(config: AttemptConfig) -> EvalConfig:
    """What it is, for the estimate. Without a thinking phase an attempt is as long as an answer."""
    return EvalConfig(
        config.name, config.model, questions=config.questions, limit=config.num_questions, profile=config.profile,
        cells=[Cells([None])], max_answer_tokens=config.max_answer_tokens, sampling=config.sampling,
        engine=config.engine, sizes_of=config.sizes_of,
        expected_thinking_tokens={"questions": 0} if config.profile == "plain" else {},
    )  # fmt: skip


def drawn(questions: Sequence[Question], num_questions: int | None, seed: int) -> list[Question]:
    """Some of the questions, in their order. Which ones depends on ids and seed alone, and a larger draw holds a
    smaller one."""
    if num_questions is None:
        return list(questions)
    ranked = sorted((derived_seed(seed, "draw", q.id), q.id) for q in questions)
    kept = {id for _, id in ranked[:num_questions]}
    return [q for q in questions if q.id in kept]


def attempt(config: AttemptConfig, run: Run, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
    """{question id: row}, graded by rules. Draws what the journal of an earlier sitting lacks."""
    journal = run.journal("attempts.jsonl", can_redo=True)
    rows = {row["question_id"]: row for row in journal.rows}
    correct = Counter(row["correct"] for row in rows.values())
    todo = [q for q in questions if q.id not in rows]
    if not todo:
        return rows
    with (
        open_driver(config.model, config.engine, writer=run.path.name) as (driver, tokenizer),
        Progress(f"attempt {config.model_name}", len(questions), "questions", len(rows)) as progress,
    ):
        chat = ChatFormat(config.profile, tokenizer)
        tasks = tasks_of(todo, config, chat, driver)
        for drawn in draw(driver, chat, tasks, config.sampling, config.seed, config.system):
            row = graded_row(drawn, chat)
            if row["error"] is not None:  # too long for the context, or the engine failed: that is not a wrong answer
                row |= {"correct": None, "grader": f"{GRADER} (not attempted: {row['error']})"}
            kept = ("question_id", "response", "answer_finish", "correct", "extracted", "grader")
            rows[row["question_id"]] = {"model": config.model_name, **{key: row[key] for key in kept}}
            journal.append(rows[row["question_id"]])
            correct[row["correct"]] += 1
            progress.update(correct.total(), f"{correct[True]} solved")
    return rows


def tasks_of(questions: Sequence[Question], config: AttemptConfig, chat: ChatFormat, driver: Driver) -> Iterator[Task]:
    """One attempt a question. Without a thinking phase it may fill the context, but no more: an answer limit as large
    as the context, such as s1's, would leave the prompt no room."""
    for question in questions:
        limit = config.max_answer_tokens
        if config.profile == "plain":
            needed = len(chat.prompt_ids(question, config.system)) + len(chat.close_ids(forced=True))
            limit = max(1, min(limit, driver.engine.max_model_len - needed))
        yield Task(Cell("attempt", Budget(max_thinking_tokens=None, max_answer_tokens=limit)), question)


if __name__ == "__main__":
    run_entry(main, AttemptConfig, __doc__)
