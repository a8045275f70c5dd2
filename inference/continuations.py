"""What each prefix was continued with. Makes sweeps cheap and every run resumable.

Greedy, or at a fixed seed, thinking under a small budget is a prefix of thinking under a large one, and n ignored ends
are a prefix of n + 1. So a whole scaling curve needs one long trajectory per question, with an answer forked at each
distinct point. The store gives that without changing what a run means: a request it covers is answered from it.

Temperature 0: a stored segment that ended by length is extended from its end. Above: it is drawn again from its own
start with the same seed, because engines restart a seeded stream with each request; so ask the longest budget first.
"""

import hashlib
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from core.journal import Journal
from inference.engine import Delta, Request


@dataclass(frozen=True)
class Continuation:
    """What followed one prefix. finish_reason "length" says only that nobody asked for more."""

    token_ids: tuple[int, ...]
    finish_reason: str


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
        settings = (astuple(request.sampling), seed, sorted(request.stop_token_ids), request.min_tokens)
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        digest.update(b"".join(t.to_bytes(4, "little") for t in request.prefix))
        return digest.hexdigest()

    def lookup(self, request: Request) -> Delta | None:
        """The finished continuation, cut to max_tokens, or None where the store knows too little."""
        known = self._known.get(self.key(request))
        if known is None:
            return None
        if request.max_tokens < len(known.token_ids):
            return Delta(known.token_ids[: request.max_tokens], "length")
        if known.finish_reason == "length" and request.max_tokens > len(known.token_ids):
            return None
        return Delta(known.token_ids, known.finish_reason)

    def remainder(self, request: Request) -> Request:
        """What is left to ask of the engine: at temperature 0 only what goes beyond the stored part."""
        known = self._known.get(self.key(request))
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
        known = self._known.get(key)
        ids = delta.token_ids
        if known is not None and request.sampling.temperature == 0:
            ids = known.token_ids + ids
        self._known[key] = Continuation(ids, delta.finish_reason)
        if self._journal is not None:
            self._journal.append({"key": key, "token_ids": ids, "finish_reason": delta.finish_reason})

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _read(self, rows) -> None:
        for row in rows:
            new = Continuation(tuple(row["token_ids"]), row["finish_reason"])
            old = self._known.get(row["key"])
            if old is None or (old.finish_reason == "length" and len(new.token_ids) >= len(old.token_ids)):
                self._known[row["key"]] = new
