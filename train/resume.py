"""Where an interrupted training goes on: which checkpoints are whole, and who can read them. Needs no torch.

A checkpoint is whole once COMPLETE lies in it, written after everything else: what wrote the checkpoint, and how long
each of its files is. A folder without that file is what a killed save left behind, and is never read. Older checkpoints
go only after a newer one is whole, so from the first save on there always is one.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from core.config import UserError
from core.log import say

COMPLETE = "COMPLETE"
NUM_KEPT = 2  # the newest may turn out to be damaged


def mark_complete(checkpoint: Path, backend: str, num_devices: int) -> None:
    """Call when every file of the checkpoint is written, on one rank."""
    files = {str(p.relative_to(checkpoint)): p.stat().st_size for p in sorted(checkpoint.rglob("*")) if p.is_file()}
    mark = {"backend": backend, "num_devices": num_devices, "files": files}
    partial = checkpoint / f"{COMPLETE}.partial"
    partial.write_text(json.dumps(mark, indent=1) + "\n")
    partial.replace(checkpoint / COMPLETE)


def read_mark(checkpoint: Path) -> dict[str, Any] | None:
    """Of a checkpoint that was complete: {"backend", "num_devices", "files": {name: bytes}}. None for an unreadable one."""
    try:
        mark = json.loads((checkpoint / COMPLETE).read_bytes())
    except ValueError:  # not JSON, or not even text
        return None
    return mark if isinstance(mark, dict) and {"backend", "num_devices", "files"} <= mark.keys() else None


def damage(checkpoint: Path) -> str | None:
    """What a checkpoint with COMPLETE lacks since it was written; None where it is whole."""
    mark = read_mark(checkpoint)
    if mark is None:
        return f"its {COMPLETE} cannot be read"
    for name, size in mark["files"].items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes and was written with {size:,}"
    return None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run folder; None where no save was ever completed.

    Says which ones it passes over, and why. Raises UserError where some were complete and none is whole any more: a
    disk that loses files is to be looked at before the training is paid for a second time.
    """
    damaged = []
    for checkpoint in _newest_first(folder):
        if not (checkpoint / COMPLETE).exists():
            say(f"passing over {checkpoint.name}: it was not written to its end")
            continue
        found = damage(checkpoint)
        if found is None:
            return checkpoint
        say(f"passing over {checkpoint.name}: {found}")
        damaged.append(f"{checkpoint.name}: {found}")
    if damaged:
        raise UserError(
            f"{folder} has no whole checkpoint left ({'; '.join(damaged)}); bring the files back, or remove "
            f"{folder}/checkpoint-* to train from the start"
        )
    return None


def check_resumable(checkpoint: Path, backend: str, num_devices: int) -> None:
    """Raises UserError where this whole checkpoint cannot go on under another backend or number of devices.

    FSDP2 shards are read by any number of devices from two on; whole models by one device, or DDP on any number;
    ZeRO-3 shards by as many devices as wrote them.
    """
    mark = read_mark(checkpoint)
    written, wanted = (mark["backend"], mark["num_devices"]), (backend, num_devices)
    if _kind(*written) == _kind(*wanted):
        return
    way_out = {
        "fsdp2": "fsdp2 on two or more",
        "whole": "single or fsdp2 on 1, or ddp",
    }.get(_kind(*written), f"zero3 on {mark['num_devices']}")
    raise UserError(
        f"{checkpoint} was written by backend={written[0]} on {_devices(written[1])} and cannot go on as {backend} on "
        f"{_devices(num_devices)}; use {way_out}, or remove the run folder to train from the start"
    )


def _kind(backend: str, num_devices: int) -> str:
    """Checkpoints of one kind can be read by each other's writers."""
    if backend == "zero3":
        return f"zero3 on {num_devices}"
    return "fsdp2" if backend == "fsdp2" and num_devices > 1 else "whole"


def _devices(n: int) -> str:
    return f"{n} device{'' if n == 1 else 's'}"


def remove_older(newest: Path) -> None:
    """Once `newest` is complete: removes all but it and the whole ones before it, NUM_KEPT in all."""
    kept = [newest]
    for checkpoint in _newest_first(newest.parent):
        if checkpoint == newest:
            continue
        is_before = _step(checkpoint) < _step(newest) and (checkpoint / COMPLETE).exists()
        if is_before and len(kept) < NUM_KEPT and damage(checkpoint) is None:
            kept.append(checkpoint)
        else:
            remove(checkpoint)


def remove_unfinished(folder: Path) -> None:
    """What killed saves left behind, and nothing reads. Call when nothing is being saved."""
    for checkpoint in _newest_first(folder):
        if not (checkpoint / COMPLETE).exists():
            remove(checkpoint)


def remove_checkpoints(folder: Path) -> None:
    """All of a run folder."""
    for checkpoint in _newest_first(folder):
        remove(checkpoint)


def remove(checkpoint: Path) -> None:
    """COMPLETE first: a kill in between leaves what looks like a save that was cut short, and not like a damaged one."""
    try:
        (checkpoint / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)
    except OSError as error:  # no reason to lose the training
        say(f"cannot remove {checkpoint}: {error.strerror}; remove it by hand")


def _newest_first(folder: Path) -> list[Path]:
    found = (p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal())
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
