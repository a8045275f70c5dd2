"""What a training step of a whole model takes, from measured times of its parts. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.cost import ModelShape
from train.steps import Layout, balance, choose_layout, place, tokens_on_device


def layer_flops(shape: ModelShape, lengths: Sequence[int]) -> float:
    """Forward and backward of one layer, as ModelShape.flops counts them."""
    attention = shape.num_attention_heads * shape.head_dim * sum(n * n for n in lengths)
    return 6.0 * (sum(lengths) * shape.layer_matrices + attention)


@dataclass(frozen=True)
class LayerTime:
    """Seconds of a layer on a row: fixed + per_token x tokens + per_pair x the sum of squared lengths."""

    fixed: float
    per_token: float
    per_pair: float

    def seconds(self, tokens: float, pairs: float) -> float:
        return self.fixed + self.per_token * tokens + self.per_pair * pairs


def fit_layer(points: Sequence[tuple[float, float, float]]) -> tuple[LayerTime, float]:
    """Least squares of relative errors over (tokens, pairs, seconds); also the largest relative error.

    Raises ValueError for fewer than three points, which would fit anything.
    """
    import numpy as np

    if len(points) < 3:
        raise ValueError(f"{len(points)} points do not determine the time of a layer")
    tokens, pairs, seconds = np.array(points, dtype=float).T
    columns = np.stack([np.ones_like(tokens), tokens, pairs], axis=1) / seconds[:, None]
    solution = np.linalg.lstsq(columns, np.ones_like(seconds), rcond=None)[0]
    return LayerTime(*map(float, solution)), float(np.abs(columns @ solution - 1).max())


def fit_head(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(fixed, per token) seconds, by least squares over (tokens, seconds)."""
    import numpy as np

    per_token, fixed = np.polyfit(*zip(*points, strict=True), 1)
    return float(fixed), float(per_token)


@dataclass(frozen=True)
class StepTime:
    """What a pass takes on one device of a sequence-parallel group.

    head: seconds (fixed, per token). all_to_all: seconds a token of the device and layer. update: seconds a step.
    """

    num_layers: int
    layer: LayerTime
    head: tuple[float, float]
    all_to_all: float
    update: float

    def of_group(self, lengths: Sequence[int], sequence_parallel: int) -> float:
        """One pass over these examples: tokens, and heads in attention, are shared evenly."""
        tokens = sum(lengths) / sequence_parallel
        pairs = sum(n * n for n in lengths) / sequence_parallel
        layer = self.layer.seconds(tokens, pairs) + (self.all_to_all * tokens if sequence_parallel > 1 else 0.0)
        return self.num_layers * layer + self.head[0] + self.head[1] * tokens

    def of_step(self, passes: Sequence[Sequence[Sequence[int]]], lengths: Sequence[int], layout: Layout) -> float:
        """passes: of train.steps.place. The groups of a pass wait for the slowest."""
        times = (
            max(self.of_group([lengths[row] for row in group], layout.sequence_parallel) for group in groups)
            for groups in passes
        )
        return sum(times) + self.update


def all_to_all_seconds(shape: ModelShape, sequence_parallel: int, checkpointing: str, gb_per_second: float) -> float:
    """Of one token of a device and layer: queries, keys, values and results in bfloat16, but for the share that stays,
    forward, backward, and where a layer is computed anew once more."""
    width = 2 * (shape.num_attention_heads + shape.num_key_value_heads) * shape.head_dim
    times = 2 if checkpointing == "none" else 3
    return times * 2 * width * (1 - 1 / sequence_parallel) / (gb_per_second * 1e9)


@dataclass(frozen=True)
class Replayed:
    """step_seconds: of each step. tokens: of the largest pass on one device."""

    layout: Layout
    balance: float
    step_seconds: list[float]
    tokens: int

    @property
    def seconds(self) -> float:
        return sum(self.step_seconds)


@dataclass(frozen=True)
class Plan:
    """Rows by their lengths, and the steps that visit them (train.steps.visits)."""

    shape: ModelShape
    lengths: list[int]
    steps: list[list[int]]

    @property
    def flops(self) -> float:
        cost = [self.shape.flops(n) for n in self.lengths]
        return sum(cost[row] for step in self.steps for row in step)

    def replay(self, model: StepTime, num_devices: int, sequence_parallel: int) -> Replayed:
        """Lays the steps out over the devices as train.sft does; the groups of a pass wait for the slowest."""
        cost = [self.shape.flops(n) for n in self.lengths]
        heads = self.shape.num_attention_heads, self.shape.num_key_value_heads
        layout = choose_layout(num_devices, self.steps, self.lengths, cost, heads, sequence_parallel)
        passes = [place(step, cost, layout) for step in self.steps]
        return Replayed(
            layout,
            balance(self.steps, cost, layout),
            [model.of_step(groups, self.lengths, layout) for groups in passes],
            tokens_on_device(self.steps, self.lengths, cost, layout),
        )
