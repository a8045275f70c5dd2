"""What training holds in memory on one device, by arithmetic. Needs no torch.

Parameters, gradients and optimizer states are exact. Activations are those of transformers' Qwen2, Qwen3 and Llama
layers, counted tensor by tensor, at the moments one of which is the peak; TRL's fused head never holds the logits of a
whole row. tests/test_memory.py holds it against real objects and the allocations of the real code (not ZeRO-3's, whose
figures follow from its settings).
"""

from dataclasses import dataclass

from core.cost import ModelShape

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
HEAD_TILE = 4096, 32768  # tokens and logits that TRL's head has at a time (trl/kernels/chunked_logprob.py)
ZERO3_LIVE_PARAMETERS = 1e9  # that DeepSpeed keeps gathered (stage3_max_live_parameters)
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
    def item(self) -> int:
        """Bytes of an element of a matrix product."""
        return 2 if self.precision == "bfloat16" else 4

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
        return States(base + 4 * trained / shards, 4 * trained / shards, 8 * trained / shards, 0, 12 * trained, 2 * n)
    if setup.backend == "zero3":  # weights and gradients to compute with beside the masters
        width = setup.weight_bytes
        masters = 12 * n
        if setup.offload_optimizer:
            return States(width * n / shards, width * n / shards, 0, masters + 4 * n, masters + width * n, 2 * n)
        return States(width * n / shards, width * n / shards, masters / shards, 0, masters + width * n, 2 * n)
    return States(4 * n / shards, 4 * n / shards, 8 * n / shards, 0, 12 * n, 2 * n)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    working: weights gathered, cast or unpacked to compute with. layer_inputs: what all layers keep for the backward
    pass. live_layer, head: what passing back through one layer or the head takes besides. buckets: DDP's copy of the
    gradients. moments: the sums that may be the peak, without what is reserved; not all of the above meet in one.
    """

    states: States
    working: float
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
    item = setup.item
    if setup.precision == "float32":
        around = 24 * h
    elif setup.lora_rank:
        around = 20 * h  # frozen norms keep less, but each product casts its own input for its adapter
    elif setup.weight_bytes == 2:
        around = 16 * h  # two norms: float32 input, result; the input of the products after each
    else:
        around = 26 * h  # autocast: the residual is float32, and each product casts its own input
    attention = item * (2 * width + 2 * kv_width) + 4 * heads  # queries, result, keys, values, log-sum-exp
    return around + attention + item * 4 * f + 8


def memory(shape: ModelShape, setup: Setup) -> Memory:
    """Of one device at its largest pass."""
    kept = states(shape, setup)
    h, f, tokens, item = shape.hidden_size, shape.intermediate_size, setup.tokens, setup.item
    width, kv_width = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    vocabulary = shape.embedding_parameters
    is_checkpointed = setup.checkpointing != "none"
    is_cast = setup.weight_bytes == 2
    trains_head = not setup.lora_rank

    saved = saved_per_token(shape, setup)
    residual = setup.weight_bytes * h  # the input of a layer has the type of its weights
    each = {
        "full": residual,
        "selective": residual + item * width + 4 * shape.num_attention_heads,  # and what attention returned
        "none": saved,
    }[setup.checkpointing]
    layer_inputs = shape.num_layers * each * tokens

    # what a checkpointed layer computes anew, beside its input, and the gradients that flow through its MLP
    live_layer = (saved + 4 * h - residual if is_checkpointed else 0) + 2 * item * f
    if setup.lora_rank:
        live_layer += 4 * f  # an adapter's input, cast to float32
    if setup.sequence_parallel > 1:
        live_layer += 2 * item * (width + 2 * kv_width)  # queries, keys and values as sent and as received
    live_layer *= tokens
    if not setup.lora_rank:
        live_layer += item * h * f  # the gradient of one matrix

    head = (14 if is_cast else 18) * h * tokens  # the final norm, its result's gradient
    head += item * min(tokens, HEAD_TILE[0]) * HEAD_TILE[1]
    head += setup.weight_bytes * vocabulary if setup.is_sharded else 0
    if trains_head:  # its gradient is summed in float32, then cast
        head += 4 * vocabulary + (2 * vocabulary if is_cast else 0)

    # Weights as the products need them: sharded, one layer at work and one on its way; autocast keeps its copies of all
    # that a backward pass is still to come for.
    working = 0.0
    if setup.is_sharded:
        working = 2.0 * setup.weight_bytes * shape.layer_parameters
        if setup.backend == "zero3":
            working = max(working, setup.weight_bytes * min(ZERO3_LIVE_PARAMETERS, shape.num_parameters))
    elif setup.quantize:
        working = 2.0 * h * f
    elif not is_cast and setup.precision == "bfloat16":
        working = 2.0 * shape.layer_matrices * (1 if is_checkpointed else shape.num_layers)

    # Gradients: of the whole model where an earlier pass, or DeepSpeed, has made room for them. Sharded ones are also
    # held whole until they are summed over the devices, under FSDP2 in float32.
    is_early = setup.accumulation > 1 or setup.backend == "zero3"
    early = kept.gradients if is_early else 0.0
    late, summed_head, summed_layer = kept.gradients, 0.0, 0.0
    if trains_head:
        width_of_sum = 4 if setup.backend == "fsdp2" else setup.weight_bytes
        if setup.is_sharded:
            summed_head, summed_layer = width_of_sum * vocabulary, width_of_sum * shape.layer_parameters
        elif not is_early:
            summed_head = kept.gradients * vocabulary / shape.num_parameters
            to_come = shape.layer_parameters + (
                0 if shape.tied else vocabulary
            )  # of the bottom layer and the embedding
            late -= kept.gradients * to_come / shape.num_parameters
    buckets = kept.gradients if setup.backend == "ddp" and setup.num_devices > 1 else 0.0

    always = kept.parameters + kept.optimizer + buckets
    moments = {
        "backward of the head": always + early + working + layer_inputs + head,
        "backward of the top layer": always + early + working + layer_inputs + live_layer + summed_head,
        "backward of the bottom layer": always + late + working + each * tokens + live_layer + summed_layer,
        "update": always + kept.gradients,
    }
    return Memory(kept, working, buckets, layer_inputs, live_layer, head, moments)
