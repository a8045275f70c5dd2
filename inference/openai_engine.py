"""A running OpenAI-compatible server as an engine: each request is one streamed POST to its /v1/completions.

Exact where the server takes a prompt of token ids and returns the ids it samples (inference/completions_ids.py):

    vLLM (0.32)   prompt: [ids], return_token_ids, stop_token_ids, ignore_eos, min_tokens. Each chunk has its new
                  `token_ids`; a sampled stop id is the last of them, without text, and `stop_reason` names it.
    SGLang        the same names, return_token_ids since its pull request 30917; `matched_stop` names the stop. Its
                  ignore_eos turns stop_token_ids off as well (Req.check_finished).

Elsewhere only with engine.retokenize=true: text goes out, what comes back is encoded again
(inference/completions_text.py), and `retokenizes` tells the server to say so in every response:

    llama.cpp     /v1/completions takes prompts of ids, but knows no stop_token_ids and returns no ids (return_tokens
                  belongs to its own /completion). Start it with --special, or it leaves special tokens, and with them
                  the delimiter of the s1 profile, out of the text.
    others        prompt, max_tokens, temperature, top_p, top_k, min_p, seed, logit_bias.

Nothing is asked twice: a request that fails ends with the reason.
"""

import asyncio
import secrets
import threading
from collections.abc import Coroutine, Hashable
from concurrent.futures import Future
from contextlib import aclosing
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from core.config import UserError
from core.http_client import read_key
from inference import checkpoint
from inference.completions_client import CompletionsClient, ServerFailed
from inference.completions_ids import IdCompletions
from inference.completions_text import TextCompletions
from inference.engine import Delta, EngineConfig, Request, fingerprint_of

MAX_WAIT_SECONDS = 0.02  # in step, so that who owns the engine hears of new requests
HINTS = {
    401: "; name the variable that holds its key in engine.api_key_env",
    403: "; name the variable that holds its key in engine.api_key_env",
    404: "; the address usually ends in /v1",
}


class OpenAIEngine:
    """See `inference.engine.Engine`. One thread holds the connections, engine.max_num_seqs at a time.

    path: folder with config and tokenizer of the model that is served; no weights are read.
    fingerprint: of the address, the model's name and how it is asked, but of no weights: the server may change these at
        any time. So it is another one in each process, and nothing is continued from an earlier run, unless
        engine.revision names what is served.
    retokenizes: the ids are not those that the server sampled.

    Raises UserError for a server that cannot be reached, refuses, serves another model, has less context than
    engine.max_model_len, or does not pass token ids.
    """

    def __init__(self, path: str | Path, tokenizer: Any, config: EngineConfig):
        _check(config)
        key = read_key(config.api_key_env, "engine.api_key_env")
        vocab_size = checkpoint.vocab_size_of(path) or len(tokenizer)
        self.max_model_len, self.num_token_ids = config.max_model_len, min(len(tokenizer), vocab_size)
        self.retokenizes = config.retokenize
        self._client = CompletionsClient(config.base_url, key, config.options, config.max_num_seqs)
        if config.retokenize:
            self._completions = TextCompletions(tokenizer, self._client)
        else:
            self._completions = IdCompletions(tokenizer, self._client, range(self.num_token_ids, vocab_size))
        self._free = asyncio.Semaphore(config.max_num_seqs)
        self._arrived: SimpleQueue = SimpleQueue()
        self._active: dict[Hashable, tuple[int, Future]] = {}  # ticket, and what asks for it
        self._count = count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-engine", daemon=True)
        self._thread.start()
        try:
            self._run(self._probe(config)).result()
        except BaseException:
            self.close()
            raise
        parts = {"base_url": config.base_url, "model": self._client.model.name, "retokenize": config.retokenize,
                 "num_token_ids": self.num_token_ids, "options": config.options,
                 "served": config.revision or secrets.token_hex(8)}  # fmt: skip
        self.fingerprint = fingerprint_of(parts)

    def submit(self, key: Hashable, request: Request) -> None:
        assert key not in self._active, f"{key} is in flight already"
        assert len(request.prefix) + request.max_tokens <= self.max_model_len, "request exceeds the context"
        if request.logprobs and self.retokenizes:
            raise UserError("engine.retokenize=true has no log-probabilities: its ids are not those that were sampled")
        ticket = next(self._count)
        self._active[key] = ticket, self._run(self._answer(key, ticket, request))

    def step(self) -> list[tuple[Hashable, Delta]]:
        """What has come, as one Delta a key; waits a moment for it."""
        new: dict[Hashable, Delta] = {}
        while self._active:
            try:
                key, ticket, delta = self._arrived.get(block=not new, timeout=MAX_WAIT_SECONDS)
            except Empty:
                break
            if key not in self._active or self._active[key][0] != ticket:
                continue  # cancelled
            if isinstance(delta, Exception):
                raise delta
            new[key] = _joined(new[key], delta) if key in new else delta
            if delta.finish_reason is not None:
                del self._active[key]
        return list(new.items())

    def cancel(self, key: Hashable) -> None:
        """Hangs up, and the server gives up the request."""
        if key in self._active:
            self._active.pop(key)[1].cancel()

    def kv_cache_usage(self) -> None:
        """Unknown here; the server's own metrics have it."""

    def reset_prefix_cache(self) -> None:
        """Nothing: the cache is the server's, and others use it."""

    def close(self) -> None:
        """Hangs up on everything."""
        self._run(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # in the thread of the loop

    def _run(self, work: Coroutine) -> Future:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answer(self, key: Hashable, ticket: int, request: Request) -> None:
        try:
            async with self._free, aclosing(self._completions.deltas(request)) as deltas:
                async for delta in deltas:
                    self._check_delta(delta)
                    self._arrived.put((key, ticket, delta))
        except ServerFailed as failure:
            self._arrived.put((key, ticket, Delta(finish_reason="error", error=str(failure))))
        except Exception as error:  # for the thread that owns the engine: `step` raises it
            self._arrived.put((key, ticket, error))

    def _check_delta(self, delta: Delta) -> None:
        if delta.finish_reason not in (None, "stop", "length"):
            raise ServerFailed(f"the server ended the request: {delta.finish_reason}")
        unknown = [id for id in delta.token_ids if not 0 <= id < self.num_token_ids]
        if unknown:
            raise ServerFailed(f"the server sampled token id {unknown[0]}, which the tokenizer of model= does not have")

    async def _probe(self, config: EngineConfig) -> None:
        """Is it there, is it the model, does it pass what is needed? Raises UserError, one line."""
        where = f"engine.base_url={config.base_url}"
        try:
            longest = (await self._client.find_model(config.served_model_name)).max_model_len
            if longest is not None and self.max_model_len > longest:
                raise UserError(
                    f"engine.max_model_len={self.max_model_len} exceeds the context there, which is {longest}"
                )
            await self._completions.probe()
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except ServerFailed as failure:
            raise UserError(f"{where}: {failure}{HINTS.get(failure.status, '')}") from None

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()


def _check(config: EngineConfig) -> None:
    if not config.base_url:
        raise UserError("engine.backend=openai needs engine.base_url=http://host:8000/v1")
    for name in ("dtype", "batch_invariant"):
        if getattr(config, name) != getattr(EngineConfig(), name):
            raise UserError(
                f"engine.{name} is decided where the server was started; leave it out beside engine.base_url"
            )


def _joined(first: Delta, second: Delta) -> Delta:
    logprobs = None if second.logprobs is None else (first.logprobs or ()) + second.logprobs
    return Delta(first.token_ids + second.token_ids, second.finish_reason, error=second.error, logprobs=logprobs)
