"""Budget forcing: the state machine over token ids. The only copy; every engine, server and benchmark drives this one.

    thinking ended by itself, ignores left, room left  -> drop the sampled end, append the ignore text ("Wait"), go on
    thinking ended by itself, no ignores left          -> close thinking                                     (natural)
    thinking ran into the budget                       -> close thinking and add the cue "\\nFinal Answer:"   (budget)
    then the answer, with its own limit, always reserved

Acting on the sampled end, not on the most likely token, is right at any temperature. Ids are concatenated, never
decoded and encoded again. (s1, section 3.1. The released evaluator has a fresh budget after
each ignored end: `budget_per_round`.)
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from core.chat import ChatFormat
from core.types import Ended, Phase, Sample, Segment, TokenSource
from inference.engine import GREEDY, Delta, Request, Sampling


@dataclass(frozen=True)
class Budget:
    """How long to think.

    max_thinking_tokens: sampled thinking and ignore texts together; "auto" is what the context leaves, per request;
        None asks for no thinking phase in the `plain` profile (the whole turn is the answer), and is "auto" elsewhere.
        vLLM calls the same limit `thinking_token_budget`.
    min_thinking_tokens: ends are suppressed while thinking is shorter, any number of times; the maximum wins.
    num_ignore: how many ends of thinking to replace by `ignore_text`.
    cue: written after a forced close.
    max_answer_tokens: of the answer. answer_reserve: how many of them are kept free in the context before thinking
        starts; None: all.
    budget_per_round: each ignored end starts a fresh max_thinking_tokens, as the released evaluator did; the paper
        (and the default) has one budget for the whole span.
    """

    max_thinking_tokens: int | str | None = "auto"
    min_thinking_tokens: int = 0
    num_ignore: int = 0
    ignore_text: str = "Wait"
    cue: str = "\nFinal Answer:"
    max_answer_tokens: int = 512
    budget_per_round: bool = False
    answer_reserve: int | None = None

    def __post_init__(self):
        limit = self.max_thinking_tokens
        if not (limit in ("auto", None) or (type(limit) is int and limit >= 0)):
            raise ValueError(f"max_thinking_tokens={limit!r}: expected a number >= 0, auto, or null")
        if self.min_thinking_tokens < 0 or self.num_ignore < 0:
            raise ValueError("min_thinking_tokens and num_ignore cannot be negative")
        if self.max_answer_tokens < 1:
            raise ValueError(f"max_answer_tokens={self.max_answer_tokens}: at least one token is needed for an answer")
        if self.answer_reserve is not None and not 1 <= self.answer_reserve <= self.max_answer_tokens:
            raise ValueError(f"answer_reserve={self.answer_reserve}: expected 1 to max_answer_tokens")


def thinking_limit(asked: int | str | None, profile: str, is_forced: bool) -> int | str | None:
    """`asked`, where None stands for what the context leaves, and in the `plain` profile for no thinking phase.

    is_forced: a minimum or ignored ends ask for one all the same.
    """
    return "auto" if asked is None and (profile != "plain" or is_forced) else asked


class ForcedDecode:
    """One sample under one budget. Pure: it asks (`next_request`), it is told (`advance`), it remembers (`sample`).

    prompt_ids: from `chat.prompt_ids`. max_model_len: prompt + thinking + close + answer fit in it.
    seed: of this sample; each request derives its own from it and its prefix length, so no two segments share noise.
    logprobs: keep the mean log-probability of what is sampled.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        budget: Budget,
        chat: ChatFormat,
        max_model_len: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        *,
        question_id: str = "",
        repeat: int = 0,
        logprobs: bool = False,
    ):
        self.phase: Phase = "thinking"
        self._budget, self._chat, self._sampling, self._seed = budget, chat, sampling, seed
        self._max_model_len = max_model_len
        self._question_id, self._repeat = question_id, repeat
        self._ignore_ids = chat.encode(budget.ignore_text)
        self._ids: list[int] = list(prompt_ids)  # all that the model has seen
        self._num_prompt, self._num_cached = len(self._ids), None
        self._with_logprobs, self._logprobs = logprobs, []
        self._segments: list[Segment] = []
        self._received: list[int] = []  # of the request in flight
        self._probe: tuple[int, ...] = ()  # sampled ids that may become a delimiter
        self._num_thinking = self._num_in_round = 0
        self._num_ignored = self._num_suppressed = 0
        self._just_suppressed = False
        self._ended: Ended | None = None
        self._answer_finish: str | None = None
        self._error: str | None = None
        self._done = False
        self._start()

    def next_request(self) -> Request | None:
        """What to ask an engine for now; None when the sample is finished."""
        assert not self._received, "a request is in flight: advance it to its end first"
        if self._done:
            return None
        if self.phase == "answer":
            room = self._max_model_len - len(self._ids)
            return self._request(min(self._budget.max_answer_tokens, room), self._chat.end_of_turn_ids)
        if self._probe:
            return self._request(1, frozenset(), suffix=self._probe)
        return self._request(self._room(), self._chat.stop_token_ids, min_tokens=int(self._just_suppressed))

    def advance(self, delta: Delta) -> None:
        """Takes ids of the request in flight; with a finish_reason, moves on to the next state."""
        if self._done:
            return
        assert all(t < self._chat.num_token_ids for t in delta.token_ids), "the engine sampled an id without text"
        self._received += delta.token_ids
        if self._with_logprobs:
            self._logprobs += delta.logprobs or ()
        if delta.finish_reason is None:
            return
        if delta.num_cached_tokens is not None:
            self._num_cached = (self._num_cached or 0) + delta.num_cached_tokens
        received, self._received = tuple(self._received), []
        if delta.finish_reason == "error":
            self._finish_early("error", delta.error or "the engine gave no reason", received)
        elif self.phase == "answer":
            self._take_answer(received, delta.finish_reason)
        elif self._probe:
            self._look(self._probe + received)
        else:
            self._take_thinking(received, delta.finish_reason)

    def cancel(self) -> None:
        """Ends the sample where it stands; what was received is kept."""
        if not self._done:
            received, self._received = tuple(self._received), []
            self._finish_early("cancelled", None, received)

    def fork(self, seed: int) -> "ForcedDecode":
        """A second decoding that goes on from here with noise of its own, as the branches of a search do."""
        assert not self._received, "a request is in flight: advance it to its end first"
        other = copy.copy(self)
        other._seed, other._received = seed, []
        other._ids, other._segments, other._logprobs = list(self._ids), list(self._segments), list(self._logprobs)
        return other

    @property
    def is_done(self) -> bool:
        return self._done

    @property
    def ended(self) -> Ended | None:
        """Why thinking ended; None while it goes on."""
        return self._ended

    @property
    def is_probing(self) -> bool:
        """Is one more token needed to tell whether thinking ends?"""
        return bool(self._probe)

    @property
    def thinking_ids(self) -> tuple[int, ...]:
        """So far."""
        return tuple(t for s in self._segments if s.phase == "thinking" for t in s.token_ids)

    @property
    def mean_logprob(self) -> float | None:
        """Of all that was sampled so far; None where nobody asked, or nothing was."""
        return fmean(self._logprobs) if self._logprobs else None

    def sample(self) -> Sample:
        assert self._done, "the sample is not finished"
        return Sample(
            self._question_id,
            self._repeat,
            tuple(self._segments),
            self._ended or "natural",
            self._answer_finish,
            self._num_ignored,
            self._num_suppressed,
            closes_on_a_loop(self.thinking_ids),
            self._error,
            self._num_prompt,
            self._num_cached,
            self.mean_logprob,
        )

    # thinking

    def _start(self) -> None:
        chat, budget = self._chat, self._budget
        longest_close = len(chat.close_ids(forced=True, cue=budget.cue))
        reserve = budget.max_answer_tokens if budget.answer_reserve is None else budget.answer_reserve
        self._context_room = self._max_model_len - len(self._ids) - longest_close - reserve
        if self._context_room < 0:
            needed = self._max_model_len - self._context_room
            error = f"prompt, close and answer need {needed} tokens, the context has {self._max_model_len}"
            self._finish_early("context", error)
        elif chat.name == "plain" and budget.max_thinking_tokens is None:
            self.phase = "answer"
        elif self._room() == 0:
            self._close(forced=True)

    def _left(self, new_round: bool = False) -> tuple[int, int]:
        """Thinking tokens left of the budget and of the context. new_round: as it will be after an ignored end."""
        limit = self._budget.max_thinking_tokens
        per_round = self._budget.budget_per_round
        used = self._num_thinking if not per_round else 0 if new_round else self._num_in_round
        context_left = self._context_room - self._num_thinking
        return (limit - used if type(limit) is int else context_left), context_left

    def _room(self) -> int:
        """Thinking tokens that may still come."""
        return max(0, min(self._left()))

    def _take_thinking(self, received: tuple[int, ...], finish_reason: str) -> None:
        self._just_suppressed = False
        if finish_reason == "stop":
            self._keep(received[:-1], "sampled")
            self._look(received[-1:])
        else:
            self._keep(received, "sampled")
            if self._room() == 0:
                self._close(forced=True)

    def _look(self, ids: tuple[int, ...]) -> None:
        """ids begin with a stop: the end of thinking, not the end, or one more token is needed to tell."""
        self._probe = ()
        verdict = self._chat.is_end(ids)
        if verdict is None:
            self._probe = ids
        elif verdict:
            self._end_by_itself()
        elif len(ids) > 1 and ids[-1] in self._chat.stop_token_ids:
            if self._keep_if_room(ids[:-1]):
                self._look(ids[-1:])
        else:
            self._keep_if_room(ids)

    def _end_by_itself(self) -> None:
        budget = self._budget
        too_short = self._num_thinking < budget.min_thinking_tokens
        if not (too_short or self._num_ignored < budget.num_ignore) or not self._has_room_to_go_on():
            self._close(forced=False)
            return
        if too_short:
            self._num_suppressed += 1
        else:
            self._num_ignored += 1
        self._num_in_round = 0
        self._keep(self._ignore_ids, "forced")
        self._just_suppressed = True  # min_tokens=1, so that an empty ignore text cannot stop at once again

    def _has_room_to_go_on(self) -> bool:
        """For the ignore text and one more token."""
        return min(self._left(new_round=True)) >= len(self._ignore_ids) + 1

    def _keep_if_room(self, ids: tuple[int, ...]) -> bool:
        """Keeps a would-be delimiter as thinking. Where it does not fit, it is dropped and thinking closes."""
        if len(ids) > self._room():
            self._close(forced=True)
            return False
        self._keep(ids, "sampled")
        if self._room() == 0:
            self._close(forced=True)
            return False
        return True

    def _close(self, forced: bool) -> None:
        limit_left, context_left = self._left()
        by_budget = type(self._budget.max_thinking_tokens) is int and limit_left <= context_left
        self._ended = "natural" if not forced else "budget" if by_budget else "context"
        thinking = [t for s in self._segments for t in s.token_ids]
        self.phase = "answer"
        self._keep(self._chat.close_ids(forced, self._budget.cue, thinking), "forced")

    # answer and bookkeeping

    def _take_answer(self, received: tuple[int, ...], finish_reason: str) -> None:
        self._keep(received[:-1] if finish_reason == "stop" else received, "sampled")
        self._answer_finish = finish_reason
        self._done = True

    def _finish_early(self, ended: Ended, error: str | None, received: tuple[int, ...] = ()) -> None:
        if received:
            self._keep(received, "sampled")
        self._ended, self._error, self._done = ended, error, True

    def _keep(self, ids: Sequence[int], source: TokenSource) -> None:
        self._ids += ids
        if self.phase == "thinking":
            self._num_thinking += len(ids)
            self._num_in_round += len(ids)
        if ids:
            self._segments.append(Segment(self.phase, source, tuple(ids)))

    def _request(
        self, max_tokens: int, stops: frozenset[int], min_tokens: int = 0, suffix: tuple[int, ...] = ()
    ) -> Request:
        prefix = (*self._ids, *suffix)
        seed = derived_seed(self._seed, len(prefix)) if self._sampling.temperature > 0 else None
        return Request(prefix, max_tokens, stops, min_tokens, self._sampling, seed, self._with_logprobs)


def derived_seed(*parts: object) -> int:
    """A 31-bit seed from any values, the same on every machine: run seed, question id, repeat, prefix length."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "little") >> 1


def closes_on_a_loop(ids: Sequence[int], max_period: int = 64, min_repeats: int = 4, min_span: int = 32) -> bool:
    """Do the ids end in one span repeated at least `min_repeats` times, `min_span` tokens in all?"""
    for period in range(1, min(max_period, len(ids) // min_repeats) + 1):
        span = max(period * min_repeats, min_span)
        if span <= len(ids) and list(ids[-span:-period]) == list(ids[-span + period :]):
            return True
    return False
