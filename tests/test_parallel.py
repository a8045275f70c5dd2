"""Exact estimators against their definition: the mean over every subset, one at a time."""

import time
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.parallel import (
    Candidate,
    answer_classes,
    best_of_k,
    majority_at_k,
    pass_at_k,
    weighted_vote_at_k,
)

SCORES = [0.0, 0.1, 0.2, 0.3, 0.75, 1.0]  # 0.1 + 0.2 and 0.3 are one sum, whatever floats say


@st.composite
def drawn(draw, max_size=8):
    """(candidates, k): few classes and scores, so that ties are common; a class is right or wrong as a whole or not."""
    size = draw(st.integers(1, max_size))
    answers = draw(st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=size, max_size=size))
    correct = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    scores = draw(st.lists(st.sampled_from(SCORES), min_size=size, max_size=size))
    agrees = draw(st.booleans())
    if agrees:
        correct = [answer == 1 for answer in answers]
    candidates = [Candidate(*c) for c in zip(answers, correct, scores, strict=True)]
    return candidates, draw(st.integers(1, size))


def over_all_subsets(value, candidates, k):
    subsets = list(combinations(candidates, k))
    return float(sum(value(list(subset)) for subset in subsets) / Fraction(len(subsets)))


def vote(candidates, weight):
    """value(subset) of the vote: who has the most, and the mean share correct of those (over all candidates)."""

    def value(subset):
        totals = {}
        for c in subset:
            if c.answer is not None:
                totals[c.answer] = totals.get(c.answer, Fraction(0)) + weight(c)
        winners = [answer for answer, total in totals.items() if total == max(totals.values())]
        shares = []
        for winner in winners:
            correct = [c.correct for c in candidates if c.answer == winner]
            shares.append(Fraction(sum(correct), len(correct)))
        return sum(shares) / len(shares) if shares else Fraction(0)

    return value


def best(subset):
    answered = [c for c in subset if c.answer is not None]
    first = [c.correct for c in answered if c.score == max(c.score for c in answered)]
    return Fraction(sum(first), len(first)) if first else Fraction(0)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(drawn())
def test_estimators_are_the_mean_over_all_subsets(case):
    candidates, k = case
    any_correct = over_all_subsets(lambda subset: Fraction(any(c.correct for c in subset)), candidates, k)
    assert pass_at_k(candidates, k) == pytest.approx(any_correct)
    assert best_of_k(candidates, k) == pytest.approx(over_all_subsets(best, candidates, k))
    majority = over_all_subsets(vote(candidates, lambda c: 1), candidates, k)
    assert majority_at_k(candidates, k) == pytest.approx(majority)
    weighted = over_all_subsets(vote(candidates, lambda c: Fraction(str(c.score))), candidates, k)
    assert weighted_vote_at_k(candidates, k) == pytest.approx(weighted)
    assert weighted_vote_at_k(candidates, k).stderr == 0


@settings(max_examples=20, deadline=None)
@given(drawn(), st.randoms())
def test_order_and_numbering_of_classes_do_not_matter(case, random):
    candidates, k = case
    shuffled = [Candidate(None if c.answer is None else 7 - c.answer, c.correct, c.score) for c in candidates]
    random.shuffle(shuffled)
    for method in (pass_at_k, best_of_k, majority_at_k, weighted_vote_at_k):
        assert method(shuffled, k) == pytest.approx(method(candidates, k))


def test_known_values():
    half = [Candidate(0, True, 0.9), Candidate(0, True, 0.5), Candidate(1, False, 0.9), Candidate(None, False, 1.0)]
    assert pass_at_k(half, 1) == majority_at_k(half, 1) == best_of_k(half, 1) == 0.5
    assert majority_at_k(half, 4) == 1.0
    assert best_of_k(half, 4) == 0.5  # the two scores of 0.9 share it; 1.0 has no answer
    assert weighted_vote_at_k(half, 4) == 1.0
    assert pass_at_k(half, 2) == pytest.approx(5 / 6)
    silent = [Candidate(None, False)] * 3
    assert (
        pass_at_k(silent, 2) == best_of_k(silent, 2) == majority_at_k(silent, 2) == weighted_vote_at_k(silent, 2) == 0
    )


def test_equal_weights_are_a_majority_vote():
    candidates = [Candidate(i % 5 if i % 4 else None, i % 5 == 1, 0.3) for i in range(12)]
    for k in range(1, 13):
        assert weighted_vote_at_k(candidates, k) == pytest.approx(majority_at_k(candidates, k))


def test_sampled_weighted_vote_is_labelled_unbiased_and_repeatable(monkeypatch):
    candidates = [Candidate(i % 3, i % 3 == 0, ((i * 7) % 10) / 10) for i in range(14)]
    exact = weighted_vote_at_k(candidates, 6)
    monkeypatch.setattr("eval.parallel.MAX_SUBSETS", 10)
    sampled = weighted_vote_at_k(candidates, 6)
    assert exact.stderr == 0 < sampled.stderr < 0.01
    assert abs(sampled - exact) < 4 * sampled.stderr
    assert sampled == weighted_vote_at_k(candidates, 6) != weighted_vote_at_k(candidates, 6, seed=1)
    many = [weighted_vote_at_k(candidates, 6, seed=seed) for seed in range(25)]
    assert abs(sum(many) / 25 - exact) < 4 * sampled.stderr / 5


def test_64_candidates_take_milliseconds():
    candidates = [Candidate(min(i // 6, i % 13), i % 3 == 0, i / 64) for i in range(64)]
    before = time.process_time()
    curve = [majority_at_k(candidates, k) for k in range(1, 65)]
    all_different = [Candidate(i, i == 0) for i in range(64)]
    assert [majority_at_k(all_different, k) for k in (1, 8, 64)] == pytest.approx([1 / 64] * 3)
    assert time.process_time() - before < 0.5
    assert curve[0] == pytest.approx(pass_at_k(candidates, 1))
    assert 0 < weighted_vote_at_k(candidates, 32).stderr < 0.01


def test_classes_of_answers():
    asked = []

    def same(a, b):
        asked.append((a, b))
        return a.strip("0.") == b.strip("0.")

    assert answer_classes(["7", None, "8", "7.0", "7", "8.0", "9"], same) == [0, None, 1, 0, 0, 1, 2]
    assert asked == [("7", "8"), ("7", "7.0"), ("7", "8.0"), ("8", "8.0"), ("7", "9"), ("8", "9")]
    assert answer_classes([], same) == []


@pytest.mark.parametrize("method", [pass_at_k, best_of_k, majority_at_k, weighted_vote_at_k])
def test_what_cannot_be_estimated_is_refused(method):
    candidates = [Candidate(0, True)] * 3
    for k in (0, 4):
        with pytest.raises(ValueError, match="number of candidates"):
            method(candidates, k)
    with pytest.raises(ValueError, match="not a number"):
        method([Candidate(0, True, float("nan"))], 1)


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="0 or more"):
        weighted_vote_at_k([Candidate(0, True, -0.1)], 1)
    assert best_of_k([Candidate(0, True, -0.1), Candidate(1, False, -2.0)], 2) == 1.0
