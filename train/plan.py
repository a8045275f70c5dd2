"""What a training run will take on a cluster, before anyone queues: tokens, layout, memory, minutes.

    python -m train.plan configs/train/s1-32b.yaml nodes=2 gpus=8 gpu=H100
    python -m train.plan configs/train/s1.1-32b.yaml configs/train/parallel/zero3-offload.yaml nodes=1
    python -m train.plan configs/train/s1-32b.yaml lengths=configs/train/lengths/s1k.csv sequence_parallel=1

Takes the files and keys of train.sft, and plans the same steps. Counts the rows with the model's tokenizer (weights are
not needed), or draws their lengths from a histogram. Refuses what cannot fit, with the nearest change that does. Writes
plan.json, without dry_run=true. What says estimate was computed, not measured.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.config import UserError, build, option, run_entry
from core.cost import PEAK_FLOPS, QWEN25, ModelShape
from core.log import duration, say
from core.runs import open_run
from train.lengths import draw_lengths, read_histogram
from train.memory import GPU_BYTES, RESERVED_BYTES, Memory, Setup, lora_parameters, memory
from train.sft import SftConfig, check, read_rows
from train.steps import Layout, balance, choose_layout, tokens_on_device, visits

OVERLAYS = Path("configs/train/parallel")
# Estimates. AdamW on the host reads and writes 28 bytes a parameter, at what two sockets reach; PCIe 5 moves gradients
# out and weights in.
HOST_BYTES_PER_SECOND, PCIE_BYTES_PER_SECOND = 200e9, 25e9
LAYOUT_KEYS = ("sequence_parallel", "accumulation")
LOGITS_BYTES = 12  # of a logit: bfloat16 and float32, each with its gradient


@dataclass
class PlanConfig(SftConfig):
    nodes: int = option(2, help="machines")
    gpus: int = option(8, help="GPUs of each")
    gpu: str = option("H100", help=f"GPU: {', '.join(GPU_BYTES)}")
    gpu_memory_gb: float | None = option(None, help="decimal GB that torch sees on a GPU; null: as the GPU has")
    host_memory_gb: float | None = option(None, help="decimal GB of each machine; null: not checked")
    mfu: float = option(0.40, help="assumed of busy GPUs; torchtitan's Qwen3-32B on H100 has 0.394 (torchtitan#1690)")
    network_gb_s: float = option(350, help="assumed bus bandwidth between machines for collectives, GB/s")
    nvlink_gb_s: float = option(300, help="assumed bandwidth of a GPU to its neighbours, GB/s")
    lengths: str | None = option(None, help="histogram of thinking tokens (.csv) instead of the data")
    num_rows: int | None = option(None, help="rows to draw from it; null: as many as it counts")
    extra_tokens: int = option(900, help="prompt and answer, added to each length drawn")


@dataclass(frozen=True)
class Rows:
    """Tokens of each row, and how they are known."""

    lengths: list[int]
    source: str


@dataclass(frozen=True)
class Plan:
    """Numbers of one run on one layout. Bytes, seconds, FLOPs; memory, host, traffic and times are estimates.

    tokens: over all visits. tokens_on_device: of one pass, at most. compute_seconds and all after it: of a step.
    traffic: bytes a GPU sends and receives to gather weights and sum gradients; exchange: within its sequence-parallel
    group.
    """

    layout: Layout
    num_steps: int
    num_visits: int
    tokens: int
    flops: float
    balance: float
    tokens_on_device: int
    memory: Memory
    gpu_bytes: float
    host_bytes: float
    compute_seconds: float
    traffic_bytes: float
    traffic_seconds: float
    exchange_bytes: float
    exchange_seconds: float
    host_seconds: float

    @property
    def peak_bytes(self) -> float:
        return self.memory.peak + RESERVED_BYTES

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.gpu_bytes

    @property
    def step_seconds(self) -> float:
        """Weights travel while others are computed with; the exchange and the host's update are waited for."""
        return max(self.compute_seconds, self.traffic_seconds) + self.exchange_seconds + self.host_seconds

    @property
    def minutes(self) -> float:
        return self.num_steps * self.step_seconds / 60

    @property
    def gpu_hours(self) -> float:
        return self.minutes / 60 * self.layout.num_devices


