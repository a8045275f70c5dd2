"""Selective activation checkpointing keeps what attention returned, of variable-length attention too."""

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing, runs", [("full", 2), ("selective", 1)])
def test_attention_is_not_computed_anew(checkpointing, runs):
    import torch
    from torch.nn.attention import varlen
    from torch.utils.checkpoint import checkpoint

    from train.attention import checkpointing_options

    count = 0

    @varlen._varlen_attn.register_kernel("cpu")  # there is none; the dispatch above it is that of a GPU
    def forward(query, *args, **kwargs):
        nonlocal count
        count += 1
        return query + 1, torch.zeros(query.shape[1], query.shape[0]), torch.zeros(2, dtype=torch.uint64)

    @varlen._varlen_attn_backward.register_kernel("cpu")
    def backward(grad_out, query, key, value, *args, **kwargs):
        return grad_out.clone(), torch.zeros_like(key), torch.zeros_like(value)

    weight = torch.randn(8, 8, requires_grad=True)
    x = torch.randn(6, 4, 8, requires_grad=True)
    starts = torch.tensor([0, 2, 6], dtype=torch.int32)

    def layer(x: torch.Tensor) -> torch.Tensor:
        query = x @ weight
        key = value = query[:, :2].contiguous()
        return (
            varlen.varlen_attn(query, key, value, starts, starts, 4, 4, window_size=(-1, 0), enable_gqa=True) @ weight
        )

    checkpoint(layer, x, **checkpointing_options(checkpointing)).sum().backward()
    assert count == runs
    gradient = x.grad.clone()
    x.grad = None
    layer(x).sum().backward()
    torch.testing.assert_close(gradient, x.grad)
