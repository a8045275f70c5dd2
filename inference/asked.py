"""One question under one budget: its decoding, what was said so far, and the row that is left of it."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

from core.types import Phase, Sample, TokenSource
from inference.prompts import Prompt
from inference.stream import StreamedDecode


@dataclass(frozen=True)
class Said:
    """Text of one origin, in the order it came."""

    phase: Phase
    source: TokenSource
    text: str


class Asked:
    """number: of the question, from 1. sample: which of its n, from 0. label: what is compared; empty: nothing is.
    settings: all that decides what comes out, beside the prompt.

    has_begun: it, or the run that it is recalled from. said: grows while it runs.
    row: what `output=json` prints and `save=` keeps; None until the sample has ended.
    """

    def __init__(
        self, prompt: Prompt, number: int, sample: int, label: str, decoding: StreamedDecode, settings: dict[str, Any]
    ):
        self.prompt, self.number, self.sample, self.label = prompt, number, sample, label
        self.has_begun = False
        self.said: list[Said] = []
        self.row: dict[str, Any] | None = None
        self.decoding, self._settings = decoding, settings
        self._started = time.perf_counter()
        self._seconds_to_first_token: float | None = None

    @property
    def key(self) -> str:
        """The same for the same question to the same model under the same settings."""
        text = json.dumps([self.prompt.messages, self.sample, self._settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def recall(self, row: dict[str, Any]) -> None:
        """Takes a row of an earlier run for its own."""
        self.has_begun, self.row = True, row
        self.said = [Said(s["phase"], s["source"], s["text"]) for s in row["segments"]]

    def start(self) -> StreamedDecode:
        self.has_begun, self._started = True, time.perf_counter()
        return self.decoding

    def listen(self) -> None:
        """Takes what the decoding has said since the last time; its row, where that was all."""
        pieces = self.decoding.take()
        if self._seconds_to_first_token is None and any(p.token_ids and p.source == "sampled" for p in pieces):
            self._seconds_to_first_token = time.perf_counter() - self._started
        self.said += [Said(p.phase, p.source, p.text) for p in pieces if p.text]
        if self.decoding.is_done:
            self._finish(self.decoding.sample())

    def cancel(self) -> None:
        self.decoding.cancel()
        self.listen()

    def _finish(self, sample: Sample) -> None:
        seconds = time.perf_counter() - self._started if self.has_begun else 0.0
        num_sampled = len(sample.ids("thinking", "sampled")) + sample.num_answer_tokens
        self.row = {
            "key": self.key,
            "question": self.prompt.question,
            "sample": self.sample,
            "label": self.label,
            **self._settings,
            "thinking": self.decoding.text("thinking"),
            "answer": self.decoding.text("answer"),
            "segments": [asdict(said) for said in _merged(self.said)],
            "ended": sample.ended,
            "answer_finish": sample.answer_finish,
            "num_ignored": sample.num_ignored,
            "num_suppressed": sample.num_suppressed,
            "repetition": sample.repetition,
            "error": sample.error,
            "num_prompt_tokens": sample.num_prompt_tokens,
            "num_thinking_tokens": sample.num_thinking_tokens,
            "num_answer_tokens": sample.num_answer_tokens,
            "num_forced_tokens": len(sample.token_ids) - num_sampled,
            "seconds": round(seconds, 3),
            "seconds_to_first_token": _rounded(self._seconds_to_first_token),
            "tokens_per_second": _rounded(num_sampled / seconds if seconds else None),
        }


def _merged(said: list[Said]) -> list[Said]:
    merged: list[Said] = []
    for one in said:
        if merged and (merged[-1].phase, merged[-1].source) == (one.phase, one.source):
            one = Said(one.phase, one.source, merged.pop().text + one.text)
        merged.append(one)
    return merged


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