def main(config: PlanConfig) -> Path | None:
    check_cluster(config)
    shape, rows = read(config)
    plan = make_plan(config, shape, rows.lengths)
    published = as_published(config, shape, rows.lengths)
    if config.dry_run:
        for line in lines(config, shape, rows, plan, published):
            say(line)
        refuse_what_does_not_fit(config, shape, rows.lengths, plan)
        say("nothing was written (dry_run)")
        return None
    data = config.data if Path(config.data).exists() else None
    with open_run("plan", fully_named(config), {"data": data, "lengths": config.lengths}) as run:
        for line in lines(config, shape, rows, plan, published):
            say(line)
        refuse_what_does_not_fit(config, shape, rows.lengths, plan)
        if not run.is_done:
            numbers = {"estimates": "memory, host, traffic and seconds are computed, not measured", **flat(plan)}
            (run.path / "plan.json").write_text(json.dumps(numbers, indent=2) + "\n")
            run.finish(minutes=round(plan.minutes, 1), balance=round(plan.balance, 3), peak_bytes=plan.peak_bytes)
    return run.path


def fully_named(config: PlanConfig) -> Any:
    """The same config, all of whose keys name the run folder: a plan is about what train.sft may change freely."""
    fields = [(f.name, Any) for f in dataclasses.fields(config)]
    return dataclasses.make_dataclass("Plan", fields)(**asdict(config))


def flat(plan: Plan) -> dict[str, Any]:
    names = ("peak_bytes", "step_seconds", "minutes", "gpu_hours")
    return {**asdict(plan), **{name: getattr(plan, name) for name in names}}


def check_cluster(config: PlanConfig) -> None:
    """Raises UserError for what can be told from the config alone."""
    if config.gpu not in GPU_BYTES:
        raise UserError(f"gpu={config.gpu} is unknown; known: {', '.join(GPU_BYTES)}")
    if config.nodes < 1 or config.gpus < 1:
        raise UserError(f"nodes={config.nodes} gpus={config.gpus} leaves nothing to train on")
    if not 0 < config.mfu < 1:
        raise UserError(f"mfu={config.mfu} is a share of the GPU's peak, between 0 and 1")
    check(config, config.nodes * config.gpus)


def read(config: PlanConfig) -> tuple[ModelShape, Rows]:
    """The model's sizes and the rows' lengths. Raises UserError for all that is wrong with model, tokenizer, data."""
    from inference import checkpoint

    if not config.lengths:
        try:
            path = checkpoint.resolve(config.model, config.revision, weights=False)
            _, rows = read_rows(config, path)
        except UserError as error:
            hint = "; or plan without: lengths=configs/train/lengths/s1k.csv" if "the hub" in str(error) else ""
            raise UserError(f"{error}{hint}") from None
        lengths = [len(row["input_ids"]) for row in rows]
        return ModelShape.of(str(path)), Rows(lengths, f"counted in {config.data}")
    if config.model in QWEN25:  # nothing is asked of the hub
        shape = ModelShape.of(config.model)
    else:
        path = checkpoint.resolve(config.model, config.revision, weights=False)
        shape = ModelShape.of(str(path))
        ChatFormat(config.profile, checkpoint.load_tokenizer(path))
    lengths = draw_lengths(read_histogram(config.lengths), config.extra_tokens, config.seed, config.num_rows)
    too_long = sum(length > config.max_length for length in lengths)
    if too_long and not config.truncate:
        raise UserError(
            f"{too_long} of {len(lengths)} lengths drawn from {config.lengths} are over "
            f"max_length={config.max_length}; raise it, or cut them with truncate=true"
        )
    source = f"drawn from {config.lengths}, + {config.extra_tokens} for prompt and answer, seed {config.seed}"
    return shape, Rows([min(length, config.max_length) for length in lengths], source)


