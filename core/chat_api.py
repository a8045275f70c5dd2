"""Asks a chat-completions endpoint many things at a time: bounded retries, a hard limit on money, nothing paid twice.

Three layers, each usable alone:
- `ask` sends prompts and hands every reply over the moment it is there.
- `Ledger` adds up tokens and money, and lets no request out whose worst case exceeds what is left.
- `ask_until_read` journals replies, reads a value out of each, and asks again, a bounded number of times, where that
  fails. What it asks may as well be a model of ours: it only sees a function that answers prompts.

The key comes from the environment variable that the config names; it is neither logged nor recorded, also where the
endpoint repeats it in an error.
"""

import asyncio
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from core.config import UserError, option
from core.log import Progress
from core.runs import Journal

MAX_TRIES = 3  # prompts per question until a reply can be read
MAX_WAIT_S = 300.0  # between two tries of a request, whatever Retry-After says
MAX_FAILURES_IN_A_ROW = 20  # then it is the endpoint, not the questions: stop, so that the run can be resumed
CHARS_PER_TOKEN = (
    3.0  # for estimates alone; questions with much LaTeX have 2.6 to 3.1, prose 4 to 5 (SmolLM2's tokenizer)
)
UNUSABLE = {401, 402, 404}  # key refused, account empty, no such model or address: true of every request


@dataclass
class ApiConfig:
    """An endpoint that speaks OpenAI's chat completions, and what it may cost."""

    base_url: str = option(help="e.g. https://api.openai.com/v1, or http://localhost:8000/v1 of a vLLM server")
    model: str = option(help="the endpoint's name of the model")
    max_tokens: int = option(1024, help="of one reply")
    request: dict[str, Any] = option({"temperature": 0}, help="more fields of a request, verbatim; null leaves one out")
    api_key_env: str | None = option(
        "OPENAI_API_KEY", help="environment variable with the key; null where none is wanted", affects_result=False
    )
    max_concurrency: int = option(16, help="requests in flight", affects_result=False)
    retries: int = option(6, help="of a request after 429, 5xx, a time-out or a lost connection", affects_result=False)
    retry_wait_s: float = option(
        2.0, help="longest first wait, doubled each time; Retry-After wins", affects_result=False
    )
    timeout_s: float = option(120.0, help="for one reply", affects_result=False)
    price_input: float = option(0.0, help="US dollars per million tokens read", affects_result=False)
    price_output: float = option(0.0, help="US dollars per million tokens written", affects_result=False)
    max_cost: float | None = option(
        None, help="US dollars for this run (each shard is one); it stops before", affects_result=False
    )


@dataclass(frozen=True)
class Prompt:
    system: str
    user: str

    @property
    def num_bytes(self) -> int:
        return len(self.system.encode()) + len(self.user.encode())


@dataclass(frozen=True)
class Reply:
    """num_*_tokens: as the endpoint counted them; None where it does not say."""

    text: str
    finish_reason: str | None
    refusal: str | None = None
    num_prompt_tokens: int | None = None
    num_completion_tokens: int | None = None

    @property
    def is_refused(self) -> bool:
        return bool(self.refusal) or self.finish_reason == "content_filter"


@dataclass(frozen=True)
class Failure:
    """No reply. reason: api_error, or what else kept the prompt from being answered."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Outcome:
    """The value read from a reply, or why there is none: a Failure's reason, "refused" or "unreadable"."""

    value: str | None
    reason: str | None = None
    detail: str = ""


