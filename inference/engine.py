"""Engines continue prefixes of token ids; the driver keeps them full.

An engine knows nothing of thinking, budgets or text: it answers "continue this prefix by at most n tokens, stop on
these ids". What comes next is decided by `inference.budget.ForcedDecode`. State is per sample: the moment one segment
ends, its next request goes in, while the others go on. No round waits for its slowest member.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from core.config import UserError, option
from core.http_client import check_address, check_key_name
from core.runs import OUTPUTS

FinishReason = Literal["stop", "length", "error"]
MAX_LOGIT_BIAS = 1024  # ids that a request may keep from being sampled: vLLM's V2 runner


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k 0 is off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


GREEDY = Sampling()


@dataclass(frozen=True)
class Request:
    """Continue `prefix` by at most `max_tokens` (>= 1) ids, until one of `stop_token_ids` is sampled.

    min_tokens: stop ids are not sampled before so many tokens. seed: None at temperature 0.
    logprobs: say of each sampled id how likely it was.
    """

    prefix: tuple[int, ...]
    max_tokens: int
    stop_token_ids: frozenset[int]
    min_tokens: int = 0
    sampling: Sampling = GREEDY
    seed: int | None = None
    logprobs: bool = False


@dataclass(frozen=True)
class Delta:
    """New ids of one request. A sampled stop id is the last of them. finish_reason None: more will come.

    logprobs: natural logarithm of each id's probability under the model itself, before temperature and filters; None
        where the request did not ask.
    num_cached_tokens: how much of the prefix the engine found in its cache, where it says so.
    """

    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    num_cached_tokens: int | None = None
    error: str | None = None
    logprobs: tuple[float, ...] | None = None


class Engine(Protocol):
    """What every backend offers. One thread owns it; n samples of one prefix are n keys.

    fingerprint: names weights, precision, engine and its version: equal fingerprints may share continuations.
    max_model_len: prefix + new tokens. num_token_ids: ids at or above it are never sampled.
    """

    fingerprint: str
    max_model_len: int
    num_token_ids: int

    def submit(self, key: Hashable, request: Request) -> None: ...

    def step(self) -> list[tuple[Hashable, Delta]]:
        """Waits until there is something to say, or a moment where others do the work. When idle: empty, and what was
        held for a request that might have gone on is freed."""
        ...

    def cancel(self, key: Hashable) -> None:
        """No delta follows for this key."""
        ...

    def kv_cache_usage(self) -> float | None:
        """Share of the KV cache that running requests hold; None where the engine does not say."""
        ...

    def reset_prefix_cache(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class EngineConfig:
    """How to load a model. `options` passes verbatim to vLLM's EngineArgs, to from_pretrained for transformers, or
    into each request to a running server."""

    backend: str = option("auto", help="vllm, transformers, openai (a running server), or auto: what there is")
    dtype: str = option("auto", help="auto (the checkpoint's), bfloat16, float32, float16")
    max_model_len: int = option(4096, help="prompt + thinking + answer, in tokens")
    max_num_seqs: int = option(64, help="sequences decoded at a time")
    batch_invariant: bool = option(False, help="vLLM on GPUs: results do not depend on what is decoded beside (slower)")
    revision: str | None = option(None, help="hub revision, when the model is a hub id")
    options: dict[str, Any] = option({}, help="passed verbatim to the backend")
    base_url: str | None = option(None, help="openai: a running server, up to and with /v1; model= names its tokenizer")
    served_model_name: str | None = option(None, help="openai: what the server calls the model; null: its only one")
    api_key_env: str | None = option(None, help="openai: environment variable that holds the key; null sends none")
    retokenize: bool = option(False, help="openai: also servers without token ids, by encoding their text (not exact)")

    def __post_init__(self):  # before any run folder records them: they may hold a secret
        if self.base_url is not None:
            check_address(self.base_url, "engine.base_url", "engine.api_key_env")
        check_key_name(self.api_key_env, "engine.api_key_env")


def fingerprint_of(parts: dict[str, Any]) -> str:
    """Of all that decides what an engine says: 16 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_engine(model: str, config: EngineConfig, tokenizer: Any = None) -> tuple[Engine, Any]:
    """(engine, tokenizer) for a local folder or a hub id.

    tokenizer: the model's, where it has been read already.

    Raises UserError for a folder that is no model, an unreachable hub, an unknown backend, or too little memory; and
    what `inference.openai_engine` raises, where engine.base_url names a running server.
    """
    from inference import checkpoint

    backend = config.backend
    if backend == "auto":
        backend = "openai" if config.base_url else "vllm" if checkpoint.has_vllm() else "transformers"
    if backend not in ("vllm", "transformers", "openai"):
        raise UserError(f"engine.backend={backend!r} is unknown; use vllm, transformers, openai or auto")
    if config.base_url and backend != "openai":
        raise UserError(f"engine.base_url is for engine.backend=openai, not {backend}")
    if config.batch_invariant and backend == "transformers":
        raise UserError("engine.batch_invariant is vLLM's; with transformers use engine.dtype=float32")
    path = checkpoint.resolve(model, config.revision, weights=backend != "openai")
    if tokenizer is None:
        tokenizer = checkpoint.load_tokenizer(path)
    if backend == "openai":
        from inference.openai_engine import OpenAIEngine

        return OpenAIEngine(path, tokenizer, config), tokenizer
    if backend == "vllm":
        from inference.vllm_engine import VllmEngine as Backend
    else:
        from inference.hf_engine import TransformersEngine as Backend
    try:
        return Backend(path, tokenizer, config), tokenizer
    except (RuntimeError, ValueError, MemoryError) as error:
        if not checkpoint.is_out_of_memory(error):
            raise
        raise UserError(
            f"not enough memory to load {model} with {backend} ({str(error).splitlines()[0][:200]}); lower "
            "engine.max_model_len or engine.max_num_seqs, or give engine.options.gpu_memory_utilization"
        ) from error