def make_plan(config: PlanConfig, shape: ModelShape, lengths: Sequence[int]) -> Plan:
    """Raises UserError where batch, devices, heads or backend do not go together; not where memory is short."""
    devices = config.nodes * config.gpus
    check(config, devices)
    steps = visits(len(lengths), config.batch_size, config.num_epochs, config.seed)
    cost = [shape.flops(length) for length in lengths]
    layout = choose_layout(
        devices, steps, lengths, cost, (shape.num_attention_heads, shape.num_key_value_heads),
        config.sequence_parallel, config.accumulation, config.max_tokens_per_device,
    )  # fmt: skip
    share = balance(steps, cost, layout)
    flops = sum(cost[row] for step in steps for row in step)
    tokens = sum(lengths[row] for step in steps for row in step)
    most = tokens_on_device(steps, lengths, cost, layout)
    setup = Setup(
        backend=config.backend,
        num_devices=devices,
        tokens=most,
        sequence_parallel=layout.sequence_parallel,
        accumulation=layout.accumulation,
        checkpointing="full" if config.activation_checkpointing == "auto" else config.activation_checkpointing,
        offload_optimizer=config.offload_optimizer,
        lora_rank=config.lora_rank,
        quantize=config.quantize,
    )
    held = memory(shape, setup)
    traffic = weight_traffic(shape, setup)
    within_node = layout.sequence_parallel <= config.gpus
    exchange = exchanged(shape, layout, tokens / len(steps))
    return Plan(
        layout=layout,
        num_steps=len(steps),
        num_visits=sum(map(len, steps)),
        tokens=tokens,
        flops=flops,
        balance=share,
        tokens_on_device=most,
        memory=held,
        gpu_bytes=config.gpu_memory_gb * 1e9 if config.gpu_memory_gb else GPU_BYTES[config.gpu],
        host_bytes=host_bytes(shape, setup, held, config.gpus, config.nodes),
        compute_seconds=flops / len(steps) / (devices * PEAK_FLOPS[config.gpu] * config.mfu * share),
        traffic_bytes=traffic,
        traffic_seconds=traffic / (1e9 * (config.nvlink_gb_s if config.nodes == 1 else config.network_gb_s)),
        exchange_bytes=exchange,
        exchange_seconds=exchange / (1e9 * (config.nvlink_gb_s if within_node else config.network_gb_s)),
        host_seconds=host_update_seconds(shape, config) if config.offload_optimizer else 0.0,
    )


def weight_traffic(shape: ModelShape, setup: Setup) -> float:
    """Bytes a GPU sends and receives in a step to gather weights and to sum gradients."""
    trained = lora_parameters(shape, setup.lora_rank) if setup.lora_rank else shape.num_parameters
    share = (setup.num_devices - 1) / setup.num_devices
    if setup.is_sharded:  # gathered forward and backward, in each pass; FSDP2 sums in float32
        summed = 4 if setup.backend == "fsdp2" else 2
        return share * setup.accumulation * (2 * 2 * shape.num_parameters + summed * trained)
    return share * 2 * 4 * trained  # an all-reduce sends twice


def exchanged(shape: ModelShape, layout: Layout, tokens_of_step: float) -> float:
    """Bytes a GPU exchanges in a step within its sequence-parallel group: queries, keys, values and the result of each
    layer, forward, recomputed and backward."""
    size = layout.sequence_parallel
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    per_token = 3 * 2 * heads * shape.head_dim * shape.num_layers
    return per_token * tokens_of_step / layout.num_devices * (size - 1) / size


