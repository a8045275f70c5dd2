"""The three measures of test-time scaling (paper, section 3.2), and what a difference on few questions is worth.

A run is one evaluation of a benchmark at one setting; the measures are over the runs of one method. Accuracies are in
percent, scores of questions between 0 and 1.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, fmean, variance

Limit = float | tuple[float | None, float | None] | None
Interval = tuple[float, float, float]  # value, low, high
CONFIDENCE = 0.95
POWER = 0.8
SAME_LENGTH = 1e-9  # of log2 tokens: what two sums of the same lengths may differ by in floats


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


def _within(tokens, limit: Limit):
    """Of a number a bool, of an array an array of them."""
    low, high = limit if isinstance(limit, tuple | list) else (None, limit)
    return (tokens >= (-math.inf if low is None else low)) & (tokens <= (math.inf if high is None else high))


def scaling(thinking_tokens: Sequence[float], accuracies_percent: Sequence[float]) -> float:
    """Mean slope over all pairs of runs, in percentage points per doubling of thinking.

    mean over pairs b > a of (f(b) - f(a)) / (b - a), with a = log2(mean thinking tokens), f = accuracy in percent.
    The paper's formula does not say log2, but only this reproduces its Table 3. Use exact accuracies: rounded to one
    decimal, k/30 moves the result by up to 0.4.

    Pairs of equal thinking have no slope and are left out, and so are runs with no thinking at all, from which nothing
    doubles. nan where no pair remains. Pairs of nearly equal thinking count as much as all others, with slopes that can
    be huge (in the paper's Table 11, 7,108 and 7,158 tokens: -329); `measures` shows what that leaves of the mean.
    Raises ValueError for unequal lengths or a negative number of tokens.
    """
    if any(tokens < 0 for tokens in thinking_tokens):
        raise ValueError("a run with fewer than 0 thinking tokens")
    runs = zip(thinking_tokens, accuracies_percent, strict=True)
    points = [(math.log2(tokens), accuracy) for tokens, accuracy in runs if tokens > 0]
    pairs = combinations(points, 2)
    slopes = [(fb - fa) / (b - a) for (a, fa), (b, fb) in pairs if abs(b - a) > SAME_LENGTH]
    return fmean(slopes) if slopes else math.nan


def performance(accuracies_percent: Sequence[float]) -> float:
    """The best run: max f(a), in percent."""
    return float(max(accuracies_percent))


@dataclass(frozen=True)
class Measures:
    """The three measures of one method, each with its 95% interval."""

    control: Interval  # percent
    scaling: Interval  # percentage points per doubling of thinking tokens
    performance: Interval  # percent
    num_questions: int


def measures(
    thinking_tokens: Mapping[str, Mapping[Hashable, float]],
    scores: Mapping[str, Mapping[Hashable, float]],
    limits: Mapping[str, Limit],
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Measures:
    """Control, Scaling and Performance of the runs of one method, with intervals from a bootstrap over questions.

    thinking_tokens, scores: {run: {question: mean over its repeats}}; scores from 0 to 1. limits: as for `control`.

    Runs are over the same questions, so a resample draws questions once, for all runs together; percentile intervals.
    Resamples without a slope (all thinking equal) say nothing about Scaling and are left out of its interval, which is
    nan where none is left. Two runs that think almost equally long can change places from one resample to the next,
    and their slope its sign: the interval is then very wide, as the mean over pairs deserves. Performance is a maximum,
    which is biased upward by noise, in the resamples more so.

    Raises ValueError unless all runs have the same one or more questions.
    """
    import numpy as np

    runs = list(scores)
    questions = sorted(scores[runs[0]], key=str) if runs else []
    same = all(by_run[run].keys() == set(questions) for run in runs for by_run in (thinking_tokens, scores))
    if not questions or not same:
        raise ValueError("measures needs at least one run, and the same one or more questions in all of them")
    tokens = np.array([[thinking_tokens[run][q] for run in runs] for q in questions], dtype=float)
    percents = np.array([[100 * scores[run][q] for run in runs] for q in questions], dtype=float)
    own_limits = [limits[run] for run in runs]
    resampled = []
    for counts in _bootstrap_counts(len(questions), num_resamples, seed):
        # divided last: lengths that are all at the limit stay there, to the last bit
        a, f = counts @ tokens / len(questions), counts @ percents / len(questions)
        controls = np.mean([_within(a[:, i], limit) for i, limit in enumerate(own_limits)], axis=0)
        resampled.append([100.0 * controls, _scalings(a, f), f.max(axis=1)])
    controls, scalings, performances = np.concatenate(resampled, axis=1)
    a, f = tokens.mean(axis=0).tolist(), percents.mean(axis=0).tolist()
    return Measures(
        (control(a, own_limits), *_percentiles(controls)),
        (scaling(a, f), *_percentiles(scalings)),
        (performance(f), *_percentiles(performances)),
        len(questions),
    )


def _bootstrap_counts(num_questions: int, num_resamples: int, seed: int):
    """Yields arrays of resamples x questions: how often each question is in each resample. At most 1,000 resamples at a
    time: 10 MB at 1,319 questions."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, 1000):
        size = min(1000, num_resamples - start)
        drawn = rng.integers(num_questions, size=(size, num_questions)) + num_questions * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_questions).reshape(size, -1).astype(float)


