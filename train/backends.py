"""How the parts of a model are spread over devices: our few keys, told to trl.SFTConfig. Needs no torch.

| backend | parameters, gradients, optimizer | for |
|---|---|---|
| fsdp2 | sharded over all devices | the default; on one device the same as single |
| zero3 | sharded by DeepSpeed over all devices; with offload_optimizer the optimizer is in host memory | few GPUs |
| ddp | whole on every device | small models |
| single | whole on the one device | one GPU, a laptop |
"""

import os
from typing import Any

from core.config import UserError

BACKENDS = ("fsdp2", "zero3", "ddp", "single")
CHECKPOINTING = ("auto", "full", "selective", "none")


def check_backend(backend: str, num_devices: int, offload_optimizer: bool = False) -> None:
    """Raises UserError for a name or a combination that does not exist."""
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r} is unknown; known: {', '.join(BACKENDS)}")
    if backend == "single" and num_devices > 1:
        raise UserError(f"backend=single is for one device, and there are {num_devices}; use fsdp2, zero3 or ddp")
    if offload_optimizer and backend != "zero3":
        raise UserError(f"offload_optimizer=true needs backend=zero3 (parallel/zero3-offload.yaml), not {backend}")


def set_environment(backend: str, num_devices: int) -> None:
    """Variables that accelerate and DeepSpeed read as they are imported; call before.

    Without the first two, every rank of FSDP2 loads the whole model into host memory (ms-swift#9980).
    """
    import torch

    if backend == "fsdp2" and num_devices > 1:
        os.environ["ACCELERATE_USE_FSDP"] = "true"
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
        os.environ["FSDP_VERSION"] = "2"
    on_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")  # or DeepSpeed prints on stdout what it found
    if backend == "zero3" and not on_gpu:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"


def trainer_options(
    backend: str, num_devices: int, on_gpu: bool, accumulation: int = 1, offload_optimizer: bool = False
) -> dict[str, Any]:
    """Keyword arguments of trl.SFTConfig for this backend."""
    if backend == "zero3":
        options: dict[str, Any] = {"deepspeed": zero3_config(on_gpu, offload_optimizer)}
        if not on_gpu:
            options["accelerator_config"] = {"use_configured_state": True}
        return options
    if num_devices == 1:
        return {}
    if backend == "ddp":
        return {"ddp_find_unused_parameters": False}
    options = {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "reshard_after_forward": True,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "cpu_ram_efficient_loading": True,
            "state_dict_type": "SHARDED_STATE_DICT",
        },
    }
    if accumulation > 1:  # else every device keeps all gradients, unsharded, between passes: 65 GB of a 32B model
        options["accelerator_config"] = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    return options


def zero3_config(on_gpu: bool, offload_optimizer: bool) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": 3,
        "overlap_comm": on_gpu,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    if offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "steps_per_print": 10**9,
    }
