"""kill -9 at any moment, start again: the result equals the uninterrupted one, token for token."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_model import tiny_model

from core.types import Question, read_jsonl, write_jsonl

HERE = Path(__file__).parent


def start(folder: Path, seconds_per_step: float) -> subprocess.Popen:
    return start_command(folder, [HERE / "scripted_eval.py", "questions.jsonl", str(seconds_per_step)])


def start_command(folder: Path, arguments: list) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def samples(folder: Path) -> list[dict]:
    """What was found; how long it took, and what the cache held, is another matter each time."""
    (path,) = folder.glob("outputs/eval/killed-*/samples.jsonl")
    rows = [{k: v for k, v in r.items() if k not in ("seconds", "num_cached_tokens")} for r in read_jsonl(path)]
    return sorted(rows, key=lambda r: (r["question_id"], r["repeat"], r["cell"]))


def make_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    questions = [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "test", "sums") for i in range(12)]
    write_jsonl(folder / "questions.jsonl", questions)
    return folder


@pytest.mark.slow  # no torch, but twelve seconds
def test_a_killed_evaluation_ends_as_the_uninterrupted_one(tmp_path):
    whole, killed = make_folder(tmp_path, "whole"), make_folder(tmp_path, "killed")
    process = start(whole, 0)
    assert process.wait(120) == 0, process.stderr.read().decode()

    rng = random.Random(0)
    seen: dict[tuple, dict] = {}
    for _ in range(4):
        process = start(killed, 0.004)
        files = list(killed.glob("outputs/eval/killed-*/samples.jsonl"))
        size = files[0].stat().st_size if files else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:  # until it has got somewhere
            files = list(killed.glob("outputs/eval/killed-*/samples.jsonl"))
            if files and files[0].stat().st_size > size + rng.randrange(1, 4000):
                break
            time.sleep(0.005)
        process.kill()
        process.wait()
        (path,) = killed.glob("outputs/eval/killed-*/samples.jsonl")
        done = path.read_bytes()
        rows = {} if b"\n" not in done else {(r["cell"], r["question_id"], r["repeat"]): r for r in _whole_rows(done)}
        assert all(rows[key] == row for key, row in seen.items()), "finished samples stay as they were"
        seen = rows
    assert 0 < len(seen) < len(samples(whole)), "the kills came while there was work left"
    process = start(killed, 0)
    assert process.wait(120) == 0, process.stderr.read().decode()
    assert samples(killed) == samples(whole)
    assert (next(killed.glob("outputs/eval/killed-*")) / "DONE").exists()


def _whole_rows(data: bytes) -> list[dict]:
    return [json.loads(line) for line in data[: data.rfind(b"\n")].split(b"\n")]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_a_killed_evaluation_of_a_real_model_ends_as_the_uninterrupted_one(tmp_path, backend):
    if backend == "vllm":
        pytest.importorskip("vllm", reason="vLLM is not installed on this platform")
    arguments = ["-m", "eval.run", "name=killed", "model=model", "questions=questions.jsonl",
                 "cells=[{max_thinking_tokens: [10, 40, 80], num_ignore: [0, 1]}]", "max_answer_tokens=12",
                 f"engine.backend={backend}", "engine.dtype=float32", "engine.max_model_len=256",
                 "engine.max_num_seqs=2"]  # fmt: skip
    folders = [make_folder(tmp_path, name) for name in ("whole", "killed")]
    for folder in folders:
        tiny_model(folder / "model")
    whole, killed = folders
    process = start_command(whole, arguments)
    assert process.wait(360) == 0, process.stderr.read().decode()
    process = start_command(killed, arguments)
    deadline = time.monotonic() + 360
    while process.poll() is None and time.monotonic() < deadline:
        files = list(killed.glob("outputs/eval/killed-*/samples.jsonl"))
        if files and files[0].stat().st_size > 2000:
            break
        time.sleep(0.002)
    assert process.poll() is None, "it must be killed while it works"
    process.kill()
    process.wait()
    done_before = len(samples_so_far(killed))
    process = start_command(killed, arguments)
    assert process.wait(360) == 0, process.stderr.read().decode()
    assert 0 < done_before < len(samples(whole))
    assert samples(killed) == samples(whole)


def samples_so_far(folder: Path) -> list[dict]:
    (path,) = folder.glob("outputs/eval/killed-*/samples.jsonl")
    return _whole_rows(path.read_bytes())
