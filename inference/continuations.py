"""What each prefix was continued with. Makes sweeps cheap and every run resumable.

Greedy, or at a fixed seed, thinking under a small budget is a prefix of thinking under a large one, and n ignored ends
are a prefix of n + 1. So a whole scaling curve needs one long trajectory per question, with an answer forked at each
distinct point. The store gives that without changing what a run means: a request it covers is answered from it.

Temperature 0: a stored segment that ended by length is extended from its end. Above: it is drawn again from its own
start with the same seed, because engines restart a seeded stream with each request; so ask the longest budget first.
"""

import hashlib
import struct
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from core.journal import Journal
from inference.engine import Delta, Request


@dataclass(frozen=True)
class Continuation:
    """What followed one prefix. finish_reason "length" says only that nobody asked for more."""

    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[float, ...] | None = None
    num_cached_tokens: int | None = None

    @property
    def delta(self) -> Delta:
        return Delta(self.token_ids, self.finish_reason, self.num_cached_tokens, logprobs=self.logprobs)

    def cut(self, max_tokens: int) -> "Continuation":
        logprobs = None if self.logprobs is None else self.logprobs[:max_tokens]
        return Continuation(self.token_ids[:max_tokens], "length", logprobs, self.num_cached_tokens)


class ContinuationStore:
    """Continuations of one engine fingerprint, in memory and, with a folder, in append-only journals.

    folder: outputs/continuations/<fingerprint>; every journal in it is read, and `writer`.jsonl is appended to.
    """

    def __init__(self, folder: Path | None = None, writer: str = "run"):
        self._known: dict[str, Continuation] = {}
        self._journal: Journal | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{writer}.jsonl"
        for path in sorted(folder.glob("*.jsonl")):
            if path != own:
                self._read(Journal.read(path, can_redo=True))
        self._journal = Journal(own, can_redo=True)
        self._read(self._journal.rows)
        self._journal.rows = []  # the dictionary holds them now

    def key(self, request: Request) -> str:
        """Names what decides a continuation: sampling, seed, stops, min_tokens, prefix. Not max_tokens."""
        seed = request.seed if request.sampling.temperature > 0 else None
        settings = (tuple(vars(request.sampling).values()), seed, sorted(request.stop_token_ids), request.min_tokens)
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        digest.update(struct.pack(f"<{len(request.prefix)}I", *request.prefix))
        return digest.hexdigest()

    def lookup(self, request: Request) -> Delta | None:
        """The finished continuation, cut to max_tokens, or None where the store knows too little."""
        known = self._find(request)
        if known is None:
            return None
        if request.max_tokens < len(known.token_ids):
            return known.cut(request.max_tokens).delta
        if known.finish_reason == "length" and request.max_tokens > len(known.token_ids):
            return None
        return known.delta

    def _find(self, request: Request) -> Continuation | None:
        """What is known, unless it lacks the log-probabilities that are asked for."""
        known = self._known.get(self.key(request))
        return None if known is None or (request.logprobs and known.logprobs is None) else known

    def remainder(self, request: Request) -> Request:
        """What is left to ask of the engine: at temperature 0 only what goes beyond the stored part."""
        known = self._find(request)
        if known is None or request.sampling.temperature > 0:
            return request
        have = len(known.token_ids)
        return replace(
            request,
            prefix=request.prefix + known.token_ids,
            max_tokens=request.max_tokens - have,
            min_tokens=max(0, request.min_tokens - have),
        )

    def add(self, request: Request, delta: Delta) -> None:
        """Stores the engine's answer to `remainder(request)`."""
        key = self.key(request)
        known = self._find(request)
        new = Continuation(delta.token_ids, delta.finish_reason, delta.logprobs, delta.num_cached_tokens)
        if known is not None and request.sampling.temperature == 0:
            logprobs = None if new.logprobs is None else (known.logprobs or ()) + new.logprobs
            new = replace(new, token_ids=known.token_ids + new.token_ids, logprobs=logprobs)
        self._known[key] = new
        if self._journal is not None:
            self._journal.append({"key": key, **asdict(new)})

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _read(self, rows) -> None:
        for row in rows:
            logprobs = row.get("logprobs")
            new = Continuation(
                tuple(row["token_ids"]),
                row["finish_reason"],
                logprobs and tuple(logprobs),
                row.get("num_cached_tokens"),
            )
            old = self._known.get(row["key"])
            if old is None or _says_more(new, old):
                self._known[row["key"]] = new


def _says_more(new: Continuation, old: Continuation) -> bool:
    if (new.logprobs is None) != (old.logprobs is None):
        return old.logprobs is None
    return old.finish_reason == "length" and len(new.token_ids) >= len(old.token_ids)
