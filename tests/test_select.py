import random
from collections import Counter

import pytest

from core.types import Question, Trace
from data import select as selection
from data.select import benchmark_weights, draw_rank, longest_first, random_traces, select


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


# The law of the draws, on a pool of the paper's size (24,496 questions, 50 domains; the sizes follow no law of s1's)

SIZES = {f"domain {i:02d}": 60 + 859 * i // 49 for i in range(50)}
SIZES["domain 49"] += 24_496 - sum(SIZES.values())


@pytest.fixture(scope="module")
def large_pool() -> list[Trace]:
    assert sum(SIZES.values()) == 24_496
    return pool(SIZES)


def p_values(drawn: list[Trace], traces: list[Trace]) -> tuple[float, float]:
    """Chi-square against the algorithm: of the drawn domains (uniform: none is used up), and of the rank that each
    drawn trace had among those still left of its domain (2^-rank)."""
    from scipy.stats import chisquare

    left: dict[str, list[int]] = {}
    for trace in longest_first(traces):
        left.setdefault(trace.question.domain, []).append(trace.num_thinking_tokens)
    ranks: Counter[int] = Counter()
    domains: Counter[str] = Counter()
    for trace in drawn:
        lengths = left[trace.question.domain]
        rank = lengths.index(trace.num_thinking_tokens)
        lengths.pop(rank)
        ranks[min(rank, 6)] += 1
        domains[trace.question.domain] += 1
    expected = [len(drawn) * share for share in (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 64)]
    return chisquare([domains[d] for d in left]).pvalue, chisquare([ranks[r] for r in range(7)], expected).pvalue


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_drawn_domains_and_ranks_follow_the_algorithm(large_pool, seed):
    assert min(p_values(select(large_pool, 1000, seed), large_pool)) > 0.001


@pytest.mark.slow
def test_the_chi_square_rejects_other_laws(large_pool, monkeypatch):
    monkeypatch.setattr(selection, "draw_rank", lambda n, rng: min(int(rng.expovariate(0.6)), n - 1))  # e^-0.6 = 0.55
    assert p_values(select(large_pool, 1000, 0), large_pool)[1] < 0.001
    monkeypatch.undo()
    by_size = lambda domains, weights, rng: rng.choices(sorted(domains), [SIZES[d] for d in sorted(domains)])[0]  # noqa: E731
    monkeypatch.setattr(selection, "draw_domain", by_size)
    assert p_values(select(large_pool, 1000, 0), large_pool)[0] < 0.001
    assert p_values(random_traces(large_pool, 1000, 0), large_pool)[0] < 0.001


def test_without_preference_a_domain_is_drawn_uniformly():
    from scipy.stats import chisquare

    first = Counter(select(pool({"a": 8}), 1, seed, prefer_long=False)[0].num_thinking_tokens for seed in range(1600))
    assert chisquare([first[n] for n in range(1, 9)]).pvalue > 0.001


def test_trusted_questions_come_first_and_a_draw_that_hits_one_is_spent():
    traces = pool({"a": 5, "b": 5})
    trusted = {t.question.id for t in traces if t.question.text in ("a 4", "b 2")}
    assert texts(select(traces, 2, 0, trusted)) == ["a 4", "b 2"]
    drawn = texts(select(traces, 9, 0, trusted))
    assert drawn[:2] == ["a 4", "b 2"] and len(set(drawn)) == 9
    without_hits = [t for t in texts(select(traces, 10, 0)) if t not in drawn[:2]]
    assert drawn[2:] == without_hits[:7]  # the same draws as without trusted ones, less those that hit them


def from_source(domain: str, source: str, size: int) -> list[Trace]:
    questions = (Question.of(f"{source} {domain} {i}", "1", "integer", source, domain) for i in range(size))
    return [Trace(q, "thinking", "1", "solver", 10 + i) for i, q in enumerate(questions)]


def test_the_second_stage_of_the_released_code():
    traces = [
        *from_source("geometry", "qq8933/AIME_1983_2024", 60),
        *from_source("quantum", "Idavidrein/gpqa", 30),
        *from_source("biology", "Idavidrein/gpqa", 13),
        *from_source("logic", "elsewhere", 1000),
    ]
    # half of 60 AIME over 43 GPQA questions: int(30 * 30/43) = 20, int(13 * 30/43) = 9
    assert benchmark_weights(traces) == {"geometry": 60, "quantum": 20, "biology": 9, "logic": 0}
    drawn = select(traces, 750, 0, method="benchmark")
    assert [t.question.domain for t in drawn[:700]] == [t.question.domain for t in select(traces, 700, 0)]
    rest = {t.question.domain for t in drawn[700:]}
    assert rest == {"logic"}  # the others are used up by then, and what is left has no weight
    many = traces + from_source("topology", "qq8933/AIME_1983_2024", 900)
    later = Counter(t.question.domain for t in select(many, 900, 0, method="benchmark")[700:])
    assert later["logic"] == 0 and later["topology"] == 200


def test_random_and_longest():
    traces = pool({"a": 30, "b": 300})
    drawn = random_traces(traces, 20, seed=1)
    assert texts(drawn) == texts(random_traces(traces[::-1], 20, seed=1)) != texts(random_traces(traces, 20, seed=2))
    assert len(random_traces(traces, 1000, seed=1)) == 330
    assert texts(longest_first(traces)[:2]) == ["b 299", "b 298"]
