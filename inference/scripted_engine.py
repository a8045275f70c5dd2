"""An engine whose output is a function of (prefix, seed). For tests, and for measuring the driver alone."""

from collections.abc import Callable, Hashable

from inference.engine import Delta, Request


class ScriptedEngine:
    """script(prefix, seed) -> the next id. Decodes one token per key and step, so requests truly overlap.

    Honours stop ids, min_tokens (a stop before it is replaced by `filler`), max_tokens and the context length.
    fail_after: raise RuntimeError after so many tokens, as a killed process would stop.
    logprob: what it says of how likely a token was, log p(token | prefix).
    """

    def __init__(
        self,
        script: Callable[[tuple[int, ...], int | None], int],
        max_model_len: int = 4096,
        num_token_ids: int = 1 << 20,
        filler: int = 0,
        fail_after: int | None = None,
        logprob: Callable[[tuple[int, ...], int], float] = lambda prefix, token: 0.0,
    ):
        self.fingerprint = "scripted"
        self.max_model_len, self.num_token_ids = max_model_len, num_token_ids
        self.script, self.filler, self.fail_after, self.logprob = script, filler, fail_after, logprob
        self.num_sampled = 0
        self._active: dict[Hashable, tuple[Request, list[int]]] = {}

    def submit(self, key: Hashable, request: Request) -> None:
        assert request.max_tokens >= 1, "an engine is never asked for zero tokens"
        assert key not in self._active, f"{key} is in flight already"
        assert len(request.prefix) + request.max_tokens <= self.max_model_len, "request exceeds the context"
        self._active[key] = (request, [])

    def step(self) -> list[tuple[Hashable, Delta]]:
        return [(key, self._one_token(key)) for key in list(self._active)]

    def cancel(self, key: Hashable) -> None:
        self._active.pop(key, None)

    def kv_cache_usage(self) -> float:
        return float(bool(self._active))

    def reset_prefix_cache(self) -> None:
        pass  # has none

    def close(self) -> None:
        self._active.clear()

    def _one_token(self, key: Hashable) -> Delta:
        request, done = self._active[key]
        prefix = request.prefix + tuple(done)
        token = self.script(prefix, request.seed)
        if token in request.stop_token_ids and len(done) < request.min_tokens:
            token = self.filler
        done.append(token)
        self.num_sampled += 1
        if self.fail_after is not None and self.num_sampled >= self.fail_after:
            raise RuntimeError("scripted failure")
        finish = "stop" if token in request.stop_token_ids else "length" if len(done) == request.max_tokens else None
        if finish:
            del self._active[key]
        return Delta((token,), finish, logprobs=(self.logprob(prefix, token),) if request.logprobs else None)
