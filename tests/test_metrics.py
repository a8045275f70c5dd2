"""The measures and their intervals against scipy, naive code and simulation (the paper's: test_paper_tables.py)."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from eval.metrics import (
    _bootstrap_counts,
    control,
    flips,
    mcnemar,
    mean_interval,
    measures,
    paired_difference,
    performance,
    power_at,
    questions_needed,
    scaling,
)


def test_scaling_is_the_slope_of_a_line_in_log2():
    tokens = [64, 100, 700, 5000]
    assert scaling(tokens, [3 + 7 * math.log2(t) for t in tokens]) == pytest.approx(7)
    assert scaling(tokens[::-1], [3 + 7 * math.log2(t) for t in tokens[::-1]]) == pytest.approx(7)


def test_scaling_leaves_out_pairs_without_a_slope():
    assert scaling([128, 128, 256], [10, 30, 40]) == pytest.approx((30 + 10) / 2)
    assert scaling([0, 128, 256], [1, 10, 40]) == pytest.approx(30)
    assert math.isnan(scaling([128, 128], [10, 30]))
    assert math.isnan(scaling([128], [10]))
    assert math.isnan(scaling([], []))
    assert math.isnan(scaling([0.1 + 0.2, 0.3], [10, 30]))  # one length, two roundings
    with pytest.raises(ValueError):
        scaling([-1, 2], [0, 0])
    with pytest.raises(ValueError):
        scaling([1, 2], [0])


def test_control_limits():
    assert control([100, 100, 100, 100], [100, (100, 200), (None, 99), None]) == 75
    assert control([50.5], [[50, 51]]) == 100
    with pytest.raises(ValueError):
        control([1, 2], [3])
    with pytest.raises(ValueError):
        control([], [])


@pytest.mark.parametrize(("right", "total"), [(0, 30), (30, 30), (1, 2), (17, 30), (465, 500), (1, 1)])
def test_mean_interval_of_single_answers_is_wilsons(right, total):
    mean, low, high = mean_interval({i: [float(i < right)] for i in range(total)})
    wilson = binomtest(right, total).proportion_ci(method="wilson")
    assert (mean, low, high) == pytest.approx((right / total, wilson.low, wilson.high))


def test_repeats_narrow_the_interval_only_where_questions_vary():
    single = mean_interval({i: [i % 2] for i in range(30)})
    same_again = mean_interval({i: [i % 2] * 8 for i in range(30)})
    assert same_again == pytest.approx(single)  # 240 answers, but the same 30 questions
    noisy = mean_interval({i: [0, 1] * 4 for i in range(30)})
    independent = mean_interval({i: [i % 2] for i in range(240)})
    assert noisy == pytest.approx(independent)  # never better than as many independent answers


def test_mean_interval_covers():
    rng = np.random.default_rng(0)
    truth, num_covered = 0.5, 0  # abilities Beta(0.5, 0.5): most questions are always or never solved
    for _ in range(500):
        answers = rng.random((30, 4)) < rng.beta(0.5, 0.5, (30, 1))
        _, low, high = mean_interval(dict(enumerate(answers.astype(float).tolist())))
        num_covered += low <= truth <= high
    assert 0.92 <= num_covered / 500 <= 0.98


def test_mean_interval_refuses_what_it_cannot_use():
    for values in ({}, {"a": []}, {"a": [2.0]}, {"a": [math.nan]}):
        with pytest.raises(ValueError):
            mean_interval(values)


def test_paired_difference_equals_a_bootstrap_by_hand():
    rng = np.random.default_rng(1)
    a = {f"q{i}": float(rng.random() < 0.7) for i in range(200)}
    b = {q: float(rng.random() < 0.5) for q in a}
    difference, low, high = paired_difference(a, b)
    d = np.array([a[q] - b[q] for q in a])
    resampled = d[np.random.default_rng(2).integers(200, size=(10_000, 200))].mean(axis=1)
    assert difference == pytest.approx(d.mean())
    assert (low, high) == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.01)
    assert low < difference < high


def test_paired_difference_is_paired_and_deterministic():
    a = {f"q{i}": float(i % 2) for i in range(50)}
    b = dict(reversed(a.items()))
    assert paired_difference(a, b) == (0, 0, 0)  # the same answers: no noise of the questions is left
    c = {q: 1.0 for q in a}
    assert paired_difference(a, c) == paired_difference(b, c)
    assert paired_difference(a, c)[0] == -0.5
    with pytest.raises(ValueError):
        paired_difference(a, {"q0": 1.0})
    with pytest.raises(ValueError):
        paired_difference({"q": 1.0}, {"q": 0.0})


def test_flips():
    before = {"a": False, "b": True, "c": True, "d": None, "e": False}
    after = {"a": True, "b": False, "c": True, "d": True, "e": True}
    assert flips(before, after) == (2, 1)
    assert flips(after, before) == (1, 2)
    with pytest.raises(ValueError):
        flips(before, {"a": True})
    with pytest.raises(ValueError):
        flips({"a": 0.5}, {"a": 1.0})


def a_grid(num_questions=60, seed=0):
    """({cell: {question: tokens}}, {cell: {question: score}}, limits) of four budgets."""
    rng = np.random.default_rng(seed)
    natural = {f"q{i:02}": int(rng.integers(100, 3000)) for i in range(num_questions)}
    tokens, scores = {}, {}
    for budget in (250, 500, 1000, 2000):
        tokens[f"{budget}"] = {q: float(min(budget, n)) for q, n in natural.items()}
        scores[f"{budget}"] = {q: float(rng.random() < budget / 2500) for q in natural}
    return tokens, scores, {"250": 250, "500": 480, "1000": (None, 850), "2000": None}


def test_measures_equal_the_measures_of_each_resample():
    tokens, scores, limits = a_grid()
    got = measures(tokens, scores, limits, num_resamples=300)
    (counts,) = _bootstrap_counts(60, 300, seed=0)
    assert counts.shape == (300, 60) and (counts.sum(axis=1) == 60).all() and counts.max() > 2
    each = []
    for row in counts:
        drawn = [f"q{i:02}" for i in range(60) for _ in range(int(row[i]))]
        a = [np.mean([tokens[cell][q] for q in drawn]) for cell in tokens]
        f = [100 * np.mean([scores[cell][q] for q in drawn]) for cell in tokens]
        each.append([control(a, list(limits.values())), scaling(a, f), performance(f)])
    a = [np.mean(list(by_question.values())) for by_question in tokens.values()]
    f = [100 * np.mean(list(by_question.values())) for by_question in scores.values()]
    value = [control(a, list(limits.values())), scaling(a, f), performance(f)]
    low, high = np.percentile(each, [2.5, 97.5], axis=0)
    for i, measure in enumerate((got.control, got.scaling, got.performance)):
        assert measure == pytest.approx((value[i], low[i], high[i]))
    assert len(set(np.array(each)[:, 0])) > 1  # a limit near the mean is kept in some resamples only


def test_measures_do_not_depend_on_the_order_of_questions_and_are_repeatable():
    tokens, scores, limits = a_grid(20)
    backward = [{c: dict(reversed(v.items())) for c, v in by_run.items()} for by_run in (tokens, scores)]
    assert measures(tokens, scores, limits, 200) == measures(*backward, limits, 200)


def test_measures_survive_equal_and_missing_thinking():
    questions = range(30)
    tokens = {"none": {q: 0.0 for q in questions}, "a": {q: 100 / 3 for q in questions}}
    scores = {"none": {q: 0.0 for q in questions}, "a": {q: float(q % 2) for q in questions}}
    limits = {"none": None, "a": None, "b": None}
    no_slope = measures(tokens, scores, limits, 50)
    assert all(math.isnan(x) for x in no_slope.scaling)
    assert no_slope.performance[0] == 50
    tokens["b"] = {q: 100 / 3 for q in questions}
    scores["b"] = {q: float(q % 3 == 0) for q in questions}
    assert all(math.isnan(x) for x in measures(tokens, scores, limits, 50).scaling)
    near = {**tokens, "b": {q: 100 / 3 + (q == 0) * 1e-3 for q in questions}}  # equal in a third of the resamples
    value, low, high = measures(near, scores, limits, 500).scaling
    assert low <= value <= high and math.isfinite(low) and math.isfinite(high)
    at_limit = measures(tokens, scores, {"none": 0, "a": 100 / 3 + 1e-9, "b": 33}, 50)
    assert at_limit.control == (pytest.approx(200 / 3),) * 3


def test_measures_refuse_runs_of_different_questions():
    tokens, scores, limits = a_grid(10)
    with pytest.raises(ValueError, match="same"):
        measures(tokens, {**scores, "250": {0: 1.0}}, limits)
    with pytest.raises(ValueError, match="at least one run"):
        measures({}, {}, {})


def outcomes(wrong_to_right, right_to_wrong, rest):
    """(before, after) over so many questions."""
    before = [False] * wrong_to_right + [True] * right_to_wrong + [i % 2 == 0 for i in range(rest)]
    after = [True] * wrong_to_right + [False] * right_to_wrong + [i % 2 == 0 for i in range(rest)]
    return dict(enumerate(before)), dict(enumerate(after))


def test_mcnemar_is_the_sign_test_of_the_flips():
    assert mcnemar(*outcomes(9, 1, 20)) == pytest.approx(2 * 11 / 2**10)
    assert mcnemar(*outcomes(1, 9, 0)) == pytest.approx(2 * 11 / 2**10)
    assert mcnemar(*outcomes(0, 0, 5)) == mcnemar(*outcomes(3, 3, 5)) == 1.0
    before, after = outcomes(9, 1, 20)
    assert mcnemar({**before, "x": None}, {**after, "x": True}) == mcnemar(before, after)
    with pytest.raises(ValueError):
        mcnemar({"a": True}, {})


@pytest.mark.parametrize(("wins", "losses", "rest"), [(30, 10, 160), (20, 15, 165), (60, 0, 140)])
def test_so_many_questions_show_a_difference_four_times_in_five(wins, losses, rest):
    before, after = ({q: float(v) for q, v in side.items()} for side in outcomes(wins, losses, rest))
    n = questions_needed(after, before)
    rng = np.random.default_rng(0)
    won, lost, _ = rng.multinomial(n, np.array([wins, losses, rest]) / 200, size=20_000).T
    is_seen = 2 * binom.cdf(np.minimum(won, lost), won + lost, 0.5) <= 0.05  # McNemar's exact test
    assert is_seen.mean() == pytest.approx(0.8, abs=0.05)
    assert power_at(n, after, before) == pytest.approx(0.8, abs=0.02)
    assert questions_needed(before, after) == n


def test_so_many_questions_show_a_difference_of_means_over_repeats():
    rng = np.random.default_rng(1)
    ability = rng.beta(1, 1, 4000)
    a, b = rng.binomial(4, np.minimum(ability + 0.05, 1)) / 4, rng.binomial(4, ability) / 4
    n = questions_needed(dict(enumerate(a)), dict(enumerate(b)))
    differences = (a - b)[rng.integers(4000, size=(4000, n))]
    t = differences.mean(axis=1) / differences.std(axis=1, ddof=1) * math.sqrt(n)
    assert (np.abs(t) > 1.96).mean() == pytest.approx(0.8, abs=0.03)
    assert power_at(n, dict(enumerate(a)), dict(enumerate(b))) == pytest.approx(0.8, abs=0.01)


def test_questions_needed_by_hand():
    before, after = ({q: float(v) for q, v in side.items()} for side in outcomes(15, 5, 80))
    by_hand = ((1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.2 - 0.01)) / 0.1) ** 2
    assert questions_needed(after, before) == math.ceil(by_hand) == 155
    published = [{q: float(v) for q, v in side.items()} for side in outcomes(45, 5, 50)]
    assert questions_needed(*published) == 23  # the worked example of powersamplesize.com for Connor's formula
    assert questions_needed(after, before, difference=0.05) > 600  # half the difference, four times the questions
    assert questions_needed(after, before, difference=0.5) < 20  # more flips than were seen, or it could not be
    assert questions_needed(after, after) == math.inf
    assert questions_needed(after, before, power=0.95) > 155
    assert questions_needed({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.0}) == 4  # 1.96 squared
    assert power_at(100, after, before, difference=0.0) == pytest.approx(0.025)  # one of the two sides
    with pytest.raises(ValueError, match="same"):
        questions_needed(after, {0: 1.0})
