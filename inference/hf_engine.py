"""A transformers model as an engine, on CPU, CUDA or MPS: continuous batching with one slot of KV cache a sequence.

Slower than vLLM and with fewer parts: for machines vLLM does not run on, and to check it against. A finished request
leaves its keys and values in its slot, so the next segment of a sample (the appended "Wait") reads only what is new.
"""

import gc
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache

from core.config import UserError
from core.runs import digest_of
from inference import checkpoint
from inference.engine import Delta, EngineConfig, FinishReason, Request, Sampling, fingerprint_of

MIN_SLOTS, MIN_LENGTH = 8, 256  # first allocation; both double when needed


class SlotCache(Cache):
    """Keys and values of every slot, one pair of tensors [num_slots, kv_heads, length, head_dim] a layer.

    `aim` says which slots and positions the next forward pass is about.
    """

    def __init__(self):
        super().__init__(layers=[])
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.num_slots = self.length = 0

    def reserve(self, num_slots: int, length: int) -> None:
        """Makes room, keeping what is there."""
        if num_slots <= self.num_slots and length <= self.length:
            return
        self.num_slots, self.length = max(num_slots, self.num_slots), max(length, self.length)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._zeros(old)
                tensors[layer][: old.shape[0], :, : old.shape[2]] = old

    def aim(self, slots: list[int], starts: list[int], positions: torch.Tensor) -> None:
        """slots, starts: of each row, where its new tokens begin. positions: [rows, new], where they go."""
        self.longest = max(starts) + positions.shape[1]
        # neighbours are read where they lie; other rows are copied, in every layer and for every token
        are_neighbours = slots[-1] - slots[0] + 1 == len(slots)
        self.rows = slice(slots[0], slots[-1] + 1) if are_neighbours else torch.tensor(slots, device=positions.device)
        self.places: tuple = self.rows, slice(None), slice(starts[0], self.longest)
        self.are_even = min(starts) == max(starts)
        if not self.are_even:
            self.places = torch.tensor(slots, device=positions.device)[:, None], slice(None), positions

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *args, **kwargs):
        """Stores [rows, kv_heads, new, head_dim]; returns all of the rows, [rows, kv_heads, longest, ...]."""
        if layer_idx == len(self.keys):
            self.keys.append(self._zeros(keys))
            self.values.append(self._zeros(values))
        for stored, new in ((self.keys[layer_idx], keys), (self.values[layer_idx], values)):
            stored[self.places] = new if self.are_even else new.transpose(1, 2)
        whole = self.rows, slice(None), slice(self.longest)
        return self.keys[layer_idx][whole], self.values[layer_idx][whole]

    def copy(self, source: int, target: int, length: int) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(self.num_slots, like.shape[1], self.length, like.shape[3])


