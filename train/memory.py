"""What training holds in memory on one device, by arithmetic. Needs no torch.

Parameters, gradients and optimizer states are exact. Activations are those of transformers' Qwen2, Qwen3 and Llama
layers, counted tensor by tensor, at the three moments one of which is the peak; TRL's fused head never holds the logits
of a whole row. tests/test_memory.py holds it against the allocations of the real code.
"""

from dataclasses import dataclass

from core.config import UserError
from train.cost import ModelShape

# What torch sees of a card, in bytes; less than the maker's figure.
GPU_BYTES = {
    "H100": 84.9e9,
    "H100 NVL": 100.0e9,
    "H100 PCIe": 84.9e9,
    "H200": 149.9e9,
    "H800": 84.9e9,
    "H20": 102.0e9,
    "B200": 191.0e9,
    "A100": 84.9e9,
    "A800": 84.9e9,
    "L40S": 47.6e9,
    "RTX 4090": 25.2e9,
}
RESERVED_BYTES = 3e9  # estimate: CUDA context, NCCL, what the allocator cannot use
HEAD_TILE = 4096 * 32768  # logits of TRL's head at a time (trl/kernels/chunked_logprob.py)
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a block of 64 shares one 8-bit scale, and 256 of those one of 32 bits


@dataclass(frozen=True)
class Setup:
    """All that decides the memory of a device, besides the model.

    tokens: of one pass on one device, at most. precision: of matrix products; float32 is training on a CPU.
    """

    backend: str
    num_devices: int
    tokens: int
    sequence_parallel: int = 1
    accumulation: int = 1
    checkpointing: str = "full"
    offload_optimizer: bool = False
    lora_rank: int | None = None
    quantize: str | None = None
    precision: str = "bfloat16"

    @property
    def is_sharded(self) -> bool:
        return self.backend in ("fsdp2", "zero3") and self.num_devices > 1

    @property
    def shards(self) -> int:
        return self.num_devices if self.is_sharded else 1

    @property
    def weight_bytes(self) -> int:
        """Of a parameter as the layers see it: under FSDP2, ZeRO-3 and LoRA they are cast before, in bfloat16."""
        cast = self.is_sharded or self.backend == "zero3" or self.lora_rank
        return 2 if cast and self.precision == "bfloat16" else 4


def lora_parameters(shape: ModelShape, rank: int) -> int:
    """Of adapters on all linear layers but the head."""
    width, kv_width = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    h, f = shape.hidden_size, shape.intermediate_size
    pairs = [(h, width), (h, kv_width), (h, kv_width), (width, h), (h, f), (h, f), (f, h)]
    return shape.num_layers * rank * sum(a + b for a, b in pairs)


@dataclass(frozen=True)
class States:
    """Bytes of what stays from step to step: on a device, on one of its hosts, and on disk.

    checkpoint: one, of all devices together. export: the saved model in bfloat16.
    """

    parameters: float
    gradients: float
    optimizer: float
    host_optimizer: float
    checkpoint: float
    export: float


