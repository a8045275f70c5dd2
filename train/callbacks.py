"""What happens besides the training step: a line and a metrics row a step, and checkpoints that are known whole."""

import json
import time
from pathlib import Path

from transformers import TrainerCallback

from core.log import duration, say

COMPLETE = "COMPLETE"  # written into a checkpoint after everything else


class StepLines(TrainerCallback):
    """Prints one line a step and appends it to metrics.jsonl.

    tokens_per_step is an average: real tokens (no padding) of the data set / steps of an epoch.
    """

    def __init__(self, path: Path, tokens_per_step: float):
        self.path, self.tokens_per_step = path, tokens_per_step
        self._first_step, self._started = 0, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._first_step, self._started = state.global_step, time.monotonic()
        if state.is_world_process_zero and self.path.exists():  # steps after the checkpoint come again
            rows = [json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= state.global_step]
            self.path.write_text("".join(kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        steps = state.global_step - self._first_step
        seconds = (time.monotonic() - self._started) / steps
        row = {
            "step": state.global_step,
            "epoch": round(logs["epoch"], 4),
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": round(self.tokens_per_step / seconds, 1),
            "seconds_per_step": round(seconds, 3),
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        left = state.max_steps - state.global_step
        say(
            f"step {state.global_step:05d}/{state.max_steps} ({state.global_step / state.max_steps:.1%}) | "
            f"loss {row['loss']:.4f} | grad {row['grad_norm'] or 0:.2f} | lr {row['learning_rate']:.1e} | "
            f"{row['tokens_per_second']:,.0f} tok/s | eta {duration(left * seconds)}"
        )


class MarkComplete(TrainerCallback):
    """Marks each checkpoint after its last file is written; a killed save leaves none."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    found = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)
