"""Fine-tunes a model on selected traces: TRL's SFTTrainer, loss on thinking and answer.

    python -m train.sft configs/demo/sft.yaml data=outputs/data/demo-kept-1234abcd model=outputs/inference/...
    torchrun --nproc-per-node 8 -m train.sft configs/demo/sft.yaml data=... model=... trainer.bf16=true

Writes metrics.jsonl (one row a step), checkpoint-*/ (the same command resumes from the last whole one) and model/.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.config import UserError, option, run_entry
from core.log import say
from core.runs import open_run, run_path
from core.types import Trace
from train.dataset import load_traces, pad_right, tokenize


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
    batch_size: int = option(16, help="examples per optimiser step, over all devices (s1: 16)")
    micro_batch_size: int = option(1, help="examples per device and forward pass")
    max_length: int = option(32768, help="longest example in tokens; longer ones are refused, not cut (s1: 32,768)")
    seed: int = option(42, help="of shuffling and initialisation")
    export_dtype: str = option("bfloat16", help="of the saved model; master weights are float32")
    trainer: dict[str, Any] = option({}, help="passed verbatim to trl.SFTConfig")


def accumulation_steps(config: SftConfig, num_devices: int) -> int:
    """Micro-batches per optimiser step. Raises UserError where the batch cannot be split evenly."""
    per_pass = config.micro_batch_size * num_devices
    if config.batch_size % per_pass:
        raise UserError(
            f"batch_size={config.batch_size} is not a multiple of micro_batch_size x devices = "
            f"{config.micro_batch_size} x {num_devices}; change one of them"
        )
    return config.batch_size // per_pass


def main(config: SftConfig) -> Path:
    if int(os.environ.get("RANK", 0)) > 0:  # a worker of torchrun: rank 0 keeps the record
        path = run_path("train", config)
        if not (path / "DONE").exists():
            train(config, path)
        return path
    with open_run("train", config, {"model": config.model, "data": config.data}) as run:
        if not run.is_done:
            headline = train(config, run.path)
            run.finish(**headline)
    return run.path


def train(config: SftConfig, folder: Path) -> dict[str, Any]:
    """Trains (or goes on training) in `folder`; leaves folder/model. Returns the headline numbers."""
    from inference.checkpoint import is_out_of_memory
    from train.callbacks import last_complete_checkpoint

    traces = load_traces(config.data, config.data_revision, config.data_teacher)
    trainer, tokenizer, path = build_trainer(config, traces, folder)
    checkpoint = last_complete_checkpoint(folder)
    say(f"{len(traces)} traces, {trainer.args.num_train_epochs:g} epochs, batch {config.batch_size}"
        + (f", going on from {checkpoint.name}" if checkpoint else ""))  # fmt: skip
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"not enough memory to train ({str(error).splitlines()[0][:160]}); lower micro_batch_size, or set "
            "trainer.gradient_checkpointing=true; the same command then goes on from its last checkpoint"
        ) from error
    if trainer.is_world_process_zero():
        export(trainer, tokenizer, path, folder / "model", config.export_dtype)
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old)
    return {
        "num_traces": len(traces),
        "num_steps": trainer.state.global_step,
        "loss": round(result.training_loss, 4),
        "num_tokens": sum(len(row["input_ids"]) for row in trainer.train_dataset),
    }


def build_trainer(config: SftConfig, traces: list[Trace], folder: Path):
    """(trainer, tokenizer, model folder), ready to train."""
    import functools

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar
    from trl import SFTConfig, SFTTrainer

    from inference import checkpoint
    from train.callbacks import MarkComplete, StepLines

    disable_progress_bar()  # carriage returns make a mess of a log
    path = checkpoint.resolve(config.model, config.revision)
    tokenizer = checkpoint.load_tokenizer(path)
    chat = ChatFormat(config.profile, tokenizer)
    rows = tokenize(traces, chat, config.max_length, config.system)
    on_gpu = torch.cuda.is_available()
    defaults = {
        "bf16": on_gpu,
        "use_cpu": not on_gpu and not torch.backends.mps.is_available(),
        "gradient_checkpointing": on_gpu,
        "logging_steps": 1,
        "save_total_limit": 2,
        "report_to": "none",
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
    }
    try:
        args = SFTConfig(
            output_dir=str(folder),
            seed=config.seed,
            data_seed=config.seed,
            per_device_train_batch_size=config.micro_batch_size,
            gradient_accumulation_steps=accumulation_steps(config, int(os.environ.get("WORLD_SIZE", 1))),
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            **{**defaults, **config.trainer},
        )
    except TypeError as error:
        raise UserError(
            f"trainer: {error} (keys pass to trl.SFTConfig; batch size and seed have keys of their own)"
        ) from None
    # fp32 master weights, as s1 trained; bf16 weights alone would lose most updates at a learning rate of 1e-5
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=functools.partial(pad_right, pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id),
    )
    steps_per_epoch = -(-len(rows) // config.batch_size)
    trainer.add_callback(StepLines(folder / "metrics.jsonl", sum(len(r["input_ids"]) for r in rows) / steps_per_epoch))
    trainer.add_callback(MarkComplete())
    _remove_printers(trainer)
    return trainer, tokenizer, path


def export(trainer, tokenizer, base: str, folder: Path, dtype: str) -> None:
    """Saves the model in `dtype` beside the base model's own tokenizer files; appears whole or not at all."""
    import torch

    partial = folder.with_name("model.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model).to(getattr(torch, dtype))
    model.config.use_cache = True
    model.save_pretrained(partial, max_shard_size="5GB")
    tokenizer.save_pretrained(partial)
    for file in Path(base).glob("*token*"):  # the base's own, where it has them: transformers 5 rewrites some
        shutil.copy2(file, partial / file.name)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _remove_printers(trainer) -> None:
    """transformers prints raw dictionaries beside our lines."""
    from transformers import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


if __name__ == "__main__":
    run_entry(main, SftConfig, __doc__)
