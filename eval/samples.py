"""Rows of samples.jsonl: what was sampled, what it cost, how it was graded."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

from core.chat import ChatFormat
from core.conditional import num_steps
from core.cost import ModelShape
from core.types import Grade, Question, Sample
from eval.draw import Drawn, Key
from eval.grading import grade, same_answer
from eval.parallel import answer_classes
from eval.search import choose

Row = dict[str, Any]
NUM_GRADERS = 4  # threads; one hard answer takes seconds


def key_of(row: Row) -> Key:
    return row.get("benchmark", "questions"), row["cell"], row["question_id"], row["repeat"]


def num_thinking(row: Row) -> int | None:
    """Thinking tokens of what was answered: of rejection sampling the accepted try's (the limit where none was), which
    num_thinking_tokens, its cost, is not. None where not known."""
    return row.get("accepted_thinking_tokens", row["num_thinking_tokens"])


def by_cell(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """{(benchmark, cell): its rows}"""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault(key_of(row)[:2], []).append(row)
    return grouped


def graded_row(drawn: Drawn, chat: ChatFormat, shape: ModelShape | None = None) -> Row:
    """The row of one sample. shape: of its model, for the FLOPs."""
    task, sample = drawn.task, drawn.sample
    response = chat.answer_text(sample.ids("answer"))
    steps = num_steps(chat.decode(sample.ids("thinking"))) if task.cell.control == "steps" else None
    return {
        "benchmark": task.benchmark, "cell": task.cell.label, **asdict(sample), "domain": task.question.domain,
        "response": response, "num_thinking_tokens": sample.num_thinking_tokens,
        "num_answer_tokens": sample.num_answer_tokens, "num_steps": steps, **cost_of(sample, drawn.seconds, shape),
        **verdict(grade(response, task.question)),
    }  # fmt: skip


def cost_of(sample: Sample, seconds: float, shape: ModelShape | None) -> dict[str, Any]:
    """Of the sample alone, as if nothing were shared: tokens by origin, seconds from start to end among all that ran
    beside it, and an estimate of its FLOPs."""
    forced = sum(len(s.token_ids) for s in sample.segments if s.source == "forced")
    tokens = {"num_sampled_tokens": len(sample.token_ids) - forced, "num_forced_tokens": forced}
    flops = flops_of({"num_prompt_tokens": sample.num_prompt_tokens, **tokens}, shape)
    return {**tokens, "seconds": round(seconds, 3), "flops": flops}


def flops_of(row: Row, shape: ModelShape | None) -> float | None:
    """Of the model that samples: each token read or written once. What a scorer reads is another model's."""
    return shape and shape.forward_flops(
        row["num_prompt_tokens"] + row["num_sampled_tokens"] + row["num_forced_tokens"]
    )


def verdict(grade: Grade) -> dict[str, Any]:
    return {"correct": grade.correct, "extracted": grade.extracted, "grader": grade.grader}


def regraded(row: Row, question: Question) -> Row:
    if row.get("exhausted"):
        return row  # of rejection sampling: there is no response to grade
    if "paths" in row:
        paths = [path | verdict(grade(path["response"], question)) for path in row["paths"]]
        return decided(row | {"paths": paths}, question)
    return row | verdict(grade(row["response"], question))


def decided(row: Row, question: Question) -> Row:
    """The row of a search with the words and the grade of the path that its leaves choose."""
    paths = row["paths"]
    classes = answer_classes(
        [path["extracted"] for path in paths], partial(same_answer, answer_type=question.answer_type)
    )
    chosen = choose(classes, [path["score"] for path in paths], row["select"])
    own = {name: value for name, value in paths[chosen].items() if not name.startswith("num_")}
    return row | own | {"chosen": chosen}


def graded_beside(drawn: Iterable[Any], grade_one: Callable[[Any], Row]) -> Iterator[Row]:
    """Rows in the order drawn, graded in threads, so that the engine does not wait for a hard answer."""
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(NUM_GRADERS) as pool:
        for one in drawn:
            pending.append(pool.submit(grade_one, one))
            while pending and pending[0].done():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