def host_bytes(shape: ModelShape, setup: Setup, held: Memory, gpus: int, nodes: int) -> float:
    """Of one machine, while the model is loaded, and from then on for an optimizer that lies there."""
    dtype = 2 if setup.lora_rank else 4
    if setup.backend == "zero3":  # every process reads the whole bfloat16 checkpoint
        loading = 2 * shape.num_parameters * gpus
    elif setup.is_sharded:  # one process of a machine reads, the others get theirs over the network
        loading = dtype * shape.num_parameters
    else:
        loading = dtype * shape.num_parameters * gpus
    return max(loading, held.states.host_optimizer / nodes)


def host_update_seconds(shape: ModelShape, config: PlanConfig) -> float:
    update = 28 * shape.num_parameters / config.nodes / HOST_BYTES_PER_SECOND
    transfer = 4 * shape.num_parameters / (config.nodes * config.gpus) / PCIE_BYTES_PER_SECOND
    return update + transfer


def as_published(config: PlanConfig, shape: ModelShape, lengths: Sequence[int]) -> Plan | None:
    """The plan with whole examples, an equal number to each GPU and one at a time; None where that cannot be."""
    devices = config.nodes * config.gpus
    if config.batch_size % devices:
        return None
    own = dataclasses.replace(config, sequence_parallel=1, accumulation=config.batch_size // devices)
    return make_plan(own, shape, lengths)


def refuse_what_does_not_fit(config: PlanConfig, shape: ModelShape, lengths: Sequence[int], plan: Plan) -> None:
    """Raises UserError, with the nearest change of the config that fits."""
    limit = config.host_memory_gb
    if limit and plan.host_bytes > limit * 1e9:
        raise UserError(
            f"a machine needs {gb(plan.host_bytes)} GB of host memory (estimate) and has {limit:g}; "
            "take more machines, or another backend"
        )
    if plan.fits:
        return
    found = next(fitting(config, shape, lengths), None)
    way_out = "no overlay makes it fit; take larger or more GPUs"
    if found:
        way_out = f"what fits: {found[0]} ({gb(found[1].peak_bytes)} GB)"
    raise UserError(
        f"{gb(plan.peak_bytes)} GB at the peak (estimate) do not fit into the {gb(plan.gpu_bytes)} GB of an "
        f"{config.gpu}; {way_out}"
    )


def fitting(config: PlanConfig, shape: ModelShape, lengths: Sequence[int]) -> Iterator[tuple[str, Plan]]:
    """(arguments to add, their plan) of all that fits, the smallest change first."""
    overlays = [OVERLAYS / f"{name}.yaml" for name in ("zero3-offload", "lora", "qlora")]
    for overlay in [None, *(path for path in overlays if path.exists())]:
        base, words = config, []
        if overlay:
            base = build(PlanConfig, [asdict(config), str(overlay)], str(overlay))
            words = [str(overlay)]
            if base.backend == "single" and base.nodes * base.gpus > 1:
                words += ["nodes=1", "gpus=1"]
                words += [f"{key}=null" for key in LAYOUT_KEYS if getattr(base, key) is not None]
                base = dataclasses.replace(base, nodes=1, gpus=1, **dict.fromkeys(LAYOUT_KEYS))
        for changes in smaller(base):
            try:
                plan = make_plan(dataclasses.replace(base, **changes), shape, lengths)
            except UserError:  # does not go together: try the next
                continue
            host = config.host_memory_gb
            if plan.fits and not (host and plan.host_bytes > host * 1e9):
                yield " ".join([*words, *(f"{key}={value}" for key, value in changes.items())]), plan


def smaller(config: PlanConfig) -> Iterator[dict[str, Any]]:
    """Changes that leave less on a GPU at a time: nothing, checkpointing, more GPUs to a row, more passes."""
    yield {}
    full = {} if config.activation_checkpointing in ("auto", "full") else {"activation_checkpointing": "full"}
    yield full
    for accumulation in (n for n in range(1, config.batch_size + 1) if config.batch_size % n == 0):
        for sequence_parallel in (1, 2, 4, 8):
            yield {**full, "sequence_parallel": sequence_parallel, "accumulation": accumulation}


def lines(config: PlanConfig, shape: ModelShape, rows: Rows, plan: Plan, published: Plan | None) -> Iterator[str]:
    """The plan as a person reads it."""
    held, kept, layout = plan.memory, plan.memory.states, plan.layout
    beside = published is not None and published.layout != layout
    yield (
        f"{config.model}, {shape.num_parameters / 1e9:.2f} billion parameters, "
        f"on {config.nodes} x {config.gpus} {config.gpu}"
    )
    yield (
        f"rows      {len(rows.lengths):,}, mean {statistics.fmean(rows.lengths):,.0f} tokens, "
        f"longest {max(rows.lengths):,}; {rows.source}"
    )
    yield (
        f"steps     {plan.num_steps:,} of {config.batch_size}, {plan.num_visits:,} visits, {plan.tokens:,} tokens, "
        f"{plan.flops:.3g} FLOPs"
    )
    yield f"layout    {layout}; {config.backend}, at most {plan.tokens_on_device:,} tokens at a time on a GPU"
    yield f"balance   {plan.balance:.3f} of ideal" + (
        f"; as published, an example a GPU: {published.balance:.3f}" if beside else ""
    )

    yield "memory    of a GPU in GB, estimate; not all of it is held at one time"
    items = {
        "parameters": kept.parameters,
        "gradients": kept.gradients,
        "optimizer states": kept.optimizer,
        "weights to compute with": held.working,
        "buckets of DDP": held.buckets,
        "kept of all layers": held.layer_inputs,
        "the layer at work": held.live_layer,
        "the head, in tiles": held.head,
        "CUDA, NCCL, allocator": RESERVED_BYTES,
    }
    for name, value in items.items():
        if value:
            yield f"          {name:<26}{gb(value):>7}"
    tight = ", tight" if 0.95 * plan.gpu_bytes < plan.peak_bytes <= plan.gpu_bytes else ""
    yield (
        f"          {'peak':<26}{gb(plan.peak_bytes):>7}  of {gb(plan.gpu_bytes)}{tight}, in the {held.peak_moment}; "
        f"whole logits would add {gb(LOGITS_BYTES * shape.vocab_size * plan.tokens_on_device)}"
    )
    yield (
        f"host      {gb(plan.host_bytes)} GB of memory on a machine (estimate); a checkpoint {gb(kept.checkpoint)} GB "
        f"on disk, three while the oldest is replaced; the model {gb(kept.export)} GB"
    )
    if layout.num_devices > 1:
        hidden = "hidden behind" if plan.traffic_seconds <= plan.compute_seconds else "longer than"
        link = config.nvlink_gb_s if config.nodes == 1 else config.network_gb_s
        yield (
            f"network   {gb(plan.traffic_bytes)} GB a GPU and step, {plan.traffic_seconds:.2f} s at {link:g} GB/s, "
            f"{hidden} {plan.compute_seconds:.2f} s of computing; {gb(plan.exchange_bytes)} GB within groups, "
            f"{plan.exchange_seconds:.2f} s (estimate)"
        )
    if plan.host_seconds:
        yield f"update    {plan.host_seconds:.1f} s a step by the hosts' processors (estimate)"
    yield (
        f"time      {plan.step_seconds:.2f} s a step, {duration(60 * plan.minutes)}, {plan.gpu_hours:.1f} GPU-hours at "
        f"{config.mfu:.0%} MFU of busy GPUs (estimate; --help says where it is from)"
    ) + (f"; as published {duration(60 * published.minutes)}" if beside else "")


def gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f}"


if __name__ == "__main__":
    run_entry(main, PlanConfig, __doc__)
