"""Run folders: one config one folder, torn lines cut, changed inputs refused, DONE last."""

import json
import multiprocessing
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
