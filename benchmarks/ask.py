"""What one question costs on the transformers engine, beside plain `model.generate` and beside a loop without a cache.

    python -m benchmarks.ask model=outputs/train/demo-1234abcd/model

All ways write the same number of thinking tokens after the same prompt, in one process and in the same precision:

    ask             the forced decode of inference.ask, its text taken after every token, as it is shown
    model.generate  transformers' own greedy loop with its KV cache, stopping at nothing
    re-tokenising   the loop people paste: after each token all text is decoded, encoded again, and read from its start

The order of the first two alternates from repeat to repeat. The third, whose cost grows with the square, runs once;
with retokenising_stride=8 only every eighth of its tokens is measured, and counts eight times. Prints tokens a second
and the ratios of ask to the others, by seconds and by processor seconds, which other processes lengthen less. ask's
thinking is held open (min_thinking_tokens), so that all write as much: each of its ends costs one pass, and the Wait
put there is read along with the next token.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.ratios import ratio_lines
from core.chat import ChatFormat
from core.config import option, run_entry
from core.log import Progress
from inference import checkpoint
from inference.budget import Budget
from inference.engine import Driver, EngineConfig, load_engine
from inference.stream import StreamedDecode

if TYPE_CHECKING:
    from inference.hf_engine import TransformersEngine


@dataclass
class AskBenchmarkConfig:
    name: str = option("ask", help="of the benchmark")
    model: str = option(help="local folder or hub id")
    question: str = option("How many r in raspberry", help="what is asked")
    num_tokens: int = option(512, help="thinking tokens of each way")
    repeats: int = option(5, help="how often ask and model.generate are measured")
    retokenising_stride: int = option(1, help="of the loop without a cache, only every so many-th token is measured")
    engine: EngineConfig = option(EngineConfig(backend="transformers", max_num_seqs=1), help="how to load the model")


@dataclass(frozen=True)
class Measured:
    """cpu_seconds: of all threads of this process. first: seconds to the first token, where the way says."""

    seconds: float
    cpu_seconds: float
    num_tokens: int
    first: float | None = None

    def times(self, factor: float) -> "Measured":
        return Measured(self.seconds * factor, self.cpu_seconds * factor, round(self.num_tokens * factor))


def ask(engine: "TransformersEngine", chat: ChatFormat, prompt: list[int], num_tokens: int) -> tuple[int, float]:
    """(tokens, seconds to the first). The answer is one of them."""
    started = time.perf_counter()
    budget = Budget(num_tokens, min_thinking_tokens=num_tokens, max_answer_tokens=1)
    decoding = StreamedDecode(prompt, budget, chat, engine.max_model_len)
    driver, first = Driver(engine), None
    driver.add("ask", decoding)
    while not driver.is_idle:
        driver.step()
        if decoding.take() and first is None:
            first = time.perf_counter() - started
    sample = decoding.sample()
    return sample.num_thinking_tokens + sample.num_answer_tokens, first


def generate(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy, with its KV cache; no id ends it."""
    import torch

    with torch.inference_mode():
        ids = model.generate(torch.tensor([prompt], device=model.device), max_new_tokens=num_tokens, do_sample=False)
    return ids[0, len(prompt) :].tolist()


def retokenising(model: Any, tokenizer: Any, prompt: list[int], written: list[int], stride: int) -> int:
    """Text in, text out, a whole forward pass a token. written: what model.generate wrote. Returns how many tokens."""
    import torch

    measured = range(0, len(written), stride)
    for num_before in measured:
        text = tokenizer.decode(prompt + written[:num_before])
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids.to(model.device)
        with torch.inference_mode():
            tokenizer.decode(model(ids, use_cache=False).logits[0, -1].argmax())
    return len(measured)


def measure(way: Callable[[], Any]) -> Measured:
    started, cpu = time.perf_counter(), time.process_time()
    said = way()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    if isinstance(said, tuple):
        return Measured(seconds, cpu, *said)
    return Measured(seconds, cpu, said if isinstance(said, int) else len(said))


def table(measured: dict[str, list[Measured]]) -> str:
    lines = [f"{'way':<15} {'seconds (min, median, max)':<28} {'CPU seconds':>11} {'tokens':>7} {'tokens/s':>9}"]
    for name, runs in measured.items():
        seconds = sorted(m.seconds for m in runs)
        shown = f"{seconds[0]:.2f}, {statistics.median(seconds):.2f}, {seconds[-1]:.2f}"
        cpu, rate = (statistics.median(values) for values in
                     ([m.cpu_seconds for m in runs], [m.num_tokens / m.seconds for m in runs]))  # fmt: skip
        lines.append(f"{name:<15} {shown:<28} {cpu:>11.2f} {runs[-1].num_tokens:>7,} {rate:>9,.1f}")
    ours = measured["ask"]
    first = sorted(m.first for m in ours)
    lines.append(f"first token of ask after {statistics.median(first):.2f} s (slowest {first[-1]:.2f} s)")
    lines += ratio_lines("ask / model.generate", ours, measured["model.generate"])
    lines += ratio_lines("ask / one run of re-tokenising", ours, measured["re-tokenising"] * len(ours), digits=1)
    return "\n".join(lines)


def main(config: AskBenchmarkConfig) -> None:
    started = time.perf_counter()
    path = checkpoint.resolve(config.model, config.engine.revision)
    chat = checkpoint.load_chat(config.model, path)
    engine_config = dataclasses.replace(config.engine, backend="transformers")
    engine, tokenizer = load_engine(config.model, engine_config, chat.tokenizer)
    loaded = time.perf_counter() - started
    prompt = chat.prompt_ids(config.question)
    cold = measure(lambda: ask(engine, chat, prompt, num_tokens=1))
    model = plain_model(engine, path)
    ways = {
        "ask": lambda: ask(engine, chat, prompt, config.num_tokens),
        "model.generate": lambda: generate(model, prompt, config.num_tokens),
    }
    generate(model, prompt, num_tokens=2)  # warm, as ask is by now
    measured: dict[str, list[Measured]] = {name: [] for name in ways}
    with Progress("ask", 2 * config.repeats + 1, "measurements") as progress:
        for repeat in range(config.repeats):
            for name in sorted(ways, reverse=bool(repeat % 2)):
                engine.reset_prefix_cache()
                measured[name].append(measure(ways[name]))
                progress.update(sum(map(len, measured.values())), name)
        written = generate(model, prompt, config.num_tokens)
        slow = measure(lambda: retokenising(model, tokenizer, prompt, written, config.retokenising_stride))
        measured["re-tokenising"] = [slow.times(config.num_tokens / slow.num_tokens)]
        progress.update(2 * config.repeats + 1, "re-tokenising")
    print(f"{config.num_tokens} thinking tokens after a prompt of {len(prompt)}, one sequence, {model.dtype} on "
          f"{engine.device}, {num_threads()} thread(s); loaded in {loaded:.1f} s, first token ever after "
          f"{cold.first:.2f} s")  # fmt: skip
    print(table(measured))
    engine.close()


def plain_model(engine: "TransformersEngine", path: Any) -> Any:
    """The same weights with transformers' own attention, as everybody loads them."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=engine.model.dtype).eval().to(engine.device)
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)  # stops nowhere
    return model


def num_threads() -> int:
    import torch

    return torch.get_num_threads()


if __name__ == "__main__":
    run_entry(main, AskBenchmarkConfig, __doc__)
