"""The compute-optimal choice: the best method for questions of each difficulty, at a budget of tokens.

Snell et al. (2024, arXiv 2408.03314, sections 3 and 5.2) put questions into bins of difficulty and choose, per bin and
budget, how test-time compute is spent; the choice is made on one half of the questions and reported on the other. Here
a method is any cell of an evaluation, and difficulty any number per question: the mean score of samples that belong to
none of the methods, or what a scorer thinks. It must not come from the methods themselves: a bin of "questions that
method A got right" would choose A, on both halves.
"""

import bisect
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from eval.metrics import Interval, paired_difference

Scores = Mapping[str, Mapping[str, float]]  # {method: {question: mean score, 0 to 1}}


@dataclass(frozen=True)
class OptimalPoint:
    """What the choice is worth at one budget; scores from 0 to 1, intervals 95% from a paired bootstrap over questions
    that takes the choices as they are.

    optimal, single: the best method per bin, and the best for all questions, each chosen on the other half.
    oracle: the best method per bin, chosen on the questions it is reported on. No choice by bins does better; noise
        alone lifts it above `single`.
    chosen: for each half that was chosen on, the method of each bin, from low difficulty scores to high ones.
    """

    budget: float
    methods: list[str]
    optimal: float
    single: float
    oracle: float
    optimal_tokens: float
    single_tokens: float
    optimal_minus_single: Interval
    oracle_minus_optimal: Interval
    chosen: list[list[str]]
    chosen_single: list[str]


def difficulty_bins(difficulty: Mapping[str, float], num_bins: int) -> dict[str, int]:
    """{question: bin}, from 0 for the lowest numbers, of about the same size each. Questions of equal difficulty share
    the bin their middle one falls into, so bins are uneven, or fewer, where many are equal.

    Raises ValueError for no question or no bin.
    """
    if not difficulty or num_bins < 1:
        raise ValueError("difficulty_bins needs at least one question and one bin")
    ordered = sorted(difficulty.values())
    middle = {v: (bisect.bisect_left(ordered, v) + bisect.bisect_right(ordered, v)) / 2 for v in ordered}
    places = {question: int(num_bins * middle[value] / len(ordered)) for question, value in difficulty.items()}
    number = {place: i for i, place in enumerate(sorted(set(places.values())))}
    return {question: number[place] for question, place in places.items()}


def halves(bins: Mapping[str, int], seed: int = 0) -> tuple[set[str], set[str]]:
    """The questions in two halves; each bin is halved at random, the odd one goes to the smaller half."""
    rng = random.Random(seed)
    parts: tuple[set[str], set[str]] = (set(), set())
    for number in sorted(set(bins.values())):
        members = sorted(question for question in bins if bins[question] == number)
        rng.shuffle(members)
        smaller, larger = sorted(parts, key=len)
        larger.update(members[: len(members) // 2])
        smaller.update(members[len(members) // 2 :])
    return parts


def compute_optimal(
    scores: Scores,
    tokens: Scores,
    difficulty: Mapping[str, float],
    budgets: Sequence[float] | None = None,
    num_bins: int = 5,
    seed: int = 0,
    num_resamples: int = 10_000,
) -> list[OptimalPoint]:
    """The compute-optimal choice at each budget, two-fold: chosen on one half, reported on the other, both ways round.

    tokens: {method: {question: mean total tokens}}. difficulty: {question: any number}.
    budgets: mean tokens a question; a method may be chosen where its mean over all questions is within the budget. None
        is the price of the cheapest method, doubled until all are within it. Choosing by bins can spend more than the
        budget where the dear questions of two methods lie in different bins: what was spent is in optimal_tokens.

    Of equally good methods the cheaper is chosen; a bin without a question on the half that is chosen on takes the best
    single method. Budgets below every method are left out.
    Raises ValueError unless scores, tokens and difficulty are about the same two or more questions.
    """
    questions = sorted(difficulty)
    about_the_same = (by_question.keys() == difficulty.keys() for by in (scores, tokens) for by_question in by.values())
    if not scores or scores.keys() != tokens.keys() or len(questions) < 2 or not all(about_the_same):
        raise ValueError("scores, tokens and difficulty need the same two or more questions, for the same methods")
    price = {method: fmean(by_question.values()) for method, by_question in tokens.items()}
    by_price = sorted(scores, key=lambda method: (price[method], method))
    bins = difficulty_bins(difficulty, num_bins)
    parts = halves(bins, seed)
    points = []
    for budget in _doublings(*(price[by_price[i]] for i in (0, -1))) if budgets is None else budgets:
        methods = [method for method in by_price if price[method] <= budget]
        if methods:
            points.append(_point(budget, {m: scores[m] for m in methods}, tokens, bins, parts, num_resamples, seed))
    return points


def _doublings(lowest: float, highest: float) -> list[float]:
    """lowest, doubled until it reaches highest, which comes last."""
    num_doublings = math.ceil(math.log2(highest / lowest)) if lowest > 0 else 0
    return [lowest * 2**i for i in range(num_doublings)] + [highest]


def _point(budget: float, scores: Scores, tokens: Scores, bins, parts, num_resamples: int, seed: int) -> OptimalPoint:
    everything = parts[0] | parts[1]
    optimal, single = {}, {}  # {question: method}
    chosen, chosen_single = [], []
    for chosen_on, reported_on in (parts, parts[::-1]):
        best = _best(scores, chosen_on)
        per_bin = _best_per_bin(scores, chosen_on, bins, best)
        single.update({question: best for question in reported_on})
        optimal.update({question: per_bin[bins[question]] for question in reported_on})
        chosen.append([per_bin[i] for i in sorted(per_bin)])
        chosen_single.append(best)
    per_bin = _best_per_bin(scores, everything, bins, _best(scores, everything))
    oracle = {question: per_bin[bins[question]] for question in everything}
    got = [{q: scores[method[q]][q] for q in everything} for method in (optimal, single, oracle)]
    spent = [fmean(tokens[method[q]][q] for q in everything) for method in (optimal, single)]
    return OptimalPoint(
        budget,
        list(scores),
        *(fmean(score.values()) for score in got),
        *spent,
        paired_difference(got[0], got[1], num_resamples, seed),
        paired_difference(got[2], got[0], num_resamples, seed),
        chosen,
        chosen_single,
    )


def _best(scores: Scores, questions: set[str]) -> str:
    """The method with the highest mean score; of equally good ones the first."""
    return max(scores, key=lambda method: math.fsum(scores[method][q] for q in questions))


def _best_per_bin(scores: Scores, questions: set[str], bins: Mapping[str, int], otherwise: str) -> dict[int, str]:
    members: dict[int, set[str]] = {number: set() for number in sorted(set(bins.values()))}
    for question in questions:
        members[bins[question]].add(question)
    return {number: _best(scores, own) if own else otherwise for number, own in members.items()}
