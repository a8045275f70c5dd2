"""Takes a step under one backend and exports the model, then an adapter merged into it; started by torchrun or alone.

python tests/export_worker.py <backend> <folder>

folder: has traces.jsonl, base/ (the training is said to have started from it), trained/ (the weights the trainer gets)
and adapter/ (LoRA, of base). The steps have learning rate zero, so these must come out bit for bit.
"""

import sys
from pathlib import Path

from train.sft import SftConfig, num_devices, prepare, set_environment

MAX_SHARD_SIZE = "40KB"


def main(backend: str, folder: Path) -> None:
    set_environment(backend, num_devices())
    import torch
    from accelerate.state import AcceleratorState, GradientState
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    import train.trainer
    from train.export import save_model

    def check_sharded(model) -> None:
        """That there is something to gather: of every matrix, a rank holds a part."""
        for parameter in model.parameters():
            if parameter.ndim == 2 and backend == "fsdp2":
                assert parameter.to_local().numel() < parameter.numel()
            if parameter.ndim == 2 and backend == "zero3":
                assert parameter.numel() == 0

    def with_adapter(*args):
        fresh = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        return PeftModel.from_pretrained(fresh, folder / "adapter", is_trainable=True)

    for case in ("full", "lora"):
        AcceleratorState._reset_state()
        GradientState._reset_state()
        if case == "lora":
            train.trainer._load_model = with_adapter
        config = SftConfig(
            name="export", data=str(folder / "traces.jsonl"), model=str(folder / "trained"), batch_size=2, num_epochs=1,
            max_length=512, learning_rate=0.0, backend=backend, sequence_parallel=1,
            trainer={"save_strategy": "no", "max_steps": 1},
        )  # fmt: skip
        prepared = prepare(config)
        out = folder / backend / case
        trainer = train.trainer.build_trainer(config, prepared.batches, prepared.tokenizer, prepared.path, out)
        trainer.train()
        if case == "full":
            check_sharded(trainer.model)
        for dtype in ("float32", "bfloat16"):
            save_model(trainer, prepared.tokenizer, folder / "base", out / dtype, dtype, MAX_SHARD_SIZE)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
