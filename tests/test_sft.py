"""Training: a killed run ends as the uninterrupted one, and what is wrong with a config is said before it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from some_traces import some_traces
from tiny_model import tiny_model

from core.types import write_jsonl
from train.sft import SftConfig, main

HERE = Path(__file__).parent


def config_for(folder: Path, **trainer) -> SftConfig:
    return SftConfig(
        name="tiny", data=str(folder / "traces.jsonl"), model=str(folder / "model"), batch_size=4, num_epochs=2,
        learning_rate=1e-3, max_length=512, accumulation=2, save_steps=2, export_dtype="float32", trainer=trainer,
    )  # fmt: skip


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    tiny_model(folder / "model")
    write_jsonl(folder / "traces.jsonl", some_traces())
    return folder


@pytest.mark.slow
def test_a_killed_training_ends_as_the_uninterrupted_one(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    whole, killed = make_folder(tmp_path / "whole"), make_folder(tmp_path / "killed")
    monkeypatch.chdir(whole)
    finished = whole / main(config_for(whole))
    assert not list(finished.glob("checkpoint-*")), "checkpoints go once the model is saved"
    command = [sys.executable, "-m", "train.sft", "name=tiny", "data=traces.jsonl", "model=model", "batch_size=4",
               "num_epochs=2", "learning_rate=1e-3", "max_length=512", "accumulation=2", "save_steps=2",
               "export_dtype=float32"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen(command, cwd=killed, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not list(killed.glob("outputs/train/*/checkpoint-4/COMPLETE")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.kill()
    process.wait()
    (folder,) = killed.glob("outputs/train/tiny-*")
    (folder / "checkpoint-999").mkdir()  # half a checkpoint is not resumed from
    again = subprocess.run(command, cwd=killed, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert "going on from checkpoint-" in again.stderr

    ours, theirs = (load_file(p / "model" / "model.safetensors") for p in (folder, finished))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours), "bit for bit"
    losses = [[json.loads(line) for line in open(p / "metrics.jsonl")] for p in (folder, finished)]
    steps = [[(row["step"], row["loss"]) for row in rows] for rows in losses]
    assert steps[0] == steps[1] and len(steps[0]) == 12
    before = {p.name for p in folder.iterdir()}
    third = subprocess.run(command, cwd=killed, env=environment, capture_output=True, text=True, timeout=240)
    assert "already done" in third.stderr and {p.name for p in folder.iterdir()} == before