def states(shape: ModelShape, setup: Setup) -> States:
    """Of AdamW in float32 on float32 masters. Exact where the devices divide every matrix; host: of all of them."""
    n, shards = shape.num_parameters, setup.shards
    if setup.lora_rank:
        trained = lora_parameters(shape, setup.lora_rank)
        linear = shape.num_layers * shape.layer_matrices
        frozen = 2 * n if setup.precision == "bfloat16" else 4 * n
        if setup.quantize:
            frozen = NF4_BYTES * linear + 2 * (n - linear)
        base = frozen if setup.quantize else frozen / shards  # four-bit weights are not sharded
        return States(
            base + 4 * trained / shards, 4 * trained / shards, 8 * trained / shards, 0, 12 * trained, 2 * n
        )
    if setup.backend == "zero3":  # weights and gradients to compute with beside the masters
        width = setup.weight_bytes
        masters = 12 * n
        if setup.offload_optimizer:
            return States(width * n / shards, width * n / shards, 0, masters + 4 * n, masters + width * n, 2 * n)
        return States(
            width * n / shards, width * n / shards, masters / shards, 0, masters + width * n, 2 * n
        )
    return States(4 * n / shards, 4 * n / shards, 8 * n / shards, 0, 12 * n, 2 * n)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. moments: the sum at each candidate for the peak, without what is reserved."""

    states: States
    gathered: float
    buckets: float
    layer_inputs: float
    live_layer: float
    head: float
    moments: dict[str, float]

    @property
    def peak(self) -> float:
        return max(self.moments.values())

    @property
    def peak_moment(self) -> str:
        return max(self.moments, key=self.moments.__getitem__)


def saved_per_token(shape: ModelShape, setup: Setup) -> int:
    """Bytes a layer keeps for its backward pass, of each token, without checkpointing."""
    h, f, heads = shape.hidden_size, shape.intermediate_size, shape.num_attention_heads
    width, kv_width = heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    if setup.precision == "float32":
        item, around = 4, 24 * h
    elif setup.weight_bytes == 2:
        item, around = 2, 16 * h  # two norms: float32 input, result; the input of the products after each
    else:
        item, around = 2, 26 * h  # autocast: the residual is float32, and each product casts its own input
    attention = item * (2 * width + 2 * kv_width) + 4 * heads  # queries, result, keys, values, log-sum-exp
    return around + attention + item * 4 * f + 8


def memory(shape: ModelShape, setup: Setup) -> Memory:
    """Of one device at its largest pass."""
    kept = states(shape, setup)
    h, f, tokens = shape.hidden_size, shape.intermediate_size, setup.tokens
    width, kv_width = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    item = 2 if setup.precision == "bfloat16" else 4
    saved = saved_per_token(shape, setup)
    residual = setup.weight_bytes * h  # the input of a layer has the type of its weights
    each = {
        "full": residual,
        "selective": residual + item * width + 4 * shape.num_attention_heads,
        "none": saved,
    }[setup.checkpointing]
    layer_inputs = shape.num_layers * each * tokens

    # recomputed, and the gradients flowing through the MLP; without checkpointing the first part is kept anyway
    live_layer = (saved + 2 * item * f + 4 * h - residual if setup.checkpointing != "none" else 2 * item * f) * tokens
    live_layer += item * h * f  # the gradient of one matrix
    if setup.sequence_parallel > 1:
        live_layer += 2 * item * (width + 2 * kv_width) * tokens  # what is sent, what is received
    copies = 0  # of weights, in bfloat16, by autocast
    if setup.precision == "bfloat16" and setup.weight_bytes == 4:
        copies = 2 * shape.layer_matrices * (shape.num_layers if setup.checkpointing == "none" else 1)

    trains_head = not setup.lora_rank
    vocabulary = shape.embedding_parameters
    head = (8 if setup.weight_bytes == 2 else 12) * h * tokens + 6 * h * tokens  # final norm, gradients of its result
    head += item * min(HEAD_TILE, tokens * shape.vocab_size)
    if trains_head:
        head += 4 * vocabulary + (2 * vocabulary if setup.weight_bytes == 2 else 0)  # summed in float32, then cast
    gathered = pending_head = pending_layer = 0.0
    if setup.is_sharded:
        gathered = 2 * setup.weight_bytes * shape.layer_parameters  # one at work, one on its way
        head += setup.weight_bytes * vocabulary
        if trains_head:  # on their way to be summed: in float32 under FSDP2
            pending_head = 4 * vocabulary if setup.backend == "fsdp2" else 2 * vocabulary
            pending_layer = (4 if setup.backend == "fsdp2" else 2) * shape.layer_parameters
    elif trains_head:
        pending_head = setup.weight_bytes * vocabulary
    if setup.quantize:
        gathered = 2 * h * f  # one matrix, unpacked
    buckets = kept.gradients if setup.backend == "ddp" and setup.num_devices > 1 else 0.0

    constant = kept.parameters + kept.optimizer + buckets + gathered + copies
    earlier = kept.gradients if setup.accumulation > 1 else 0.0  # of the passes before
    one_layer = kept.gradients / shape.num_parameters * (shape.layer_parameters + (0 if shape.tied else vocabulary))
    moments = {
        "backward of the head": constant + earlier + layer_inputs + head,
        "backward of the first layer": constant + earlier + layer_inputs + live_layer + pending_head,
        "backward of the last layer": constant
        + max(earlier, kept.gradients - (0 if setup.is_sharded or not trains_head else one_layer))
        + live_layer + each * tokens + pending_layer,
    }  # fmt: skip
    if not setup.is_sharded:
        moments["update"] = constant - copies + kept.gradients
    return Memory(kept, gathered + copies, buckets, layer_inputs, live_layer, head, moments)
