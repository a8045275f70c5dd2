"""The plan of steps: s1's order, and a layout that loses no example and waits for nobody."""

import random

import pytest

from core.config import UserError
from train.steps import Layout, balance, check_layout, choose_layout, permutation, place, tokens_on_device, visits

QWEN_32B_HEADS = (40, 8)


def test_a_thousand_rows_make_315_steps_and_5040_visits_on_any_number_of_ranks():
    steps = visits(1000, 16, 5, seed=42)
    assert len(steps) == 315 and sum(map(len, steps)) == 5040
    for epoch in range(5):
        rows = [row for step in steps[63 * epoch : 63 * (epoch + 1)] for row in step]
        assert sorted(rows[:1000]) == list(range(1000)) and rows[1000:] == rows[:8]
    for layout in (Layout(1), Layout(16), Layout(16, 4), Layout(8, 2, 2), Layout(16, 8)):
        for step in steps[:5]:
            placed = place(step, list(range(1000)), layout)
            assert len(placed) == layout.accumulation and {len(micro) for micro in placed} == {layout.groups}
            assert sorted(row for micro in placed for group in micro for row in group) == sorted(step)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 17, 1000, 58_986])
def test_the_order_is_that_of_torch(n):
    import torch

    for seed in (0, 42, 46, 2**31 + 5):
        assert permutation(n, seed) == torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.slow
def test_the_visits_are_those_of_accelerate():
    """The published training: transformers' RandomSampler, made seedable and sharded over 16 ranks by accelerate."""
    import torch
    from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler

    sampler = SeedableRandomSampler(range(1000), data_seed=42)
    batches = torch.utils.data.BatchSampler(sampler, batch_size=1, drop_last=False)
    steps = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        ranks = []
        for rank in range(16):
            sampler.set_epoch(epoch)
            ranks.append([row for batch in BatchSamplerShard(batches, 16, rank) for row in batch])
        steps += [list(step) for step in zip(*ranks, strict=True)]
    assert steps == visits(1000, 16, 5, seed=42)


def test_the_published_layout_waits_for_the_longest_example_and_ours_hardly():
    draw = random.Random(0)
    cost = [draw.uniform(1000, 9000) for _ in range(1000)]
    steps = visits(1000, 16, 5, 42)
    published, ours = balance(steps, cost, Layout(16)), balance(steps, cost, Layout(16, 4))
    by_hand = sum(cost[row] for step in steps for row in step) / sum(16 * max(cost[r] for r in step) for step in steps)
    assert published == pytest.approx(by_hand)
    assert published < 0.65 and ours > 0.95 and balance(steps, cost, Layout(16, 16)) == 1.0


def test_each_part_of_a_pass_has_a_like_load():
    assert place([0, 1, 2, 3], [8, 1, 7, 2], Layout(2, 1, 2)) == [[[0], [2]], [[3], [1]]]
    assert place([0, 1, 2, 3], [8, 1, 7, 2], Layout(2)) == [[[0, 1], [2, 3]]]


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="batch_size=16 cannot be divided evenly over 24 devices = 24 groups"):
        check_layout(Layout(24), 16, *QWEN_32B_HEADS)
    with pytest.raises(UserError, match="16 cannot be divided evenly over 24 devices = 6 groups x 4"):
        choose_layout(24, [[0] * 16], [100], [1.0], QWEN_32B_HEADS)
    with pytest.raises(UserError, match="does not divide the 6 devices"):
        check_layout(Layout(6, 4), 16, *QWEN_32B_HEADS)
    with pytest.raises(UserError, match="40 attention and 8 key-value heads"):
        check_layout(Layout(16, 16), 16, *QWEN_32B_HEADS)


def test_the_layout_chosen_keeps_a_pass_small():
    lengths = [8000] * 100

    def chosen(num_devices: int, heads: tuple[int, int] = QWEN_32B_HEADS, **wanted) -> Layout:
        return choose_layout(num_devices, visits(100, 16, 1, 42), lengths, [1.0] * 100, heads, **wanted)

    assert chosen(16) == Layout(16, 4, 1)
    assert chosen(8) == Layout(8, 4, 1)
    assert chosen(1) == Layout(1, 1, 8)
    assert chosen(1, max_tokens_per_device=100) == Layout(1, 1, 16)
    assert chosen(2, (9, 3)) == Layout(2, 1, 4)
    assert chosen(2, sequence_parallel=1, accumulation=2) == Layout(2, 1, 2)


def test_the_examples_that_fill_a_short_epoch_up_count_too():
    steps = visits(5, 16, 1, seed=0)
    layout = choose_layout(1, steps, [6000] * 5, [1.0] * 5, QWEN_32B_HEADS)
    assert layout == Layout(1, 1, 8) and tokens_on_device(steps, [6000] * 5, [1.0] * 5, layout) == 12_000
