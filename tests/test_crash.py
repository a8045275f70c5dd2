"""Training that is killed, that fills the disk, that loses files, that is stopped: it ends as if nothing had been, or
says what is missing. Real processes, sharded with FSDP2 over gloo."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from training_job import NUM_STEPS, ended, losses, make_folder, run_folder, start, train, wait_for, workers_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with the uninterrupted run."""
    folder = make_folder(tmp_path_factory.mktemp("whole") / "job")
    status, said = train(folder)
    assert status == 0, said
    assert [step for step, _ in losses(folder)] == list(range(1, NUM_STEPS + 1))
    assert not list(run_folder(folder).glob("checkpoint-*")), "they go once the model is saved"
    return folder


def assert_ends_as(whole: Path, folder: Path) -> None:
    """With the same losses at each step, each once, and the same weights, bit for bit."""
    from safetensors.torch import load_file

    assert (run_folder(folder) / "DONE").exists()
    assert losses(folder) == losses(whole)
    ours, theirs = (load_file(run_folder(f) / "model" / "model.safetensors") for f in (folder, whole))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def error_lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error:")]


KEY = "0123456789abcdef" * 2 + "01234567"


def test_kill_9_of_one_rank_then_a_checkpoint_that_lost_a_file(whole, tmp_path):
    folder = make_folder(tmp_path / "job")
    process = start(folder, "wandb=offline", WANDB_API_KEY=KEY)
    checkpoint = wait_for(process, folder, "checkpoint-4/COMPLETE").parent
    os.kill(workers_of(process)[1], signal.SIGKILL)
    status, said = ended(process)
    assert status != 0 and not (run_folder(folder) / "DONE").exists()
    assert "Signal 9 (SIGKILL)" in said

    (checkpoint / "pytorch_model_fsdp_0" / ".metadata").unlink()
    with open(run_folder(folder) / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # half a line
    status, said = train(folder, "wandb=offline", WANDB_API_KEY=KEY)
    assert status == 0, said
    assert "passing over checkpoint-4: pytorch_model_fsdp_0/.metadata is missing" in said
    assert "going on from checkpoint-2" in said
    assert_ends_as(whole, folder)

    sittings = sorted(run_folder(folder).glob("wandb/offline-run-*"))
    assert len(sittings) == 2
    assert all(path.name.endswith(f"-{run_folder(folder).name}") for path in sittings), "the same wandb run"
    (file,) = sittings[1].glob("*.wandb")
    mirrored = file.read_bytes()
    assert all(repr(loss).encode() in mirrored for step, loss in losses(folder) if step > 2)
    for file in folder.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_full_disk_during_a_checkpoint(whole, tmp_path):
    folder = make_folder(tmp_path / "job")
    outputs = folder / "outputs"
    outputs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(outputs)]  # one checkpoint, and a bit
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk needs the right to mount one (root)")
    try:
        status, said = train(folder)
        assert status != 0
        name = f"outputs/train/{run_folder(folder).name}/checkpoint-4"
        assert error_lines(said) == [
            f"error: no space left on the disk for {name}; free some and run the same command again: finished work is "
            "kept"
        ]
        assert "Traceback" not in said[: said.index("error:")]
        subprocess.run(["mount", "-o", "remount,size=20m", str(outputs)], check=True)
        status, said = train(folder)
        assert status == 0, said
        assert "passing over checkpoint-4: it was not written to its end" in said
        assert "going on from checkpoint-2" in said
        assert_ends_as(whole, folder)
    finally:
        subprocess.run(["umount", str(outputs)], check=True)


def test_stopping_by_the_job_and_going_on_with_more_devices(whole, tmp_path):
    folder = make_folder(tmp_path / "job")
    asked = tmp_path / "stop"
    asked.touch()
    status, said = train(folder, STOP_FILE=str(asked))
    assert status == 0, said
    run = run_folder(folder)
    assert [p.name for p in run.glob("checkpoint-*")] == ["checkpoint-1"] and not (run / "DONE").exists()
    assert asked.read_text() == "saved\n", "the job is to be queued again"
    assert f"asked to stop by {asked}: saved after step 1" in said

    status, said = train(folder, processes=1)
    assert status == 2
    assert error_lines(said) == [
        f"error: outputs/train/{run.name}/checkpoint-1 was written by backend=fsdp2 on 2 devices and cannot go on as "
        "fsdp2 on 1 device; use fsdp2 on two or more, or remove the run folder to train from the start"
    ]
    status, said = train(folder, processes=4)  # another layout: 2 groups of 2 devices
    assert status == 0, said
    assert "going on from checkpoint-1" in said and "4 devices = 2 groups x 2" in said
    assert [step for step, _ in losses(folder)] == list(range(1, NUM_STEPS + 1))
    assert [loss for _, loss in losses(folder)] == pytest.approx([loss for _, loss in losses(whole)], rel=1e-5)
    assert (run / "DONE").exists()


def test_zero3_stopped_by_hand_goes_on(whole, tmp_path):
    pytest.importorskip("deepspeed")
    folder = make_folder(tmp_path / "job")
    process = start(folder, "backend=zero3")
    run = wait_for(process, folder, "config.yaml").parent
    (run / "STOP").touch()
    status, said = ended(process)
    assert status == 0, said
    assert f"asked to stop by outputs/train/{run.name}/STOP: saved after step 1" in said
    assert (run / "checkpoint-1" / "COMPLETE").exists() and not (run / "DONE").exists()
    assert not (run / "STOP").exists(), "or the next one would stop again"
    status, said = train(folder, "backend=zero3")
    assert status == 0, said
    assert "going on from checkpoint-1" in said and (run / "DONE").exists()
    assert [step for step, _ in losses(folder)] == list(range(1, NUM_STEPS + 1))
    assert [loss for _, loss in losses(folder)] == pytest.approx([loss for _, loss in losses(whole)], rel=1e-5)
