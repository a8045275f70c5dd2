"""Started by torchrun (or alone) in tests: shards a model under a backend, takes a step and exports it.

    torchrun --nproc-per-node 2 tests/export_ranks.py <backend> <base> <trained> <adapter> <out>

base: the folder that training is said to have started from. trained: the weights the trainer gets; the step has learning
rate zero, so these are to come out, bit for bit. adapter: a LoRA adapter of base, or "none".
"""

import os
import sys
from pathlib import Path

backend, base, trained, adapter, out = sys.argv[1:]
if backend == "fsdp2":
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true", "FSDP_VERSION": "2"}
if backend == "zero3":
    os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true"}

import torch  # noqa: E402 after the environment it reads
from accelerate import PartialState  # noqa: E402
from datasets import Dataset  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from train.export import save_model  # noqa: E402

OPTIONS = {
    "single": {},
    "ddp": {},
    "fsdp2": {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                                            "cpu_ram_efficient_loading": True, "activation_checkpointing": True,
                                            "state_dict_type": "SHARDED_STATE_DICT"}},
    "zero3": {"accelerator_config": {"use_configured_state": True},
              "deepspeed": {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
                            "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto"}},
}  # fmt: skip


def trainer_on(model, tokenizer):
    ids = tokenizer("How many legs do 3 spiders have? 3 * 8 = 24.")["input_ids"]
    args = SFTConfig(
        output_dir=out, max_steps=1, learning_rate=0.0, per_device_train_batch_size=1, use_cpu=True, bf16=False,
        gradient_checkpointing=False, max_length=None, report_to="none", save_strategy="no", disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True}, **OPTIONS[backend],
    )  # fmt: skip
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids}] * 2)
    trainer = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return trainer


def check_sharded(model) -> None:
    """That there was something to gather."""
    parameters = [p for p in model.parameters() if p.ndim == 2]
    if backend == "fsdp2":
        assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in parameters)
    if backend == "zero3":
        assert all(p.numel() == 0 for p in parameters)


def main() -> None:
    if backend == "zero3":
        PartialState(backend="gloo")  # before SFTConfig, which would believe that there is one process
    tokenizer = AutoTokenizer.from_pretrained(base)
    if adapter == "none":
        model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    else:
        from peft import PeftModel

        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(fresh, adapter, is_trainable=True)
    trainer = trainer_on(model, tokenizer)
    if adapter == "none":
        check_sharded(trainer.model)
    for dtype in ("float32", "bfloat16"):
        save_model(trainer, tokenizer, Path(base), Path(out, dtype), dtype, max_shard_size="40KB")


if __name__ == "__main__":
    main()
