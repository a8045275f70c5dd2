"""Rows of a dataset: from the hub, or from local files in the same schema (parquet, JSON, JSONL, CSV; .gz too).

Nothing that a row or a file holds is ever executed. What cannot be read becomes a Drop in the place of the row, so that
every row is accounted for and the rest goes on.
"""

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import UserError

READABLE = (".parquet", ".jsonl", ".json", ".csv")

# What reading a broken or cut-off file raises; pyarrow's own errors are among their subclasses
UNREADABLE = (OSError, EOFError, ValueError, ArithmeticError, RuntimeError, zlib.error, csv.Error)


class Drop(Exception):
    """Why a row is left out. reason: counted. detail: what is wrong with it; "" where a rule merely leaves it out."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Table:
    """subset: hub config, or the local file's name up to its first dot. place: where people find it.
    rows: a new pass over the rows; a Drop stands for what cannot be read. num_rows: for the progress line."""

    subset: str
    place: str
    num_rows: int
    rows: Callable[[], Iterator[Any]]


# --- local files


def local_files(root: Path, paths: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """(readable files at or below `paths`, sorted in each of them; what is refused because it leads out of `root`, or
    nowhere). Links to folders are not followed. Raises FileNotFoundError for a path that is not there."""
    found, refused = [], []
    for path in (root / p for p in paths):
        if not path.exists() and not path.is_symlink():
            raise FileNotFoundError(str(path))
        if not _is_inside(path, root):
            refused.append(path)
            continue
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if not _is_inside(file, root) or (file.is_symlink() and not file.is_file()):
                refused.append(file)
            elif file.is_file() and _format(file) in READABLE:
                found.append(file)
    return found, refused


def _is_inside(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(
        os.path.realpath(root)
    )  # Path.resolve() fails at a loop of links


def local_table(file: Path, root: Path, subset: str) -> Table:
    return Table(subset, str(file.relative_to(root)), _num_rows(file), lambda: _rows(file))


def stem(file: Path) -> str:
    return file.name.split(".")[0]


def file_table(file: Path) -> Table:
    """One file, wherever it is. Raises UserError for a name of no format that is read."""
    if _format(file) not in READABLE:
        raise UserError(f"{file}: is none of {', '.join(READABLE)}, or one of them as .gz")
    return Table(stem(file), str(file), _num_rows(file), lambda: _rows(file))


def whole_rows(table: Table) -> Iterator[dict[str, Any]]:
    """Its rows, for a reader who can do without none of them. Raises UserError naming the first that cannot be read."""
    for number, row in enumerate(table.rows(), 1):
        if isinstance(row, Drop) and row.reason == "unreadable_file":
            raise UserError(f"{table.place}: {row.detail}")
        if isinstance(row, Drop):
            raise UserError(f"{table.place}, row {number}: {row.reason.replace('_', ' ')}: {row.detail}")
        if not isinstance(row, dict):
            raise UserError(f"{table.place}, row {number}: expected named columns, not {str(row)[:50]!r}")
        for column, value in row.items():
            if isinstance(value, str) and not _is_unicode(value):
                raise UserError(f"{table.place}, row {number}: {column} is not UTF-8 text")
        yield row


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # surrogates, which stand for bytes that are none
        return False
    return True


def _format(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def _num_rows(file: Path) -> int:
    """For the ETA: of JSON lines the number of lines, blank ones included."""
    try:
        if _format(file) == ".parquet":
            return _parquet(file).metadata.num_rows
        if _format(file) == ".jsonl":
            with _open(file) as lines:
                return sum(1 for _ in lines)
    except UNREADABLE:
        return 0
    return sum(1 for _ in _rows(file))


def _rows(file: Path) -> Iterator[Any]:
    readers = {".parquet": _parquet_rows, ".jsonl": _json_lines, ".json": _json_rows, ".csv": _csv_rows}
    try:
        yield from readers[_format(file)](file)
    except UNREADABLE as error:
        yield Drop("unreadable_file", f"{type(error).__name__}: {_first_line(error)}")


def _open(file: Path) -> io.BufferedIOBase:
    return gzip.open(file, "rb") if file.name.endswith(".gz") else open(file, "rb")


def _text(data: bytes) -> str:
    """UTF-8; what is not becomes surrogates, which the adapters refuse row by row."""
    return data.decode("utf-8-sig", "surrogateescape")


def _parquet(file: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{file}: reading parquet needs pyarrow, which comes with `datasets`") from None
    return ParquetFile(file)


def _parquet_rows(file: Path) -> Iterator[Any]:
    for batch in _parquet(file).iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def _json_lines(file: Path) -> Iterator[Any]:
    with _open(file) as lines:  # split at newlines only: rows may hold U+2028
        for line in lines:
            if line.strip():
                yield _parsed(line)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(_text(data))
    except (ValueError, RecursionError) as error:  # ValueError also for a number of too many digits
        return Drop("not_json", _first_line(error))


def _json_rows(file: Path) -> Iterator[Any]:
    """A list of rows, an object whose values are rows (by their id), or JSON lines under the name .json."""
    with _open(file) as opened:
        data = opened.read()
    value = _parsed(data)
    if isinstance(value, Drop) and not data.lstrip().startswith(b"["):
        yield from (_parsed(line) for line in data.split(b"\n") if line.strip())
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        yield from value.values()
    else:
        yield value


def _csv_rows(file: Path) -> Iterator[Any]:
    csv.field_size_limit(sys.maxsize)  # else one long field ends the file
    with _open(file) as opened:
        lines = io.StringIO(_text(opened.read()), newline="")
    for row in csv.DictReader(lines):
        if None in row:
            yield Drop("wrong_type", f"{len(row[None])} cells more than columns")
        else:
            yield row


# --- the hub


def hub_revision(hub_id: str, revision: str | None) -> str | None:
    """The commit that `revision` (null: the newest) stands for now; None where the hub does not answer."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(hub_id, revision=revision).sha
    except Exception:  # noqa: BLE001 offline, but perhaps in the cache: reading decides
        return revision


def hub_table(hub_id: str, config: str | None, split: str, revision: str | None) -> Table:
    """One split of a config. Raises whatever `datasets` raises where it cannot be reached."""
    return _hub_table(config or split, f"{hub_id} {config or ''} {split}", hub_id, config, split, revision)


def address_table(subset: str, address: str) -> Table:
    """A JSON Lines file at an address: where the hub's repository is a script, which `datasets` no longer runs."""
    return _hub_table(subset, address, "json", None, "train", None, data_files=address)


def _hub_table(
    subset: str, place: str, path: str, config: str | None, split: str, revision: str | None, **options: Any
) -> Table:
    import datasets
    import huggingface_hub.utils

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()  # its retries; the last failure is raised
    dataset = datasets.load_dataset(path, config, split=split, revision=revision, **options)
    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):  # no picture is looked at
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return Table(subset, " ".join(place.split()), len(dataset), lambda: iter(dataset))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
