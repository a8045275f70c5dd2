"""A step in miniature, copied into a clone: counts to num_steps with a row of metrics.jsonl each, from where it was.

As train.stand_in under torchrun all ranks count together, and stop when asked to, as train.sft does.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from core.config import option, run_entry
from core.log import say
from core.runs import run_path


@dataclass
class StandInConfig:
    name: str = option("stand-in", help="run name")
    num_steps: int = option(4, help="rows to write")
    seconds: float = option(0.0, help="that a step takes")
    failing_rank: int | None = option(None, help="ends in the first step, with status 3")
    shard: int = option(0, help="which part")
    num_shards: int = option(1, help="parts")
    dry_run: bool = option(False, help="do nothing", affects_result=False)


def main(config: StandInConfig) -> Path | None:
    if config.dry_run:
        return None
    folder = run_path(Path(__file__).parent.name, config)
    folder.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ.get("RANK", 0))
    add = meet() if "RANK" in os.environ else float
    metrics = folder / "metrics.jsonl"
    first = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    first = round(add(first if rank == 0 else 0))
    for step in range(first, config.num_steps):
        if rank == config.failing_rank:
            raise SystemExit(3)
        time.sleep(config.seconds)
        row = {"step": step + 1, "ranks": add(1.0), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        if rank == 0:
            say(f"step {row['step']}")
            with open(metrics, "a") as file:
                file.write(json.dumps(row) + "\n")
        asked = Path(os.environ["STOP_FILE"])
        if add is not float and add(float(rank == 0 and asked.exists())):
            if rank == 0:
                asked.write_text("saved")
            return folder
    if rank == 0:
        (folder / "DONE").touch()
    return folder


def meet():
    """A function that adds up a number over all ranks."""
    import torch
    import torch.distributed

    torch.distributed.init_process_group("gloo")

    def add(number: float) -> float:
        total = torch.tensor(float(number))
        torch.distributed.all_reduce(total)
        return total.item()

    return add


if __name__ == "__main__":
    run_entry(main, StandInConfig, __doc__)
