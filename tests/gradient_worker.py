"""Writes the gradients of one step for each cell of the table, under one backend; started by torchrun or alone.

python tests/gradient_worker.py <backend> <traces> <model folder> <folder for the results>
"""

import itertools
import os
import sys
from pathlib import Path

from train.sft import SftConfig, num_devices, prepare, set_environment


def cells(num_devices: int) -> list[tuple[str, int, int]]:
    """(loss_weighting, sequence_parallel, accumulation)"""
    return list(itertools.product(("example", "token"), (1, 2) if num_devices > 1 else (1,), (1, 2)))


def main(backend: str, traces: str, model: str, folder: Path) -> None:
    set_environment(backend, num_devices())
    import torch
    from accelerate.state import AcceleratorState, GradientState
    from torch.distributed.tensor import DTensor
    from transformers import TrainerCallback

    from train.trainer import build_trainer

    class KeepGradients(TrainerCallback):
        """Gathers the whole gradients just before the optimizer would use them."""

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.model, self.gradients = model, {}
            parameters = [p for p in model.parameters() if p.requires_grad]
            if backend == "fsdp2":
                assert parameters and all(isinstance(p, DTensor) for p in parameters)
            if backend == "zero3":
                assert all(p.ds_tensor.numel() < p.ds_numel for p in parameters), "ZeRO-3 did not shard"
                step = trainer.deepspeed.step
                trainer.deepspeed.step = lambda *a, **k: (self.keep(), step(*a, **k))[1]

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if backend != "zero3":  # DeepSpeed has taken its step by now
                self.keep()

        def keep(self) -> None:
            for name, parameter in self.model.named_parameters():
                self.gradients[name.removeprefix("module.")] = self.whole(parameter).clone()

        def whole(self, parameter):
            if backend == "zero3":
                from deepspeed.utils import safe_get_full_grad

                return safe_get_full_grad(parameter)
            gradient = parameter.grad
            return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient

    for weighting, sequence_parallel, accumulation in cells(num_devices()):
        AcceleratorState._reset_state()
        GradientState._reset_state()
        config = SftConfig(
            name="gradients", data=traces, model=model, batch_size=8, num_epochs=1, max_length=512,
            loss_weighting=weighting, backend=backend, sequence_parallel=sequence_parallel, accumulation=accumulation,
            trainer={"max_grad_norm": 0.0},
        )  # fmt: skip
        prepared = prepare(config)
        prepared.batches.steps = prepared.batches.steps[:1]
        trainer = build_trainer(config, prepared.batches, prepared.tokenizer, prepared.path, folder / "run")
        if backend == "fsdp2" and int(os.environ["RANK"]) > 0:  # or each rank of a node takes 131 GB for a 32B model
            assert not any(p.any() for p in trainer.model.parameters()), "every rank read the weights"
        keeper = KeepGradients()
        trainer.add_callback(keeper)
        trainer.args.save_strategy = "no"
        loss = trainer.train().training_loss
        if int(os.environ.get("RANK", 0)) == 0:
            file = f"{backend}-{weighting}-{sequence_parallel}-{accumulation}.pt"
            torch.save({"loss": loss, "gradients": keeper.gradients}, folder / file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