def _scalings(thinking_tokens, percents):
    """`scaling` of each row of two arrays (resamples x runs)."""
    import numpy as np

    a = np.log2(np.where(thinking_tokens > 0, thinking_tokens, np.nan))
    first, second = np.triu_indices(a.shape[1], k=1)
    doublings = a[:, second] - a[:, first]
    counts = np.abs(doublings) > SAME_LENGTH  # False for nan
    slopes = np.where(counts, (percents[:, second] - percents[:, first]) / np.where(counts, doublings, 1.0), 0.0)
    num_pairs = counts.sum(axis=1)
    return np.where(num_pairs > 0, slopes.sum(axis=1) / np.maximum(num_pairs, 1), np.nan)


def _percentiles(values) -> tuple[float, float]:
    import numpy as np

    values = values[~np.isnan(values)]
    if len(values) == 0:
        return math.nan, math.nan
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def mean_interval(values_by_question: Mapping[Hashable, Sequence[float]]) -> Interval:
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
) -> Interval:
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


def mcnemar(before: Mapping[Hashable, bool | None], after: Mapping[Hashable, bool | None]) -> float:
    """Two-sided p-value of McNemar's exact test: are flips in one direction as likely as in the other?

    before, after: as for `flips`, of independent samples: one repeat a question, or one verdict over its repeats.
    1.0 where nothing flipped.
    """
    from scipy.stats import binomtest

    wrong_to_right, right_to_wrong = flips(before, after)
    num_flips = wrong_to_right + right_to_wrong
    return float(binomtest(wrong_to_right, num_flips).pvalue) if num_flips else 1.0


def questions_needed(
    a: Mapping[Hashable, float],
    b: Mapping[Hashable, float],
    difference: float | None = None,
    power: float = POWER,
) -> float:
    """How many questions like these would show the difference between a and b, at 95% confidence (two-sided).

    a, b: mean score of each question, paired; they say how much questions vary.
    difference: of mean scores, the one to be seen; None is the one observed.
    power: the chance to see it, where it is real.

    n = ((z_0.975 s_0 + z_power s_1) / difference)^2, rounded up, at least 2; inf where there is no difference.
    Single right or wrong answers: s_0^2 is the share of questions that flip (at least the difference) and s_1^2 =
    s_0^2 - difference^2, for McNemar's test (Connor 1987, Biometrics 43:207); the exact test falls short by up to four
    points of power. Means over repeats: both are the variance of a - b over questions, noise of the repeats included
    (Miller 2024, arXiv 2411.00640, on power).
    A plan, and a rough one where the numbers behind it come from few questions.
    Raises ValueError unless a and b have the same questions, at least two.
    """
    difference, s_0, s_1 = _spread(a, b, difference)
    if difference == 0:
        return math.inf
    z = NormalDist().inv_cdf
    return max(2, math.ceil(((z((1 + CONFIDENCE) / 2) * s_0 + z(power) * s_1) / difference) ** 2))


def power_at(
    num_questions: int, a: Mapping[Hashable, float], b: Mapping[Hashable, float], difference: float | None = None
) -> float:
    """Chance that so many questions show the difference: the inverse of `questions_needed`."""
    difference, s_0, s_1 = _spread(a, b, difference)
    above = abs(difference) * math.sqrt(num_questions) - NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * s_0
    return NormalDist().cdf(above / s_1) if s_1 > 0 else float(above > 0)


def _spread(a, b, difference: float | None) -> tuple[float, float, float]:
    """(difference, s_0, s_1): standard deviations of a question's a - b without a difference, and with it."""
    if a.keys() != b.keys() or len(a) < 2:
        raise ValueError("power needs the same two or more questions on both sides")
    differences = [a[question] - b[question] for question in a]
    difference = fmean(differences) if difference is None else difference
    if set(differences) <= {-1, 0, 1}:
        flipped = max(fmean(map(abs, differences)), abs(difference))
        return difference, math.sqrt(flipped), math.sqrt(flipped - difference**2)
    deviation = math.sqrt(variance(differences))
    return difference, deviation, deviation
