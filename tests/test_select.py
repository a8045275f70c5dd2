import random
from collections import Counter

import pytest

from core.types import Question, Trace
from data.select import draw_rank, select


def pool(sizes: dict[str, int]) -> list[Trace]:
    """Per domain traces of 1, 2, ... thinking tokens."""
    return [
        Trace(Question.of(f"{domain} {i}", "1", "integer", "test", domain), "thinking", "1", "solver", i + 1)
        for domain, size in sizes.items()
        for i in range(size)
    ]


def texts(traces: list[Trace]) -> list[str]:
    return [t.question.text for t in traces]


def test_same_seed_same_draw_whatever_the_order_of_the_input():
    traces = pool({"a": 30, "b": 5, "c": 80}) + [
        Trace(Question.of(f"tie {i}", "1", "integer", "test", "a"), "thinking", "1", "solver", 30) for i in range(9)
    ]
    drawn = texts(select(traces, 50, seed=3))
    shuffled = random.Random(0).sample(traces, len(traces))
    assert texts(select(shuffled, 50, seed=3)) == texts(select(iter(traces[::-1]), 50, seed=3)) == drawn
    assert texts(select(traces, 50, seed=4)) != drawn
    assert texts(select(traces, 20, seed=3)) == drawn[:20]  # a smaller selection is the beginning of a larger one


def test_the_same_on_every_machine():
    drawn = texts(select(pool({"a": 4, "b": 4}), 5, seed=0))
    assert drawn == ["b 1", "a 3", "b 3", "b 0", "b 2"]


def test_without_replacement_and_all_where_there_are_not_more():
    traces = pool({"a": 7, "b": 2})
    assert len(set(texts(select(traces, 5, seed=0)))) == 5
    assert sorted(texts(select(traces, 100, seed=0))) == sorted(texts(traces))
    assert select([], 5, seed=0) == []


def test_domains_are_balanced_however_large_they_are():
    counts = Counter(t.question.domain for t in select(pool({"small": 400, "large": 4000, "tiny": 3}), 600, seed=0))
    assert counts["tiny"] == 3
    assert abs(counts["small"] - counts["large"]) < 4 * 600**0.5


def test_longer_thinking_is_preferred_as_two_to_the_minus_rank():
    traces = pool({"a": 20})
    first = Counter(select(traces, 1, seed)[0].num_thinking_tokens for seed in range(2000))
    for rank in range(4):
        expected = 2000 * 2 ** -(rank + 1)
        assert abs(first[20 - rank] - expected) < 4 * expected**0.5


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5000])
def test_draw_rank_has_the_truncated_distribution(num_ranks):
    rng = random.Random(num_ranks)
    drawn = Counter(draw_rank(num_ranks, rng) for _ in range(7000))
    weights = [2.0**-r for r in range(min(num_ranks, 12))]
    for rank, weight in enumerate(weights[:3]):
        expected = 7000 * weight / sum(weights)
        assert abs(drawn[rank] - expected) <= 4 * expected**0.5
    assert max(drawn) < num_ranks
