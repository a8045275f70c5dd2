"""launch.sh --slurm on a real SLURM: what is refused, what runs where, and what happens before the time limit."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from some_traces import some_traces
from tiny_model import tiny_model

from core.types import read_jsonl, write_jsonl

pytestmark = pytest.mark.slow
STAND_IN = ("train.stand_in",)
FSDP_ON_CPU = Path(__file__).parent.parent / "fsdp_on_cpu"  # accelerate shards only where there are GPUs
SFT = """\
data: tiny/traces.jsonl
model: tiny/model
num_epochs: 16
batch_size: 8
max_length: 512
export_dtype: float32
smoke_tokens: 4
"""
EVAL = """\
model: tiny/model
benchmarks: [tiny/sums.yaml]
cells:
  - {max_thinking_tokens: [6, 20, auto]}
  - {num_ignore: [1, 2]}
max_answer_tokens: 8
engine: {backend: transformers, dtype: float32, max_model_len: 160, max_num_seqs: 4}
"""


def launch(slurm, clone, *args: str, **environment: str) -> subprocess.CompletedProcess:
    """`./launch.sh --slurm ...` as someone would type it."""
    defaults = {"GPUS": "0", "LANE": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["./launch.sh", "--slurm", *args],
        cwd=clone, env={**slurm, **defaults, **environment}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def submit(slurm, clone, *args: str, **environment: str) -> str:
    """The id of the job."""
    result = launch(slurm, clone, *args, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def job(slurm, id: str) -> dict[str, str]:
    """What SLURM knows of a job."""
    shown = subprocess.run(["scontrol", "show", "job", "-o", id], env=slurm, capture_output=True, text=True, check=True)
    return dict(re.findall(r"(\S+?)=(\S*)", shown.stdout))


def wait_for(what: str, condition, seconds: float = 360.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return found


def ended(slurm, id: str) -> str:
    """The state in which a job ended."""
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
    return wait_for(f"job {id}", lambda: (state := job(slurm, id)["JobState"]) in over and state)


def restart(slurm, id: str) -> None:
    """Waits until a job is queued again, and has it start without SLURM's delay of two minutes."""
    wait_for("the requeue", lambda: (seen := job(slurm, id))["Restarts"] == "1" and seen["JobState"] == "PENDING")
    time.sleep(2)  # within a second of the first end, SLURM takes the second start for the first, and refuses it
    subprocess.run(["scontrol", "update", f"JobId={id}", "StartTime=now"], env=slurm, check=True)


def log(clone: Path, id: str) -> str:
    found = list(clone.glob(f"outputs/slurm/*-{id}.out"))
    return found[0].read_text() if found else ""


def rows(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_folder(clone: Path, package: str, name: str) -> Path:
    (folder,) = clone.glob(f"outputs/{package}/{name}-*")
    return folder


def queue(slurm) -> str:
    return subprocess.run(["squeue", "-h"], env=slurm, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"SBATCH_PARTITION": "nowhere"}, "SLURM refuses this job: invalid partition specified: nowhere; "),
        ({"NODES": "3"}, "SLURM refuses this job: allocation failure: Requested node configuration is not available"),
        ({"GPUS": "9"}, "SLURM refuses this job: allocation failure: Requested node configuration is not available"),
        ({"SBATCH_TIMELIMIT": "1-2"}, "SBATCH_TIMELIMIT=1-2 is over the limit of the partition, 1:00:00"),
    ],
)
def test_what_slurm_would_refuse_gets_one_line_and_nothing_is_queued(slurm, clone, environment, said):
    for arguments in (STAND_IN, ("--test-only", *STAND_IN)):
        result = launch(slurm, clone, *arguments, **environment)
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: {said}") and result.stderr.count("\n") == 1
    assert queue(slurm) == ""


def test_only_asking(slurm, clone):
    result = launch(slurm, clone, "--test-only", *STAND_IN, NODES="2", GPUS="8", SBATCH_TIMELIMIT="30")
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"Job \d+ to start at \S+ using 32 processors on nodes n\[1-2\] .*\n", result.stderr)
    assert queue(slurm) == ""


def test_wrong_keys_are_not_queued(slurm, clone):
    result = launch(slurm, clone, *STAND_IN, "num_step=3")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("unknown key 'num_step'; did you mean 'num_steps'?")
    assert queue(slurm) == ""


def test_training_runs_on_all_gpus_of_two_nodes(slurm, clone):
    id = submit(slurm, clone, *STAND_IN, "name=two nodes", NODES="2", GPUS="2")
    assert ended(slurm, id) == "COMPLETED", log(clone, id)
    folder = run_folder(clone, "train", "two nodes")
    assert (folder / "DONE").exists()
    assert rows(folder) == [{"step": step, "ranks": 4.0, "gpus": "0,1"} for step in (1, 2, 3, 4)]
    assert len(re.findall("step 4$", log(clone, id), re.MULTILINE)) == 1
    ranks = list((clone / "outputs/slurm" / id).glob("*/attempt_0/*/stderr.log"))
    assert len(ranks) == 4  # each rank also has a log of its own


def test_a_failing_rank_ends_the_job(slurm, clone):
    id = submit(slurm, clone, *STAND_IN, "name=failing", "failing_rank=1", NODES="2")
    assert ended(slurm, id) == "FAILED"
    assert job(slurm, id)["Restarts"] == "0"


