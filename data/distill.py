"""Gives every question a worked solution from a teacher, and checks its answer.

    python -m data.distill configs/demo/distill.yaml questions=outputs/data/demo-pool-1234abcd model=<folder or hub id>

Writes traces.jsonl, and dropped.jsonl with a reason a row: no_solution (the teacher gives up), wrong_answer (graded
against the reference), too_long. teacher=solver derives the steps from the numbers of the question (data/solver.py).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from core.config import UserError, option, run_entry
from core.log import Progress, say
from core.runs import open_run
from core.types import Question, Trace, write_jsonl
from data.solver import solve
from eval.grading import grade
from eval.run import load_questions
from inference import checkpoint

TEACHERS = ("solver",)


@dataclass
class DistillConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    teacher: str = option("solver", help="who writes the traces: solver")
    model: str = option(help="local folder or hub id of the model to be trained; its tokenizer counts thinking tokens")
    max_thinking_tokens: int = option(256, help="longer traces are dropped as too_long")
    check_share: float = option(0.0, help="share of traces that check their last step in a line beginning with Wait")
    seed: int = option(0, help="of the choice of traces that check themselves")


def main(config: DistillConfig) -> Path:
    if config.teacher not in TEACHERS:
        raise UserError(f"teacher {config.teacher!r} is unknown; known: {', '.join(TEACHERS)}")
    with open_run("data", config, {"questions": config.questions}) as run:
        if run.is_done:
            return run.path
        questions = load_questions(config.questions)
        tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(config.model))
        traces, dropped = [], []
        with Progress("distill", len(questions), "questions") as progress:
            for done, question in enumerate(questions, 1):
                trace = worked_solution(
                    question, config, lambda text: len(tokenizer.encode(text, add_special_tokens=False))
                )
                reason = drop_reason(trace, config.max_thinking_tokens)
                if reason is None:
                    traces.append(trace)
                else:
                    row = asdict(trace) if trace else {"question": asdict(question)}
                    dropped.append({"reason": reason, "domain": question.domain, **row})
                progress.update(done, f"{len(dropped)} dropped")
        write_jsonl(run.path / "traces.jsonl", traces)
        write_jsonl(run.path / "dropped.jsonl", dropped)
        reasons = Counter(row["reason"] for row in dropped)
        say(f"{len(questions):,} questions -> {len(traces):,} traces; dropped: {dict(reasons) or 'none'}")
        run.finish(num_questions=len(questions), num_traces=len(traces), dropped=dict(reasons))
    return run.path


def worked_solution(question: Question, config: DistillConfig, count_tokens: Callable[[str], int]) -> Trace | None:
    solution = solve(question, config.check_share, config.seed)
    if solution is None:
        return None
    thinking, answer = solution
    # the words of the forced cue (inference/budget.py), so that a forced close looks like the close of a trace
    return Trace(question, thinking, f"Final Answer: {answer}", config.teacher, count_tokens(thinking))


def drop_reason(trace: Trace | None, max_thinking_tokens: int) -> str | None:
    if trace is None:
        return "no_solution"
    if not grade(trace.attempt, trace.question).correct:
        return "wrong_answer"
    if trace.num_thinking_tokens > max_thinking_tokens:
        return "too_long"
    return None


if __name__ == "__main__":
    run_entry(main, DistillConfig, __doc__)