class Ledger:
    """Tokens and money of one run over all its sittings. rows: the replies journalled so far.

    A request reserves its worst case before it goes out: every byte read a token (byte-level tokenizers never make
    more), max_tokens written. So max_cost holds for all that comes back. Requests that time out or lose a connection
    count as free, because nobody tells what they cost; `num_lost` says how many there were in this sitting.
    """

    def __init__(self, api: ApiConfig, rows: Iterable[Mapping[str, Any]] = ()):
        self.api = api
        self.num_replies = self.num_prompt_tokens = self.num_completion_tokens = 0
        self.num_retries = self.num_lost = self.num_in_flight = 0
        self._reserved = 0.0
        for row in rows:
            self._count(row["num_prompt_tokens"] or 0, row["num_completion_tokens"] or 0)

    @property
    def cost(self) -> float:
        return cost_of(self.api, self.num_prompt_tokens, self.num_completion_tokens)

    def fits(self, prompt: Prompt) -> bool:
        worst = cost_of(self.api, *self._worst_case(prompt))
        return self.api.max_cost is None or self.cost + self._reserved + worst <= self.api.max_cost

    def reserve(self, prompt: Prompt) -> float:
        """Sets the worst case of this request aside until `settle` gets it back."""
        assert self.fits(prompt)
        worst = cost_of(self.api, *self._worst_case(prompt))
        self._reserved += worst
        self.num_in_flight += 1
        return worst

    def settle(self, reserved: float, reply: Reply | None) -> None:
        self._reserved -= reserved
        self.num_in_flight -= 1
        if self.num_in_flight == 0:
            self._reserved = 0.0  # no rounding residue
        if reply is not None:
            self._count(reply.num_prompt_tokens, reply.num_completion_tokens)

    def with_usage(self, prompt: Prompt, reply: Reply) -> Reply:
        """The reply, with the worst case where the endpoint keeps its usage to itself."""
        if reply.num_prompt_tokens is not None and reply.num_completion_tokens is not None:
            return reply
        read, written = self._worst_case(prompt)
        return replace(reply, num_prompt_tokens=read, num_completion_tokens=written)

    def headline(self) -> dict[str, float]:
        return {
            "num_replies": self.num_replies,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_completion_tokens": self.num_completion_tokens,
            "cost": round(self.cost, 6),
        }

    def line(self) -> str:
        text = f"${self.cost:,.2f}" if self.api.price_input or self.api.price_output else "no prices given"
        text = f"{self.num_prompt_tokens:,} tokens read, {self.num_completion_tokens:,} written, {text}"
        text += f", {self.num_retries:,} retries" if self.num_retries else ""
        return text + (f" ({self.num_lost:,} without a reply, cost unknown)" if self.num_lost else "")

    def limit_reached(self, prompt: Prompt) -> str:
        worst = cost_of(self.api, *self._worst_case(prompt))
        return (
            f"max_cost=${self.api.max_cost:,.2f}: ${self.cost:,.4f} is spent and the next request may cost "
            f"${worst:,.4f}; the same command with a higher max_cost goes on, and pays for nothing twice"
        )

    def _worst_case(self, prompt: Prompt) -> tuple[int, int]:
        return prompt.num_bytes + 64, self.api.max_tokens  # 64: the chat template around two messages

    def _count(self, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        self.num_replies += 1
        self.num_prompt_tokens += num_prompt_tokens
        self.num_completion_tokens += num_completion_tokens


def cost_of(api: ApiConfig, num_prompt_tokens: float, num_completion_tokens: float) -> float:
    """US dollars."""
    return (num_prompt_tokens * api.price_input + num_completion_tokens * api.price_output) / 1e6


def check(api: ApiConfig) -> None:
    """Raises UserError for what would only fail after work was done: a missing key, a limit that cannot hold."""
    _key(api)
    if api.max_concurrency < 1 or api.retries < 0 or api.max_tokens < 1:
        raise UserError("api: max_concurrency and max_tokens are at least 1, retries at least 0")
    if api.max_cost is not None and not (api.price_input and api.price_output):
        raise UserError(
            "api: max_cost cannot hold without price_input and price_output (US dollars per million tokens)"
        )


def estimate(api: ApiConfig, prompts: Iterable[Prompt], num_reply_tokens: int) -> list[str]:
    """What asking every prompt once would take, in words. Tokens are guessed from characters."""
    prompts = list(prompts)
    read = sum(len(p.system) + len(p.user) for p in prompts) / CHARS_PER_TOKEN
    written, longest = len(prompts) * num_reply_tokens, len(prompts) * api.max_tokens
    lines = [
        f"{len(prompts):,} requests to {api.model} at {api.base_url}",
        f"about {read:,.0f} tokens read, {written:,} written ({num_reply_tokens} a reply)",
    ]
    if not (api.price_input or api.price_output):
        return [*lines, "cost unknown: price_input and price_output are not given"]
    lines.append(
        f"about ${cost_of(api, read, written):,.2f}; ${cost_of(api, read, longest):,.2f} if every reply had "
        f"max_tokens={api.max_tokens}; limit: {'none' if api.max_cost is None else f'${api.max_cost:,.2f}'}"
    )
    return lines


def ask_until_read(
    prompts: Mapping[str, Prompt],
    send: Callable[[Mapping[str, Prompt], Callable[[str, Reply | Failure], None]], None],
    read: Callable[[str], str | None],
    reminder: str,
    journal: Journal,
    label: str,
    note: Callable[[], str] = lambda: "",
) -> dict[str, Outcome]:
    """What `read` finds in the replies, by key. Replies already in the journal are not asked for again.

    send(prompts, on_reply): answers each prompt, calling on_reply(key, Reply or Failure) as soon as it can.
    read: None for a reply that does not say what it should; then the prompt goes out again with `reminder`, up to
    MAX_TRIES times in all. A reply cut at its limit is not read: its last line is not its conclusion.
    """
    replies: dict[str, list[Reply]] = defaultdict(list)
    for row in journal.rows:
        replies[row["key"]].append(Reply(**{name: value for name, value in row.items() if name != "key"}))
    failures: dict[str, Failure] = {}

    def value_of(reply: Reply) -> str | None:
        return None if reply.is_refused or reply.finish_reason == "length" else read(reply.text)

    def is_open(key: str, tries: int) -> bool:
        """Has this question been asked `tries` times, with nothing that settles it?"""
        if key in failures or len(replies[key]) != tries:
            return False
        return not any(reply.is_refused or value_of(reply) is not None for reply in replies[key])

    seen = replies.keys() & prompts.keys()
    with Progress(label, len(prompts), "questions", len(seen)) as progress:

        def take(key: str, reply: Reply | Failure) -> None:
            if isinstance(reply, Failure):
                failures[key] = reply
            else:
                journal.append({"key": key, **asdict(reply)})
                replies[key].append(reply)
            seen.add(key)
            progress.update(len(seen), note())

        for tries in range(MAX_TRIES):
            todo = {key: prompt for key, prompt in prompts.items() if is_open(key, tries)}
            if tries:
                todo = {key: Prompt(prompt.system, f"{prompt.user}\n\n{reminder}") for key, prompt in todo.items()}
            if todo:
                send(todo, take)

    def outcome_of(key: str) -> Outcome:
        for reply in replies[key]:
            if (value := value_of(reply)) is not None:
                return Outcome(value)
        if key in failures:
            return Outcome(None, failures[key].reason, failures[key].detail)
        last = replies[key][-1]
        if last.is_refused:
            return Outcome(None, "refused", (last.refusal or last.text)[:300])
        return Outcome(None, "unreadable", f"{last.finish_reason}: ...{last.text[-200:]}")

    return {key: outcome_of(key) for key in prompts}


def last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1].strip()


