"""A chat endpoint as what is evaluated, by its answers alone: the large model beside a small one with forcing.

Any OpenAI-compatible endpoint. It is asked the question as it stands (and what conditional control adds to it); budgets
are not forced, because nobody can see or stop the thinking of an endpoint. Reasoning in a field of its own or between
tags is kept apart (core/endpoint.py). A reply that was cut off while it was still reasoning has no answer.

Requests and replies are journalled in <run>/chat (core/ledger.py): every answer is paid once, each repeat is a request
of its own, and what failed is asked again by the same command.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import endpoint
from core.ask import ask_what_is_open, open_store
from core.config import UserError, option
from core.endpoint import ApiConfig, RequestConfig, is_refusal, split_thinking
from core.ledger import Prices
from core.runs import Run
from core.shards import share_of
from core.types import Grade, question_id
from eval.cells import Cell
from eval.draw import Task
from eval.grading import grade
from eval.samples import Row, graded_beside, verdict
from inference.budget import Budget

LABEL = "chat"
CELL = Cell(LABEL, Budget(None))  # the one cell of such a run, where the config names none


@dataclass
class ChatModelConfig:
    api: ApiConfig = option(ApiConfig, help="what is asked")
    opens_thinking: bool = option(
        False, help="the endpoint's template opens thinking (R1 as plain text): what no closing tag follows is thinking"
    )
    requests: RequestConfig = option(RequestConfig, help="how it is asked", affects_result=False)
    prices: Prices = option(Prices, help="for the ledger and max_cost", affects_result=False)
    max_cost: float | None = option(
        None, help="never spend more on this run; a shard has its share of it", affects_result=False
    )


@dataclass(frozen=True)
class Said:
    """A reply taken apart. answer: None where it was cut off before one began."""

    thinking: str
    answer: str | None


def check(config: ChatModelConfig, repeats: int, cells: Sequence[Cell], with_key: bool = True) -> None:
    """Raises UserError for what could only fail later, or would be paid for in vain."""
    endpoint.check(config)
    if with_key:
        endpoint.read_api_key(config.requests)
    if repeats > 1 and not varies(config):
        raise UserError(f"repeats={repeats}: with a seed, or temperature 0, in chat_model.api.options all are the same")
    for cell in cells:
        budget = cell.budget
        if (
            isinstance(budget.max_thinking_tokens, int)
            or budget.min_thinking_tokens
            or budget.num_ignore
            or cell.forced
        ):
            raise UserError(f"cell {cell.label!r}: an endpoint cannot be forced; leave cells out, or ask by control")


def varies(config: ChatModelConfig) -> bool:
    """Can two replies to one question differ? Endpoints sample unless told otherwise."""
    return config.api.options.get("seed") is None and config.api.options.get("temperature") != 0


def draw_replies(
    config: ChatModelConfig, tasks: Sequence[Task], run: Run, num_shards: int = 1
) -> tuple[Iterator[Row], dict[str, Any]]:
    """(rows of samples.jsonl in the order of the tasks, what was spent over all sittings).

    A row whose request failed for good has ended="error", and is asked again in the next sitting. Raises UserError
    where max_cost leaves something unasked, or the endpoint refuses everything.
    """
    store = open_store(config, run.path, LABEL)
    try:
        texts = {key_of(task): task.cell.prompt(task.question.text) for task in tasks}
        for key in texts:
            if (outcome := store.outcome(key)) and outcome["event"] == "gave_up":
                store.record("reopened", key)
        max_cost = share_of(config.max_cost, num_shards)
        ask_what_is_open(texts, config.api, config.requests, store, LABEL, max_cost)
        replies = [(task, store.outcome(key_of(task))) for task in tasks]
        return graded_beside(replies, lambda pair: row_of(*pair, config)), store.ledger.summary()
    finally:
        store.close()


def key_of(task: Task) -> str:
    """Of its request: equal prompts share their answers, repeat by repeat."""
    return f"{question_id(task.cell.prompt(task.question.text))}-{task.repeat}"


def said_in(reply: Mapping[str, Any], config: ChatModelConfig) -> Said:
    """Of an `answered` row of the journal."""
    opening, closing = config.api.thinking_tags
    thinking, answer = split_thinking(reply["reasoning"], reply["content"], opening, closing)
    is_apart = bool(reply["reasoning"].strip()) or closing in reply["content"]
    if config.opens_thinking and not is_apart:
        thinking, answer = thinking or answer, ""
    return Said(thinking, None if reply["finish_reason"] == "length" and not answer else answer)


def row_of(task: Task, outcome: Mapping[str, Any], config: ChatModelConfig) -> Row:
    """outcome: the row of the journal that decides the request. Token counts are the endpoint's; None where it gives
    none, as for the share of reasoning that it does not count apart."""
    row: Row = {
        "benchmark": task.benchmark, "cell": task.cell.label, "question_id": task.question.id, "repeat": task.repeat,
        "segments": [], "ended": "natural", "answer_finish": None, "num_ignored": 0, "num_suppressed": 0,
        "repetition": False, "error": None, "mean_logprob": None, "domain": task.question.domain, "response": "",
        "thinking": "", "num_thinking_tokens": None, "num_answer_tokens": None, "num_steps": None,
        "num_prompt_tokens": None, "num_sampled_tokens": None, "num_forced_tokens": 0, "num_cached_tokens": None,
        "seconds": None, "flops": None,
    }  # fmt: skip
    if outcome["event"] == "gave_up":
        return row | {"ended": "error", "error": outcome["error"]} | _ungraded("api_error")
    said = said_in(outcome, config)
    row |= {"response": said.answer or "", "thinking": said.thinking, **tokens_of(outcome, said)}
    if outcome["malformed"]:
        return row | {"error": outcome["malformed"]} | _ungraded("malformed")
    if said.answer is None:
        row["ended"] = "budget"
    else:
        row["answer_finish"] = "length" if outcome["finish_reason"] == "length" else "stop"
    if is_refusal(outcome):
        row["error"] = f"refusal: {outcome['refusal'] or outcome['finish_reason']}"
    return row | verdict(grade(row["response"], task.question))


def tokens_of(outcome: Mapping[str, Any], said: Said) -> Row:
    usage, reasoning = outcome["usage"], outcome.get("reasoning_tokens")
    if usage is None:
        return {}
    if reasoning is None and not said.thinking:
        reasoning = 0
    output = usage["output_tokens"]
    return {
        "num_thinking_tokens": reasoning,
        "num_answer_tokens": None if reasoning is None else max(0, output - reasoning),
        "num_prompt_tokens": usage["input_tokens"],
        "num_sampled_tokens": output,
        "num_cached_tokens": usage["cached_input_tokens"],
    }


def _ungraded(reason: str) -> Row:
    return verdict(Grade(None, None, f"none ({reason})"))
