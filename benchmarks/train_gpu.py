"""How fast one GPU trains: layers of the 32B at full width, the head and loss, the update, and a small model whole.

    python -m benchmarks.train_gpu json=train_gpu.json | tee benchmarks/train_gpu.txt

From them derives, and labels so, what a step of the whole model takes on many such GPUs. Without a GPU the same code
runs at toy size on the CPU, which says only that it runs. A layer's weights and gradients are bfloat16 under autocast:
what a device holds under FSDP2 between gathering and reducing, neither of which one GPU can measure. Parts that need a
package that is missing, or begin after minutes=, are skipped, saying so. A part that fails does not end the others; the
exit status then is 1.
"""

import dataclasses
import gc
import importlib.util
import inspect
import itertools
import json
import shutil
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.step_time import Plan, StepTime, all_to_all_seconds, fit_head, fit_layer, layer_flops
from core.config import UserError, option, run_entry
from core.cost import ModelShape, peak_flops
from core.log import say
from core.types import read_jsonl
from train.lengths import draw_lengths, read_histogram
from train.memory import Setup, memory
from train.steps import choose_layout, tokens_on_device, visits

PUBLISHED_MINUTES = 26  # of s1-32B on 16 H100 (the paper)
PROMPT_TOKENS = 300  # of a row of the small model, not learnt
PARTS = ("layers", "head", "update", "trainer")
# attention, activation checkpointing, and whether layers are compiled; what matters most first
VARIANTS = (
    "varlen-full",
    "varlen-none",
    "varlen-selective",
    "sdpa-full",
    "varlen-full-compiled",
    "varlen-none-compiled",
    "sdpa-none",
    "sdpa-selective",
)


@dataclass
class TrainGpuConfig:
    name: str = option("train_gpu", help="of the benchmark")
    model: str = option("Qwen/Qwen2.5-32B-Instruct", help="whose layers, head and update are measured")
    small_model: str = option("Qwen/Qwen2.5-0.5B-Instruct", help="the model that is trained whole, from random weights")
    parts: list[str] = option(list(PARTS), help="what to measure")
    variants: list[str] = option(list(VARIANTS), help="of layers: attention, checkpointing, compiled (torch.compile)")
    depths: list[int] = option([2, 4], help="layers of the two slices; their difference is the time of a layer")
    tokens: list[int] = option([2048, 4096, 8192, 16384], help="tokens of a row of the slices")
    head_tokens: list[int] = option([4096, 8192, 16384, 32768], help="tokens of a row of the head")
    repeats: int = option(5, help="timed repeats of each measurement, after two that are not")
    trainer_steps: int = option(8, help="optimizer steps of the small model; the first two are not counted")
    max_tokens_per_device: int = option(16384, help="tokens of one pass of the small model")
    minutes: float = option(8.0, help="time limit: what has not begun by then is skipped")
    lengths: str = option("configs/train/lengths/s1k.csv", help="histogram of thinking tokens, for rows and steps")
    extra_tokens: int = option(900, help="prompt and answer, added to each length")
    num_devices: int = option(16, help="GPUs of the derived run")
    batch_size: int = option(16, help="examples per step (s1: 16)")
    num_epochs: int = option(5, help="of the derived run (s1: 5)")
    all_to_all_gb: float = option(200.0, help="GB/s a device sends within its sequence-parallel group; assumed")
    json: str | None = option(None, help="file for all measurements and what was derived")
    seed: int = option(0, help="of weights, inputs and lengths")


TOY = {
    "depths": [1, 2],
    "tokens": [64, 128],
    "head_tokens": [64, 128],
    "repeats": 2,
    "trainer_steps": 4,
    "max_tokens_per_device": 2048,
    "extra_tokens": 0,
    "batch_size": 4,
}
TOY_SHAPE = ModelShape(
    num_layers=4, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    vocab_size=512, tied=False, vectors=256,
)  # fmt: skip
TOY_HISTOGRAM = [(20, 200, 16)]


