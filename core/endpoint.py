"""Asking an OpenAI-compatible chat endpoint many things, each answer paid once: teachers, judges, classifiers.

Reasoning comes in a field of its own (`reasoning_content` of DeepSeek, `reasoning` of vLLM and OpenRouter) or between
tags in the text. Requests and replies go into the journal of core/ledger.py first; who asks reads them there
(core/ask.py, data/teachers.py).
"""

import asyncio
import email.utils
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.config import UserError, option
from core.http_client import SHORTEST_SECRET, check_address, check_key_name, event_data, message_of, read_key, scrubbed
from core.ledger import AnswerStore, Ledger, Usage
from core.log import Progress
from core.runs import OUTPUTS

# The request could not be what we meant: every other one would fail as well
FATAL_STATUSES = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405})
RETRIED_STATUSES = frozenset({408, 409, 425, 429})  # and all from 500 on
# Beside the text itself: roles, delimiters, what an endpoint puts around a question
EXTRA_INPUT_TOKENS = 64
# The server broke off, in its own words (DeepSeek, OpenRouter, vLLM)
BROKEN_OFF = frozenset({"insufficient_system_resource", "error", "abort"})
MAX_ERROR_CHARS = 300


@dataclass
class ApiConfig:
    """What is asked. base_url, model, system and options name a teacher, and with it its store of paid answers."""

    base_url: str | None = option(None, help="up to, and without, /chat/completions")
    model: str | None = option(None, help="name of the teacher at the endpoint")
    system: str | None = option(None, help="system message; null sends none (s1 sent the bare question)")
    max_tokens: int = option(32768, help="limit of reasoning and answer together")
    max_tokens_field: str = option("max_tokens", help="what the endpoint calls it (OpenAI: max_completion_tokens)")
    thinking_tags: list[str] = option(["<think>", "</think>"], help="around reasoning that comes inside the text")
    options: dict[str, Any] = option({}, help="more of the request, verbatim: temperature, ...; null leaves one out")


@dataclass
class RequestConfig:
    """How it is asked. No result depends on it, so a run resumes under other values."""

    api_key_env: str | None = option(None, help="environment variable that holds the key; null sends none")
    max_concurrency: int = option(16, help="requests in flight at a time")
    max_attempts: int = option(6, help="requests per question until it is dropped as api_error")
    timeout: float = option(3600.0, help="seconds for one request")
    idle_timeout: float = option(300.0, help="seconds without a byte after which a stream counts as hanging")
    first_wait: float = option(1.0, help="seconds before the second attempt; doubled each time, with jitter")
    max_wait: float = option(60.0, help="the longest such wait, in seconds")
    max_retry_after: float = option(600.0, help="a longer Retry-After, in seconds, ends the question as api_error")
    max_billed_tokens: int | None = option(
        None,
        help="most output tokens one answer can be charged for; null: max_tokens, where that bounds reasoning, too",
    )
    max_failures_in_a_row: int = option(20, help="so many api_error one after the other stop the run")
    stream: bool = option(True, help="stream, to notice cuts and hangs early")
    idempotent: bool = option(False, help="the endpoint charges requests of one Idempotency-Key once")


def teacher_folder(api: ApiConfig) -> Path:
    """Where its paid answers lie. The limits are not in the name: an answer stays good when they change."""
    what = {"base_url": api.base_url.rstrip("/"), "model": api.model, "system": api.system, "options": api.options}
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", api.model)[-40:]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    return OUTPUTS / "answers" / f"{name}-{digest}"


