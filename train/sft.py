"""Fine-tunes a model on traces: TRL's SFTTrainer on planned, balanced steps, loss on thinking and answer.

    python -m train.sft configs/demo/sft.yaml data=outputs/data/demo-kept-1234abcd model=outputs/inference/...
    NODES=2 GPUS=8 ./launch.sh --slurm train.sft configs/train/s1-32b.yaml
    GPUS=8 ./launch.sh train.sft configs/train/s1-32b.yaml configs/train/parallel/zero3-offload.yaml

Writes steps.jsonl (the plan), metrics.jsonl (one row a step), checkpoint-*/ and model/. The same command resumes from
the last whole checkpoint, with any number of devices under fsdp2. A file STOP in the run folder makes it save and end.
"""

import math
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.conditional import conditional
from core.config import UserError, option, run_entry
from core.cost import ModelShape
from core.log import say
from core.runs import Run, open_run, read_record, run_path
from core.tracking import check_wandb, close_wandb, open_wandb
from core.types import read_jsonl, write_jsonl
from train import modelcard
from train.backends import CHECKPOINTING, check_backend, set_environment
from train.dataset import FlatBatches, check_context, load_traces, tokenize
from train.export import DTYPES, check_push, push, save_model, smoke
from train.resume import check_resumable, last_checkpoint, remove_checkpoints
from train.steps import balance, choose_layout, visits

# keys of trl.SFTConfig that cannot be given
OURS = {
    "output_dir": "results go into the run folder, which the config names",
    "resume_from_checkpoint": "the same command goes on from the last whole checkpoint; give a model to start from as "
    "model=",
    "save_total_limit": "the last two checkpoints are kept, and only whole ones count",
    "packing": "examples are laid end to end as the steps are planned",
    "padding_free": "examples are laid end to end as the steps are planned",
    "train_sampling_strategy": "the order of the examples is planned",
}
OURS |= {
    theirs: f"use {ours}="
    for theirs, ours in {
        "num_train_epochs": "num_epochs",
        "per_device_train_batch_size": "batch_size",
        "gradient_accumulation_steps": "accumulation",
        "learning_rate": "learning_rate",
        "warmup_steps": "warmup",
        "weight_decay": "weight_decay",
        "max_length": "max_length",
        "seed": "seed",
        "data_seed": "seed",
        "save_steps": "save_steps",
        "fsdp": "backend",
        "deepspeed": "backend",
        "gradient_checkpointing": "activation_checkpointing",
        "report_to": "wandb",
    }.items()
}


@dataclass
class SftConfig:
    name: str = option(help="run name; the folder is outputs/train/<name>-<digest>")
    data: str = option(help="finished run of data.filter, .jsonl or .parquet of traces, or a hub id (s1K, s1K-1.1)")
    data_revision: str | None = option(None, help="hub revision of the data")
    data_teacher: str | None = option(None, help="whose traces of s1K-1.1: deepseek (as s1.1 was trained) or gemini")
    model: str = option(help="local folder or hub id of the model to start from")
    revision: str | None = option(None, help="hub revision of the model")
    profile: str = option("s1", help="chat format to train: s1, think-tags, steps")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    control: str | None = option(
        None, help="tokens or steps: each question says how long to think (token- or step-conditional control)"
    )
    num_epochs: int = option(5, help="passes over the data (s1: 5)")
    batch_size: int = option(16, help="examples per optimiser step, over all devices (s1: 16)")
    learning_rate: float = option(1e-5, help="peak, then cosine to zero (s1: 1e-5)")
    warmup: float = option(0.05, help="share of all steps (s1: 0.05)")
    weight_decay: float = option(1e-4, help="of AdamW 0.9/0.95, not on biases and norms (s1: 1e-4)")
    loss_weighting: str = option(
        "example", help="example: mean of the examples' means (s1); token: mean over all tokens"
    )
    max_length: int = option(32768, help="longest example in tokens (s1: 32,768)")
    truncate: bool = option(False, help="cut longer examples on the right, as s1 did; otherwise they are refused")
    seed: int = option(42, help="of the order of examples and of new weights (s1: 42)")
    export_dtype: str = option("bfloat16", help="of the saved model; master weights are float32")
    lora_rank: int | None = option(None, help="train adapters of this rank on all linear layers, not the model")
    lora_alpha: int = option(32, help="scale of the adapters")
    lora_dropout: float = option(0.0, help="dropout before the adapters")
    quantize: str | None = option(None, help="nf4: the frozen base model in four bits (QLoRA; needs lora_rank)")
    backend: str = option("fsdp2", help="fsdp2, zero3, ddp or single", affects_result=False)
    offload_optimizer: bool = option(False, help="optimizer in host memory (zero3)", affects_result=False)
    activation_checkpointing: str = option(
        "auto", help="full, selective or none; auto: full on GPUs", affects_result=False
    )
    sequence_parallel: int | None = option(
        None, help="devices that share a row; null: 4 where devices and heads allow", affects_result=False
    )
    accumulation: int | None = option(
        None, help="passes per step; null: as few as max_tokens_per_device allows", affects_result=False
    )
    max_tokens_per_device: int = option(16384, help="tokens of one pass on one device", affects_result=False)
    save_steps: int = option(50, help="steps between checkpoints; the last two are kept", affects_result=False)
    wandb: str = option("off", help="mirror metrics to wandb: off, offline or online", affects_result=False)
    smoke_tokens: int = option(
        32, help="tokens to generate from the saved model as a check; 0: none", affects_result=False
    )
    push: str | None = option(None, help="hub repository to publish the model to, with a card", affects_result=False)
    dry_run: bool = option(False, help="check config, model, data and layout, and train nothing", affects_result=False)
    trainer: dict[str, Any] = option({}, help="other keys of trl.SFTConfig, passed verbatim; they have the last word")


