"""The gradient table: every backend, loss, sequence-parallel size and accumulation against one plain forward pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gradient_worker import cells
from some_traces import some_traces
from tiny_model import tiny_model

from core.types import write_jsonl
from train.sft import SftConfig, prepare

HERE = Path(__file__).parent
PROCESSES = {"single": 1, "ddp": 2, "fsdp2": 4, "zero3": 2}
TOLERANCE = 1e-5  # relative, of each parameter's gradient in the Euclidean norm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients")
    tiny_model(folder / "model", kind="qwen2", num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1)
    write_jsonl(folder / "traces.jsonl", some_traces())
    return folder


def plain_gradients(folder: Path, loss_weighting: str) -> dict:
    """By the definition of the loss: one example at a time, no padding, whole logits, transformers' own attention."""
    import torch
    from transformers import AutoModelForCausalLM

    prepared = prepare(SftConfig(name="x", data=str(folder / "traces.jsonl"), model=str(folder / "model"),
                                 batch_size=8, max_length=512))  # fmt: skip
    rows = [prepared.batches.rows[i] for i in prepared.batches.steps[0]]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    sums, counts = [], []
    for row in rows:
        labels = torch.tensor(row["labels"][1:])
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        sums.append(torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100))
        counts.append(int((labels != -100).sum()))
    if loss_weighting == "example":
        loss = sum(s / n for s, n in zip(sums, counts, strict=True)) / len(rows)
    else:
        loss = sum(sums) / sum(counts)
    loss.backward()
    return {"loss": loss.item(), "gradients": {name: p.grad for name, p in model.named_parameters()}}


def run_backend(backend: str, folder: Path) -> None:
    worker = [str(HERE / "gradient_worker.py"), backend, "traces.jsonl", "model", "."]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES[backend]}"]
    command = [sys.executable, *([] if backend == "single" else torchrun), *worker]
    path = f"{HERE.parent}:{HERE / 'fsdp_on_cpu'}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("backend", PROCESSES)
def test_gradients_are_those_of_a_plain_forward_pass(backend, folder, capsys):
    import torch

    run_backend(backend, folder)
    errors = {}
    for weighting, sequence_parallel, accumulation in cells(PROCESSES[backend]):
        expected = plain_gradients(folder, weighting)
        got = torch.load(folder / f"{backend}-{weighting}-{sequence_parallel}-{accumulation}.pt")
        assert got["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE)
        assert got["gradients"].keys() == expected["gradients"].keys()
        difference = max(
            ((got["gradients"][name] - gradient).norm() / gradient.norm()).item()
            for name, gradient in expected["gradients"].items()
        )
        errors[weighting, sequence_parallel, accumulation] = difference
    with capsys.disabled():
        print()
        for (weighting, sequence_parallel, accumulation), error in errors.items():
            print(f"  {backend:<7} x{PROCESSES[backend]}  {weighting:<8} SP {sequence_parallel}  "
                  f"accumulation {accumulation}  relative difference {error:.1e}")  # fmt: skip
    assert max(errors.values()) <= TOLERANCE
