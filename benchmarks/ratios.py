"""How much faster one way is than another, from repeats of both."""

import math
import statistics
from collections.abc import Sequence
from typing import Protocol

UNITS = ("seconds", "cpu_seconds")


class Measured(Protocol):
    """cpu_seconds: of all threads at work, which other processes of the machine do not lengthen by much."""

    num_tokens: int
    seconds: float
    cpu_seconds: float


def ratio_lines(what: str, ours: Sequence[Measured], others: Sequence[Measured], digits: int = 3) -> list[str]:
    """Of tokens a second, and of tokens a processor second: a line each. ours, others: a measurement a repeat."""
    lines = []
    for unit in UNITS:
        pairs = zip(ours, others, strict=True)
        ratios = [a.num_tokens / getattr(a, unit) / (b.num_tokens / getattr(b, unit)) for a, b in pairs]
        mean, low, high = (f"{value:.{digits}f}" for value in interval(ratios))
        repeats = ", ".join(f"{ratio:.{digits}f}" for ratio in ratios)
        lines.append(f"tokens by {unit.replace('_', ' ')}, {what}: {mean} [{low}, {high}] (repeats: {repeats})")
    return lines


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """(geometric mean, lower, upper): 95%, Student's of the logarithms; infinite for a single one.

    Of logarithms, because a ratio and its inverse then have the same interval. Student's, because there are some five
    repeats: a bootstrap of so few sees no value beyond theirs, and is too narrow.
    """
    from scipy.stats import t

    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    half = t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
