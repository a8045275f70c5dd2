"""Starts train.sft in processes of its own, on a tiny Qwen2. Importing this needs no torch."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from some_traces import some_traces
from tiny_model import tiny_model

from core.types import write_jsonl

HERE = Path(__file__).parent
NUM_STEPS = 9  # 24 traces, batches of 8, three epochs


def make_folder(folder: Path) -> Path:
    """A folder to train in, with traces and a model whose heads two devices can share."""
    folder.mkdir()
    tiny_model(folder / "model", kind="qwen2", num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1)
    write_jsonl(folder / "traces.jsonl", some_traces())
    return folder


def start(folder: Path, *changes: str, processes: int = 2, **environment: str) -> subprocess.Popen:
    """The same training each time; changes: key=value. processes: 1 starts no torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "train.sft",
               "name=job", "data=traces.jsonl", "model=model", "num_epochs=3", "batch_size=8", "max_length=512",
               "learning_rate=1e-3", "save_steps=2", "export_dtype=float32", "smoke_tokens=0", *changes]  # fmt: skip
    paths = f"{HERE.parent}:{HERE / 'fsdp_on_cpu'}"
    return subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """(exit status, what it said on stderr)."""
    _, said = process.communicate(timeout=360)
    return process.returncode, said


def train(folder: Path, *changes: str, processes: int = 2, **environment: str) -> tuple[int, str]:
    return ended(start(folder, *changes, processes=processes, **environment))


def run_folder(folder: Path) -> Path:
    (run,) = folder.glob("outputs/train/job-*")
    return run


def losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of each row of metrics.jsonl."""
    rows = [json.loads(line) for line in open(run_folder(folder) / "metrics.jsonl")]
    return [(row["step"], row["loss"]) for row in rows]


def wait_for(process: subprocess.Popen, folder: Path, pattern: str) -> Path:
    """Until a file of the run folder matches; fails where the process ends before."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for found in folder.glob(f"outputs/train/job-*/{pattern}"):
            return found
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise TimeoutError(pattern)


def workers_of(torchrun: subprocess.Popen) -> list[int]:
    """Process ids of the ranks, in their order."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()

    def rank(pid: str) -> int:
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        return next(int(entry.removeprefix("RANK=")) for entry in environment if entry.startswith("RANK="))

    return sorted((int(pid) for pid in children), key=lambda pid: rank(str(pid)))
