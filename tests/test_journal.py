"""Journals: torn and broken lines, a disk that fills, rows that say when they are not as written."""

import json
import os

import pytest

from core.config import UserError
from core.journal import Journal


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_cut_off(tmp_path, cut):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    for i in range(3):
        journal.append({"i": i})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    journal = Journal(path)
    kept = 2 if cut < 9 else 1
    assert [row["i"] for row in journal.rows] == list(range(kept))
    for i in range(kept, 3):
        journal.append({"i": i})
    journal.close()
    assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "j.jsonl").write_text('{"i": 0}\n{"i"\n{"i": 2}\n')
    with pytest.raises(UserError, match="j.jsonl, line 2"):
        Journal(tmp_path / "j.jsonl")


def written(path, count, **options) -> list[bytes]:
    """A journal of so many rows, closed; its lines."""
    journal = Journal(path, **options)
    for i in range(count):
        journal.append({"i": i, "text": f"row {i}: \u2028", "score": i / 3, "ids": [i, 1000 + i]})
    journal.close()
    return path.read_bytes().splitlines(keepends=True)


def not_json(line):
    return line[:9] + b"\n"


def not_text(line):
    return b"\xff" + line[1:]


def another_number(line):
    return line.replace(b"[1,1001]", b"[1,1007]")


def another_type(line):
    return b"7\n"


@pytest.mark.parametrize("damage", [not_json, not_text, another_number, another_type])
def test_a_broken_line_that_can_be_made_again_is_set_aside_and_said(tmp_path, capsys, damage):
    path = tmp_path / "j.jsonl"
    lines = written(path, 4, can_redo=True)
    damaged = [lines[0], damage(lines[1]), *lines[2:]]
    path.write_bytes(b"".join(damaged) + b'{"half')
    assert [row["i"] for row in Journal.read(path, can_redo=True)] == [0, 2, 3]
    assert "j.jsonl, line 2: not as written, passed over" in capsys.readouterr().err
    assert path.read_bytes() == b"".join(damaged) + b'{"half', "reading changes nothing"

    journal = Journal(path, can_redo=True)
    assert capsys.readouterr().err.count("j.jsonl, line 2: not as written, moved to j.jsonl.broken") == 1
    assert [row["i"] for row in journal.rows] == [0, 2, 3] and "crc32" not in journal.rows[0]
    assert (tmp_path / "j.jsonl.broken").read_bytes() == damaged[1]
    journal.append({"i": 1})
    journal.close()
    assert [row["i"] for row in Journal(path, can_redo=True).rows] == [0, 2, 3, 1]
    assert capsys.readouterr().err == ""


def test_rows_written_before_there_were_checksums_are_rows(tmp_path):
    path = tmp_path / "j.jsonl"
    written(path, 2)
    assert b"crc32" not in path.read_bytes()
    assert [row["i"] for row in Journal(path, can_redo=True).rows] == [0, 1]
    checked = written(tmp_path / "k.jsonl", 2, can_redo=True)
    reformatted = "".join(json.dumps(json.loads(line)) + "\n" for line in checked)
    (tmp_path / "k.jsonl").write_text(reformatted)
    assert len(Journal(tmp_path / "k.jsonl", can_redo=True).rows) == 2, "the checksum is of what the row says"


class SmallDisk:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        taken = min(len(data), self.room - os.fstat(self.file.fileno()).st_size)
        if taken <= 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data[:taken])


def test_a_full_disk_leaves_whole_rows(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal._file = SmallDisk(journal._file, room=20)
    journal.append({"i": 0})
    with pytest.raises(OSError, match="No space left"):
        journal.append({"i": 1, "text": "too long for it"})
    assert path.read_bytes() == b'{"i":0}\n'
    journal.append({"i": 2})
    journal.close()
    assert path.read_bytes() == b'{"i":0}\n{"i":2}\n', "nothing of the refused row comes later"