@contextmanager
def open_driver(model: str, config: EngineConfig, writer: str) -> Iterator[tuple["Driver", Any]]:
    """(driver, tokenizer) over a freshly loaded engine and its store of continuations; closes both.

    writer: name of this process's journal in the store.
    """
    from inference.continuations import ContinuationStore

    engine, tokenizer = load_engine(model, config)
    store = ContinuationStore(OUTPUTS / "continuations" / engine.fingerprint, writer)
    try:
        yield Driver(engine, store), tokenizer
    finally:
        store.close()
        engine.close()


class Decoding(Protocol):
    """What the driver drives: see `inference.budget.ForcedDecode`."""

    phase: str
    is_done: bool

    def next_request(self) -> Request | None: ...

    def advance(self, delta: Delta) -> None: ...


@dataclass
class _Flight:
    """A request in the engine, and who waits for it."""

    asked: Request
    phase: str
    waiting: list[tuple[Hashable, Decoding]]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    num_cached_tokens: int | None = None


class Driver:
    """Runs many decodings on one engine, each at its own pace.

    `run` takes them from an iterable. Who decides by what has finished which decodings come next (search, rejection
    sampling, a server) calls `add` and `step` instead; between two steps anything may be added.

    store: continuations known already are answered from it, and what is in flight is asked once
        (inference/continuations.py). None: every decoding asks for itself, and is told of new ids as they come; one
        that is done before its request has ended has it cancelled.
    num_sampled: tokens the engine really produced, by phase ("thinking", "answer").
    num_prompt: tokens of the prefixes it was given; num_cached: those of them that it found in its cache.
    """

    def __init__(self, engine: Engine, store=None, max_in_flight: int = 256):
        self.engine, self.store, self.max_in_flight = engine, store, max_in_flight
        self.num_sampled: Counter[str] = Counter()
        self.num_prompt = self.num_cached = 0
        self._flights: dict[Hashable, _Flight] = {}
        self._finished: list[tuple[Hashable, Decoding]] = []

    @property
    def is_idle(self) -> bool:
        return not self._flights and not self._finished

    @property
    def has_room(self) -> bool:
        return len(self._flights) < self.max_in_flight

    def add(self, key: Hashable, decoding: Decoding) -> None:
        """Starts a decoding. What the store answers whole is finished at the next step, without the engine."""
        self._go_on(key, decoding)

    def cancel(self, key: Hashable) -> None:
        """Forgets a decoding; what nobody else waits for is taken from the engine."""
        self._finished = [pair for pair in self._finished if pair[0] != key]
        for flight_key, flight in list(self._flights.items()):
            flight.waiting = [pair for pair in flight.waiting if pair[0] != key]
            if not flight.waiting:
                self.engine.cancel(flight_key)
                del self._flights[flight_key]

    def step(self) -> list[tuple[Hashable, Decoding]]:
        """Who finished. Waits for the engine only where nobody has yet; empty also while all are still going."""
        if not self._finished and self._flights:
            for flight_key, delta in self.engine.step():
                self._receive(flight_key, delta)
        finished, self._finished = self._finished, []
        return finished

    def run(self, decodings: Iterable[tuple[Hashable, Decoding]]) -> Iterator[tuple[Hashable, Decoding]]:
        """Yields (key, decoding) as they finish. Feed the longest budget of a question first: with a store, the
        shorter ones are then cut from it."""
        waiting = iter(decodings)
        exhausted = False
        while not (exhausted and self.is_idle):
            while self.has_room and not exhausted and not self._finished:
                pair = next(waiting, None)
                if pair is None:
                    exhausted = True
                else:
                    self.add(*pair)
            yield from self.step()

    def _go_on(self, key: Hashable, decoding: Decoding) -> None:
        """Advances on what is known, then asks the engine."""
        while (request := decoding.next_request()) is not None:
            if self.store is None:
                self._ask(("own", key), request, request, key, decoding)
                return
            known = self.store.lookup(request)
            if known is None:
                flight_key = self.store.key(request)
                if flight_key in self._flights:
                    self._flights[flight_key].waiting.append((key, decoding))
                else:
                    self._ask(flight_key, request, self.store.remainder(request), key, decoding)
                return
            decoding.advance(known)
        self._finished.append((key, decoding))

    def _ask(self, flight_key: Hashable, request: Request, asked: Request, key: Hashable, decoding: Decoding) -> None:
        if max(asked.prefix) >= self.engine.num_token_ids:
            raise UserError(
                f"{_name(key)}: the prompt has token id {max(asked.prefix)}, and the model knows only those below "
                f"{self.engine.num_token_ids}; its tokenizer has tokens that were never added to the model"
            )
        self._flights[flight_key] = _Flight(request, decoding.phase, [(key, decoding)])
        self.num_prompt += len(asked.prefix)
        self.engine.submit(flight_key, asked)

    def _receive(self, flight_key: Hashable, delta: Delta) -> None:
        flight = self._flights[flight_key]
        flight.token_ids += delta.token_ids
        flight.logprobs += delta.logprobs or ()
        if flight.num_cached_tokens is None:
            flight.num_cached_tokens = delta.num_cached_tokens
        self.num_sampled[flight.phase] += len(delta.token_ids)
        is_over = delta.finish_reason is not None
        if self.store is None:
            [(_, decoding)] = flight.waiting
            decoding.advance(replace(delta, num_cached_tokens=flight.num_cached_tokens))
            if decoding.is_done and not is_over:
                self.engine.cancel(flight_key)
                is_over = True
        if not is_over:
            return
        del self._flights[flight_key]
        self.num_cached += flight.num_cached_tokens or 0
        if self.store is not None:
            self._remember(flight, delta)
        for key, decoding in flight.waiting:
            self._go_on(key, decoding)

    def _remember(self, flight: _Flight, last: Delta) -> None:
        """Everyone, the asker too, is then answered by lookup."""
        logprobs = tuple(flight.logprobs) if flight.asked.logprobs else None
        whole = Delta(tuple(flight.token_ids), last.finish_reason, flight.num_cached_tokens, last.error, logprobs)
        if last.finish_reason == "error":
            for _, decoding in flight.waiting:
                decoding.advance(whole)
        else:
            self.store.add(flight.asked, whole)


def _name(key: Hashable) -> str:
    return ", ".join(map(str, key)) if isinstance(key, tuple) else str(key)
