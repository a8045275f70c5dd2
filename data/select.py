"""Diversity sampling: the last step of the funnel, Algorithm 1 of the paper."""

import random
from collections.abc import Iterable

from core.types import Trace


def select(traces: Iterable[Trace], num_selected: int, seed: int) -> list[Trace]:
    """Draws `num_selected` traces without replacement, in drawn order; all of them where there are not more.

    Each draw takes a domain uniformly from those that still have traces, then a trace of that domain, preferring long
    thinking: the longest has weight 1, the next 1/2, the next 1/4 (weights of the released notebook, PAPER 1.9). The
    same seed gives the same draws on every machine and for every order of `traces`: ties and iteration go by name.

    Deviations. The notebook, which s1K was drawn with, took the domains in the proportions of GPQA and AIME after 700
    draws; Algorithm 1 does not, and it tunes the selection to two benchmarks. Paper and notebook also begin from a few
    hundred trusted questions (384 and 393). Neither is followed here.
    """
    rng = random.Random(seed)
    remaining: dict[str, list[Trace]] = {}
    for trace in sorted(traces, key=lambda t: (-t.num_thinking_tokens, t.question.id)):
        remaining.setdefault(trace.question.domain, []).append(trace)
    drawn: list[Trace] = []
    while remaining and len(drawn) < num_selected:
        domain = rng.choice(sorted(remaining))
        by_length = remaining[domain]
        drawn.append(by_length.pop(draw_rank(len(by_length), rng)))
        if not by_length:
            del remaining[domain]
    return drawn


def draw_rank(num_ranks: int, rng: random.Random) -> int:
    """A rank in [0, num_ranks) with probability proportional to 2^-rank.

    Counts fair coin flips and starts over beyond the last rank: exact for any length, where the weights themselves
    would underflow from rank 1075 on.
    """
    assert num_ranks > 0
    while True:
        rank = 0
        while rng.getrandbits(1):
            rank += 1
        if rank < num_ranks:
            return rank