def grouped_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention with shared key-value heads, without repeating them: the queries of a group share one head, so they
    become further rows of it. query: [rows, heads, new, head_dim], mask: [rows, 1, new, longest], None: all is seen."""
    rows, heads, new, head_dim = query.shape
    group = heads // key.shape[1]
    query = query.reshape(rows, key.shape[1], group * new, head_dim)
    if attention_mask is not None and new > 1:  # a single new token's mask broadcasts over the group
        attention_mask = attention_mask.repeat(1, 1, group, 1)
    out = scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling)
    return out.reshape(rows, heads, new, value.shape[3]).transpose(1, 2).contiguous(), None


@dataclass
class _Active:
    """A request in a slot. next_token: sampled, not yet read by the model."""

    key: Hashable
    request: Request
    generator: torch.Generator | None
    num_sampled: int = 0
    next_token: int = -1


@dataclass
class _Slot:
    """held: the ids whose keys and values lie here, also after their request has finished."""

    held: list[int] = field(default_factory=list)
    active: _Active | None = None
    last_used: int = 0


class TransformersEngine:
    """See `inference.engine.Engine`. `config.options` goes verbatim to from_pretrained."""

    def __init__(self, path: str | Path, tokenizer: Any, config: EngineConfig):
        checkpoint.check_context(path, config.max_model_len)
        self.device = _device()
        dtype = config.dtype
        if dtype == "auto" and self.device == "cpu" and checkpoint.cpu_emulates_bfloat16():
            dtype = "float32"
        transformers.utils.logging.disable_progress_bar()
        transformers.AttentionInterface.register("grouped", grouped_attention)
        options = {"dtype": dtype, "attn_implementation": "grouped"} | config.options
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, **options).eval()
        self._is_grouped = options["attn_implementation"] == "grouped"  # others build a mask where they get none
        _check_full_attention(self.model.config, path)
        if "device_map" not in options:
            self.model.to(self.device)
        self.max_model_len = config.max_model_len
        self.num_token_ids = min(len(tokenizer), self.model.config.get_text_config().vocab_size)
        self._path, self._options = path, config.options
        self._waiting: deque[tuple[Hashable, Request]] = deque()
        self._slots = [_Slot() for _ in range(config.max_num_seqs)]
        self._cache = SlotCache()
        self._clock = 0

    @cached_property
    def fingerprint(self) -> str:
        """Read from all of the weights, so not before somebody asks."""
        parts = {"weights": digest_of(self._path), "dtype": str(self.model.dtype), "device": self.device,
                 "engine": f"transformers {transformers.__version__} torch {torch.__version__}",
                 "num_token_ids": self.num_token_ids, "options": self._options}  # fmt: skip
        return fingerprint_of(parts)

    def submit(self, key: Hashable, request: Request) -> None:
        assert len(request.prefix) + request.max_tokens <= self.max_model_len, "request exceeds the context"
        self._waiting.append((key, request))

    @torch.inference_mode()
    def step(self) -> list[tuple[Hashable, Delta]]:
        """One token for every sequence in a slot, after the waiting ones have been given the free slots."""
        deltas = self._decode()
        while self._waiting and (free := [i for i, slot in enumerate(self._slots) if slot.active is None]):
            deltas.append(self._prefill(free, *self._waiting.popleft()))
        return deltas

    def cancel(self, key: Hashable) -> None:
        self._waiting = deque(pair for pair in self._waiting if pair[0] != key)
        for slot in self._slots:
            if slot.active is not None and slot.active.key == key:
                slot.active = None

    def kv_cache_usage(self) -> float:
        return sum(slot.active is not None for slot in self._slots) / len(self._slots)

    def reset_prefix_cache(self) -> None:
        """Forgets what finished requests left."""
        for slot in self._slots:
            if slot.active is None:
                slot.held, slot.last_used = [], 0

    def close(self) -> None:
        """Frees the memory; another engine may then be loaded in this process."""
        del self.model, self._cache, self._slots
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _prefill(self, free: list[int], key: Hashable, request: Request) -> tuple[Hashable, Delta]:
        """Reads the part of the prefix that no slot holds, and samples the first token."""
        prefix = request.prefix
        shared = [_common_prefix(slot.held, prefix) for slot in self._slots]
        source = max(range(len(shared)), key=lambda i: (shared[i], i in free))
        num_cached = min(shared[source], len(prefix) - 1)  # the last id is always read: its logits are wanted
        # a sample going on stays in its slot; what only begins alike is copied, its owner may come back
        goes_on = source in free and 0 < shared[source] == len(self._slots[source].held)
        target = source if goes_on else min(free, key=lambda i: self._slots[i].last_used)
        self._reserve(target, len(prefix))
        if source != target:
            self._cache.copy(source, target, num_cached)
            self._touch(self._slots[source])  # what others begin with stays
        slot = self._slots[target]
        slot.held = list(prefix)
        slot.active = _Active(key, request, _generator(request))
        logits = self._forward([target], [list(prefix[num_cached:])], [num_cached])
        return key, self._sample(slot, logits[0], num_cached)

    def _decode(self) -> list[tuple[Hashable, Delta]]:
        """Reads the last sampled token of every running sequence, and samples the next."""
        running = [i for i, slot in enumerate(self._slots) if slot.active is not None]
        if not running:
            return []
        slots = [self._slots[i] for i in running]
        starts = [len(slot.held) for slot in slots]
        self._reserve(running[-1], max(starts) + 1)
        logits = self._forward(running, [[slot.active.next_token] for slot in slots], starts)
        for slot in slots:
            slot.held.append(slot.active.next_token)
        return [(slot.active.key, self._sample(slot, row)) for slot, row in zip(slots, logits, strict=True)]

    def _forward(self, slots: list[int], token_ids: list[list[int]], starts: list[int]) -> torch.Tensor:
        """The next-token logits [rows, num_token_ids], on the CPU in float32."""
        ids = torch.tensor(token_ids, device=self.device)
        positions = torch.tensor(starts, device=self.device)[:, None] + torch.arange(ids.shape[1], device=self.device)
        self._cache.aim(slots, starts, positions)
        mask = None
        if ids.shape[1] > 1 or not self._cache.are_even or not self._is_grouped:
            mask = torch.arange(self._cache.longest, device=self.device) <= positions[:, None, :, None]
        out = self.model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=self._cache,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return out.logits[:, -1, : self.num_token_ids].float().cpu()

    def _sample(self, slot: _Slot, logits: torch.Tensor, num_cached: int | None = None) -> Delta:
        active, request = slot.active, slot.active.request
        logprobs = torch.log_softmax(logits, dim=-1) if request.logprobs else None
        if active.num_sampled < request.min_tokens:
            logits[[i for i in request.stop_token_ids if i < self.num_token_ids]] = float("-inf")
        token = _choose(logits, request.sampling, active.generator)
        active.next_token, active.num_sampled = token, active.num_sampled + 1
        reason: FinishReason | None = None
        if token in request.stop_token_ids:
            reason = "stop"
        elif active.num_sampled == request.max_tokens:
            reason = "length"
        self._touch(slot)
        if reason:
            slot.active = None
        return Delta((token,), reason, num_cached, logprobs=None if logprobs is None else (float(logprobs[token]),))

    def _touch(self, slot: _Slot) -> None:
        self._clock += 1
        slot.last_used = self._clock

    def _reserve(self, slot: int, length: int) -> None:
        num_slots = min(max(_power_of_two(slot + 1), MIN_SLOTS), len(self._slots))
        try:
            self._cache.reserve(num_slots, min(max(_power_of_two(length), MIN_LENGTH), self.max_model_len))
        except RuntimeError as error:
            if not checkpoint.is_out_of_memory(error):
                raise
            raise UserError(
                f"not enough memory for {num_slots} sequences of {length} tokens; lower engine.max_num_seqs"
            ) from error


def _choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """One id from [num_token_ids] logits. Temperature first, then the filters, as vLLM orders them."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probs = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.min_p > 0:
        probs[probs < sampling.min_p * probs.max()] = 0
    if 0 < sampling.top_k < len(probs):
        probs[probs < probs.topk(sampling.top_k).values[-1]] = 0
    if sampling.top_p < 1:
        ordered, ids = probs.sort(descending=True)
        before = ordered.cumsum(0) - ordered
        probs[ids[before >= sampling.top_p * ordered.sum()]] = 0
    return int(torch.multinomial(probs, 1, generator=generator))


def _generator(request: Request) -> torch.Generator | None:
    """One stream a request, on the CPU: what is drawn depends neither on the device nor on the other rows."""
    if request.sampling.temperature == 0:
        return None
    generator = torch.Generator()
    if request.seed is None:
        generator.seed()
    else:
        generator.manual_seed(request.seed)
    return generator


def _common_prefix(a: list[int], b: tuple[int, ...]) -> int:
    shortest = min(len(a), len(b))
    return next((i for i in range(shortest) if a[i] != b[i]), shortest)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_full_attention(config: Any, path: str | Path) -> None:
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    if getattr(config, "attn_logit_softcapping", None):
        kinds.add("softcapped attention")
    if kinds:
        raise UserError(f"{path}: the transformers engine does not know {', '.join(sorted(kinds))}; install vLLM")
