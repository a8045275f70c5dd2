"""Which examples each optimiser step sees, and on which device: planned for the whole run before it begins.

The examples of a step are those of the recipe, whatever computes them. How a step is laid out over the devices only
decides how fast it goes: each example goes whole to one data-parallel group, the longest first, to the group that has
least to do; the examples of a group are laid end to end without padding and cut evenly over its sequence-parallel
devices. Needs no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.config import UserError


def visits(num_rows: int, batch_size: int, num_epochs: int, seed: int) -> list[list[int]]:
    """Row indices of each step, [num_steps][batch_size].

    The order of the published training: each epoch is torch.randperm(num_rows) at seed + epoch (accelerate's
    SeedableRandomSampler), and the last batch of an epoch is filled up with the first rows of that epoch
    (even_batches), so 1,000 rows in batches of 16 make 63 steps an epoch and 5,040 visits in five.
    """
    if num_rows < 1:
        raise UserError("there are no examples to train on")
    steps = []
    for epoch in range(num_epochs):
        order = permutation(num_rows, seed + epoch)
        size = math.ceil(num_rows / batch_size) * batch_size
        filled = [order[i % num_rows] for i in range(size)]
        steps += [filled[i : i + batch_size] for i in range(0, size, batch_size)]
    return steps


def permutation(n: int, seed: int) -> list[int]:
    """torch.randperm(n) at manual_seed(seed), without torch: a Mersenne twister and a Fisher-Yates shuffle."""
    import numpy as np

    twister = np.random.MT19937()
    twister._legacy_seeding(seed % 2**32)
    order = list(range(n))
    for i, word in zip(range(n - 1), twister.random_raw(max(n - 1, 1)).tolist(), strict=False):
        j = i + word % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


@dataclass(frozen=True)
class Layout:
    """num_devices = groups (data parallel) x sequence_parallel; accumulation: passes per optimiser step."""

    num_devices: int = 1
    sequence_parallel: int = 1
    accumulation: int = 1

    @property
    def groups(self) -> int:
        return self.num_devices // self.sequence_parallel

    def __str__(self) -> str:
        passes = f"{self.accumulation} {'pass' if self.accumulation == 1 else 'passes'} per step"
        if self.num_devices == 1:
            return f"1 device, {passes}"
        return (
            f"{self.num_devices} devices = {self.groups} groups x {self.sequence_parallel} sequence-parallel, {passes}"
        )


def check_layout(layout: Layout, batch_size: int, num_heads: int, num_key_value_heads: int) -> None:
    """Raises UserError where the devices cannot be grouped so, or the batch cannot be divided evenly over them."""
    size = layout.sequence_parallel
    if layout.num_devices % size:
        raise UserError(
            f"sequence_parallel={size} does not divide the {layout.num_devices} devices; change one of them"
        )
    if num_heads % size or num_key_value_heads % size:
        raise UserError(
            f"sequence_parallel={size} does not divide the model's {num_heads} attention and {num_key_value_heads} "
            "key-value heads; choose a smaller one"
        )
    if batch_size % (layout.groups * layout.accumulation):
        sizes = [n for n in range(1, batch_size + 1) if batch_size % n == 0]
        raise UserError(
            f"batch_size={batch_size} cannot be divided evenly over {layout}; groups x passes may be "
            f"{', '.join(map(str, sizes))}"
        )


def choose_layout(
    num_devices: int,
    steps: Sequence[Sequence[int]],
    lengths: Sequence[int],
    cost: Sequence[float],
    heads: tuple[int, int],
    sequence_parallel: int | None = None,
    accumulation: int | None = None,
    max_tokens_per_device: int = 16384,
) -> Layout:
    """The layout asked for, or where None was said, a good one.

    sequence_parallel: the first of 4, 2 and 1 that divides devices and heads (of 16 devices, 4 leaves 3% idle where 1
        leaves 28%; benchmarks/balance.py).
    accumulation: the fewest passes in which no device ever holds more than max_tokens_per_device tokens, or as many as
        there are examples for a group.
    heads: attention and key-value heads of the model. Raises UserError for what cannot be divided.
    """
    batch_size = len(steps[0])
    if sequence_parallel is None:
        sequence_parallel = next(n for n in (4, 2, 1) if not any(x % n for x in (num_devices, *heads)))
    layout = Layout(num_devices, sequence_parallel, accumulation or 1)
    check_layout(layout, batch_size, *heads)
    if accumulation is not None:
        return layout
    per_group = batch_size // layout.groups
    for passes in (n for n in range(1, per_group + 1) if per_group % n == 0):
        candidate = Layout(num_devices, sequence_parallel, passes)
        if tokens_on_device(steps, lengths, cost, candidate) <= max_tokens_per_device:
            break
    return candidate


def tokens_on_device(
    steps: Sequence[Sequence[int]], lengths: Sequence[int], cost: Sequence[float], layout: Layout
) -> int:
    """Tokens that a device holds in the largest pass of the whole run."""
    groups = (group for step in steps for micro_batch in place(step, cost, layout) for group in micro_batch)
    return math.ceil(max(sum(lengths[row] for row in group) for group in groups) / layout.sequence_parallel)


def place(step: Sequence[int], cost: Sequence[float], layout: Layout) -> list[list[list[int]]]:
    """Spreads a step's rows: [accumulation][groups] lists of rows. cost: of each row of the data set, any unit.

    Longest first to the least loaded part (Graham's LPT rule); parts of like load share a pass, because the groups of
    a pass wait for each other. No part is empty where there are as many rows as parts.
    """
    parts: list[list[int]] = [[] for _ in range(layout.groups * layout.accumulation)]
    loads = [0.0] * len(parts)
    for row in sorted(step, key=lambda row: (-cost[row], row)):
        least = min(range(len(parts)), key=lambda i: (loads[i], i))
        parts[least].append(row)
        loads[least] += cost[row]
    order = sorted(range(len(parts)), key=lambda i: (-loads[i], i))
    ordered = [parts[i] for i in order]
    return [ordered[i : i + layout.groups] for i in range(0, len(ordered), layout.groups)]


def balance(steps: Sequence[Sequence[int]], cost: Sequence[float], layout: Layout) -> float:
    """Ideal over critical path, in (0, 1]: the share of time that no group waits for another. One device group: 1."""
    work = critical = 0.0
    for step in steps:
        for micro_batch in place(step, cost, layout):
            loads = [sum(cost[row] for row in group) for group in micro_batch]
            work += sum(loads)
            critical += max(loads) * layout.groups
    return work / critical