def check(config: Any) -> None:
    """Raises UserError for settings that cannot work, and for a key where one would be written down.

    config: a dataclass with `api`, `requests`, `prices` and `max_cost`.
    """
    api, requests = config.api, config.requests
    if not api.base_url or not api.model:
        raise UserError("an endpoint needs api.base_url=... and api.model=...")
    check_address(api.base_url, "api.base_url", "requests.api_key_env")
    if len(api.thinking_tags) != 2 or not all(api.thinking_tags):
        raise UserError("api.thinking_tags takes two texts: what opens reasoning and what closes it")
    check_key_name(requests.api_key_env, "requests.api_key_env")
    own = sorted(
        {api.max_tokens_field, "max_tokens", "max_completion_tokens", "messages", "model", "n"} & set(api.options)
    )
    if own:
        raise UserError(f"api.options: {own[0]!r} is not passed on; api.max_tokens and its neighbours say that")
    if min(requests.max_concurrency, requests.max_attempts, api.max_tokens, requests.max_failures_in_a_row) < 1:
        raise UserError("max_concurrency, max_attempts, max_failures_in_a_row and max_tokens must be at least 1")
    if config.max_cost is not None and not config.prices.are_known:
        raise UserError("max_cost needs prices.input and prices.output")
    key = os.environ.get(requests.api_key_env or "", "").strip()
    if len(key) >= SHORTEST_SECRET and key in json.dumps(asdict(config)):
        raise UserError("the API key stands in the config, which every run writes down; leave it in the environment")


def read_api_key(requests: RequestConfig) -> str | None:
    return read_key(requests.api_key_env, "requests.api_key_env")


def worst_usage(text: str, api: ApiConfig, requests: RequestConfig) -> Usage:
    """The most one request can be charged for. No tokenizer makes more tokens of a text than it has bytes."""
    texts = [text, *([api.system] if api.system else [])]
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) + EXTRA_INPUT_TOKENS for text in texts)
    return Usage(num_bytes, 0, requests.max_billed_tokens or api.max_tokens)


# What comes back


class RequestFailed(Exception):
    """One request ended without an answer. maybe_paid: it was lost, and the endpoint may have charged for it."""

    def __init__(
        self, error: str, status: int | None = None, maybe_paid: bool = False, retry_after: float | None = None
    ):
        super().__init__()
        self.error, self.status, self.maybe_paid, self.retry_after = error, status, maybe_paid, retry_after

    @property
    def is_fatal(self) -> bool:
        return self.status in FATAL_STATUSES

    @property
    def is_passing(self) -> bool:
        """Whether the same request may do better: lost contact, too many requests, an error of the server."""
        return self.status is None or self.status in RETRIED_STATUSES or self.status >= 500


class Reply:
    """A chat completion, collected from the chunks of a stream or from one whole body."""

    def __init__(self):
        self.texts: dict[str, list[str]] = {"reasoning": [], "content": [], "refusal": []}
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.usage: Usage | None = None
        self.num_reasoning_tokens: int | None = None  # of the output, where the endpoint counts them apart
        self.malformed: str | None = None
        self.is_done = False  # the stream said so

    def add(self, data: str) -> None:
        """One chunk, or the body. Raises RequestFailed where it is the report of an error."""
        try:
            chunk = json.loads(data)
            if chunk.get("error"):
                raise _reported(chunk["error"])
            # read first: of a chunk that is otherwise malformed the account still holds
            self.usage = usage_of(chunk.get("usage")) or self.usage
            if (reasoning := _reasoning_tokens(chunk.get("usage"))) is not None:
                self.num_reasoning_tokens = reasoning
            self._take(chunk)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            self.malformed = self.malformed or f"{type(error).__name__} in {data[:MAX_ERROR_CHARS]!r}"

    def row(self, cleaned: Callable[[str], str]) -> dict[str, Any]:
        """The fields of an `answered` row."""
        return {
            **{name: cleaned("".join(parts)) for name, parts in self.texts.items()},
            "finish_reason": self.finish_reason and cleaned(self.finish_reason),
            "model": self.model and cleaned(self.model),
            "usage": self.usage and asdict(self.usage),
            "reasoning_tokens": self.num_reasoning_tokens,
            "malformed": self.malformed and cleaned(self.malformed),
        }

    def _take(self, chunk: dict[str, Any]) -> None:
        self.model = self.model or _text(chunk.get("model")) or None
        for choice in (chunk.get("choices") or [])[:1]:
            said = choice.get("delta") or choice.get("message") or {}
            # some servers send the same text under both names
            self.texts["reasoning"].append(_text(said.get("reasoning_content") or said.get("reasoning")))
            self.texts["content"].append(_text(said.get("content")))
            self.texts["refusal"].append(_text(said.get("refusal")))
            self.finish_reason = _text(choice.get("finish_reason")) or self.finish_reason


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text belongs")
    return value or ""


