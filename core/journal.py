"""Journals: files that grow row by row, so that a kill loses at most the row being written."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from core import log
from core.config import UserError

CHECKSUM = "crc32"  # the key of a row's checksum, which is over the row without it


class Journal:
    """Append-only JSON Lines file. `rows` holds what was there when it was opened.

    A kill can leave half a line at the end; opening cuts it off. Rows are handed to the system at once, so they survive
    the process; only a power failure can lose the last ones.

    can_redo: what the rows say can be made again (a sample), where it cannot (a paid answer) by default. Each row then
        carries a checksum, and opening moves lines that are not as they were written to <name>.broken and says so:
        what they said is missing from `rows`, and is made again. Without it, such a line raises UserError.
    """

    def __init__(self, path: Path, can_redo: bool = False):
        self.path, self.can_redo = path, can_redo
        lines, whole = _whole_lines(path) if path.exists() else ([], 0)
        self.rows, broken = _parse(path, lines, can_redo)
        if broken:
            self._set_aside(lines, broken)
        # No buffer: what a full disk refused must not be written later, between other rows.
        self._file = open(path, "ab", buffering=0)
        if not broken and self._file.tell() > whole:
            self._file.truncate(whole)

    @classmethod
    def read(cls, path: Path, can_redo: bool = False) -> list[dict[str, Any]]:
        """The whole rows of a journal that another process may be writing; `can_redo` leaves out broken ones."""
        rows, broken = _parse(path, _whole_lines(path)[0], can_redo)
        if broken:
            log.say(f"{path}, {_numbers(broken)}: not as written, passed over")
        return rows

    def append(self, row: dict[str, Any]) -> None:
        """Raises OSError where the disk is full; the journal then still ends in a whole row."""
        if self.can_redo:
            row = {key: value for key, value in row.items() if key != CHECKSUM}
            row[CHECKSUM] = _checksum(row)
        rest, size = memoryview(_compact(row) + b"\n"), self._file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # a disk that fills takes a part
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        self._file.close()

    def _set_aside(self, lines: list[bytes], broken: list[int]) -> None:
        aside = self.path.with_name(self.path.name + ".broken")
        with open(aside, "ab") as file:
            file.writelines(lines[number - 1] + b"\n" for number in broken)
        partial = self.path.with_name(self.path.name + ".partial")
        numbers = set(broken)
        kept = (line for number, line in enumerate(lines, 1) if number not in numbers)
        partial.write_bytes(b"".join(line + b"\n" for line in kept))
        partial.replace(self.path)
        log.say(f"{self.path}, {_numbers(broken)}: not as written, moved to {aside.name}; it will be made again")


def _whole_lines(path: Path) -> tuple[list[bytes], int]:
    """(lines, size in bytes of all of them), without half a line at the end."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    return data[:whole].split(b"\n")[:-1], whole


def _parse(path: Path, lines: list[bytes], can_redo: bool) -> tuple[list[dict[str, Any]], list[int]]:
    """(rows, numbers, from 1, of the broken lines). Raises UserError for a broken line unless can_redo."""
    rows, broken = [], []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif can_redo:
            broken.append(number)
        else:
            raise UserError(
                f"{path}, line {number}: not JSON, or not as written; move the file away to start this step anew"
            )
    return rows, broken


def _row(line: bytes) -> dict[str, Any] | None:
    """The row of one line; None where it is not one, or not what its checksum, if it has one, says."""
    try:
        row = json.loads(line)
    except ValueError:  # neither JSON nor, maybe, text
        return None
    if not isinstance(row, dict):
        return None
    return row if row.pop(CHECKSUM, None) in (None, _checksum(row)) else None


def _checksum(row: dict[str, Any]) -> str:
    return f"{zlib.crc32(_compact(row)):08x}"


def _compact(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()


def _numbers(broken: list[int]) -> str:
    some = ", ".join(map(str, broken[:5])) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
    return f"line{'s' if len(broken) > 1 else ''} {some}"
