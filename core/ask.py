"""Asks a chat model for one value: the last line of its reply, read strictly, asked again where it cannot be read.

Who replies is an endpoint (`ask_endpoint`) or a model of ours (data/classify.py). Both journal replies by their prompt,
and what was replied decides what is asked next: a resumed run asks what an uninterrupted one would have asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import endpoint
from core.config import UserError
from core.ledger import AnswerStore, Ledger
from core.log import Progress
from core.runs import Run
from core.types import question_id as key_of

MAX_TRIES = 3  # prompts until a reply can be read


@dataclass(frozen=True)
class Instructions:
    """What the model is told, and how its reply is read. read: None for a reply that does not say what it should."""

    system: str
    reminder: str
    read: Callable[[str], str | None]


@dataclass(frozen=True)
class Outcome:
    """A reply, or the value read from it; without one `reason` is refused, unreadable, api_error or engine_error."""

    value: str | None
    reason: str | None = None
    detail: str = ""


def ask_until_read(
    prompts: Mapping[str, str],
    ask: Callable[[Mapping[str, str]], Mapping[str, Outcome]],
    instructions: Instructions,
) -> dict[str, Outcome]:
    """What is read in the replies, by the id of the prompt. What cannot be read is asked for MAX_TRIES times in all.

    ask({id: prompt}) -> {id: reply}. It is asked the same again after a kill, and answers from its journal then.
    """
    outcomes: dict[str, Outcome] = {}
    todo = list(prompts)
    for tries in range(MAX_TRIES):
        # one more reminder makes every try another text, with a reply of its own in the journal
        replies = ask({id: prompts[id] + f"\n\n{instructions.reminder}" * tries for id in todo})
        outcomes |= {id: _read(reply, instructions) for id, reply in replies.items()}
        todo = [id for id in todo if outcomes[id].reason == "unreadable"]
        if not todo:
            break
    return {id: outcomes[id] for id in prompts}


def _read(reply: Outcome, instructions: Instructions) -> Outcome:
    if reply.value is None:
        return reply
    value = instructions.read(reply.value)
    return Outcome(None, "unreadable", f"...{reply.value[-200:]}") if value is None else Outcome(value)


def reply_of(text: str, finish_reason: str | None) -> Outcome:
    """A reply cut at its limit is not read: its last line is not its conclusion."""
    text = text.strip()
    return Outcome(None, "unreadable", f"length: ...{text[-200:]}") if finish_reason == "length" else Outcome(text)


def reply_of_row(row: Mapping[str, Any]) -> Outcome:
    """Reads a row that decides a prompt: `answered` or `gave_up` (core/ledger.py)."""
    if row["event"] == "gave_up":
        return Outcome(None, "api_error", row["error"])
    if endpoint.is_refusal(row):
        return Outcome(None, "refused", (row["refusal"] or row["finish_reason"])[:300])
    if row["malformed"]:
        return Outcome(None, "unreadable", row["malformed"])
    return reply_of(row["content"], row["finish_reason"])


def last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1].strip()


# An endpoint


def check(config: Any, with_key: bool = True) -> None:
    """Raises UserError for what could only fail later. config: as `endpoint.check` takes it."""
    if config.api.system is not None:
        raise UserError("api.system is for data.distill; this step has a system message of its own")
    endpoint.check(config)
    if with_key:
        endpoint.read_api_key(config.requests)


def open_store(config: Any, run_path: Path, label: str, write: bool = True) -> AnswerStore:
    """The requests and replies of one run: <run>/<label>/<name of the run>.jsonl."""
    return AnswerStore(run_path / label, run_path.name, Ledger(config.prices, config.requests.idempotent), write)


def ask_endpoint(
    prompts: Mapping[str, str], instructions: Instructions, config: Any, run: Run, label: str, max_cost: float | None
) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """(what is read in the replies, by the id of the prompt; what it took, over all sittings).

    config: a dataclass with `api`, `requests` and `prices`. Raises UserError where max_cost leaves something unasked.
    """
    api = replace(config.api, system=instructions.system)
    store = open_store(config, run.path, label)

    def ask(prompts: Mapping[str, str]) -> dict[str, Outcome]:
        texts = {key_of(text): text for text in prompts.values()}
        ask_what_is_open(texts, api, config.requests, store, label, max_cost)
        return {id: reply_of_row(store.outcome(key_of(text))) for id, text in prompts.items()}

    try:
        return ask_until_read(prompts, ask, instructions), store.ledger.summary()
    finally:
        store.close()


def ask_what_is_open(
    texts: Mapping[str, str],
    api: endpoint.ApiConfig,
    requests: endpoint.RequestConfig,
    store: AnswerStore,
    label: str,
    max_cost: float | None,
) -> None:
    """Asks the texts whose keys have no outcome in the store. Raises UserError where max_cost leaves one unasked."""
    todo = {key: text for key, text in texts.items() if store.outcome(key) is None}
    with Progress(label, len(texts), "questions", len(texts) - len(todo)) as progress:
        if todo:
            endpoint.ask_all(todo, api, requests, store, max_cost, progress)
    if any(store.outcome(key) is None for key in todo):
        raise UserError(
            f"max_cost={max_cost:,.2f}: {store.ledger.cost:,.4f} is spent, and another request could exceed it; "
            "the same command with a higher max_cost goes on, and pays for nothing twice"
        )