@dataclass
class Measured:
    """seconds: one a repeat. bytes: allocated at the peak beyond weights, inputs and gradients; None on a CPU."""

    seconds: list[float]
    bytes: int | None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        size = f", {self.bytes / 1e9:.2f} GB" if self.bytes is not None else ""
        return f"{1e3 * self.median:.2f} ms ({1e3 * min(self.seconds):.2f}-{1e3 * max(self.seconds):.2f}){size}"


@dataclass
class Bench:
    """The device, how long and how often to measure on it, and what came out.

    peak: its FLOP/s, None where unknown. memory: its bytes, 0 on a CPU.
    """

    device: Any
    card: str
    peak: float | None
    memory: int
    repeats: int
    deadline: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def measure(self, work: Callable[[], None], clear: Callable[[], None]) -> Measured | None:
        """Times `work`, which leaves gradients for `clear` to remove. None where the device has too little memory."""
        import torch

        on_gpu, peak, seconds = self.device.type == "cuda", None, []
        try:
            work()  # compiles, tunes, fills the allocator's cache
            if on_gpu:
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            work()  # gradients lie there already: what is allocated besides is the pass's own
            if on_gpu:
                peak = torch.cuda.max_memory_allocated() - before
            for _ in range(self.repeats):
                clear()
                self.wait()
                started = time.perf_counter()
                work()
                self.wait()
                seconds.append(time.perf_counter() - started)
            return Measured(seconds, peak)
        except torch.OutOfMemoryError:
            return None
        finally:
            clear()

    def wait(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def has_time(self, what: str) -> bool:
        if time.monotonic() < self.deadline:
            return True
        print(f"{what}: skipped, the time limit is reached", flush=True)
        return False

    def report(self, text: str, repeats: int | None = None, **row: Any) -> None:
        """Prints a measurement with all it needs to stand alone, and keeps it for the JSON."""
        import torch

        repeats = repeats or self.repeats
        self.rows.append({**row, "repeats": repeats, "device": self.card, "torch": torch.__version__})
        print(f"{text} | n={repeats} | {self.card} | torch {torch.__version__}", flush=True)

    def share(self, flops: float, seconds: float) -> str:
        return f"MFU {flops / seconds / self.peak:.1%}" if self.peak else "MFU -"


# Layers


def rows_of(tokens: int, variant: str) -> list[list[int]]:
    """Lengths of the examples of each row to measure: one example, and for variable-length attention also four."""
    four = [tokens * share // 10 for share in (1, 2, 3)]
    return [[tokens]] if variant.startswith("sdpa") else [[tokens], [*four, tokens - sum(four)]]


def qwen2_config(shape: ModelShape, num_layers: int, vocab_size: int):
    from transformers import Qwen2Config

    return Qwen2Config(
        num_hidden_layers=num_layers, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.num_attention_heads, num_key_value_heads=shape.num_key_value_heads,
        vocab_size=vocab_size, tie_word_embeddings=shape.tied, max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, use_cache=False,
    )  # fmt: skip


def build_layers(shape: ModelShape, num_layers: int, variant: str, device: Any):
    """Random bfloat16 layers, set up as the trainer does."""
    import torch
    from transformers import AutoModel

    from train.attention import checkpointing_options, register

    attention, checkpointing, *compiled = variant.split("-")
    torch._dynamo.reset()
    with device:
        model = AutoModel.from_config(
            qwen2_config(shape, num_layers, vocab_size=8),  # the embedding is not used
            dtype=torch.bfloat16,
            attn_implementation=register() if attention == "varlen" else "sdpa",
        )
    model.train()
    if checkpointing != "none":
        model.gradient_checkpointing_enable(checkpointing_options(checkpointing))
    if compiled:
        for layer in model.layers:
            layer.compile(dynamic=True)  # no two rows of a run are equally long
    return model


def layer_inputs(lengths: Sequence[int], variant: str, device: Any) -> dict[str, Any]:
    """What tells the model where examples begin, as train.dataset.flatten does; nothing for one example under SDPA."""
    import torch

    if variant.startswith("sdpa"):
        return {}
    starts = list(itertools.accumulate(lengths, initial=0))
    return {
        "position_ids": torch.cat([torch.arange(n, device=device) for n in lengths]).unsqueeze(0),
        "cu_seq_lens_q": torch.tensor(starts, dtype=torch.int32, device=device),
        "max_length_q": max(lengths),
    }


def measure_layers(bench: Bench, config: TrainGpuConfig, shape: ModelShape) -> dict[str, list[tuple]]:
    """Points (tokens, sum of squared lengths, seconds of one layer) of each variant."""
    check_attention(bench, shape)
    points: dict[str, list[tuple]] = {}
    depths = " and ".join(map(str, config.depths))
    print(f"\n{depths} layers of {shape_name(config.model, bench)}, forward and backward; "
          "memory of what the pass keeps and needs, beyond weights and their gradients")  # fmt: skip
    for variant in config.variants:
        if (variant.endswith("compiled") and not has_compiler(variant)) or not bench.has_time(variant):
            continue
        model = build_layers(shape, max(config.depths), variant, bench.device)
        for tokens in config.tokens:
            for lengths in rows_of(tokens, variant):
                if bench.has_time(f"{variant}, {tokens:,} tokens"):
                    points.setdefault(variant, []).extend(measure_row(bench, config, shape, variant, model, lengths))
        del model
        bench.free()
    return points


def measure_row(
    bench: Bench, config: TrainGpuConfig, shape: ModelShape, variant: str, model, lengths: Sequence[int]
) -> list[tuple]:
    """One point of the variant, or none where the memory did not do."""
    tokens, flops = sum(lengths), layer_flops(shape, lengths)
    text = f"{variant:<21}{tokens:>6,} tokens, {len(lengths)} example{'s' if len(lengths) > 1 else ' '}"
    row = {"part": "layers", "variant": variant, "lengths": lengths, "depths": config.depths, "layer_flops": flops}
    slices = [measure_slice(bench, model, depth, lengths, variant) for depth in config.depths]
    if None in slices:
        bench.report(f"{text}: out of memory", **row, seconds=None)
        return []
    (shallow, deep), (less, more) = config.depths, slices
    layer = (more.median - less.median) / (deep - shallow)
    bench.report(
        f"{text}: {shallow} layers {less}; {deep} layers {more}, {bench.share(deep * flops, more.median)}; "
        f"each further layer {1e3 * layer:.2f} ms, {bench.share(flops, layer)}",
        **row, seconds=[s.seconds for s in slices], bytes=[s.bytes for s in slices], layer_seconds=layer,
    )  # fmt: skip
    return [(tokens, sum(n * n for n in lengths), layer)]


def measure_slice(bench: Bench, model, depth: int, lengths: Sequence[int], variant: str) -> Measured | None:
    import torch

    model.config.num_hidden_layers = depth  # the model runs its first so many layers
    inputs = layer_inputs(lengths, variant, bench.device)
    size = (1, sum(lengths), model.config.hidden_size)
    hidden = torch.randn(size, dtype=torch.bfloat16, device=bench.device, requires_grad=True)
    gradient = torch.randn(size, dtype=torch.bfloat16, device=bench.device)

    def work() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            result = model(inputs_embeds=hidden, use_cache=False, **inputs).last_hidden_state
        result.backward(gradient)

    def clear() -> None:
        hidden.grad = None
        model.zero_grad(set_to_none=True)

    return bench.measure(work, clear)


def has_compiler(what: str) -> bool:
    found = any(map(shutil.which, ("cc", "gcc", "clang")))
    if not found:
        print(f"{what}: skipped, torch.compile needs a C compiler and there is none", flush=True)
    return found


def check_attention(bench: Bench, shape: ModelShape) -> None:
    """Variable-length attention against SDPA example by example, on this device, before anything is timed with it."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from train.attention import attend_to_row

    torch.manual_seed(0)
    lengths = (37, 64, 27)
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=bench.device)
    heads, kv_heads, size = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim

    def some(n: int) -> torch.Tensor:
        return torch.randn(n, sum(lengths), size, dtype=torch.bfloat16, device=bench.device, requires_grad=True)

    row = query, key, value = some(heads), some(kv_heads), some(kv_heads)
    ours = attend_to_row(*row, starts, max(lengths), size**-0.5)
    bounds = itertools.pairwise(starts.tolist())
    plain = torch.cat(
        [
            scaled_dot_product_attention(
                *(x[:, i:j].float().repeat_interleave(heads // len(x), 0) for x in row), is_causal=True
            )
            for i, j in bounds
        ],
        dim=1,
    )
    gradient = torch.randn_like(plain)
    differences = [(ours - plain).abs().max().item()]
    for a, b in zip(
        torch.autograd.grad(ours, row, gradient.to(ours.dtype)), torch.autograd.grad(plain, row, gradient), strict=True
    ):
        differences.append((a - b).abs().max().item())
    if not max(differences) < 0.1:  # of numbers around one with eight bits
        raise RuntimeError(f"attention on flattened rows is wrong on this device: off by {differences}")
    print("attention on flattened rows against float32, example by example: largest difference "
          f"{differences[0]:.4f}, of gradients {max(differences[1:]):.4f}")  # fmt: skip


# Head and loss


def measure_head(bench: Bench, config: TrainGpuConfig, shape: ModelShape) -> list[tuple[int, float]]:
    """(tokens, seconds) of the fused head. Every token has a label, the dearest case."""
    import torch
    from transformers import Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    ways = ["full logits"]
    if has_packages("the fused head", "trl"):
        ways.insert(0, "fused head")
    print(f"\nfinal norm, head and loss of {shape_name(config.model, bench)}, vocabulary {shape.vocab_size:,}, "
          "forward and backward; memory beyond weights and their gradients")  # fmt: skip
    points = []
    for way in ways:
        with bench.device:
            model = Qwen2ForCausalLM._from_config(qwen2_config(shape, 0, shape.vocab_size), dtype=torch.bfloat16)
        if way == "fused head":
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))  # as SFTTrainer does
        for tokens in config.head_tokens:
            if not bench.has_time(f"{way}, {tokens:,} tokens"):
                continue
            measured = measure_loss(bench, model, tokens, way == "fused head")
            row = {"part": "head", "way": way, "tokens": tokens, "vocab_size": shape.vocab_size}
            text = f"{way:<12} {tokens:>6,} tokens"
            if measured is None:
                bench.report(f"{text}: out of memory", **row, seconds=None)
                continue
            if way == "fused head":
                points.append((tokens, measured.median))
            share = bench.share(6.0 * tokens * shape.embedding_parameters, measured.median)
            bench.report(f"{text}: {measured}, {share}", **row, seconds=measured.seconds, bytes=measured.bytes)
        del model
        bench.free()
    return points


def measure_loss(bench: Bench, model, tokens: int, is_fused: bool) -> Measured | None:
    import torch

    size = (1, tokens, model.config.hidden_size)
    hidden = torch.randn(size, dtype=torch.bfloat16, device=bench.device, requires_grad=True)
    labels = torch.randint(model.config.vocab_size, (1, tokens), device=bench.device)
    if is_fused:
        options = {"shift_labels": labels, "fused_lm_head": True}
    else:
        options = {"labels": labels}  # transformers' own loss, on float32 logits

    def work() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16):
            result = model(inputs_embeds=hidden, use_cache=False, **options)
            loss = -result.log_probs.mean() if is_fused else result.loss
        loss.backward()

    def clear() -> None:
        hidden.grad = None
        model.zero_grad(set_to_none=True)

    return bench.measure(work, clear)


# Update


def measure_update(bench: Bench, config: TrainGpuConfig, shape: ModelShape) -> float | None:
    """Seconds of clipping and one fused AdamW step on one device's shards, float32, as FSDP2 cuts them."""
    import torch

    if not bench.has_time("the update"):
        return None
    h, f, kv = shape.hidden_size, shape.intermediate_size, shape.num_key_value_heads * shape.head_dim
    width = shape.num_attention_heads * shape.head_dim
    layer = [h * width, h * kv, h * kv, width * h, h * f, h * f, h * f, width, kv, kv, h, h]
    outside = [shape.embedding_parameters] * (1 if shape.tied else 2) + [h]
    sizes = [-(-n // config.num_devices) for n in layer * shape.num_layers + outside]
    parameters = [torch.zeros(n, device=bench.device, requires_grad=True) for n in sizes]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.95), weight_decay=1e-4, fused=True)

    def work() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    measured = bench.measure(work, lambda: None)
    text = f"\nclipping and AdamW on 1/{config.num_devices} of {shape.num_parameters:,} parameters"
    row = {"part": "update", "parameters": sum(sizes)}
    if measured is None:
        bench.report(f"{text}: out of memory", **row, seconds=None)
        return None
    bench.report(f"{text}: {measured}", **row, seconds=measured.seconds)
    return measured.median


# A small model, whole


def measure_trainer(bench: Bench, config: TrainGpuConfig, shape: ModelShape, histogram: list) -> None:
    """Trains a model of random weights with the project's trainer on rows of random tokens of realistic lengths."""
    import torch

    on_gpu = bench.device.type == "cuda"
    if not has_packages("the small model", "trl", "datasets", "accelerate") or not bench.has_time("the small model"):
        return
    from train.callbacks import StepLines, peak_memory
    from train.dataset import FlatBatches
    from train.sft import SftConfig
    from train.trainer import build_trainer, peak_flops_of_all

    num_rows = config.trainer_steps * config.batch_size
    lengths = draw_lengths(histogram, config.extra_tokens, config.seed, num_rows)
    heads = shape.num_attention_heads, shape.num_key_value_heads
    steps = visits(num_rows, config.batch_size, 1, config.seed)
    cost = [shape.flops(n) for n in lengths]
    layout = choose_layout(1, steps, lengths, cost, heads, max_tokens_per_device=config.max_tokens_per_device)
    generator = torch.Generator().manual_seed(config.seed)
    rows = [random_row(n, shape.vocab_size, generator) for n in lengths]
    batches = FlatBatches(rows, steps, cost, layout)
    flops = [sum(cost[row] for row in step) for step in steps]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        settings = SftConfig(
            name="small", data="-", model=str(path / "base"), batch_size=config.batch_size, backend="single",
            num_epochs=1, activation_checkpointing="full", trainer={"save_strategy": "no"},
        )  # fmt: skip
        tokenizer = write_random_model(shape, path / "base", bench.device)
        bench.free()
        trainer = build_trainer(settings, batches, tokenizer, path / "base", path)
        tokens = [sum(lengths[row] for row in step) for step in steps]
        trainer.add_callback(StepLines(path / "metrics.jsonl", tokens, flops, peak_flops_of_all(1)))
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        metrics = list(read_jsonl(path / "metrics.jsonl"))[2:]
        peak = peak_memory() if on_gpu else None
    del trainer
    bench.free()
    rates = [row["tokens_per_second"] for row in metrics]
    shares = [row["mfu"] for row in metrics if row["mfu"] is not None]
    mfu = f", MFU {statistics.median(shares):.1%} ({min(shares):.1%}-{max(shares):.1%})" if shares else ", MFU -"
    largest = tokens_on_device(steps, lengths, cost, layout)
    memory_text, estimate = "", None
    if peak is not None:
        estimate = memory(shape, Setup("single", 1, largest, accumulation=layout.accumulation)).peak
        memory_text = f", peak {peak / 1e9:.2f} GB, by arithmetic {estimate / 1e9:.2f} GB ({estimate / peak - 1:+.1%})"
    bench.report(
        f"\n{shape_name(config.small_model, bench)} trained whole by train.trainer, full checkpointing, float32 "
        f"masters{' under bfloat16 autocast' if on_gpu else ''}, {layout.accumulation} passes of at most {largest:,} "
        "tokens a step: "
        f"{statistics.median(rates):,.0f} tokens/s ({min(rates):,.0f}-{max(rates):,.0f}){mfu}{memory_text}",
        repeats=len(metrics), part="trainer", seconds=[row["seconds"] for row in metrics], tokens_per_second=rates,
        mfu=shares, bytes=peak, estimated_bytes=estimate, largest_pass=largest, losses=[row["loss"] for row in metrics],
    )  # fmt: skip


def random_row(length: int, vocab_size: int, generator) -> dict[str, Any]:
    import torch

    from core.chat import IGNORE_LABEL

    ids = torch.randint(vocab_size, (length,), generator=generator).tolist()
    prompt = min(PROMPT_TOKENS, length // 4)
    return {"question_id": "-", "input_ids": ids, "labels": [IGNORE_LABEL] * prompt + ids[prompt:]}


def write_random_model(shape: ModelShape, folder: Path, device: Any):
    """A random float32 model, saved for the trainer to load; returns a tokenizer of one word."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    with device:
        config = qwen2_config(shape, shape.num_layers, shape.vocab_size)
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<|im_end|>": 0}, unk_token="<|im_end|>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|im_end|>")


# Derived


def derive(
    bench: Bench, config: TrainGpuConfig, shape: ModelShape, points: dict, head_points: list, update: float
) -> None:
    """Replays the plan of the whole run with the measured times of layers, head and update."""
    lengths = draw_lengths(read_histogram(config.lengths), config.extra_tokens, config.seed)
    plan = Plan(shape, lengths, visits(len(lengths), config.batch_size, config.num_epochs, config.seed))
    print(f"\nDERIVED, not measured: {config.model} on {config.num_devices} x {bench.card}, {len(plan.steps)} steps of "
          f"{config.batch_size} examples, lengths drawn from {config.lengths} + {config.extra_tokens}.\n"
          f"In it: {shape.num_layers} x the layer as fitted and the fused head, for the slowest group of each pass; "
          f"the update;\nall-to-all at an assumed {config.all_to_all_gb:.0f} GB/s, not overlapped. Not in it: "
          "gathering weights and reducing gradients\n(taken to hide behind computing), loading data, checkpoints. "
          f"Memory by train.memory. The published run took {PUBLISHED_MINUTES} minutes.")  # fmt: skip
    for variant in points:
        attention, checkpointing, *_ = variant.split("-")
        if len(points[variant]) < 4:
            print(f"{variant}: too few sizes were measured to derive from")
            continue
        layer, error = fit_layer(points[variant])
        print(f"{variant}: a layer takes {1e3 * layer.fixed:.2f} ms + {1e6 * layer.per_token:.3f} us a token + "
              f"{1e12 * layer.per_pair:.2f} ps a squared length; off by at most {error:.1%}")  # fmt: skip
        for size in (1,) if attention == "sdpa" else (1, 4):
            exchange = all_to_all_seconds(shape, size, checkpointing, config.all_to_all_gb)
            model = StepTime(shape.num_layers, layer, fit_head(head_points), exchange, update)
            run = plan.replay(model, config.num_devices, size)
            mfu = plan.flops / run.seconds / (config.num_devices * bench.peak)
            setup = Setup("fsdp2", config.num_devices, run.tokens, size, run.layout.accumulation, checkpointing)
            needed = memory(shape, setup).peak
            step = statistics.median(run.step_seconds)
            bench.rows.append({
                "part": "derived", "variant": variant, "layout": str(run.layout), "balance": run.balance,
                "step_seconds": step, "minutes": run.seconds / 60, "mfu": mfu, "estimated_bytes": needed,
                "layer": dataclasses.asdict(layer), "error": error,
            })  # fmt: skip
            print(f"  derived: DP{run.layout.groups} x SP{size}, balance {run.balance:.3f}: step {step:.2f} s, "
                  f"{run.seconds / 60:.1f} minutes, MFU {mfu:.1%}, {needed / 1e9:.0f} GB a device at {run.tokens:,} "
                  f"tokens{', MORE THAN IT HAS' if needed > bench.memory else ''}")  # fmt: skip


# All of it


def has_packages(what: str, *packages: str) -> bool:
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        print(f"{what}: skipped, {' and '.join(missing)} missing here (requirements.txt)", flush=True)
    return not missing


def shape_name(model: str, bench: Bench) -> str:
    return model if bench.device.type == "cuda" else "a toy model"


def tell_older_torch_of_groups() -> None:
    """Before 2.13 varlen_attn groups heads without being told, and refuses the keyword that now it needs."""
    from torch.nn.attention import varlen

    if "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters:
        return
    original = varlen.varlen_attn

    def varlen_attn(*args, enable_gqa: bool = False, **kwargs):
        return original(*args, **kwargs)

    varlen.varlen_attn = varlen_attn
    print("torch is older than 2.13, for which the project is made: varlen_attn is called without enable_gqa")


def attempts(bench: Bench, parts: Sequence[tuple[str, Callable[[], Any]]]) -> Iterator[tuple[str, Any]]:
    """(name, result) of each part that succeeds. A failure is shown and remembered; GPU time is dear."""
    for name, work in parts:
        try:
            yield name, work()
        except Exception:
            traceback.print_exc()
            bench.failed.append(name)
            print(f"{name}: FAILED, see above", flush=True)
        bench.free()


def main(config: TrainGpuConfig) -> None:
    for key, chosen, known in (("parts", config.parts, PARTS), ("variants", config.variants, VARIANTS)):
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise UserError(f"{key}: {unknown[0]!r} is unknown; known: {', '.join(known)}")
    if not has_packages("everything", "torch", "transformers"):
        raise UserError("nothing can be measured without them")
    started = time.monotonic()
    import torch

    from train.backends import set_environment

    set_environment("single", 1)
    torch.manual_seed(config.seed)
    on_gpu = torch.cuda.is_available()
    card = torch.cuda.get_device_name() if on_gpu else "CPU (toy)"
    if on_gpu:
        shape, small, histogram = (
            *map(ModelShape.of, (config.model, config.small_model)),
            read_histogram(config.lengths),
        )
    else:
        config = dataclasses.replace(config, **TOY)
        shape = small = TOY_SHAPE
        histogram = TOY_HISTOGRAM
        print("no GPU here: a toy run on the CPU, which shows that the code runs; its times mean nothing")
    print(f"{card}, torch {torch.__version__}, at most {config.minutes} minutes; times are medians (min-max)")
    bench = Bench(
        device=torch.device("cuda", 0) if on_gpu else torch.device("cpu"),
        card=card,
        peak=peak_flops(card),
        memory=torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
        repeats=config.repeats,
        deadline=started + 60 * config.minutes,
    )
    tell_older_torch_of_groups()
    parts = {
        "head": lambda: measure_head(bench, config, shape),
        "update": lambda: measure_update(bench, config, shape),
        "trainer": lambda: measure_trainer(bench, config, small, histogram),
        "layers": lambda: measure_layers(bench, config, shape),
    }  # the longest last: the time limit cuts its tail
    results = dict(attempts(bench, [(name, work) for name, work in parts.items() if name in config.parts]))
    if not on_gpu:
        print("\nnothing is derived from a toy run")
    elif bench.peak is None:
        print(f"\nnothing is derived: the FLOP/s of {card} are not known (core/cost.py)")
    elif not (results.get("layers") and len(results.get("head") or []) > 1 and results.get("update")):
        print("\nnothing is derived: that takes layers, two sizes of the fused head, and the update")
    else:
        needed = results["layers"], results["head"], results["update"]
        dict(attempts(bench, [("derived", lambda: derive(bench, config, shape, *needed))]))
    if config.json:
        Path(config.json).write_text(json.dumps({"config": dataclasses.asdict(config), "rows": bench.rows}, indent=1))
    say(f"took {time.monotonic() - started:.0f} s")
    if bench.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    run_entry(main, TrainGpuConfig, __doc__)
