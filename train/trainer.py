"""TRL's SFTTrainer on planned, flattened batches, under any backend."""

import dataclasses
import difflib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.checkpoint.api import CheckpointException
from transformers import AutoModelForCausalLM, PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar
from trl import SFTConfig, SFTTrainer

from core.config import UserError, is_disk_full
from core.cost import peak_flops
from train import attention, backends
from train.callbacks import CheckSharded
from train.dataset import FlatBatches


class FlatTrainer(SFTTrainer):
    """SFTTrainer whose loss is the weighted sum over a step's tokens, whatever device and pass they lie on."""

    loss_is_scaled_for_ga = True  # the weights of all passes of a step add up to one

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """inputs: of train.dataset.flatten. The backends average gradients over all ranks, hence the factor."""
        weights = inputs.pop("weights")
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)  # per-token log-probabilities, no logits
        loss = -(outputs.log_probs * weights).sum() * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model, trial):
        """Raises OSError for a full disk, whose signs differ from rank to rank."""
        try:
            super()._save_checkpoint(model, trial)
        except (RuntimeError, CheckpointException) as error:  # the latter is no Exception
            if not is_disk_full(error):
                raise
            folder = f"{self.args.output_dir}/checkpoint-{self.state.global_step}"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder) from error

    def create_model_card(self, *args, **kwargs) -> None:
        """None beside the checkpoints: TRL's knows nothing of the run that run.json does not say."""


def build_trainer(config: Any, batches: FlatBatches, tokenizer: Any, path: Path, folder: Path) -> FlatTrainer:
    """config: train.sft.SftConfig. path: the base model. folder: the run folder. Call on all ranks together.

    Raises UserError for trainer keys that do not exist, and for a backend that does not take effect.
    """
    disable_progress_bar()  # carriage returns make a mess of a log
    layout, on_gpu = batches.layout, torch.cuda.is_available()
    args = _arguments(config, batches, folder, on_gpu)
    model = _load_model(config, path, layout.sequence_parallel, on_gpu)
    trainer = FlatTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict({"index": batches.indices}),
        processing_class=tokenizer,
        data_collator=batches,
        peft_config=_lora(config) if config.lora_rank else None,
    )
    if config.backend == "fsdp2" and layout.num_devices > 1:
        trainer.add_callback(CheckSharded())
    trainer.remove_callback(PrinterCallback)  # raw dictionaries beside our lines
    trainer.remove_callback(ProgressCallback)
    return trainer


def check_keys(trainer: Mapping[str, Any]) -> None:
    """Raises UserError for a key that trl.SFTConfig does not have."""
    known = {field.name for field in dataclasses.fields(SFTConfig)}
    for key in trainer.keys() - known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "keys pass to trl.SFTConfig"
        raise UserError(f"trainer: unknown key {key!r}; {hint}")


def _arguments(config: Any, batches: FlatBatches, folder: Path, on_gpu: bool) -> SFTConfig:
    layout = batches.layout
    if config.backend == "zero3" and not on_gpu:
        from accelerate import PartialState

        PartialState(backend="gloo")  # before SFTConfig, which would believe that there is one process
    checkpointing = config.activation_checkpointing
    if checkpointing == "auto":
        checkpointing = "full" if on_gpu else "none"
    options = {
        "output_dir": str(folder),
        "seed": config.seed,
        "data_seed": config.seed,
        # the recipe; betas 0.9 and 0.95, decay not on biases and norms (the paper's appendix on training)
        "max_steps": len(batches.steps),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup,  # below one, a share of all steps
        "weight_decay": config.weight_decay,
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        # the batches are planned already: one item a pass and device, in order
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": layout.accumulation,
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "bf16": on_gpu,
        "use_cpu": not on_gpu and not torch.backends.mps.is_available(),
        "gradient_checkpointing": checkpointing != "none",
        "gradient_checkpointing_kwargs": attention.checkpointing_options(checkpointing),
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": None,  # train.callbacks.Checkpoints: transformers' would go before the new one is whole
        "report_to": "none",
        "disable_tqdm": True,
        **backends.trainer_options(
            config.backend, layout.num_devices, on_gpu, layout.accumulation, config.offload_optimizer
        ),
        **config.trainer,
    }
    try:
        args = SFTConfig(**options)
    except (TypeError, ValueError) as error:
        if not config.trainer:
            raise
        raise UserError(f"trainer: {' '.join(str(error).split())} (keys pass to trl.SFTConfig)") from None
    if args.max_steps > len(batches.steps):
        raise UserError(f"trainer.max_steps={args.max_steps}: only {len(batches.steps)} are planned; raise num_epochs")
    if getattr(args, "fsdp_plugin_args", None) and args.bf16:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # accelerate's own policy would also round gradient sums and log-probabilities to bfloat16; an output_dtype of
        # float32 would apply to every layer, and double what checkpointing keeps
        args.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        )
    return args


def _load_model(config: Any, path: Path, sequence_parallel: int, on_gpu: bool):
    """The base model: float32 master weights, as s1 trained (bfloat16 ones lose most updates at 1e-5); under LoRA,
    where the base is frozen, bfloat16 on a GPU, or four bits."""
    options: dict[str, Any] = {"dtype": torch.bfloat16 if config.lora_rank and on_gpu else torch.float32}
    if config.quantize:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantize,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if on_gpu else torch.float32,
        )
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0)) if on_gpu else "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        path, attn_implementation=attention.register(sequence_parallel), **options
    )
    if "sliding_attention" in (getattr(model.config, "layer_types", None) or ()):
        raise UserError(f"{path} attends through a sliding window, which training on flattened rows does not do")
    return model


def _lora(config: Any):
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def peak_flops_of_all(num_devices: int) -> float | None:
    """Dense bfloat16 FLOP/s of all devices, taken to be like this one; None where there is no GPU or it is unknown."""
    if not torch.cuda.is_available():
        return None
    peak = peak_flops(torch.cuda.get_device_name())
    return peak * num_devices if peak else None
