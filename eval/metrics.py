"""The three measures of test-time scaling (paper, section 3.2; PAPER 5), and intervals for scores on few questions.

A run is one evaluation of a benchmark at one setting; the measures are over the runs of one method. Accuracies are in
percent, scores of questions between 0 and 1.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist, fmean

Limit = float | tuple[float | None, float | None] | None
CONFIDENCE = 0.95


def control(thinking_tokens: Sequence[float], limits: Sequence[Limit]) -> float:
    """Share of the runs that keep to their limits, in percent: 100/|A| * sum of 1[a_min <= a <= a_max].

    thinking_tokens: mean thinking tokens a of each run.
    limits: for each run its upper limit, a pair (a_min, a_max) with None for an open side, or None for no limit.
        Both ends are included. To get Table 3: step-conditional control 100 tokens for each step asked for;
        class-conditional control "short" (None, mean of the default run) and "long" (mean of the default run, None).

    Raises ValueError for no runs, or another number of limits.
    """
    if len(thinking_tokens) == 0 or len(thinking_tokens) != len(limits):
        raise ValueError(f"{len(thinking_tokens)} runs, {len(limits)} limits: one limit for each of at least one run")
    return 100.0 * fmean(_within(tokens, limit) for tokens, limit in zip(thinking_tokens, limits, strict=True))


def _within(tokens: float, limit: Limit) -> bool:
    low, high = limit if isinstance(limit, tuple | list) else (None, limit)
    return (low is None or tokens >= low) and (high is None or tokens <= high)


def scaling(thinking_tokens: Sequence[float], accuracies_percent: Sequence[float]) -> float:
    """Mean slope over all pairs of runs, in percentage points per doubling of thinking.

    mean over pairs b > a of (f(b) - f(a)) / (b - a), with a = log2(mean thinking tokens), f = accuracy in percent.
    The paper's formula does not say log2, but only this reproduces its Table 3 (PAPER 5). Use exact accuracies:
    rounded to one decimal, k/30 moves the result by up to 0.4.

    Pairs of equal thinking have no slope and are left out, and so are runs with no thinking at all, from which nothing
    doubles. nan where no pair remains. Raises ValueError for unequal lengths or a negative number of tokens.
    """
    if any(tokens < 0 for tokens in thinking_tokens):
        raise ValueError("a run with fewer than 0 thinking tokens")
    runs = zip(thinking_tokens, accuracies_percent, strict=True)
    points = [(math.log2(tokens), accuracy) for tokens, accuracy in runs if tokens > 0]
    slopes = [(fb - fa) / (b - a) for (a, fa), (b, fb) in combinations(points, 2) if a != b]
    return fmean(slopes) if slopes else math.nan


def performance(accuracies_percent: Sequence[float]) -> float:
    """The best run: max f(a), in percent."""
    return float(max(accuracies_percent))


def mean_interval(values_by_question: Mapping[Hashable, Sequence[float]]) -> tuple[float, float, float]:
    """(mean, low, high): the mean score over questions with its 95% interval, question-clustered.

    values_by_question: for each question the scores (0 to 1) of its repeats, which are one cluster; every question
        counts the same.

    Wilson's interval at the effective number of samples p (1 - p) / s^2, where s^2 is the variance of the question
    means over the number of questions (Korn and Graubard 1998 do this for surveys). With one repeat of 0 or 1 that is
    the Wilson interval itself; more repeats of the same questions narrow it only as far as questions agree; it stays
    within 0..1 and keeps a width where every answer is right. Never more effective samples than samples.

    Raises ValueError for no questions, a question without scores, or a score outside 0..1.
    """
    samples = list(values_by_question.values())
    if not samples or not all(len(values) > 0 for values in samples):
        raise ValueError("mean_interval needs at least one question, and one score for each")
    if not all(0 <= value <= 1 for values in samples for value in values):
        raise ValueError("mean_interval takes scores between 0 and 1")
    means = [fmean(values) for values in samples]
    p = fmean(means)
    variance_of_mean = sum((m - p) ** 2 for m in means) / len(means) ** 2
    n = len(means)
    if 0 < p < 1:
        num_samples = sum(len(values) for values in samples)
        n = min(p * (1 - p) / variance_of_mean, num_samples) if variance_of_mean > 0 else num_samples
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return p, max(0.0, min(p, center - half)), min(1.0, max(p, center + half))


def paired_difference(
    a: Mapping[Hashable, float], b: Mapping[Hashable, float], num_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high): mean of a - b over the same questions, with a 95% paired bootstrap interval.

    a, b: mean score of each question. Questions are drawn with replacement, percentile interval: the paper's method
    for its Table 2, with its 10,000 samples. The same input and seed give the same interval, in any order of keys.

    Raises ValueError unless a and b have the same questions, at least two.
    """
    if a.keys() != b.keys() or len(a) < 2:
        only = len(a.keys() ^ b.keys())
        raise ValueError(
            f"paired_difference needs the same two or more questions on both sides; {only} are on one only"
        )
    import numpy as np
    from scipy.stats import bootstrap

    differences = np.array([a[question] - b[question] for question in sorted(a, key=str)], dtype=float)
    interval = bootstrap(
        (differences,),
        np.mean,
        n_resamples=num_resamples,
        batch=1000,  # 1000 x questions at a time: 10 MB at 1,319 questions
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(differences.mean()), float(interval.low), float(interval.high)


def flips(before: Mapping[Hashable, bool | None], after: Mapping[Hashable, bool | None]) -> tuple[int, int]:
    """(wrong to right, right to wrong): what a setting changed, sample by sample.

    before, after: correct or not, by question (or question and repeat). Where either is None (not gradable) there is
    no flip. Raises ValueError for different keys or values that are not 0, 1 or None.
    """
    if before.keys() != after.keys():
        raise ValueError(
            f"flips needs the same keys on both sides; {len(before.keys() ^ after.keys())} are on one only"
        )
    pairs = [(before[key], after[key]) for key in before]
    if not {value for pair in pairs for value in pair} <= {False, True, None}:
        raise ValueError("flips counts right and wrong answers, not mean scores")
    return sum(pair == (False, True) for pair in pairs), sum(pair == (True, False) for pair in pairs)
