"""Shards: one step split over several jobs, each question in one of them, and the finished parts joined again.

    ./launch.sh data.attempt configs/data/attempt-qwen2.5-7b.yaml questions=... num_shards=8 shard=3   # 0 to 7
    ./launch.sh data.attempt configs/data/attempt-qwen2.5-7b.yaml questions=... num_shards=8 merge=true

A shard depends on the question alone, so a pool that grows or is reordered leaves every question where it was.
"""

import dataclasses
import heapq
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.config import UserError
from core.runs import Run, open_run, read_record, run_path
from core.types import read_jsonl, write_jsonl


def in_shard(question_id: str, shard: int, num_shards: int) -> bool:
    """Raises UserError for an id that is not hexadecimal, as those of `core.types.question_id` are."""
    if num_shards == 1:
        return True
    try:
        return int(question_id, 16) % num_shards == shard
    except ValueError:
        raise UserError(
            f"question id {question_id!r} is not hexadecimal, so it has no shard; use num_shards=1"
        ) from None


def check_shards(config: Any) -> None:
    """Raises UserError for a config whose `shard`, `num_shards` and `merge` do not fit together."""
    if not 0 <= config.shard < config.num_shards:
        raise UserError(f"shard={config.shard} of num_shards={config.num_shards}: shards count from 0")
    if config.merge and config.num_shards == 1:
        raise UserError("merge=true joins shards: give the num_shards they were made with")


def share_of(max_cost: float | None, num_shards: int) -> float | None:
    return None if max_cost is None else max_cost / num_shards


def merge(
    package: str,
    config: Any,
    inputs: Mapping[str, str | Path],
    question_ids: Sequence[str],
    files: Sequence[str],
    headline: Callable[[Run], dict[str, Any]] | None = None,
) -> Path:
    """Joins the finished shards of `config` into one finished run, the one that num_shards=1 would have made.

    question_ids: all questions, in the order in which `files` list them; rows name theirs as `question_id`, or carry
    the `question`. headline: makes the headline numbers from the joined files; None: those of the shards are added up.
    Raises UserError where a shard is missing or had other inputs.
    """
    config = dataclasses.replace(config, shard=0)
    parts = [
        run_path(package, dataclasses.replace(config, shard=shard, merge=False)) for shard in range(config.num_shards)
    ]
    missing = [f"{shard} ({path})" for shard, path in enumerate(parts) if not (path / "DONE").exists()]
    if missing:
        raise UserError(f"merge: {len(missing)} of {len(parts)} shards are not finished: {', '.join(missing)}")
    with open_run(package, config, {**inputs, **{f"shard {i}": path for i, path in enumerate(parts)}}) as run:
        if run.is_done:
            return run.path
        records = [read_record(path) for path in parts]
        for path, record in zip(parts, records, strict=True):
            if any(run.record["inputs"][name] != digest for name, digest in record["inputs"].items()):
                raise UserError(f"merge: {path} was made from other inputs; remove it and run its shard again")
        position = {id: i for i, id in enumerate(question_ids)}
        for name in files:
            rows = heapq.merge(
                *(read_jsonl(path / name) for path in parts), key=lambda row: position[_question_id(row)]
            )
            write_jsonl(run.path / name, rows)
        run.finish(**(headline(run) if headline else added_up([record["headline"] for record in records])))
    return run.path


def added_up(headlines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers summed, nested ones too; anything else must be the same in all, or it is left out."""
    total: dict[str, Any] = {}
    for key in dict.fromkeys(key for headline in headlines for key in headline):
        values = [headline[key] for headline in headlines if key in headline]
        if all(isinstance(value, dict) for value in values):
            total[key] = added_up(values)
        elif all(type(value) in (int, float) for value in values):
            total[key] = sum(values)
        elif all(value == values[0] for value in values):
            total[key] = values[0]
    return total


def _question_id(row: Mapping[str, Any]) -> str:
    return row["question_id"] if "question_id" in row else row["question"]["id"]
