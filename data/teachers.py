"""Teachers: a question in, reasoning and an answer out. data.distill makes traces of them.

source takes the solution its source published. engine is a local model on the engine of `inference`. openai is a chat
endpoint: core/endpoint.py asks it, and here its replies are read as they lie in the journal, so that a better reading
costs nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from core.chat import ChatFormat
from core.config import option
from core.endpoint import is_refusal, split_thinking
from core.log import Progress
from core.runs import Run
from core.types import Question, Sample
from eval.cells import Cell
from eval.draw import draw, tasks_of
from inference.budget import Budget
from inference.engine import EngineConfig, Sampling, open_driver


@dataclass(frozen=True)
class Answer:
    """What a teacher said to one question. drop: why it cannot become a trace; error: in whose words, and `status`."""

    thinking: str = ""
    attempt: str = ""
    drop: str | None = None
    error: str | None = None
    status: int | None = None


# The source's own solution


def source_answer(question: Question) -> Answer:
    """The published solution as reasoning. Its end is the attempt where the reference is not known by itself."""
    solution = question.metadata.get("solution")
    if not isinstance(solution, str) or not solution.strip():
        return Answer(drop="no_solution")
    solution = solution.strip()
    # the words of the forced cue (inference/budget.py), as in a solver's trace
    last = question.answer if question.answer and question.answer.strip() else solution.splitlines()[-1]
    return Answer(solution, f"Final Answer: {last.strip()}")


def whole(thinking: str, attempt: str) -> Answer:
    """An answer that ended by itself."""
    drop = "empty_thinking" if not thinking else "empty_answer" if not attempt else None
    return Answer(thinking, attempt, drop)


# A local model


@dataclass
class LocalConfig:
    """A teacher that runs here. It thinks as long as the context allows; what does not end by itself is dropped."""

    model: str | None = option(None, help="local folder or hub id of the teacher")
    profile: str = option("think-tags", help="its delimiters: think-tags, s1, steps")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    max_answer_tokens: int = option(4096, help="reserved in the context for the answer")
    sampling: Sampling = option(Sampling, help="temperature 0 is greedy")
    engine: EngineConfig = option(EngineConfig, help="how to load it; max_model_len bounds the thinking")


def engine_answers(questions: Sequence[Question], config: LocalConfig, seed: int, run: Run) -> dict[str, Answer]:
    """{question id: answer}. Appended to answers.jsonl of the run as they come, so a killed run resumes."""
    journal = run.journal("answers.jsonl")
    answers = {row["question_id"]: Answer(**row["answer"]) for row in journal.rows}
    budget = Budget("auto", max_answer_tokens=config.max_answer_tokens)
    todo = tasks_of([q for q in questions if q.id not in answers], [Cell("distill", budget)])
    if todo:
        with (
            open_driver(config.model, config.engine, writer=run.path.name) as (driver, tokenizer),
            Progress("distill", len(questions), "questions", len(answers)) as progress,
        ):
            chat = ChatFormat(config.profile, tokenizer)
            for drawn in draw(driver, chat, todo, config.sampling, seed, config.system):
                answer = answer_of_sample(drawn.sample, chat)
                journal.append({"question_id": drawn.task.question.id, "answer": asdict(answer)})
                answers[drawn.task.question.id] = answer
                progress.update(len(answers), f"{sum(driver.num_sampled.values()):,} tokens sampled")
    return answers


def answer_of_sample(sample: Sample, chat: ChatFormat) -> Answer:
    thinking = chat.decode(sample.ids("thinking")).strip()
    attempt = chat.answer_text(sample.ids("answer")).strip()
    if sample.ended == "error":
        return Answer(thinking, attempt, "engine_error", sample.error)
    if sample.ended != "natural" or sample.answer_finish != "stop":
        return Answer(thinking, attempt, "truncated")
    return whole(thinking, attempt)


# A chat endpoint


def answer_of_row(row: dict[str, Any], thinking_tags: Sequence[str]) -> Answer:
    """Reads a row that decides a question: `answered` or `gave_up` (core/ledger.py)."""
    if row["event"] == "gave_up":
        return Answer(drop="api_error", error=row["error"], status=row["status"])
    thinking, attempt = split_thinking(row["reasoning"], row["content"], *thinking_tags)
    if row["malformed"]:
        return Answer(thinking, attempt, "malformed", row["malformed"])
    if is_refusal(row):
        return Answer(thinking, attempt, "refusal", row["refusal"] or row["finish_reason"])
    if row["finish_reason"] == "length":
        return Answer(thinking, attempt, "truncated")
    return whole(thinking, attempt)