def main(config: SftConfig) -> Path | None:
    check(config, num_devices())
    if config.dry_run:
        say(f"{prepare(config)}; nothing was trained (dry_run)")
        return None
    path = run_path("train", config)
    prepared = None
    if not (path / "DONE").exists():
        set_environment(config.backend, num_devices())  # before anything imports train.trainer
        prepared = prepare(config)  # what is wrong with the input shows before there is a run that has it on record
    if not is_first():
        if prepared:
            train(config, prepared, path)
        return None
    if config.push:
        check_push(config.push)
    with open_run("train", config, {"model": config.model, "data": config.data}) as run:
        if not run.is_done:
            headline = train(config, prepared, run.path)
            if headline is None:
                run.record["status"] = "stopped"
                run.save()
            else:
                finish(config, run, headline)
        if run.is_done and config.push:
            publish(config, run.path)
    return run.path


def num_devices() -> int:
    """Processes that torchrun started; each has one device."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this is rank 0, which keeps the record; the others only train."""
    return int(os.environ.get("RANK", 0)) == 0


def check(config: SftConfig, devices: int) -> None:
    """Raises UserError for what can be told from the config alone."""
    check_backend(config.backend, devices, config.offload_optimizer)
    if config.activation_checkpointing not in CHECKPOINTING:
        raise UserError(
            f"activation_checkpointing is {', '.join(CHECKPOINTING)}, not {config.activation_checkpointing!r}"
        )
    if config.export_dtype not in DTYPES:
        raise UserError(f"export_dtype is {', '.join(DTYPES)}, not {config.export_dtype!r}")
    if config.quantize not in (None, "nf4"):
        raise UserError(f"quantize is null or nf4, not {config.quantize!r}")
    if config.quantize and not config.lora_rank:
        raise UserError(f"quantize={config.quantize} freezes the model; set lora_rank to train adapters on it")
    check_wandb(config.wandb)
    for key in ("num_epochs", "batch_size", "max_length", "max_tokens_per_device", "save_steps"):
        if getattr(config, key) < 1:
            raise UserError(f"{key}={getattr(config, key)}: at least 1 is needed")
    for key in ("sequence_parallel", "accumulation", "lora_rank"):
        if getattr(config, key) is not None and getattr(config, key) < 1:
            raise UserError(f"{key}={getattr(config, key)}: at least 1 is needed, or null")
    if not 0 <= config.warmup < 1:
        raise UserError(f"warmup={config.warmup}: a share of all steps, from 0 to below 1")
    for key in config.trainer.keys() & OURS.keys():
        raise UserError(f"trainer.{key}: {OURS[key]}")
    if config.trainer:
        set_environment(config.backend, devices)
        from train.trainer import check_keys

        check_keys(config.trainer)


@dataclass
class Prepared:
    """All that is known before a device is touched. path: of the base model."""

    path: Path
    tokenizer: Any
    shape: ModelShape
    batches: FlatBatches

    @property
    def flops(self) -> list[float]:
        """Of each step."""
        return [sum(self.batches.cost[row] for row in step) for step in self.batches.steps]

    @property
    def tokens(self) -> list[int]:
        """Of each step."""
        lengths = [len(row["input_ids"]) for row in self.batches.rows]
        return [sum(lengths[row] for row in step) for step in self.batches.steps]

    def __str__(self) -> str:
        b = self.batches
        return (
            f"{len(b.rows)} traces, {len(b.steps)} steps, {sum(self.tokens):,} tokens; {b.layout}, "
            f"balance {balance(b.steps, b.cost, b.layout):.2f}"
        )


def prepare(config: SftConfig) -> Prepared:
    """Reads the data, tokenises and plans. Raises UserError for what is wrong with model, tokenizer, data or layout."""
    from inference import checkpoint

    path = checkpoint.resolve(config.model, config.revision)
    shape = ModelShape.of(str(path))
    checkpoint.check_weights(path)
    tokenizer, rows = read_rows(config, path)
    lengths = [len(row["input_ids"]) for row in rows]
    cost = [shape.flops(length) for length in lengths]
    steps = visits(len(rows), config.batch_size, config.num_epochs, config.seed)
    layout = choose_layout(
        num_devices(), steps, lengths, cost, (shape.num_attention_heads, shape.num_key_value_heads),
        config.sequence_parallel, config.accumulation, config.max_tokens_per_device,
    )  # fmt: skip
    batches = FlatBatches(rows, steps, cost, layout, config.loss_weighting)
    return Prepared(path, tokenizer, shape, batches)