def usage_of(raw: Any) -> Usage | None:
    """What an endpoint reports as used; None where that cannot be read."""
    try:
        num_input = int(raw["prompt_tokens"])
        # some count reasoning in the total alone
        num_output = max(int(raw.get("completion_tokens") or 0), int(raw.get("total_tokens") or 0) - num_input)
        details = raw.get("prompt_tokens_details") or {}
        num_cached = int(details.get("cached_tokens") or raw.get("prompt_cache_hit_tokens") or 0)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    if min(num_input, num_cached, num_output) < 0:
        return None
    return Usage(num_input, min(num_cached, num_input), num_output)


def _reasoning_tokens(raw: Any) -> int | None:
    details = raw.get("completion_tokens_details") if isinstance(raw, dict) else None
    count = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return count if type(count) is int and count >= 0 else None


def _reported(error: Any) -> RequestFailed:
    """The failure that a server reports inside a body with status 200."""
    said = error.get("message") if isinstance(error, dict) else error
    code = error.get("code") if isinstance(error, dict) else None
    return RequestFailed(str(said or error), code if type(code) is int else None, maybe_paid=True)


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def split_thinking(reasoning: str, content: str, opening: str, closing: str) -> tuple[str, str]:
    """(thinking, answer). The opening tag may be missing, where the chat template has written it (R1)."""
    is_opened = content.lstrip().startswith(opening)
    before, closed, after = content.partition(closing)
    if reasoning.strip():  # in a field of its own; an empty pair of tags may still precede the answer
        return reasoning.strip(), (after if is_opened and closed else content).strip()
    if closed or is_opened:
        return before.strip().removeprefix(opening).strip(), after.strip()
    return "", content.strip()


def is_refusal(row: Mapping[str, Any]) -> bool:
    """Of an `answered` row."""
    return bool(row["refusal"]) or row["finish_reason"] in ("content_filter", "safety")


# Asking


class ChatEndpoint:
    """One OpenAI-compatible endpoint. `ask` is one request; it writes nothing and tries nothing twice."""

    def __init__(self, api: ApiConfig, requests: RequestConfig, api_key: str | None):
        import openai

        self.api, self.requests, self._api_key = api, requests, api_key
        # without a stream nothing comes before all has been written
        silence = requests.idle_timeout if requests.stream else requests.timeout
        self._client = openai.AsyncOpenAI(
            base_url=api.base_url,
            api_key=api_key or "none",  # None would take OPENAI_API_KEY, which is for somebody else
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=openai.Timeout(silence, connect=min(30.0, silence), pool=None), follow_redirects=False
            ),
        )

    async def __aenter__(self) -> "ChatEndpoint":
        return self

    async def __aexit__(self, *exception) -> None:
        await self._client.close()

    async def ask(self, text: str, idempotency_key: str) -> dict[str, Any]:
        """The fields of an `answered` row. Neither they nor the words of RequestFailed ever hold the key."""
        import httpx2
        import openai

        headers = {"Idempotency-Key": idempotency_key, **({} if self._api_key else {"Authorization": openai.Omit()})}
        reply = Reply()
        try:
            async with (
                asyncio.timeout(self.requests.timeout),
                self._client.chat.completions.with_streaming_response.create(
                    model=self.api.model,
                    messages=self._messages(text),
                    extra_headers=headers,
                    extra_body=self._more_fields(),
                ) as response,
            ):
                await self._collect(response, reply)
        except openai.APIStatusError as error:
            raise self._refused(error.response) from None
        except (openai.APIConnectionError, httpx2.HTTPError, TimeoutError) as error:
            if isinstance(error, openai.APIConnectionError):  # what happened before the headers came
                error = error.__cause__
            if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise RequestFailed(self.scrub(f"no connection: {error}")) from None
            if reply.finish_reason is None:  # else all is there but the account
                raise RequestFailed(self.scrub(f"{type(error).__name__}: {error}"), maybe_paid=True) from None
        except RequestFailed as failure:
            failure.error = self.scrub(failure.error)[:MAX_ERROR_CHARS]
            raise
        return reply.row(self.scrub)

    def scrub(self, text: str) -> str:
        return scrubbed(text, self._api_key)

    def _messages(self, text: str) -> list[dict[str, str]]:
        system = [] if self.api.system is None else [{"role": "system", "content": self.api.system}]
        return [*system, {"role": "user", "content": text}]

    def _more_fields(self) -> dict[str, Any]:
        """Of the request, as they are: the openai package would parse a stream that it knows of."""
        stream = {"stream": True, "stream_options": {"include_usage": True}} if self.requests.stream else {}
        fields = {self.api.max_tokens_field: self.api.max_tokens, **stream, **self.api.options}
        return {name: value for name, value in fields.items() if value is not None}

    def _refused(self, response: Any) -> RequestFailed:
        body = self.scrub(response.content.decode("utf-8", "replace"))  # before anything is cut
        wait = seconds_of(response.headers.get("retry-after"))
        error = f"HTTP {response.status_code}: {message_of(body)}"
        return RequestFailed(error, response.status_code, retry_after=wait)

    async def _collect(self, response: Any, reply: Reply) -> None:
        """Raises RequestFailed where the answer stops before its end."""
        is_stream = "text/event-stream" in response.headers.get("content-type", "")
        if is_stream:
            await self._read_stream(response, reply)
        else:
            reply.add(self.scrub((await response.read()).decode("utf-8", "replace")))
        if reply.finish_reason in BROKEN_OFF or (is_stream and not reply.finish_reason and not reply.malformed):
            reply.finish_reason, reason = None, reply.finish_reason
            raise RequestFailed(f"the answer broke off ({reason or 'the stream ended'})", maybe_paid=True)
        if not reply.finish_reason:
            reply.malformed = reply.malformed or "no finish_reason"

    async def _read_stream(self, response: Any, reply: Reply) -> None:
        async for data in event_data(response.iter_bytes()):
            if data == b"[DONE]":
                reply.is_done = True
                return
            reply.add(self.scrub(data.decode("utf-8", "replace")))