def ask(
    api: ApiConfig, prompts: Mapping[str, Prompt], ledger: Ledger, on_reply: Callable[[str, Reply | Failure], None]
) -> None:
    """Sends every prompt. A request that keeps failing ends as a Failure; the others go on.

    Raises UserError where going on is senseless: the key, the account or the address is no good, MAX_FAILURES_IN_A_ROW
    requests failed, or max_cost does not cover another request. What is in flight is waited for first: it is paid.
    """
    asyncio.run(_ask(api, prompts, ledger, on_reply))


async def _ask(api: ApiConfig, prompts: Mapping[str, Prompt], ledger: Ledger, on_reply) -> None:
    import openai

    waiting = iter(prompts.items())
    settled = asyncio.Condition()
    stop: list[UserError] = []
    num_failed_in_a_row = 0

    async def worker() -> None:
        for key, prompt in waiting:
            async with settled:
                await settled.wait_for(lambda p=prompt: stop or ledger.fits(p) or not ledger.num_in_flight)
                if not stop and not ledger.fits(prompt):
                    stop.append(UserError(ledger.limit_reached(prompt)))
                if stop:
                    return
                reserved = ledger.reserve(prompt)
            try:
                reply = await _reply(client, api, prompt, ledger)
            except UserError as error:
                stop.append(error)
                reply = None
            ledger.settle(reserved, reply if isinstance(reply, Reply) else None)
            if reply is not None:
                on_reply(key, reply)  # before anything else can happen: it is paid
                count_failures(reply)
            async with settled:
                settled.notify_all()

    def count_failures(reply: Reply | Failure) -> None:
        nonlocal num_failed_in_a_row
        num_failed_in_a_row = num_failed_in_a_row + 1 if isinstance(reply, Failure) else 0
        none_answered = not ledger.num_replies and num_failed_in_a_row == len(prompts)
        if num_failed_in_a_row == MAX_FAILURES_IN_A_ROW or none_answered:
            what = f"{num_failed_in_a_row} requests in a row failed, the last one: {reply.detail}"
            stop.append(UserError(f"{api.base_url}: {what}; the same command goes on"))

    async with openai.AsyncOpenAI(
        base_url=api.base_url, api_key=_key(api) or "none", max_retries=0, timeout=api.timeout_s
    ) as client:
        await asyncio.gather(*(worker() for _ in range(min(api.max_concurrency, len(prompts)))))
    if stop:
        raise stop[0]


