"""What happens besides the training step: a line and a metrics row a step, whole checkpoints, stopping on request."""

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from core.config import UserError
from core.journal import Journal
from core.log import duration, say
from core.types import write_jsonl
from train.resume import mark_complete, remove, remove_older, remove_unfinished

STOP_FILE = "STOP_FILE"  # environment variable: the file whose appearance asks the job to save and end


class StepLines(TrainerCallback):
    """Prints one line a step and appends it to metrics.jsonl; mirrors the row to wandb, if there is a run.

    tokens, flops: of each step, over all devices. peak_flops: of all devices, or None where unknown.
    """

    def __init__(
        self, path: Path, tokens: Sequence[int], flops: Sequence[float], peak_flops: float | None, wandb: Any = None
    ):
        self.path, self.tokens, self.flops, self.peak_flops, self.wandb = path, tokens, flops, peak_flops, wandb
        self._first_step, self._started, self._last = 0, 0.0, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._first_step = state.global_step
        self._started = self._last = time.monotonic()
        if state.is_world_process_zero and self.path.exists():  # steps after the checkpoint come again
            rows = Journal.read(self.path)  # without half a line at its end
            write_jsonl(self.path, (row for row in rows if row["step"] <= state.global_step))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in logs:
            return
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        step = state.global_step
        flops = self.flops[step - 1]
        row = {
            "step": step,
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs["learning_rate"],
            "num_tokens": self.tokens[step - 1],
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self.tokens[step - 1] / seconds, 1),
            "mfu": round(flops / seconds / self.peak_flops, 4) if self.peak_flops else None,
            "memory_gb": round(peak_memory() / 1e9, 2),
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.wandb is not None:
            self.wandb.log({key: value for key, value in row.items() if value is not None}, step=step)
        done = sum(self.flops[self._first_step : step])
        left = (now - self._started) * sum(self.flops[step : state.max_steps]) / done  # trainer.max_steps may be fewer
        mfu = f" | MFU {row['mfu']:.1%}" if self.peak_flops else ""
        say(
            f"step {step:05d}/{state.max_steps} ({step / state.max_steps:.1%}) | loss {row['loss']:.4f} | "
            f"grad {row['grad_norm'] or 0:.2f} | lr {row['learning_rate']:.1e} | "
            f"{row['tokens_per_second']:,.0f} tok/s{mfu} | mem {row['memory_gb']:.1f} GB | eta {duration(left)}"
        )


def peak_memory() -> int:
    """Bytes: the most that tensors took on this GPU, or this process on the host, so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Checkpoints(TrainerCallback):
    """Marks each checkpoint once all ranks have written their files, and only then removes older ones.

    Comes after StopOnRequest, which may ask for a save.
    """

    def __init__(self, backend: str, num_devices: int):
        self.backend, self.num_devices = backend, num_devices

    def on_train_begin(self, args, state, control, **kwargs):
        state.save_steps = args.save_steps  # a resumed state brings those of the sitting before
        if state.is_world_process_zero:
            remove_unfinished(Path(args.output_dir))  # their space may be what the next one needs

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:  # over a damaged one, half of its files and half of the new would look whole
            if state.is_world_process_zero and _folder_of(args, state).exists():
                remove(_folder_of(args, state))
            _wait_for_all()

    def on_save(self, args, state, control, **kwargs):
        _wait_for_all()
        if state.is_world_process_zero:
            mark_complete(_folder_of(args, state), self.backend, self.num_devices)
            remove_older(_folder_of(args, state))


def _folder_of(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _wait_for_all() -> None:
    if distributed.is_initialized():
        distributed.barrier()


def check_agreement(checkpoint: Path | None) -> None:
    """Raises UserError where this rank would go on from another checkpoint than rank 0. Collective.

    So it is where the run folder lies on a disk of each machine's own.
    """
    if not distributed.is_initialized():
        return
    first = [checkpoint]
    distributed.broadcast_object_list(first, src=0)
    if first[0] != checkpoint:
        here, there = (found.name if found else "no whole checkpoint" for found in (checkpoint, first[0]))
        raise UserError(
            f"{socket.gethostname()} finds {here} where the first machine finds {there}; outputs/ must lie on a disk "
            "that all machines share"
        )


class StopOnRequest(TrainerCallback):
    """Saves and ends after the step in which <run folder>/STOP, or the file that $STOP_FILE names, is there.

    Rank 0 looks, all hear of it: ranks that decided for themselves would part ways. `stopped` is the
    reason, or None. So it is after the last step, too: the export may need more time than is left.
    """

    def __init__(self, folder: Path):
        self.by_hand = folder / "STOP"
        self.by_job = Path(os.environ[STOP_FILE]) if os.environ.get(STOP_FILE) else None
        self.stopped: Path | None = None

    def on_step_end(self, args, state, control, **kwargs):
        # by hand first: then the job is not to be queued again
        found = [next((p for p in (self.by_hand, self.by_job) if p and p.exists()), None)]
        if distributed.is_initialized():
            distributed.broadcast_object_list(found, src=0)
        if found[0] is not None:
            self.stopped = found[0]
            control.should_save = control.should_training_stop = True

    def answer(self) -> None:
        """Tells who asked that the run is saved. Rank 0 only, after training has returned."""
        if self.stopped == self.by_job and self.by_job is not None:
            self.by_job.write_text("saved\n")
        elif self.stopped is not None:
            self.stopped.unlink(missing_ok=True)  # or the same command would stop again at once


class CheckSharded(TrainerCallback):
    """Raises UserError where FSDP2 was asked for and parameters are whole.

    accelerate shards on GPUs only, and goes on as plain data parallelism elsewhere, without a word (AcceleratorState of
    its version 1.15).
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        from torch.distributed.tensor import DTensor

        whole = [name for name, p in model.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
        if whole:
            raise UserError(
                f"backend=fsdp2 did not shard {whole[0]}: accelerate does that on GPUs only; use backend=ddp"
            )
