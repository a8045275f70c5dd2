"""What is wrong with a training's input is told in one line, before a model is loaded or the run has a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from some_traces import some_traces
from tiny_model import weightless_model
from tiny_tokenizer import SPECIAL_TOKENS, tiny_tokenizer

import core.config
from core.config import UserError, run_entry
from core.runs import open_run
from core.types import write_jsonl
from train.sft import SftConfig, check, main, prepare

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Here, with traces.jsonl and model/: all of a model that is looked at before it is loaded."""
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    weightless_model(tmp_path / "model")
    save_file({}, tmp_path / "model" / "model.safetensors")
    write_jsonl(tmp_path / "traces.jsonl", some_traces())
    return tmp_path


def arguments(*changes: str) -> list[str]:
    return ["name=bad", "data=traces.jsonl", "model=model", "dry_run=true", *changes]


def said(capsys, *changes: str) -> str:
    """The line on stderr of a run that is refused."""
    with pytest.raises(SystemExit) as ended:
        run_entry(main, SftConfig, "", arguments(*changes))
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert not Path("outputs/train").exists(), "nothing is on record of a run that could not begin"
    return err


@pytest.mark.slow
def test_what_is_right_is_planned(folder, capsys):
    run_entry(main, SftConfig, "", arguments())
    err = capsys.readouterr().err
    assert err.startswith("24 traces, 10 steps, ") and err.endswith("; nothing was trained (dry_run)\n")
    assert not Path("outputs").exists()


def test_a_batch_that_cannot_be_divided(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "24")
    line = said(capsys)
    assert "batch_size=16 cannot be divided evenly over 24 devices = 12 groups x 2 sequence-parallel" in line
    assert "groups x passes may be 1, 2, 4, 8, 16" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["backend=fsdp3"], "backend='fsdp3' is unknown; known: fsdp2, zero3, ddp, single"),
        (["offload_optimizer=true"], "offload_optimizer=true needs backend=zero3"),
        (["quantize=nf4"], "set lora_rank"),
        (["quantize=int8", "lora_rank=8"], "quantize is null or nf4, not 'int8'"),
        (["wandb=yes please"], "wandb is off, offline or online, not 'yes please'"),
        (["activation_checkpointing=some"], "activation_checkpointing is auto, full, selective, none, not 'some'"),
        (["num_epochs=0"], "num_epochs=0: at least 1 is needed"),
        (["accumulation=0"], "accumulation=0: at least 1 is needed, or null"),
        (["warmup=16"], "warmup=16.0: a share of all steps"),
        (["loss_weighting=tokens"], "loss_weighting is example or token, not 'tokens'"),
        (["profile=s2"], "profile 's2' is unknown"),
        (["trainer.output_dir=x"], "trainer.output_dir: results go into the run folder"),
        (["trainer.num_train_epochs=3"], "trainer.num_train_epochs: use num_epochs="),
        (["trainer.gradient_accumulation_steps=3"], "trainer.gradient_accumulation_steps: use accumulation="),
        (["trainer.resume_from_checkpoint=x"], "the same command goes on from the last whole checkpoint"),
        (["batch_size=many"], "batch_size: "),
        (["learningrate=1"], "unknown key 'learningrate'; did you mean 'learning_rate'?"),
        (["sequence_parallel=2"], "sequence_parallel=2 does not divide the 1 devices"),
        (["model=./nowhere"], "model=./nowhere does not exist"),
        (["model=empty"], "model=empty: this folder has no config.json"),
        (["data=nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["data=outputs/data/gone-12345678"], "run folder outputs/data/gone-12345678 does not exist"),
        (["data=empty.jsonl"], "empty.jsonl holds no traces"),
        (["data=questions.jsonl"], "questions.jsonl, row 1: no trace (it has id, text, answer, "),
        (["max_length=5", "truncate=true"], "cuts question"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_one_line(folder, capsys, changes, message):
    (folder / "empty").mkdir()
    (folder / "empty.jsonl").touch()
    write_jsonl(folder / "questions.jsonl", [trace.question for trace in some_traces()])
    assert message in said(capsys, *changes)


def test_a_run_without_traces(folder, capsys):
    from data.filter import FilterConfig

    with open_run("data", FilterConfig(name="questions", traces="x")) as run:
        pass
    capsys.readouterr()
    assert f"run {run.path} is not finished" in said(capsys, f"data={run.path}")
    run.finish()
    capsys.readouterr()
    assert f"{run.path} is a run without traces" in said(capsys, f"data={run.path}")


def test_rows_over_max_length_and_over_the_context(folder, capsys):
    lengths = {row["question_id"]: len(row["input_ids"]) for row in prepare_rows()}
    longest = max(lengths, key=lengths.get)
    line = said(capsys, "max_length=100")
    first = next(id for id, n in lengths.items() if n > 100)
    assert f"of 24 traces are longer than max_length=100 tokens: {first} ({lengths[first]})" in line
    weightless_model(folder / "model", max_position_embeddings=120)
    over = sum(n > 120 for n in lengths.values())
    line = said(capsys)
    assert (
        f"error: {over} of 24 traces are longer than the context of model, 120 tokens; the longest is that of " in line
    )
    assert f"question {longest} ({lengths[longest]})" in line
    assert (
        len(prepare(SftConfig("bad", "traces.jsonl", model="model", max_length=120, truncate=True)).batches.rows) == 24
    )


def prepare_rows() -> list[dict]:
    return prepare(SftConfig(name="bad", data="traces.jsonl", model="model")).batches.rows


def test_a_tokenizer_without_the_delimiters(folder, capsys):
    tiny_tokenizer(tuple(t for t in SPECIAL_TOKENS if "think" not in t)).save_pretrained(folder / "model")
    line = said(capsys, "profile=think-tags")
    assert "profile 'think-tags' ends thinking with '</think>', which the tokenizer of 'model' splits" in line


def test_weights_that_are_missing_or_cut_short(folder, capsys):
    import numpy as np
    from safetensors.numpy import save_file

    file = folder / "model" / "model.safetensors"
    save_file({"x": np.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:-100])
    assert "error: model/model.safetensors is damaged (" in said(capsys)
    file.unlink()
    assert "error: model/model.safetensors is missing" in said(capsys)
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"x": np.zeros(1000)}, folder / "model" / "model-00001-of-00002.safetensors")
    assert "error: model/model-00002-of-00002.safetensors is missing" in said(capsys)


def test_what_another_rank_finds_is_not_lost_and_not_said_first(monkeypatch, capsys):
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(core.config.time, "sleep", waited.append)  # the time in which torchrun would end this process

    def fail(config):
        raise UserError("of this machine alone")

    with pytest.raises(SystemExit):
        run_entry(fail, SftConfig, "", arguments())
    assert waited == [core.config.SECONDS_TO_RANK_0]
    assert capsys.readouterr().err == "error: of this machine alone\n"


@pytest.mark.slow
def test_an_unknown_trainer_key(folder):
    with pytest.raises(UserError, match="trainer: unknown key 'max_step'; did you mean 'max_steps'?"):
        check(SftConfig("bad", "traces.jsonl", model="model", trainer={"max_step": 3}), devices=1)


@pytest.mark.slow
def test_under_torchrun_one_rank_speaks_for_all(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "train.sft",
               "name=bad", "data=gone.jsonl", "model=model"]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.startswith("error: gone.jsonl does not exist\n")
    assert done.stderr.count("gone.jsonl") == 1
    assert not Path("outputs").exists()