class _NoCompletion(Exception):
    """The endpoint sent something, but no chat completion."""


async def _reply(client: Any, api: ApiConfig, prompt: Prompt, ledger: Ledger) -> Reply | Failure:
    import openai
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    backoff = wait_random_exponential(multiplier=api.retry_wait_s, max=MAX_WAIT_S)

    def wait(state) -> float:
        said = _retry_after(state.outcome.exception())
        return backoff(state) if said is None else min(said, MAX_WAIT_S)

    def count_retry(state) -> None:
        ledger.num_retries += 1

    def passes(error: BaseException) -> bool:
        if isinstance(error, openai.APIConnectionError | _NoCompletion):  # a connection error is also a time-out
            ledger.num_lost += 1
            return True
        status = getattr(error, "status_code", None)
        no_money = getattr(error, "code", None) == "insufficient_quota"  # OpenAI says so with status 429
        return status is not None and (status in (408, 409, 429) or status >= 500) and not no_money

    retrying = AsyncRetrying(
        retry=retry_if_exception(passes),
        wait=wait,
        stop=stop_after_attempt(api.retries + 1),
        before_sleep=count_retry,
        reraise=True,
    )
    try:
        return ledger.with_usage(prompt, await retrying(_complete, client, api, prompt))
    except (openai.APIError, _NoCompletion) as error:
        detail = _without_key(f"{type(error).__name__}: {error}", api)
        if getattr(error, "status_code", None) in UNUSABLE or getattr(error, "code", None) == "insufficient_quota":
            raise UserError(f"{api.base_url} refuses model {api.model!r}: {detail}") from None
        return Failure("api_error", detail)


async def _complete(client: Any, api: ApiConfig, prompt: Prompt) -> Reply:
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
    fields = {"max_tokens": api.max_tokens, **api.request}
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        completion = await client.chat.completions.create(model=api.model, messages=messages, extra_body=fields)
        choice, usage = completion.choices[0], completion.usage
        text, refusal = (choice.message.content or "").strip(), choice.message.refusal
    except (ValueError, AttributeError, TypeError, IndexError) as error:  # not JSON, or other JSON
        raise _NoCompletion(f"not a chat completion ({error})") from None
    counts = (None, None) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    return Reply(text, choice.finish_reason, refusal, *counts)


def _retry_after(error: BaseException) -> float | None:
    """Seconds that the endpoint asks to wait: the header holds a number or a date."""
    response = getattr(error, "response", None)
    said = response.headers.get("retry-after") if response is not None else None
    if not said:
        return None
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def _key(api: ApiConfig) -> str | None:
    if api.api_key_env is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api.api_key_env):  # it may be the key itself: do not repeat it
        raise UserError("api_key_env is the name of an environment variable, not the key")
    if not (key := os.environ.get(api.api_key_env)):
        raise UserError(
            f"{api.base_url} wants a key: set the environment variable {api.api_key_env}, or api_key_env=null"
        )
    return key


def _without_key(text: str, api: ApiConfig) -> str:
    """One line of an error, without the key if the endpoint repeats it."""
    text = " ".join(text.split())
    key = _key(api)
    return (text.replace(key, "***") if key else text)[:300]