def read_rows(config: SftConfig, path: Path) -> tuple[Any, list[dict[str, Any]]]:
    """(tokenizer of the model at `path`, rows of train.dataset.tokenize)."""
    from inference import checkpoint

    traces = load_traces(config.data, config.data_revision, config.data_teacher)
    tokenizer = checkpoint.load_tokenizer(path)
    chat = ChatFormat(config.profile, tokenizer)
    if config.control is not None:
        traces = conditional(traces, config.control, chat)
    rows = tokenize(traces, chat, config.max_length, config.system, config.truncate)
    check_context(rows, checkpoint.context_of(path), path)
    return tokenizer, rows


def write_plan(batches: FlatBatches, path: Path) -> None:
    """One line a step: for each pass and group the question ids that are laid end to end."""
    ids = [row["question_id"] for row in batches.rows]
    write_jsonl(
        path,
        (
            {"step": i + 1, "passes": [[[ids[row] for row in group] for group in micro] for micro in passes]}
            for i, passes in enumerate(batches.passes)
        ),
    )


def train(config: SftConfig, prepared: Prepared, folder: Path) -> dict[str, Any] | None:
    """Trains (or goes on training) in `folder`, all ranks together; leaves folder/model.

    Returns the headline numbers, or None where it was asked to stop and saved.
    """
    from inference.checkpoint import is_out_of_memory
    from train.callbacks import Checkpoints, StepLines, StopOnRequest, check_agreement
    from train.trainer import build_trainer, peak_flops_of_all

    checkpoint = last_checkpoint(folder)
    if checkpoint:
        check_resumable(checkpoint, config.backend, num_devices())
    wandb_run = open_wandb(config, folder) if is_first() and config.wandb != "off" else None
    trainer = build_trainer(config, prepared.batches, prepared.tokenizer, prepared.path, folder)
    check_agreement(checkpoint)
    if is_first():
        write_plan(prepared.batches, folder / "steps.jsonl")
    stop = StopOnRequest(folder)
    lines = StepLines(
        folder / "metrics.jsonl", prepared.tokens, prepared.flops, peak_flops_of_all(num_devices()), wandb_run
    )
    for callback in (lines, stop, Checkpoints(config.backend, num_devices())):
        trainer.add_callback(callback)
    say(f"{prepared}; {f'going on from {checkpoint.name}' if checkpoint else 'from the first step'}")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"not enough memory to train ({str(error).splitlines()[0][:160]}); lower max_tokens_per_device, or take "
            "what train.plan finds to fit; the same command then goes on from its last checkpoint"
        ) from error
    if wandb_run is not None:
        close_wandb(wandb_run)
    if stop.stopped:
        if is_first():
            stop.answer()
            step = trainer.state.global_step
            say(f"asked to stop by {stop.stopped}: saved after step {step}; the same command goes on")
        return None
    save_model(
        trainer, prepared.tokenizer, prepared.path, folder / "model", config.export_dtype, profile=config.profile
    )
    trainer.accelerator.end_training()
    return headline(prepared, folder / "metrics.jsonl") if is_first() else {}


def headline(prepared: Prepared, metrics: Path) -> dict[str, Any]:
    """loss: mean over the last epoch. seconds and MFU: medians over the steps."""
    rows = list(read_jsonl(metrics))
    last_epoch = rows[-math.ceil(len(prepared.batches.rows) / len(prepared.batches.steps[0])) :]
    mfu = [row["mfu"] for row in rows if row["mfu"] is not None]
    return {
        "num_traces": len(prepared.batches.rows),
        "num_steps": len(prepared.batches.steps),
        "num_tokens": sum(prepared.tokens),
        "loss": round(statistics.fmean(row["loss"] for row in last_epoch), 4),
        "seconds_per_step": statistics.median(row["seconds"] for row in rows),
        "mfu": statistics.median(mfu) if mfu else None,
        "layout": str(prepared.batches.layout),
    }


def finish(config: SftConfig, run: Run, headline: dict[str, Any]) -> None:
    """After training, on rank 0: tries the saved model and closes the run."""
    if config.smoke_tokens:
        question = load_traces(config.data, config.data_revision, config.data_teacher)[0].question
        smoke(run.path / "model", config.profile, question, config.smoke_tokens)
    run.finish(**headline)
    remove_checkpoints(run.path)  # after DONE: a kill in between must not cost the training


def publish(config: SftConfig, path: Path) -> None:
    """The model of a finished run, with a card, to the hub repository config.push."""
    push(path / "model", config.push, modelcard.text(config, read_record(path)))


if __name__ == "__main__":
    run_entry(main, SftConfig, __doc__)
