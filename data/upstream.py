"""Where the rows of a collection are: in files below root, or on the hub."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import tables
from core.config import UserError
from core.log import say
from core.runs import Run
from core.tables import Drop, Table
from core.types import read_jsonl
from data.collect_config import CollectConfig, SourceRequest
from data.sources import SOURCES, Dataset, Source


@dataclass
class LocalFiles:
    """Of one dataset, relative to root: files to read, by name, with their subset; what leads out of root; files of
    other splits."""

    files: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    other_splits: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Opened:
    """A dataset ready to be read. left_out: what lies beside its tables and is not read, by place."""

    tables: list[Table]
    params: dict[str, Any]
    left_out: dict[str, Drop]


def find_local_files(config: CollectConfig, requests: dict[str, SourceRequest]) -> dict[str, LocalFiles]:
    """The files of every dataset below root. Raises UserError naming all datasets that have none."""
    if config.root is None:
        return {}
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"root {config.root} is not a folder")
    found, missing = {}, {}
    for key, request in requests.items():
        dataset = SOURCES[key]
        if isinstance(dataset, Source):
            continue
        try:
            files, refused = tables.local_files(root, request.paths or [key])
        except FileNotFoundError as error:
            missing[key] = f"no {error}"
            continue
        local = found[key] = LocalFiles(refused=[str(path.relative_to(root)) for path in refused])
        for name in (path.relative_to(root) for path in files):
            if request.paths or dataset.reads(name):
                local.files[str(name)] = dataset.subset_of(name)
            else:
                local.other_splits.append(str(name))
        if not local.files and not local.refused:
            missing[key] = f"no {', '.join(tables.READABLE)} file of its splits"
        elif dataset.excluded and dataset.excluded not in local.files.values():
            missing[key] = f"no {dataset.excluded} beside it, whose questions are left out for evaluation"
    if missing:
        what = "; ".join(f"{key} ({why})" for key, why in missing.items())
        raise UserError(f"not found below root {config.root}: {what}; put them there, or skip=[{', '.join(missing)}]")
    return found


def place_of(dataset: Dataset, request: SourceRequest, local: LocalFiles | None, config: CollectConfig) -> str:
    """Where its rows are, in words."""
    if local is None:
        return f"{dataset.hub_id} at {request.revision or dataset.revision or 'its newest revision'}"
    root = Path(config.root)
    num_rows = sum(tables.local_table(root / file, root, subset).num_rows for file, subset in local.files.items())
    return f"{num_rows:,} rows below {config.root}"


def open_datasets(
    config: CollectConfig, requests: dict[str, SourceRequest], local: dict[str, LocalFiles], run: Run
) -> dict[str, Opened]:
    """All datasets asked for. Raises UserError, after all were tried, naming those that cannot be reached."""
    opened, unreachable = {}, []
    for key, request in requests.items():
        dataset = SOURCES[key]
        if isinstance(dataset, Source):
            continue
        if key in local:
            opened[key] = open_local(dataset, request, local[key], config)
            run.record.setdefault("sources", {})[key] = {"root": config.root, "files": list(local[key].files)}
            continue
        revision = request.revision or dataset.revision
        commit = revision if dataset.addresses else tables.hub_revision(dataset.hub_id, revision)
        try:
            opened[key] = open_on_hub(dataset, request, commit, config.seed)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 gated, offline, moved: the libraries raise a dozen types
            unreachable.append(key)
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            say(f"{key} ({dataset.hub_id}) cannot be reached: {why}. To get it: {dataset.access}")
            continue
        pinned = revision is not None
        note = {"hub_id": dataset.hub_id, "revision": commit, "pinned": pinned}
        run.record.setdefault("sources", {})[key] = note
        if not pinned:
            say(f"{key}: no revision is set, so the newest is read: {commit or 'its commit is not known'}")
    if unreachable:
        keys = ", ".join(unreachable)
        raise UserError(f"cannot be reached: {keys}; get access as said above, or go on without: skip=[{keys}]")
    run.save()
    return opened


def open_local(dataset: Dataset, request: SourceRequest, local: LocalFiles, config: CollectConfig) -> Opened:
    root = Path(config.root)
    found = [tables.local_table(root / file, root, subset) for file, subset in local.files.items()]
    excluded = [table for table in found if table.subset == dataset.excluded]
    left_out = {place: Drop("outside_root", "leads out of root, or nowhere; not read") for place in local.refused}
    left_out |= {place: Drop("other_split") for place in local.other_splits}
    return Opened(found, params_of(dataset, request, excluded, config.seed), left_out)


def open_on_hub(dataset: Dataset, request: SourceRequest, commit: str | None, seed: int) -> Opened:
    found = list(dataset.hub_tables(commit))
    excluded = list(dataset.hub_tables(commit, dataset.excluded)) if dataset.excluded else []
    return Opened(found, params_of(dataset, request, excluded, seed), {})


def params_of(dataset: Dataset, request: SourceRequest, excluded: list[Table], seed: int) -> dict[str, Any]:
    """Options of the adapter, with the questions that it keeps and leaves out."""
    params = {**dataset.params, **request.params, "seed": seed}
    if "keep" in params:
        params["keep"] = _texts(read_jsonl(params["keep"]), "problem") if params["keep"] else set()
    params["excluded"] = _texts((row for table in excluded for row in table.rows()), "Question")
    return params


def _texts(rows: Iterable[Any], column: str) -> set[str]:
    return {row[column] for row in rows if isinstance(row, dict) and isinstance(row.get(column), str)}
