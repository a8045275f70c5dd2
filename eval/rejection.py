"""Rejection sampling on the length of thinking: sample until one thinks no longer than a limit (paper, section 5.2).

A try is one sample at temperature > 0, with a seed of its own. A limit accepts the first try, by number, whose thinking
ended by itself within it. One pool of tries serves all limits: whether a longer one accepts a try is told by the same
thinking. At most `max_tries` are made; a question whose limit accepts none of them is exhausted, and counts as wrong.

What a limit costs is what it would have cost alone: every rejected try up to the limit, the accepted one, its answer.
Hard questions need more tries and are not left out, so the limits are compared on the same questions. (The released
evaluator tried without bound and without seeds, and counted the end of thinking towards the limit.)
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from core.config import UserError, option
from core.types import Sample
from inference.budget import ForcedDecode
from inference.engine import Delta, Driver, Request, Sampling


@dataclass
class RejectionConfig:
    """Rejection sampling at several limits, each a cell of its own."""

    limits: list[int] = option([], help="thinking tokens, delimiters not counted")
    max_tries: int = option(64, help="per question, repeat and limit")
    expected_tries: list[int] = option([], help="eval.run dry_run: for each limit", affects_result=False)
    repeats: int = option(1, help="times that each question is answered so")
    window: int = option(4, help="tries of a question made at a time; changes no result", affects_result=False)


def check_rejection(config: RejectionConfig, sampling: Sampling) -> None:
    """Raises UserError for what cannot be sampled."""
    if not config.limits or min(config.limits) < 1 or len(set(config.limits)) < len(config.limits):
        raise UserError(f"rejection.limits={config.limits}: expected different numbers of at least 1")
    if config.expected_tries and len(config.expected_tries) != len(config.limits):
        raise UserError("rejection.expected_tries: one number for each of the limits")
    if min(config.max_tries, config.window, config.repeats) < 1:
        raise UserError("rejection: max_tries, window and repeats are at least 1")
    if sampling.temperature == 0:
        raise UserError("rejection: at temperature 0 all tries are one; set sampling.temperature, e.g. 1")


def rejection_label(limit: int) -> str:
    return f"rejection max={limit}"


class Try:
    """What the driver runs: the thinking of one try, and its answer once some limit has accepted it."""

    def __init__(self, decode: ForcedDecode, number: int):
        self.decode, self.number = decode, number
        self.is_answered = False

    @property
    def phase(self) -> str:
        return self.decode.phase

    @property
    def is_done(self) -> bool:
        return self.decode.is_done

    def next_request(self) -> Request | None:
        if self.decode.phase == "answer" and not self.is_answered:
            return None
        return self.decode.next_request()

    def advance(self, delta: Delta) -> None:
        self.decode.advance(delta)


@dataclass(frozen=True)
class Outcome:
    """What one limit came to. number: of the accepted try, from 0; None where the tries were exhausted.

    num_tries, num_thinking_tokens: what it took, the rejected tries counted up to the limit.
    sample: the accepted try; of an exhausted question without any segment.
    """

    number: int | None
    num_tries: int
    num_thinking_tokens: int
    sample: Sample


class Rejection:
    """Rejection sampling of one question and repeat. Pure: it says which tries to run, and is told what has landed.

    limits: those of config that are wanted. begin_try(number, max_thinking_tokens): the decoding of a try.
    outcomes: of each limit, complete once is_done.
    A try that failed (in the engine, or because the prompt leaves no room) fails every limit that is still open; its
    sample says why.
    """

    def __init__(
        self,
        key: Hashable,
        config: RejectionConfig,
        limits: Sequence[int],
        begin_try: Callable[[int, int], ForcedDecode],
    ):
        self.key, self.config, self._begin_try = key, config, begin_try
        self.outcomes: dict[int, Outcome] = {}
        self._num_limits = len(limits)
        self._open = sorted(limits)  # that have accepted none yet
        self._accepted: dict[int, int] = {}  # the number of the try, by limit; its answer may be in flight
        self._lengths: list[int] = []  # thinking tokens of the tries looked at, which are looked at by number
        self._landed: dict[int, Try] = {}
        self._num_begun = 0

    @property
    def is_done(self) -> bool:
        return len(self.outcomes) == self._num_limits

    def begin(self) -> list[Try]:
        """As many tries as the window has room for. A try thinks no longer than the longest open limit needs, which is
        one token more: the one that would end it."""
        tries = []
        last = min(self.config.max_tries, len(self._lengths) + self.config.window)
        while self._open and self._num_begun < last:
            tries.append(Try(self._begin_try(self._num_begun, self._open[-1] + 1), self._num_begun))
            self._num_begun += 1
        return tries

    def land(self, one: Try) -> list[Try]:
        """A try has thought, or has answered. What to run next."""
        if one.is_answered:
            for limit in [limit for limit, number in self._accepted.items() if number == one.number]:
                self._close(limit, one.number, one.decode.sample())
            return []
        self._landed[one.number] = one
        answers = []
        while self._open and len(self._lengths) in self._landed:
            if self._look(self._landed[len(self._lengths)]):
                answers.append(self._landed[len(self._lengths) - 1])
        return answers + self.begin()

    def _look(self, one: Try) -> bool:
        """The next try by number: which limits accept it? True: some do, so that it is to be answered."""
        length = len(one.decode.thinking_ids)
        self._lengths.append(length)
        accepting = [limit for limit in self._open if one.decode.ended == "natural" and length <= limit]
        self._open = [limit for limit in self._open if limit not in accepting]
        self._accepted |= {limit: one.number for limit in accepting}
        one.is_answered = bool(accepting)
        if one.decode.is_done or len(self._lengths) == self.config.max_tries:
            self._give_up(one.decode)
        return bool(accepting)

    def _give_up(self, last: ForcedDecode) -> None:
        """On the limits still open."""
        rejected = last.fork(seed=0)  # other limits may have accepted it
        rejected.cancel()
        ended = last.ended if last.is_done else "budget"
        sample = replace(rejected.sample(), segments=(), ended=ended, mean_logprob=None)
        for limit in self._open:
            self._close(limit, None, sample)
        self._open = []

    def _close(self, limit: int, number: int | None, sample: Sample) -> None:
        num_tries = len(self._lengths) if number is None else number + 1
        num_tokens = sum(min(length, limit) for length in self._lengths[:num_tries])
        self.outcomes[limit] = Outcome(number, num_tries, num_tokens, sample)


def run_rejections(driver: Driver, rejections: Iterable[Rejection]) -> Iterator[Rejection]:
    """Runs them side by side; yields each when it is done."""
    waiting = iter(rejections)
    in_flight: dict[Hashable, Rejection] = {}

    def add(rejection: Rejection, tries: list[Try]) -> None:
        for one in tries:
            in_flight[rejection.key, one.number] = rejection
            driver.add((rejection.key, one.number), one)

    while True:
        while driver.has_room and (rejection := next(waiting, None)) is not None:
            add(rejection, rejection.begin())
        if not in_flight:
            return
        for key, one in driver.step():
            if (rejection := in_flight.pop(key, None)) is None:
                continue  # cancelled below, in this very step
            add(rejection, rejection.land(one))
            if rejection.is_done:
                for other in [other for other, owner in in_flight.items() if owner is rejection]:
                    del in_flight[other]  # tries that nobody needs any more
                    driver.cancel(other)
                yield rejection
