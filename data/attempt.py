"""Lets a model attempt every question once; what it solves is too easy to keep (s1's difficulty criterion).

    python -m data.attempt configs/demo/attempt.yaml questions=outputs/data/demo-pool-1234abcd model=<folder or hub id>

Writes grades.jsonl: one row a question, appended as the answers come, so a killed run resumes.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from core.chat import ChatFormat
from core.config import option, run_entry
from core.log import Progress
from core.runs import open_run
from eval.run import draw, graded_row, load_questions, tasks_of
from inference.budget import Budget
from inference.engine import EngineConfig, Sampling, open_driver


@dataclass
class AttemptConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    model: str = option(help="local folder or hub id of the model that attempts them")
    model_name: str = option("base", help="short name, used in the drop reason solved_by_<model_name>")
    profile: str = option("plain", help="chat format of that model")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    max_answer_tokens: int = option(32768, help="length of an attempt (s1: 32,768)")
    sampling: Sampling = option(Sampling, help="s1 attempted at temperature 0.05")
    seed: int = option(0, help="of the sampling")
    engine: EngineConfig = option(EngineConfig, help="how to load the model")


def main(config: AttemptConfig) -> Path:
    questions = load_questions(config.questions)
    budget = Budget(max_thinking_tokens=None, max_answer_tokens=config.max_answer_tokens)
    with open_run("data", config, {"model": config.model, "questions": config.questions}) as run:
        if run.is_done:
            return run.path
        journal = run.journal("grades.jsonl")
        correct = Counter(row["correct"] for row in journal.rows)
        finished_ids = {row["question_id"] for row in journal.rows}
        todo = tasks_of([q for q in questions if q.id not in finished_ids], {"attempt": budget}, repeats=1)
        if todo:
            with (
                open_driver(config.model, config.engine, writer=run.path.name) as (driver, tokenizer),
                Progress(f"attempt {config.model_name}", len(questions), "questions", len(finished_ids)) as progress,
            ):
                chat = ChatFormat(config.profile, tokenizer)
                for task, sample in draw(driver, chat, todo, config.sampling, config.seed, config.system):
                    row = graded_row(task, sample, chat)
                    kept = ("question_id", "response", "correct", "extracted", "grader")
                    journal.append({"model": config.model_name, **{key: row[key] for key in kept}})
                    correct[row["correct"]] += 1
                    progress.update(correct.total(), f"{correct[True]} solved")
        run.finish(num_questions=len(questions), num_solved=correct[True], num_ungraded=correct[None])
    return run.path


if __name__ == "__main__":
    run_entry(main, AttemptConfig, __doc__)
