"""Run folders: one config one folder, torn lines cut, changed inputs refused, DONE last."""

import json
import multiprocessing
import os
from dataclasses import dataclass, replace

import pytest

from core import runs
from core.config import UserError, option


@dataclass
class Config:
    name: str = "t"
    seed: int = 3


@dataclass
class Limits:
    num_workers: int = option(4, affects_result=False)
    temperature: float = option(0.0)


@dataclass
class LimitedConfig:
    name: str = "t"
    api: Limits = option(Limits)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_records_where_it_came_from_and_is_done_once(tmp_path):
    (tmp_path / "in.jsonl").write_text("{}\n")
    with runs.open_run("data", Config(), {"pool": "in.jsonl"}) as run:
        assert not run.is_done
        with pytest.raises(UserError, match="not finished"):
            runs.finished(run.path)
        run.journal("rows.jsonl").append({"a": 1})
        run.finish(num_rows=1)
    record = runs.read_record(run.path)
    assert record["status"] == "done" and record["headline"] == {"num_rows": 1} and record["seed"] == 3
    assert record["inputs"]["pool"] and record["versions"]["python"] and record["hardware"]["cores"]
    with runs.open_run("data", Config(), {"pool": "in.jsonl"}) as again:
        assert again.is_done and again.path == run.path
    with runs.open_run("data", Config(seed=4)) as other:
        assert other.path != run.path and not other.is_done


def test_a_run_resumes_under_another_limit_but_not_under_another_meaning():
    def path(**limits):
        return runs.run_path("data", LimitedConfig(api=Limits(**limits)))

    assert path(num_workers=8) == path() != path(temperature=1.0)
    plain = Config(seed=7)
    assert runs.run_path("data", plain).name == "t-" + runs.hashlib.sha256(b'{"name": "t", "seed": 7}').hexdigest()[:8]
    assert runs.run_path("data", replace(plain, seed=8)) != runs.run_path("data", plain)


def test_changed_inputs_are_refused(tmp_path):
    (tmp_path / "in.jsonl").write_text("{}\n")
    with runs.open_run("data", Config(), {"pool": "in.jsonl"}):
        pass
    (tmp_path / "in.jsonl").write_text('{"b": 2}\n')
    with pytest.raises(UserError, match="input pool changed"), runs.open_run("data", Config(), {"pool": "in.jsonl"}):
        pass


def test_a_failed_run_says_so_and_resumes():
    with pytest.raises(RuntimeError), runs.open_run("data", Config()) as run:
        run.journal("rows.jsonl").append({"a": 1})
        raise RuntimeError("boom")
    assert json.loads((run.path / "run.json").read_text())["error"] == "RuntimeError: boom"
    with runs.open_run("data", Config()) as again:
        assert again.journal("rows.jsonl").rows == [{"a": 1}]
        again.finish()
    assert runs.read_record(run.path)["sittings"] == 2 and "error" not in runs.read_record(run.path)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_cut_off(tmp_path, cut):
    path = tmp_path / "j.jsonl"
    journal = runs.Journal(path)
    for i in range(3):
        journal.append({"i": i})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    journal = runs.Journal(path)
    kept = 2 if cut < 9 else 1
    assert [row["i"] for row in journal.rows] == list(range(kept))
    for i in range(kept, 3):
        journal.append({"i": i})
    journal.close()
    assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "j.jsonl").write_text('{"i": 0}\n{"i"\n{"i": 2}\n')
    with pytest.raises(UserError, match="j.jsonl, line 2"):
        runs.Journal(tmp_path / "j.jsonl")


def written(path, count, **options) -> list[bytes]:
    """A journal of so many rows, closed; its lines."""
    journal = runs.Journal(path, **options)
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
    assert [row["i"] for row in runs.Journal.read(path, can_redo=True)] == [0, 2, 3]
    assert "j.jsonl, line 2: not as written, passed over" in capsys.readouterr().err
    assert path.read_bytes() == b"".join(damaged) + b'{"half', "reading changes nothing"

    journal = runs.Journal(path, can_redo=True)
    assert capsys.readouterr().err.count("j.jsonl, line 2: not as written, moved to j.jsonl.broken") == 1
    assert [row["i"] for row in journal.rows] == [0, 2, 3] and "crc32" not in journal.rows[0]
    assert (tmp_path / "j.jsonl.broken").read_bytes() == damaged[1]
    journal.append({"i": 1})
    journal.close()
    assert [row["i"] for row in runs.Journal(path, can_redo=True).rows] == [0, 2, 3, 1]
    assert capsys.readouterr().err == ""


def test_rows_written_before_there_were_checksums_are_rows(tmp_path):
    path = tmp_path / "j.jsonl"
    written(path, 2)
    assert b"crc32" not in path.read_bytes()
    assert [row["i"] for row in runs.Journal(path, can_redo=True).rows] == [0, 1]
    checked = written(tmp_path / "k.jsonl", 2, can_redo=True)
    reformatted = "".join(json.dumps(json.loads(line)) + "\n" for line in checked)
    (tmp_path / "k.jsonl").write_text(reformatted)
    assert len(runs.Journal(tmp_path / "k.jsonl", can_redo=True).rows) == 2, "the checksum is of what the row says"


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
    journal = runs.Journal(path)
    journal._file = SmallDisk(journal._file, room=20)
    journal.append({"i": 0})
    with pytest.raises(OSError, match="No space left"):
        journal.append({"i": 1, "text": "too long for it"})
    assert path.read_bytes() == b'{"i":0}\n'
    journal.append({"i": 2})
    journal.close()
    assert path.read_bytes() == b'{"i":0}\n{"i":2}\n', "nothing of the refused row comes later"


def _hold(ready, release):
    with runs.open_run("data", Config()):
        ready.set()
        release.wait(30)


def test_two_processes_never_share_a_folder():
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(ready, release))
    other.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match="in use by another process"), runs.open_run("data", Config()):
        pass
    release.set()
    other.join(30)


def test_digests_see_contents_not_names_of_the_moment(tmp_path):
    big = tmp_path / "weights.bin"
    big.write_bytes(b"a" * (2 << 20))
    first = runs.digest_of(big)
    assert runs.digest_of(big) == first and (tmp_path / "outputs/digests.json").exists()
    big.write_bytes(b"b" * (2 << 20))
    assert runs.digest_of(big) != first
    assert runs.digest_of("owner/model") == "name:owner/model"
