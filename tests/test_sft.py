"""Training: the loss is the one we mean, and a killed run ends as the uninterrupted one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_model import tiny_model, tiny_tokenizer

from core.chat import IGNORE_LABEL, ChatFormat
from core.config import UserError
from core.types import Question, Trace, write_jsonl
from train.dataset import tokenize
from train.sft import SftConfig, accumulation_steps, load_traces, main

HERE = Path(__file__).parent


def some_traces(n=24):
    def trace(i):
        question = Question.of(f"{i} + {i} + 1 = ?", str(2 * i + 1), "integer", "test", "sums")
        return Trace(question, f"{i} + {i} = {2 * i}\n{2 * i} + 1 = {2 * i + 1}", f"Final Answer: {2 * i + 1}", "hand")

    return [trace(i) for i in range(n)]


def test_too_long_traces_are_named_not_cut():
    chat = ChatFormat("s1", tiny_tokenizer())
    traces = some_traces(3)
    longest = max(len(row["input_ids"]) for row in tokenize(traces, chat, 10_000))
    assert len(tokenize(traces, chat, longest)) == 3
    with pytest.raises(UserError, match=traces[2].question.id):
        tokenize(traces, chat, longest - 1)


def test_the_batch_is_split_evenly_or_refused():
    config = SftConfig(name="x", data="d", model="m", batch_size=16, micro_batch_size=2)
    assert [accumulation_steps(config, n) for n in (1, 2, 8)] == [8, 4, 1]
    with pytest.raises(UserError, match="not a multiple"):
        accumulation_steps(config, 3)


def config_for(folder: Path, **trainer) -> SftConfig:
    return SftConfig(
        name="tiny", data=str(folder / "traces.jsonl"), model=str(folder / "model"), batch_size=4, micro_batch_size=2,
        export_dtype="float32", trainer={"learning_rate": 1e-3, "num_train_epochs": 2, "save_steps": 2, **trainer},
    )  # fmt: skip


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    tiny_model(folder / "model")
    write_jsonl(folder / "traces.jsonl", some_traces())
    return folder


@pytest.mark.slow
def test_the_first_loss_and_gradient_are_those_of_a_plain_forward_pass(tmp_path, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    from train.sft import build_trainer

    monkeypatch.chdir(tmp_path)
    folder = make_folder(tmp_path / "run")
    trainer, tokenizer, path = build_trainer(config_for(folder), load_traces(folder / "traces.jsonl"), tmp_path / "out")
    rows = [trainer.train_dataset[i] for i in range(6)]
    batch = trainer.data_collator(rows)
    count = sum(label != IGNORE_LABEL for row in rows for label in row["labels"])
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(count))
    loss.backward()

    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    total = torch.tensor(0.0)
    for row in rows:  # one by one: no padding at all
        logits = plain(torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total = total + torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction="sum")
    (total / count).backward()
    assert loss.item() == pytest.approx(total.item() / count, rel=1e-5)
    ours = dict(trainer.model.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_killed_training_ends_as_the_uninterrupted_one(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    whole, killed = make_folder(tmp_path / "whole"), make_folder(tmp_path / "killed")
    monkeypatch.chdir(whole)
    finished = whole / main(config_for(whole))
    assert not list(finished.glob("checkpoint-*")), "checkpoints go once the model is saved"
    command = [sys.executable, "-m", "train.sft", "name=tiny", "data=traces.jsonl", "model=model", "batch_size=4",
               "micro_batch_size=2", "export_dtype=float32", "trainer.learning_rate=1e-3",
               "trainer.num_train_epochs=2", "trainer.save_steps=2"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen(command, cwd=killed, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(killed.glob("outputs/train/*/checkpoint-4/COMPLETE")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.kill()
    process.wait()
    (folder,) = killed.glob("outputs/train/tiny-*")
    (folder / "checkpoint-999").mkdir()  # half a checkpoint is not resumed from
    again = subprocess.run(command, cwd=killed, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "going on from checkpoint-" in again.stderr

    ours, theirs = (load_file(p / "model" / "model.safetensors") for p in (folder, finished))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours), "bit for bit"
    losses = [[json.loads(line) for line in open(p / "metrics.jsonl")] for p in (folder, finished)]
    steps = [[(row["step"], row["loss"]) for row in rows] for rows in losses]
    assert steps[0] == steps[1] and len(steps[0]) == 12
    before = {p.name for p in folder.iterdir()}
    third = subprocess.run(command, cwd=killed, env=environment, capture_output=True, text=True, timeout=60)
    assert "already done" in third.stderr and {p.name for p in folder.iterdir()} == before
