"""The compute-optimal choice against a naive one, and against noise, of which it must make nothing."""

import numpy as np
import pytest

from eval.metrics import paired_difference
from eval.optimal import compute_optimal, difficulty_bins, halves


def questions(n):
    return [f"q{i:03}" for i in range(n)]


def a_case(n=101, seed=0):
    """(scores, tokens, difficulty): three methods, the dearer the better on some difficulties."""
    rng = np.random.default_rng(seed)
    difficulty = {q: int(rng.integers(0, 9)) / 8 for q in questions(n)}
    prices = {"short": 100, "long": 250, "vote": 400}
    chances = {"short": lambda d: d**2, "long": lambda d: 0.6 * d + 0.1, "vote": lambda d: d > 0.4}
    scores = {m: {q: float(rng.binomial(4, f(d)) / 4) for q, d in difficulty.items()} for m, f in chances.items()}
    tokens = {m: {q: price * (1.5 - d) for q, d in difficulty.items()} for m, price in prices.items()}
    return scores, tokens, difficulty


def naive(scores, tokens, methods, bins, parts):
    """(optimal, single, oracle) scores by question, with one loop a thing."""

    def mean(method, of):
        return sum(scores[method][q] for q in of) / len(of)

    optimal, single, oracle = {}, {}, {}
    for choose, report in (parts, reversed(parts)):
        for q in report:
            peers = [p for p in choose if bins[p] == bins[q]] or choose
            optimal[q] = scores[max(methods, key=lambda m, of=peers: mean(m, of))][q]
            single[q] = scores[max(methods, key=lambda m, of=choose: mean(m, of))][q]
            peers = [p for p in bins if bins[p] == bins[q]]
            oracle[q] = scores[max(methods, key=lambda m, of=peers: mean(m, of))][q]
    return optimal, single, oracle


def test_every_point_equals_a_naive_choice():
    scores, tokens, difficulty = a_case()
    budgets = [np.mean(list(by_question.values())) for by_question in tokens.values()]
    points = compute_optimal(scores, tokens, difficulty, budgets, num_bins=5, seed=3, num_resamples=500)
    bins = difficulty_bins(difficulty, 5)
    assert [p.methods for p in points] == [["short"], ["short", "long"], ["short", "long", "vote"]]
    for point in points:
        parts = halves(bins, seed=3)
        optimal, single, oracle = naive(scores, tokens, point.methods, bins, parts)
        assert point.optimal == pytest.approx(np.mean(list(optimal.values())))
        assert point.single == pytest.approx(np.mean(list(single.values())))
        assert point.oracle == pytest.approx(np.mean(list(oracle.values())))
        assert point.optimal_minus_single == paired_difference(optimal, single, 500, seed=3)
        assert point.oracle_minus_optimal == paired_difference(oracle, optimal, 500, seed=3)
        assert point.budget == pytest.approx(np.mean(list(tokens[point.methods[-1]].values())))
    assert points[0].optimal_minus_single == (0, 0, 0)  # one method is no choice
    assert points[0].optimal_tokens == points[0].single_tokens == points[0].budget
    assert points[-1].chosen[0][-1] != points[-1].chosen[0][0]


def test_budgets_are_doublings_unless_named():
    scores, tokens, difficulty = a_case()
    points = compute_optimal(scores, tokens, difficulty, num_resamples=50)
    lowest, highest = points[0].budget, points[-1].budget
    assert [p.budget / lowest for p in points] == [1, 2, pytest.approx(4)]
    assert highest == pytest.approx(np.mean(list(tokens["vote"].values())))
    assert [len(p.methods) for p in points] == [1, 1, 3]
    alone = compute_optimal({"long": scores["long"]}, {"long": tokens["long"]}, difficulty, num_resamples=50)
    assert [p.methods for p in alone] == [["long"]]


def test_a_method_for_each_difficulty_is_found():
    difficulty = {q: i / 200 for i, q in enumerate(questions(200))}
    scores = {
        "for hard ones": {q: float(d < 0.5) for q, d in difficulty.items()},
        "for easy ones": {q: float(d >= 0.5) for q, d in difficulty.items()},
    }
    tokens = {m: dict.fromkeys(difficulty, 10.0) for m in scores}
    (point,) = compute_optimal(scores, tokens, difficulty, budgets=[10], num_bins=2, num_resamples=200)
    assert (point.optimal, point.oracle) == (1.0, 1.0)
    assert point.chosen == [["for hard ones", "for easy ones"]] * 2
    assert point.optimal_minus_single[1] > 0.4


@pytest.mark.slow
def test_noise_gains_nothing_on_the_other_half():
    gains, oracle_gains = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        difficulty = dict(zip(questions(60), rng.random(60), strict=True))
        scores = {m: dict(zip(difficulty, rng.integers(0, 2, 60).astype(float), strict=True)) for m in "abcd"}
        tokens = {m: dict.fromkeys(difficulty, 1.0) for m in scores}
        (point,) = compute_optimal(scores, tokens, difficulty, budgets=[1], seed=seed, num_resamples=2)
        gains.append(point.optimal - 0.5)
        oracle_gains.append(point.oracle - 0.5)
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(len(gains)) < 0.02
    assert np.mean(oracle_gains) > 0.1  # which the same choice seems to gain where it was chosen


def test_bins_are_quantiles_and_keep_equal_questions_together():
    difficulty = {q: i for i, q in enumerate(questions(10))}
    assert list(difficulty_bins(difficulty, 5).values()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    mostly_zero = {q: float(i == 9) for i, q in enumerate(questions(10))}
    assert list(difficulty_bins(mostly_zero, 5).values()) == [0] * 9 + [1]
    assert set(difficulty_bins(dict.fromkeys(questions(10), 0.5), 5).values()) == {0}
    for wrong in ((difficulty, 0), ({}, 5)):
        with pytest.raises(ValueError):
            difficulty_bins(*wrong)


def test_halves_are_even_within_every_bin_and_follow_the_seed():
    bins = difficulty_bins({q: i for i, q in enumerate(questions(55))}, 5)
    first, second = halves(bins, seed=1)
    assert first | second == set(bins) and not first & second and abs(len(first) - len(second)) <= 1
    for number in range(5):
        counts = [sum(bins[q] == number for q in part) for part in (first, second)]
        assert abs(counts[0] - counts[1]) <= 1
    assert (first, second) == halves(dict(reversed(bins.items())), seed=1) != halves(bins, seed=2)


def test_a_lonely_question_takes_the_best_single_method():
    difficulty = {"a": 0, "b": 1, "c": 1, "d": 1, "e": 1}
    scores = {"x": {"a": 0.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 1.0}, "y": dict.fromkeys("abcde", 0.5)}
    tokens = {m: dict.fromkeys("abcde", 1.0) for m in scores}
    (point,) = compute_optimal(scores, tokens, difficulty, budgets=[0.5, 1], num_bins=2, num_resamples=50)
    assert ["x", "x"] in point.chosen and ["y", "x"] in point.chosen
    assert point.optimal == pytest.approx(0.8) and point.oracle == pytest.approx(0.9)


def test_other_questions_are_refused():
    scores, tokens, difficulty = a_case(10)
    for wrong in (
        (scores, tokens, dict(list(difficulty.items())[1:])),
        ({**scores, "more": {}}, tokens, difficulty),
        ({**scores, "long": {}}, tokens, difficulty),
        ({}, {}, difficulty),
    ):
        with pytest.raises(ValueError, match="same"):
            compute_optimal(*wrong)
