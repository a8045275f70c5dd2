"""How long devices wait for the longest example: ideal over critical path of each layout, and what it means in minutes.

    python -m benchmarks.balance > benchmarks/balance.txt
    python -m benchmarks.balance traces=my.jsonl tokenizer=<model folder>

Nothing is trained. Lengths are drawn from the digitised histograms of configs/train/lengths, or counted; the steps are
those that train.sft plans (train/steps.py), an example's cost its FLOPs in the model (train/cost.py). Minutes are an
estimate: FLOPs over devices x peak x mfu x balance, with the mfu that busy devices would reach on equal work.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.chat import ChatFormat
from core.config import option, run_entry
from train.cost import PEAK_FLOPS, ModelShape
from train.dataset import load_traces
from train.lengths import draw_lengths, read_histogram
from train.steps import Layout, balance, visits

PUBLISHED_MINUTES = 26  # of s1-32B on 16 H100 (PAPER 2.2)


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
    gpu: str = option("H100", help="card, for the minutes")
    num_devices: int = option(16, help="cards")
    sequence_parallel: list[int] = option([1, 2, 4, 8], help="layouts; 1 is the published one, an example a card")
    batch_size: int = option(16, help="examples per step (s1: 16)")
    num_epochs: int = option(5, help="passes over the data (s1: 5)")
    mfu: float = option(0.40, help="of busy devices, an assumption: torchtitan's Qwen3-32B on H100 has 0.394")
    seeds: int = option(100, help="draws of lengths and orders")


def main(config: BalanceConfig) -> None:
    shape = ModelShape.of(config.model)
    print(f"{config.model} on {config.num_devices} {config.gpu}, {config.num_epochs} epochs in batches of "
          f"{config.batch_size}; {config.seeds} seeds, median [95% of seeds]")  # fmt: skip
    print(f"minutes: estimate at {config.mfu:.0%} MFU of busy devices (assumed); the published run took "
          f"{PUBLISHED_MINUTES}")  # fmt: skip
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
    print(f"\n{title}: {len(draws[0])} rows, mean {statistics.fmean(map(statistics.fmean, draws)):,.0f} tokens, "
          f"longest {max(map(max, draws)):,}")  # fmt: skip
    print(f"{'layout':<28}{'balance':<22}{'minutes':<22}{'tokens of a device, most':<24}")
    peak = config.num_devices * PEAK_FLOPS[config.gpu]
    for size in config.sequence_parallel:
        layout = Layout(config.num_devices, size)
        shares, minutes = [], []
        most = 0
        for seed, lengths in enumerate(draws):
            cost = [shape.flops(length) for length in lengths]
            steps = visits(len(lengths), config.batch_size, config.num_epochs, seed)
            share = balance(steps, cost, layout)
            flops = sum(cost[row] for step in steps for row in step)
            shares.append(share)
            minutes.append(flops / (peak * config.mfu * share) / 60)
            most = max(most, largest_part(steps, lengths, cost, layout))
        published = " (published)" if size == 1 else ""
        print(f"DP{layout.groups} x SP{size}{published:<20}".ljust(28)
              + f"{interval(shares, '.3f'):<22}{interval(minutes, '.1f'):<22}{most:>12,}")  # fmt: skip


def interval(values: Sequence[float], spec: str) -> str:
    ordered = sorted(values)
    cut = int(0.025 * len(ordered))
    return f"{statistics.median(ordered):{spec}} [{ordered[cut]:{spec}}, {ordered[-1 - cut]:{spec}}]"


if __name__ == "__main__":
    run_entry(main, BalanceConfig, __doc__)
