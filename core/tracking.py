"""Experiment tracking: a wandb run beside a run folder, where the user asks for one (wandb=offline or online)."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from core.config import UserError
from core.log import say

MODES = ("off", "offline", "online")


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
            settings=wandb.Settings(silent=True, console="off"),  # our lines stay as they are, and stay ours
        )  # fmt: skip
    except wandb.Error as error:
        raise UserError(f"wandb: {str(error).splitlines()[0].rstrip('.')}, or take wandb=offline") from None
    say(f"wandb | {run.url}" if config.wandb == "online" else f"wandb | wandb sync {run.settings.sync_dir} sends it")
    return run
