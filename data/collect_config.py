"""What a collection is told: the keys of data.collect."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import UserError, option
from data.sources import SOURCES, Source


@dataclass
class SourceRequest:
    """What to take from one source."""

    size: int | None = option(None, help="questions to draw; null takes all, or the dataset's usual sample")
    params: dict[str, Any] = field(default_factory=dict)
    revision: str | None = option(None, help="commit on the hub; null keeps the one in data/sources.py")
    paths: list[str] = option([], help="files or folders below root, instead of the folder of its name")
    expected: int | None = option(None, help="questions to expect; null keeps the number in data/sources.py")


@dataclass
class CollectConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    seed: int = option(help="of generated questions, samples and the order of choices; evaluation takes another one")
    sources: dict[str, SourceRequest] = option(
        help="source: {size, params, revision, paths, expected}, in order of precedence (data/sources.py lists them)"
    )
    root: str | None = option(None, help="folder of local files; null reads datasets from the hub")
    skip: list[str] = option([], help="sources to go on without")
    allow_count_mismatch: bool = option(False, help="go on where a dataset gives another number than expected")
    dry_run: bool = option(False, help="say what would be read from where, and collect nothing", affects_result=False)


def requests_of(config: CollectConfig) -> dict[str, SourceRequest]:
    """What is left after `skip`. Raises UserError for an unknown source, option or combination."""
    unknown = sorted({*config.sources, *config.skip} - set(SOURCES))
    if unknown:
        raise UserError(f"sources: {unknown[0]!r} is unknown; known: {', '.join(SOURCES)}")
    requests = {key: request for key, request in config.sources.items() if key not in config.skip}
    for key, request in requests.items():
        if isinstance(SOURCES[key], Source):
            if request.size is None:
                raise UserError(f"sources.{key}: its questions are generated, so it needs size=<how many>")
            continue
        wrong = sorted(set(request.params) - set(SOURCES[key].params))
        if wrong:
            raise UserError(f"{key}: no parameter {wrong[0]!r}; known: {', '.join(SOURCES[key].params) or 'none'}")
        for name, value in request.params.items():
            kind = type(SOURCES[key].params[name] or "")  # null stands for a path
            if value is not None and type(value) is not kind:
                raise UserError(f"{key}: params.{name} is {value!r}, not of type {kind.__name__}")
        if (keep := request.params.get("keep")) and not Path(keep).is_file():
            raise UserError(f"{key}: params.keep={keep} does not exist")
        if config.root is None and request.paths:
            raise UserError(f"{key}: paths are below root; set root=<folder>")
        if config.root is None and SOURCES[key].hub_id is None:
            raise UserError(f"{key} is on no hub: {SOURCES[key].access}")
    if not requests:
        raise UserError("sources: nothing is left to collect")
    return requests
