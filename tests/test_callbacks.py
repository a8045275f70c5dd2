"""Checkpoints that are whole, who may go on from them, and what is written beside the training steps."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest

import train.resume
from core.config import UserError
from train.resume import (
    COMPLETE,
    check_resumable,
    last_checkpoint,
    mark_complete,
    remove_checkpoints,
    remove_older,
    remove_unfinished,
)


def save(folder, step, backend="fsdp2", num_devices=2, complete=True):
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "model").mkdir(parents=True)
    for name in ("model/__0_0.distcp", "model/__1_0.distcp", "trainer_state.json"):
        (checkpoint / name).write_text(f"{name} of {step}")
    if complete:
        mark_complete(checkpoint, backend, num_devices)
    return checkpoint


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_whole_checkpoint_is_the_one(tmp_path):
    assert last_checkpoint(tmp_path) is None
    save(tmp_path, 50)
    newest = save(tmp_path, 150)  # 150 before 50, though not by name
    save(tmp_path, 200, complete=False)
    (tmp_path / "checkpoint-notes").mkdir()
    assert last_checkpoint(tmp_path) == newest


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: (c / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda c: shutil.rmtree(c / "model"), "model/__0_0.distcp is missing"),
        (lambda c: os.truncate(c / "model/__1_0.distcp", 5), "model/__1_0.distcp has 5 bytes and was written with 25"),
        (lambda c: os.truncate(c / COMPLETE, 40), "its COMPLETE cannot be read"),
        (lambda c: os.truncate(c / COMPLETE, 0), "its COMPLETE cannot be read"),
        (lambda c: (c / COMPLETE).write_bytes(b"\xff\x00"), "its COMPLETE cannot be read"),
        (lambda c: (c / COMPLETE).write_text("{}"), "its COMPLETE cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, capsys, damage, said):
    before, newest = save(tmp_path, 100), save(tmp_path, 150)
    damage(newest)
    assert last_checkpoint(tmp_path) == before
    assert capsys.readouterr().err == f"passing over checkpoint-150: {said}\n"
    (before / "trainer_state.json").unlink()
    with pytest.raises(UserError) as error:  # what was paid for is not thrown away without a word
        last_checkpoint(tmp_path)
    assert f"checkpoint-150: {said}; checkpoint-100: trainer_state.json is missing" in str(error.value)
    assert f"remove {tmp_path}/checkpoint-* to train from the start" in str(error.value)


def test_a_training_killed_in_its_first_save_starts_anew(tmp_path, capsys):
    save(tmp_path, 50, complete=False)
    assert last_checkpoint(tmp_path) is None
    assert capsys.readouterr().err == "passing over checkpoint-50: it was not written to its end\n"


@pytest.mark.slow
def test_older_checkpoints_go_only_when_a_newer_one_is_whole(tmp_path, monkeypatch):
    """A training that is killed and started again and again, killed at every point of every save and removal."""
    steps = iter(range(10, 1000, 10))

    class Killed(Exception):
        pass

    def sitting(kill_after: int) -> None:
        """Two saves; the operation after so many is never done."""
        left = [kill_after]

        def counted(function):
            def call(*args, **kwargs):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in [
                (train.resume.Path, "unlink"), (train.resume.Path, "replace"), (train.resume.Path, "write_text"),
                (train.resume.Path, "mkdir"), (train.resume.shutil, "rmtree"),
            ]:  # fmt: skip
                patch.setattr(owner, name, counted(getattr(owner, name)))
            remove_unfinished(tmp_path)
            for _ in range(2):
                remove_older(save(tmp_path, next(steps)))

    sitting(10**6)
    newest, complete_sittings = last_checkpoint(tmp_path), 0
    for kill_after in range(40):
        try:
            sitting(kill_after)
            complete_sittings += 1
        except Killed:
            pass
        found = last_checkpoint(tmp_path)
        assert found is not None and int(found.name[11:]) >= int(newest.name[11:])
        newest = found
    assert 0 < complete_sittings < 40, "kills at every point, and enough operations for all"
    assert names(tmp_path) == sorted([newest.name, f"checkpoint-{int(newest.name[11:]) - 10}"]), "two are kept"
    remove_checkpoints(tmp_path)
    assert names(tmp_path) == []


def test_a_damaged_checkpoint_does_not_count_as_one_of_the_two(tmp_path):
    save(tmp_path, 50)
    (save(tmp_path, 100) / "trainer_state.json").unlink()
    save(tmp_path, 300, complete=False)
    remove_older(save(tmp_path, 150))
    assert names(tmp_path) == ["checkpoint-150", "checkpoint-50"]


def test_what_cannot_be_removed_is_said(tmp_path, monkeypatch, capsys):
    def fail(path):
        raise OSError(39, "Directory not empty", str(path))

    old, _ = save(tmp_path, 50), save(tmp_path, 100)
    monkeypatch.setattr(train.resume.shutil, "rmtree", fail)
    remove_older(save(tmp_path, 150))
    assert capsys.readouterr().err == f"cannot remove {old}: Directory not empty; remove it by hand\n"
    assert not (old / COMPLETE).exists(), "it can not be taken for a damaged one"


@pytest.mark.parametrize(
    ("written", "wanted", "way_out"),
    [
        (("fsdp2", 2), ("fsdp2", 4), None),
        (("fsdp2", 16), ("fsdp2", 2), None),
        (("fsdp2", 2), ("fsdp2", 1), "fsdp2 on two or more"),
        (("fsdp2", 2), ("ddp", 2), "fsdp2 on two or more"),
        (("fsdp2", 1), ("single", 1), None),
        (("single", 1), ("ddp", 4), None),
        (("ddp", 4), ("single", 1), None),
        (("ddp", 2), ("fsdp2", 2), "single or fsdp2 on 1, or ddp"),
        (("zero3", 2), ("zero3", 2), None),
        (("zero3", 2), ("zero3", 4), "zero3 on 2"),
        (("zero3", 2), ("fsdp2", 2), "zero3 on 2"),
        (("single", 1), ("zero3", 1), "single or fsdp2 on 1, or ddp"),
    ],
)
def test_who_can_read_a_checkpoint(tmp_path, written, wanted, way_out):
    checkpoint = save(tmp_path, 50, *written)
    if way_out is None:
        check_resumable(checkpoint, *wanted)
        return
    with pytest.raises(UserError) as error:
        check_resumable(checkpoint, *wanted)
    assert f"cannot go on as {wanted[0]} on {wanted[1]} device" in str(error.value)
    assert f"; use {way_out}, or remove the run folder" in str(error.value)


def a_state(step=0, max_steps=6, first=True):
    return SimpleNamespace(global_step=step, max_steps=max_steps, is_world_process_zero=first, save_steps=50)


def a_control():
    return SimpleNamespace(should_save=False, should_training_stop=False)


@pytest.mark.slow
def test_metrics_hold_each_step_once_and_wandb_the_same_numbers(tmp_path):
    from train.callbacks import StepLines

    mirrored = []
    wandb = SimpleNamespace(log=lambda row, step: mirrored.append((step, row)))
    path = tmp_path / "metrics.jsonl"

    def sitting(first, last):
        lines = StepLines(path, [100] * 6, [1e9] * 6, None, wandb)
        lines.on_train_begin(None, a_state(first), None)
        for step in range(first + 1, last + 1):
            logs = {"loss": 1 / step, "grad_norm": float("nan"), "learning_rate": 1e-5}
            lines.on_log(None, a_state(step), None, logs)
        lines.on_log(None, a_state(last), None, {"train_runtime": 1.0})  # not of a step

    sitting(0, 3)
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    sitting(2, 5)  # the checkpoint was that of step 2
    rows = [json.loads(line) for line in open(path)]
    assert [(row["step"], row["loss"]) for row in rows] == [(step, 1 / step) for step in range(1, 6)]
    assert [(step, row["loss"]) for step, row in mirrored] == [(step, 1 / step) for step in (1, 2, 3, 3, 4, 5)]
    with open(path, "a") as file:
        file.write("not JSON\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 6: not JSON"):
        sitting(5, 5)


@pytest.mark.slow
def test_stopping_is_answered_to_who_asked(tmp_path, monkeypatch):
    from train.callbacks import StopOnRequest

    def step(callback, number):
        control = a_control()
        callback.on_step_end(None, a_state(number), control)
        assert control.should_save == control.should_training_stop
        return control.should_save

    monkeypatch.delenv("STOP_FILE", raising=False)
    nobody = StopOnRequest(tmp_path)
    assert not step(nobody, 1) and nobody.stopped is None
    job = tmp_path / "job"
    monkeypatch.setenv("STOP_FILE", str(job))
    by_job = StopOnRequest(tmp_path)
    assert not step(by_job, 1)
    job.touch()
    assert step(by_job, 6), "after the last step, too: the export takes its time"
    by_job.answer()
    assert job.read_text() == "saved\n"
    job.write_text("")
    by_hand = tmp_path / "STOP"
    by_hand.touch()
    both = StopOnRequest(tmp_path)
    assert step(both, 2)
    both.answer()
    assert not by_hand.exists() and job.read_text() == "", "who stops by hand does not want the job again"


@pytest.mark.slow
def test_saves_follow_the_config_of_this_sitting_and_never_mix_two(tmp_path):
    from train.callbacks import Checkpoints

    args = SimpleNamespace(output_dir=str(tmp_path), save_steps=7)
    callback, state = Checkpoints("fsdp2", 2), a_state(50)
    save(tmp_path, 40, complete=False)
    damaged = save(tmp_path, 50)
    callback.on_train_begin(args, state, a_control())
    assert state.save_steps == 7 and names(tmp_path) == ["checkpoint-50"]
    callback.on_step_end(args, state, a_control())
    assert damaged.exists(), "nothing is saved after this step"
    callback.on_step_end(args, state, SimpleNamespace(should_save=True))
    assert not damaged.exists()
    save(tmp_path, 50, complete=False)
    callback.on_save(args, a_state(50, first=False), a_control())
    assert last_checkpoint(tmp_path) is None
    callback.on_save(args, state, a_control())
    assert last_checkpoint(tmp_path) == damaged


@pytest.mark.slow
def test_ranks_that_see_different_disks_do_not_go_on(tmp_path, monkeypatch):
    from train import callbacks

    def broadcast(values, src):
        values[0] = tmp_path / "checkpoint-50"

    monkeypatch.setattr(callbacks.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(callbacks.distributed, "broadcast_object_list", broadcast)
    callbacks.check_agreement(tmp_path / "checkpoint-50")
    with pytest.raises(UserError, match="finds no whole checkpoint where the first machine finds checkpoint-50"):
        callbacks.check_agreement(None)
