"""Diversity sampling: the last step of the funnel, Algorithm 1 of the paper; and what Table 2 compares it with."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from core.types import Trace

METHODS = ("uniform", "benchmark")
UNIFORM_DRAWS = 700  # selected questions from which the released notebook drew its domains like the benchmarks


def select(
    traces: Iterable[Trace],
    num_selected: int,
    seed: int,
    trusted: Collection[str] = (),
    method: str = "uniform",
    prefer_long: bool = True,
) -> list[Trace]:
    """Draws traces until there are `num_selected`, in drawn order; all of them where there are not more.

    Each draw takes a domain uniformly from those that still have traces, then a trace of that domain, preferring long
    thinking: the longest has weight 1, the next 1/2, the next 1/4 (weights of the released notebook). The
    same seed gives the same draws on every machine and for every order of `traces`: ties and iteration go by name.

    trusted: question ids that are selected before the first draw. As in the notebook they stay in the pool, so a draw
        that hits one of them is spent without gain.
    method: uniform, or benchmark: from 700 selected on, domains by `benchmark_weights`. s1K was drawn that way;
        Algorithm 1 does not say so, and it tunes the selection to two benchmarks.
    prefer_long: False draws uniformly within a domain ("1K-diverse" of Table 2).
    """
    assert method in METHODS, method
    rng = random.Random(seed)
    remaining: dict[str, list[Trace]] = {}
    for trace in longest_first(traces):
        remaining.setdefault(trace.question.domain, []).append(trace)
    drawn = [t for domain in sorted(remaining) for t in remaining[domain] if t.question.id in trusted]
    assert len(drawn) <= num_selected, "more trusted questions than are to be selected"
    weights = benchmark_weights(t for by_length in remaining.values() for t in by_length)
    while remaining and len(drawn) < num_selected:
        like_benchmarks = method == "benchmark" and len(drawn) >= UNIFORM_DRAWS
        domain = draw_domain(remaining, weights if like_benchmarks else {}, rng)
        by_length = remaining[domain]
        rank = draw_rank(len(by_length), rng) if prefer_long else rng.randrange(len(by_length))
        trace = by_length.pop(rank)
        if trace.question.id not in trusted:
            drawn.append(trace)
        if not by_length:
            del remaining[domain]
    return drawn


def random_traces(traces: Iterable[Trace], num_selected: int, seed: int) -> list[Trace]:
    """A uniform sample, in drawn order; all where there are not more."""
    traces = sorted(traces, key=lambda t: t.question.id)
    return random.Random(seed).sample(traces, min(num_selected, len(traces)))


def longest_first(traces: Iterable[Trace]) -> list[Trace]:
    return sorted(traces, key=lambda t: (-t.num_thinking_tokens, t.question.id))


def draw_domain(domains: Collection[str], weights: Mapping[str, int], rng: random.Random) -> str:
    """One of `domains` in proportion to its weight; uniformly where none of them has any."""
    names = sorted(domains)
    if not any(weights.get(name) for name in names):
        return rng.choice(names)
    return rng.choices(names, [weights.get(name, 0) for name in names])[0]


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


# The sources that the released notebook names; MATH was qfq/openaimath, then simplescaling/openaimath


def is_gpqa(source: str) -> bool:
    return source == "Idavidrein/gpqa"


def is_aime(source: str) -> bool:
    return "AIME" in source


def is_math(source: str) -> bool:
    return "openaimath" in source


def benchmark_weights(traces: Iterable[Trace]) -> dict[str, int]:
    """Weight of each domain in the notebook's second stage: its GPQA questions, scaled to half the number
    of AIME questions over all domains and cut to whole numbers, plus its AIME questions."""
    gpqa: Counter[str] = Counter()
    aime: Counter[str] = Counter()
    for question in (trace.question for trace in traces):
        gpqa[question.domain] += is_gpqa(question.source)
        aime[question.domain] += is_aime(question.source)
    scale = 0.5 * aime.total() / gpqa.total() if gpqa.total() else 0.0
    return {domain: int(gpqa[domain] * scale) + aime[domain] for domain in gpqa}