class NotAsked(Exception):
    """The request was not sent: it could take the cost above max_cost, or the run is stopping."""


class Asking:
    """Asks one endpoint many things: bounded concurrency, bounded retries, every request in the journal first.

    max_cost: no request is sent whose worst case, with all others in flight at theirs, would exceed it. An answer that
        is charged more than its worst case (the endpoint ignores max_tokens) stops the asking.
    stopped: why nothing more is asked: that, or the endpoint refuses everything.
    """

    def __init__(self, endpoint: ChatEndpoint, store: AnswerStore, max_cost: float | None, told: Callable[[], None]):
        self.endpoint, self.store, self.max_cost, self.told = endpoint, store, max_cost, told
        self.api, self.requests = endpoint.api, endpoint.requests
        self.stopped: str | None = None
        self._failures_in_a_row: list[tuple[str, RequestFailed]] = []
        self._ended = asyncio.Condition()  # notified when a request has ended

    async def all(self, texts: Mapping[str, str]) -> None:
        """texts: by the key of their rows. told() is called after each of them. Raises UserError where `stopped`, when
        what was in flight has ended."""
        waiting = iter(texts.items())
        await asyncio.gather(*(self._work(waiting) for _ in range(self.requests.max_concurrency)))
        if self.stopped:
            raise UserError(f"{self.stopped}; paid answers are kept, the same command resumes")
        self._write_failures()

    async def _work(self, waiting: Iterator[tuple[str, str]]) -> None:
        while not self.stopped and (asked := next(waiting, None)) is not None:
            await self._ask(*asked)
            self.told()

    async def _ask(self, key: str, text: str) -> None:
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        attempts = AsyncRetrying(
            stop=stop_after_attempt(self.requests.max_attempts),
            wait=waiting_time(self.requests),
            retry=retry_if_exception(self._is_worth_another),
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    await self._ask_once(key, text)
        except NotAsked:
            pass  # no row: the question is as open as before
        except RequestFailed as failure:
            self._give_up(key, failure)
        else:
            self._write_failures()

    async def _ask_once(self, key: str, text: str) -> None:
        worst = worst_usage(text, self.api, self.requests)
        await self._start(key, worst)
        try:
            answered = await self.endpoint.ask(text, self.store.idempotency_key(key))
        except RequestFailed as failure:
            failed = {"status": failure.status, "error": failure.error, "maybe_paid": failure.maybe_paid}
            self.store.record("failed", key, **failed)
            raise
        else:
            self.store.record("answered", key, **answered)
            self._check_charge(Usage(**(answered["usage"] or {})), worst)
        finally:
            async with self._ended:
                self._ended.notify_all()

    async def _start(self, key: str, worst: Usage) -> None:
        """Writes the request down as soon as its worst case fits. Raises NotAsked if it never will."""
        ledger = self.store.ledger
        async with self._ended:
            while self.stopped or not ledger.fits(worst, self.max_cost):
                if self.stopped or not ledger.num_in_flight:
                    raise NotAsked
                await self._ended.wait()
            limits = {"max_input_tokens": worst.input_tokens, "max_output_tokens": worst.output_tokens}
            self.store.record("started", key, **limits)

    def _check_charge(self, usage: Usage, worst: Usage) -> None:
        if self.max_cost is not None and not usage.is_within(worst):
            self.stopped = self.stopped or (
                f"an answer was charged {usage.input_tokens:,} tokens in and {usage.output_tokens:,} out, with at most "
                f"{worst.input_tokens:,} and {worst.output_tokens:,} expected, so max_cost cannot be held; "
                "set requests.max_billed_tokens to what one answer may take"
            )

    def _is_worth_another(self, error: BaseException) -> bool:
        if not isinstance(error, RequestFailed) or self.stopped:
            return False
        return error.is_passing and (error.retry_after or 0) <= self.requests.max_retry_after

    def _give_up(self, key: str, failure: RequestFailed) -> None:
        """Failures become outcomes when something else has succeeded; else it was the endpoint, not the question."""
        self._failures_in_a_row.append((key, failure))
        if failure.is_fatal:
            self.stopped = self.stopped or f"the endpoint refuses requests: {failure.error}"
        elif len(self._failures_in_a_row) >= self.requests.max_failures_in_a_row:
            self.stopped = self.stopped or (
                f"{len(self._failures_in_a_row)} questions in a row failed, the last one with: {failure.error}; "
                "raise requests.max_failures_in_a_row if it is the questions' fault"
            )

    def _write_failures(self) -> None:
        while self._failures_in_a_row and not self.stopped:
            key, failure = self._failures_in_a_row.pop(0)
            self.store.record("gave_up", key, status=failure.status, error=failure.error)


def waiting_time(requests: RequestConfig) -> Callable[[Any], float]:
    """Exponential backoff with jitter, and never less than the server asks for."""
    from tenacity import wait_exponential_jitter

    backoff = wait_exponential_jitter(multiplier=requests.first_wait, max=requests.max_wait, jitter=requests.first_wait)
    return lambda state: max(backoff(state), getattr(state.outcome.exception(), "retry_after", None) or 0.0)


def ask_all(
    texts: Mapping[str, str],
    api: ApiConfig,
    requests: RequestConfig,
    store: AnswerStore,
    max_cost: float | None,
    progress: Progress,
) -> None:
    """Asks the texts until the key of each has its row in the store, or max_cost leaves no room for another request."""
    api_key = read_api_key(requests)
    num_asked = 0

    def told() -> None:
        nonlocal num_asked
        num_asked += 1
        progress.update(progress.done_before + num_asked, progress_note(store.ledger, max_cost))

    async def work() -> None:
        async with ChatEndpoint(api, requests, api_key) as endpoint:
            await Asking(endpoint, store, max_cost, told).all(texts)

    asyncio.run(work())


def progress_note(ledger: Ledger, max_cost: float | None) -> str:
    note = f"{ledger.paid.output_tokens:,} tokens out, {ledger.counts['failed']:,} failed requests"
    if ledger.cost is None:
        return note
    limit = "" if max_cost is None else f" of {max_cost:,.2f}"
    return f"{note} | cost {ledger.cost:,.2f}{limit}, at most {ledger.prices.cost(ledger.committed):,.2f} so far"