def test_training_goes_on_after_the_time_limit(slurm, clone):
    id = submit(slurm, clone, *STAND_IN, "name=paused", "num_steps=15", "seconds=0.2", NODES="2")
    wait_for("a step", lambda: list(clone.glob("outputs/train/paused-*/metrics.jsonl")))
    subprocess.run(["scancel", "--signal=USR1", "--batch", id], env=slurm, check=True)
    restart(slurm, id)
    folder = run_folder(clone, "train", "paused")
    assert 0 < len(rows(folder)) < 15
    assert ended(slurm, id) == "COMPLETED", log(clone, id)
    assert [row["step"] for row in rows(folder)] == list(range(1, 16))
    assert (folder / "DONE").exists()
    assert not list(clone.glob("outputs/slurm/*.stop"))
    said = log(clone, id)
    assert f"job {id}: start 1, on n[1-2]" in said and f"job {id}: start 2, on n[1-2]" in said


@pytest.fixture
def tiny_training(clone) -> tuple[str, ...]:
    """Arguments of a training of 48 steps, and in CLUSTER_ENV what has accelerate shard on CPU processes."""
    tiny_model(clone / "tiny/model", kind="qwen2")
    write_jsonl(clone / "tiny/traces.jsonl", some_traces())
    (clone / "tiny/cluster.env").write_text(f"PYTHONPATH={FSDP_ON_CPU}\nCUDA_VISIBLE_DEVICES=\n")
    (clone / "tiny/sft.yaml").write_text(SFT)
    return "train.sft", "tiny/sft.yaml"


def test_fsdp2_on_two_nodes_and_the_same_losses_after_a_requeue(slurm, clone, tiny_training):
    def start(name: str) -> str:
        return submit(slurm, clone, *tiny_training, f"name={name}", NODES="2", CLUSTER_ENV="tiny/cluster.env")

    whole = start("whole")
    assert ended(slurm, whole) == "COMPLETED", log(clone, whole)
    expected = run_folder(clone, "train", "whole")
    assert (expected / "DONE").exists()
    assert [row["step"] for row in rows(expected)] == list(range(1, 49))

    stopped = start("stopped")
    wait_for("a step", lambda: any(map(rows, clone.glob("outputs/train/stopped-*"))))
    subprocess.run(["scancel", "--signal=USR1", "--batch", stopped], env=slurm, check=True)
    restart(slurm, stopped)
    folder = run_folder(clone, "train", "stopped")
    assert 0 < len(rows(folder)) < 48 and not (folder / "DONE").exists()
    assert ended(slurm, stopped) == "COMPLETED", log(clone, stopped)
    assert (folder / "DONE").exists()
    assert "going on from checkpoint-" in log(clone, stopped)

    def losses(folder: Path) -> list[tuple[int, float]]:
        return [(row["step"], row["loss"]) for row in rows(folder)]

    assert losses(folder) == losses(expected)
    files = [folder / "model/model.safetensors" for folder in (folder, expected)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_one_task_of_an_array_goes_on_from_its_journal(slurm, clone):
    id = submit(slurm, clone, "data.stand_in", "name=parts", "num_steps=15", "seconds=0.2", ARRAY="0-2%2", CPUS="1")
    last = f"{id}_2"  # its own number is that of the array
    wait_for("its start", lambda: "step 1\n" in log(clone, last))
    subprocess.run(["scancel", "--signal=USR1", "--batch", last], env=slurm, check=True)
    restart(slurm, last)
    tasks = [f"{id}_{task}" for task in range(3)]
    assert {ended(slurm, task) for task in tasks} == {"COMPLETED"}
    assert [job(slurm, task)["Restarts"] for task in tasks] == ["0", "0", "1"]
    parts = list(clone.glob("outputs/data/parts-*"))
    assert len(parts) == 3
    for part in parts:
        assert [row["step"] for row in rows(part)] == list(range(1, 16))
        assert (part / "DONE").exists()


def outcome(folder: Path) -> tuple[list[dict], dict]:
    """Rows and scores of an evaluation, without how long it took and what happened to be cached."""
    rows = list(read_jsonl(folder / "samples.jsonl"))
    for row in rows:
        del row["seconds"], row["num_cached_tokens"]
    scores = json.loads((folder / "scores.json").read_text())
    for score in scores["cells"]:
        del score["cost"]["seconds"], score["cost"]["cached"]
    return rows, {name: scores[name] for name in ("cells", "measures")}


def test_an_array_over_two_nodes_evaluates_as_one_process(slurm, clone):
    tiny_model(clone / "tiny/model")
    write_jsonl(clone / "tiny/sums.jsonl", [{"problem": f"{i} + {i} = ?", "answer": str(2 * i)} for i in range(12)])
    (clone / "tiny/sums.yaml").write_text("name: sums\nfiles: [sums.jsonl]\nanswer_type: integer\n")
    (clone / "tiny/eval.yaml").write_text(EVAL)
    command = ("eval.run", "tiny/eval.yaml", "root=tiny")

    id = submit(slurm, clone, *command, "name=parts", ARRAY="0-1")
    tasks = [f"{id}_{task}" for task in range(2)]
    assert {ended(slurm, task) for task in tasks} == {"COMPLETED"}, [log(clone, task) for task in tasks]
    assert {job(slurm, task)["NodeList"] for task in tasks} == {"n1", "n2"}
    parts = sorted(clone.glob("outputs/eval/parts-*"))
    assert len(parts) == 2 and all(outcome(part)[0] for part in parts), "both have questions"

    merged, whole = (
        clone / subprocess.run(
            ["./launch.sh", *command, *more],
            cwd=clone, env={**slurm, "LANE": "cpu"}, capture_output=True, text=True, timeout=360, check=True,
        ).stdout.strip()
        for more in (["name=parts", "num_shards=2", "merge=true"], ["name=whole"])
    )  # fmt: skip
    rows, scores = outcome(merged)
    assert (rows, scores) == outcome(whole)
    assert len(rows) == 12 * 5 and len({row["response"] for row in rows}) > 12
