"""Experiment tracking: a wandb run beside a run folder, where the user asks for one (wandb=offline or online)."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from core.config import UserError
from core.log import say

MODES = ("off", "offline", "online")
FINISH_SECONDS = 60.0  # to send the rest at the end; by itself wandb waits for its server for as long as it takes


def check_wandb(mode: str) -> None:
    if mode not in MODES:
        raise UserError(f"wandb is off, offline or online, not {mode!r}")


def open_wandb(config: Any, folder: Path) -> Any:
    """The wandb run that metrics go to, the same one after a resume; its project is $WANDB_PROJECT, or s1.

    config: a dataclass with a key `wandb`, offline or online. Raises UserError where wandb cannot be had.
    """
    try:
        import wandb
    except ModuleNotFoundError:
        raise UserError(f"wandb={config.wandb} needs the package wandb; install it, or use wandb=off") from None
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "s1"), id=folder.name, name=folder.name, resume="allow",
            mode=config.wandb, dir=folder, config=dataclasses.asdict(config),
            settings=wandb.Settings(  # our lines stay as they are, and stay ours
                silent=True, console="off", finish_timeout=FINISH_SECONDS, finish_timeout_raises=True,
            ),
        )  # fmt: skip
    except wandb.Error as error:
        raise UserError(f"wandb: {str(error).splitlines()[0].rstrip('.')}, or take wandb=offline") from None
    say(f"wandb | {run.url}" if config.wandb == "online" else f"wandb | wandb sync {run.settings.sync_dir} sends it")
    return run


def close_wandb(run: Any) -> None:
    """Sends what is left. A server that is gone by now does not fail the run, nor hold it up: it has its own files."""
    try:
        run.finish()
    except TimeoutError:
        say(f"wandb | not all was sent in {FINISH_SECONDS:.0f} s: wandb sync {run.settings.sync_dir} sends the rest")
