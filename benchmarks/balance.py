"""How long devices wait for the longest example: ideal over critical path of each layout, and what it means in minutes.

    python -m benchmarks.balance
    python -m benchmarks.balance traces=my.jsonl tokenizer=<model folder>

Nothing is trained. Lengths are drawn from the digitised histograms of configs/train/lengths, or counted; the steps are
those that train.sft plans (train/steps.py), an example's cost its FLOPs in the model (core/cost.py). Minutes are an
estimate: FLOPs over devices x peak x mfu x balance, with the mfu that busy devices would reach on equal work; traffic
between devices is taken to be hidden.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.chat import ChatFormat
from core.config import option, run_entry
from core.cost import PEAK_FLOPS, ModelShape
from train.dataset import load_traces
from train.lengths import draw_lengths, read_histogram
from train.steps import Layout, balance, choose_layout, tokens_on_device, visits

PUBLISHED_MINUTES = 26  # of s1-32B on 16 H100 (the paper)


@dataclass
class BalanceConfig:
    name: str = option("balance", help="of the benchmark")
    histograms: list[str] = option(
        ["configs/train/lengths/s1k.csv", "configs/train/lengths/s1.1.csv"], help="of thinking tokens"
    )
    extra_tokens: int = option(900, help="prompt and answer, added to each drawn length")
    traces: str | None = option(None, help="traces to count besides, as train.sft takes them")
    tokenizer: str | None = option(None, help="model folder whose tokenizer counts them")
    profile: str = option("s1", help="chat format of the counted rows")
    model: str = option("Qwen/Qwen2.5-32B-Instruct", help="whose FLOPs are the cost")
    gpu: str = option("H100", help="device, for the minutes")
    num_devices: int = option(16, help="devices")
    sequence_parallel: list[int] = option([1, 2, 4, 8], help="layouts; 1 is the published one, an example a device")
    batch_size: int = option(16, help="examples per step (s1: 16)")
    num_epochs: int = option(5, help="passes over the data (s1: 5)")
    mfu: float = option(0.40, help="of busy devices, an assumption: torchtitan's Qwen3-32B on H100 has 0.394")
    seeds: int = option(100, help="draws of lengths and orders")


def main(config: BalanceConfig) -> None:
    shape = ModelShape.of(config.model)
    print(f"{config.model} on {config.num_devices} {config.gpu}, {config.num_epochs} epochs in batches of "
          f"{config.batch_size}; {config.seeds} seeds, median [95% of seeds]")  # fmt: skip
    print(f"minutes: estimate at {config.mfu:.0%} MFU of busy devices (assumed); published: {PUBLISHED_MINUTES} on s1K")
    for file in config.histograms:
        histogram = read_histogram(file)
        draws = [draw_lengths(histogram, config.extra_tokens, seed) for seed in range(config.seeds)]
        report(config, shape, draws, f"{Path(file).stem} (digitised thinking tokens + {config.extra_tokens})")
    if config.traces:
        lengths = counted(config)
        report(config, shape, [lengths] * config.seeds, f"{config.traces}, counted by {config.tokenizer}")


def counted(config: BalanceConfig) -> list[int]:
    """Tokens of each row of the traces given."""
    from inference import checkpoint

    chat = ChatFormat(config.profile, checkpoint.load_tokenizer(config.tokenizer))
    return [len(chat.training_ids(trace)[0]) for trace in load_traces(config.traces)]


def report(config: BalanceConfig, shape: ModelShape, draws: Sequence[list[int]], title: str) -> None:
    """draws: lengths of all rows, a list for each seed; the seed also orders the visits."""
    print(f"\n{title}: {len(draws[0]):,} rows, mean {statistics.fmean(map(statistics.fmean, draws)):,.0f} tokens, "
          f"longest {max(map(max, draws)):,}")  # fmt: skip
    print(f"{'layout':<39}{'balance':<24}{'minutes':<22}most tokens on a device")
    heads = (shape.num_attention_heads, shape.num_key_value_heads)
    layouts = {Layout(config.num_devices, size): "" for size in config.sequence_parallel}
    layouts[Layout(config.num_devices, 1)] = "published"
    steps = visits(len(draws[0]), config.batch_size, config.num_epochs, 0)
    cost = [shape.flops(length) for length in draws[0]]
    layouts[choose_layout(config.num_devices, steps, draws[0], cost, heads)] = "train.sft's own"
    for layout, remark in layouts.items():
        shares, minutes, most = zip(
            *(planned(config, shape, lengths, seed, layout) for seed, lengths in enumerate(draws)), strict=True
        )
        name = f"DP{layout.groups} x SP{layout.sequence_parallel}"
        name += f" x {layout.accumulation} passes" if layout.accumulation > 1 else ""
        name += f" ({remark})" if remark else ""
        print(f"{name:<39}{interval(shares, '.3f'):<24}{interval(minutes, '.1f'):<22}{max(most):,}")


def planned(
    config: BalanceConfig, shape: ModelShape, lengths: Sequence[int], seed: int, layout: Layout
) -> tuple[float, float, int]:
    """(balance, minutes, most tokens on a device) of one run."""
    cost = [shape.flops(length) for length in lengths]
    steps = visits(len(lengths), config.batch_size, config.num_epochs, seed)
    share = balance(steps, cost, layout)
    flops = sum(cost[row] for step in steps for row in step)
    seconds = flops / (config.num_devices * PEAK_FLOPS[config.gpu] * config.mfu * share)
    return share, seconds / 60, tokens_on_device(steps, lengths, cost, layout)


def interval(values: Sequence[float], spec: str) -> str:
    ordered = sorted(values)
    cut = int(0.025 * len(ordered))
    return f"{statistics.median(ordered):{spec}} [{ordered[cut]:{spec}}, {ordered[-1 - cut]:{spec}}]"


if __name__ == "__main__":
    run_entry(main, BalanceConfig, __doc__)
