"""Counts the bytes of all tensors alive, as torch.cuda.max_memory_allocated would, for real and for fake tensors."""

import gc
import weakref

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Within it: `now`, bytes alive of the tensors made inside, and `peak`, their largest sum since `restart`."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def restart(self) -> int:
        gc.collect()
        self.peak = self.now
        return self.now

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = 0
            weakref.finalize(storage, self._forget, key)
        self.now += storage.nbytes() - self._sizes[key]
        self._sizes[key] = storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __enter__(self):
        self._resize = resize = torch.UntypedStorage.resize_

        def noticed(storage, size):  # how FSDP2 gives gathered weights back
            resize(storage, size)
            if storage._cdata in self._sizes:
                self._see(storage)

        torch.UntypedStorage.resize_ = noticed
        return super().__enter__()

    def __exit__(self, *error):
        torch.UntypedStorage.resize_ = self._resize
        return super().__exit__(*error)


def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """One example a row, by torch's fused kernel: what train.attention does, without a look at values."""
    if torch.is_autocast_enabled(query.device.type):
        query, key = query.to(value.dtype), key.to(value.dtype)
    out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def peak_of_step(model, num_tokens: int, autocast: bool, allocations: Allocations) -> int:
    """Bytes above what was there before, of one forward and backward pass with TRL's head; gradients stay."""
    before = allocations.restart()
    ids = torch.zeros((1, num_tokens), dtype=torch.long)
    positions = torch.arange(num_tokens)[None]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(input_ids=ids, shift_labels=ids, position_ids=positions, use_cache=False, fused_lm_head=True)
    (-out.log_probs.sum()).backward()
    return allocations.peak - before
