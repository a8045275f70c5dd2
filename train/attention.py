"""Attention over examples laid end to end in one row, sharded over the devices of a sequence-parallel group.

Ulysses (DeepSpeed, arXiv 2309.14509) beneath data parallelism: each device holds an equal slice of the row's tokens;
one all-to-all turns slices of the tokens into slices of the heads, attention runs over the whole row, and a second one
turns back. Nothing else in the model mixes tokens, so nothing else needs to know, and the trainer sees ordinary data
parallelism. Registered as one of transformers' attention implementations.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.functional import scaled_dot_product_attention

NAME = "flat_varlen"


def register(sequence_parallel: int = 1) -> str:
    """Makes the implementation known to transformers; returns its name for `attn_implementation`.

    sequence_parallel: neighbouring ranks that share a row. With more than one, all ranks must call this together.
    """
    from transformers import AttentionInterface

    group = _group_of_neighbours(sequence_parallel) if sequence_parallel > 1 else None

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        max_length_q: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """query [1, heads, tokens, head_dim], key and value likewise with key-value heads, tokens of this device.

        cu_seq_lens_q: where the examples of the whole row begin, and its end, [num_examples + 1].
        Returns [1, tokens, heads, head_dim].
        """
        if cu_seq_lens_q is None:
            raise ValueError(f"{NAME} attends to flattened rows of train.dataset only: cu_seq_lens_q is missing")
        if torch.is_autocast_enabled(query.device.type):  # rotary embedding leaves queries and keys in float32
            query, key = query.to(value.dtype), key.to(value.dtype)
        row = _to_heads(query, key, value, group) if group else (query[0], key[0], value[0])
        out = attend_to_row(*row, cu_seq_lens_q, max_length_q, scaling)
        return (_to_tokens(out, group) if group else out).transpose(0, 1).unsqueeze(0), None

    AttentionInterface.register(NAME, attend)
    return NAME


def attend_to_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Causal attention within each example. query [heads, tokens, head_dim]; so is the result.

    On GPUs that have it, torch's variable-length flash attention; elsewhere (CPU, float32, GPUs before Ampere) one call
    of the fused kernel for each example. Neither builds a mask of tokens x tokens.
    """
    is_half = query.dtype in (torch.bfloat16, torch.float16)
    # get_device_capability would say the same, and break the graphs of torch.compile
    if query.is_cuda and is_half and torch.cuda.get_device_properties(query.device).major >= 8:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x.transpose(0, 1).contiguous() for x in (query, key, value))
        starts = starts.to(torch.int32)
        out = varlen_attn(
            q, k, v, starts, starts, longest, longest,
            scale=scaling, window_size=(-1, 0), enable_gqa=len(query) > len(key),
        )  # fmt: skip
        return out.transpose(0, 1)
    bounds = starts.tolist()
    parts = [
        scaled_dot_product_attention(
            query[None, :, begin:end], key[None, :, begin:end], value[None, :, begin:end],
            is_causal=True, scale=scaling, enable_gqa=len(query) > len(key),
        )[0]
        for begin, end in zip(bounds, bounds[1:], strict=False)
    ]  # fmt: skip
    return torch.cat(parts, dim=1)


def checkpointing_options(checkpointing: str) -> dict[str, Any]:
    """Keyword arguments of torch's checkpoint for full activation checkpointing, or selective: attention is kept."""
    return {"use_reentrant": False} | ({"context_fn": _keep_attention} if checkpointing == "selective" else {})


def _keep_attention():
    """Contexts in which checkpoint keeps what attention returned, and computes the rest anew.

    TRL's own selective checkpointing does not know torch's variable-length attention, and computes that anew too.
    """
    from torch.nn.attention import varlen  # noqa: F401  brings the operator
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    aten = torch.ops.aten
    kept = (
        torch.ops.torch_attn._varlen_attn,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
    )
    return create_selective_checkpoint_contexts([operator.default for operator in kept])


def _group_of_neighbours(size: int) -> ProcessGroup:
    from torch import distributed

    groups = [distributed.new_group(list(range(i, i + size))) for i in range(0, distributed.get_world_size(), size)]
    return groups[distributed.get_rank() // size]


def _to_heads(query, key, value, group: ProcessGroup) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slices of tokens [1, heads, tokens / n, head_dim] to slices of heads [heads / n, tokens, head_dim], in one
    exchange of all three."""
    n = group.size()
    sent = torch.cat([x[0].unflatten(0, (n, -1)) for x in (query, key, value)], dim=1)
    received = _exchange(sent, group).transpose(0, 1).flatten(1, 2)
    return received.split([x.shape[1] // n for x in (query, key, value)])


def _to_tokens(out: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Slices of heads [heads / n, tokens, head_dim] to slices of tokens [heads, tokens / n, head_dim]."""
    sent = out.unflatten(1, (group.size(), -1)).transpose(0, 1)
    return _exchange(sent, group).flatten(0, 1)


def _exchange(parts: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
    """Part i of the first dimension goes to rank i of the group; the gradient goes the way back."""
    from torch.distributed import _functional_collectives as collectives

    received = collectives.all_to_all_single_autograd(parts.contiguous(), None, None, group)
    return collectives.wait_tensor(received) if isinstance(received, collectives.AsyncCollectiveTensor) else received
