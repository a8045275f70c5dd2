"""What the evaluator costs beside the engine itself: one cell of eval.run against vLLM's own `LLM.generate`.

    python -m benchmarks.throughput model=outputs/train/demo-1234abcd/model questions=outputs/data/demo-heldout-1234abcd

Both ways run in one process on the very same engine and write the same number of tokens after each of the same prompts:
the evaluator thinks and answers, with its store, journal and grading; LLM.generate gets each prompt with the number of
tokens that the evaluator sampled there, and stops at nothing. Prefixes are forgotten before each measurement, and the
order of the two alternates. Prints tokens a second and, within each repeat, the ratio of the two.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.ratios import ratio_lines
from core.chat import ChatFormat
from core.config import option, run_entry
from core.cost import ModelShape
from core.journal import Journal
from core.log import Progress
from eval.cells import Cells, cells_of
from eval.draw import Task, draw, load_questions, tasks_of
from eval.samples import graded_beside, graded_row
from eval.sampling import shape_of
from inference.budget import Budget, ForcedDecode
from inference.continuations import ContinuationStore
from inference.engine import GREEDY, Delta, Driver, Engine, EngineConfig, load_engine

if TYPE_CHECKING:
    from inference.vllm_engine import VllmEngine


@dataclass
class ThroughputConfig:
    name: str = option("throughput", help="of the benchmark")
    model: str = option(help="local folder or hub id")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    num_questions: int = option(64, help="sequences")
    profile: str = option("s1", help="delimiters")
    max_thinking_tokens: int = option(128, help="budget of the cell")
    min_thinking_tokens: int = option(0, help="thinking that is shorter is made to go on")
    max_answer_tokens: int = option(32, help="answer limit")
    repeats: int = option(5, help="how often each way is measured")
    engine: EngineConfig = option(EngineConfig, help="how to load the model, with vLLM")


class CountedDecode(ForcedDecode):
    """Also counts what was sampled and dropped: ends of thinking and of the turn."""

    num_sampled = 0

    def advance(self, delta: Delta) -> None:
        self.num_sampled += len(delta.token_ids)
        super().advance(delta)


def lengths_of(engine: Engine, chat: ChatFormat, tasks: list[Task]) -> list[int]:
    """How many tokens the engine samples for each task, in their order. Also warms the engine up."""
    decodings = {
        task.key: CountedDecode(chat.prompt_ids(task.question), task.cell.budget, chat, engine.max_model_len, GREEDY)
        for task in tasks
    }
    for _ in Driver(engine).run(decodings.items()):
        pass
    return [decoding.num_sampled for decoding in decodings.values()]


def evaluate(engine: Engine, chat: ChatFormat, tasks: list[Task], shape: ModelShape | None) -> int:
    """From questions to graded rows in a journal, as eval.run makes them; the number of tokens sampled."""
    with tempfile.TemporaryDirectory() as folder:
        store, journal = (
            ContinuationStore(Path(folder), "store"),
            Journal(Path(folder) / "samples.jsonl", can_redo=True),
        )
        driver = Driver(engine, store)
        drawn = draw(driver, chat, tasks, GREEDY, seed=0)
        for row in graded_beside(drawn, lambda one: graded_row(one, chat, shape)):
            journal.append(row)
        journal.close()
        store.close()
    return driver.num_sampled.total()


def generate(llm: Any, prompts: list[list[int]], lengths: list[int]) -> int:
    """vLLM alone: so many tokens after each prompt, whatever they are."""
    from vllm import SamplingParams

    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for n in lengths]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs)


def bare_llm(model: str, engine: "VllmEngine") -> Any:
    """vLLM's own entry to the engine that is loaded already."""
    from vllm import LLM
    from vllm.v1.engine.llm_engine import LLMEngine

    with mock.patch.object(LLMEngine, "from_engine_args", lambda *args, **kwargs: engine._engine):
        return LLM(model, skip_tokenizer_init=True)


@dataclass(frozen=True)
class Measured:
    """cpu_seconds: of all threads of this process, which other processes of the machine do not lengthen by much."""

    seconds: float
    cpu_seconds: float
    num_tokens: int


def compare(ways: dict[str, Callable[[], int]], engine: Engine, repeats: int) -> dict[str, list[Measured]]:
    """Each way `repeats` times; who goes first alternates."""
    measured: dict[str, list[Measured]] = {name: [] for name in ways}
    with Progress("throughput", repeats * len(ways), "measurements") as progress:
        for repeat in range(repeats):
            for name in sorted(ways, reverse=bool(repeat % 2)):
                engine.reset_prefix_cache()
                started, cpu = time.perf_counter(), time.process_time()
                num_sampled = ways[name]()
                done = Measured(time.perf_counter() - started, time.process_time() - cpu, num_sampled)
                measured[name].append(done)
                progress.update(sum(map(len, measured.values())), name)
    return measured


def table(measured: dict[str, list[Measured]]) -> str:
    """Medians, and the ratio of the rates within each repeat."""
    lines = [f"{'way':<13} {'seconds (min, median, max)':<28} {'CPU seconds':>11} {'tokens':>7} {'tokens/s':>9}"]
    for name, runs in measured.items():
        seconds = sorted(m.seconds for m in runs)
        shown = f"{seconds[0]:.2f}, {statistics.median(seconds):.2f}, {seconds[-1]:.2f}"
        cpu, rate = (statistics.median(values) for values in
                     ([m.cpu_seconds for m in runs], [m.num_tokens / m.seconds for m in runs]))  # fmt: skip
        lines.append(f"{name:<13} {shown:<28} {cpu:>11.2f} {runs[-1].num_tokens:>7,} {rate:>9,.1f}")
    lines += ratio_lines("evaluator / LLM.generate", measured["evaluator"], measured["LLM.generate"])
    return "\n".join(lines)


def main(config: ThroughputConfig) -> None:
    engine, tokenizer = load_engine(config.model, dataclasses.replace(config.engine, backend="vllm"))
    chat = ChatFormat(config.profile, tokenizer)
    block = Cells([config.max_thinking_tokens], [config.min_thinking_tokens])
    cells = cells_of([block], config.profile, Budget.cue, config.max_answer_tokens, budget_per_round=False)
    tasks = tasks_of(load_questions(config.questions, config.num_questions), cells)
    prompts = [chat.prompt_ids(task.question) for task in tasks]
    lengths, shape, llm = lengths_of(engine, chat, tasks), shape_of(config.model), bare_llm(config.model, engine)
    ways = {
        "evaluator": lambda: evaluate(engine, chat, tasks, shape),
        "LLM.generate": lambda: generate(llm, prompts, lengths),
    }
    measured = compare(ways, engine, config.repeats)
    print(f"{len(tasks)} questions, cell {cells[0].label}, {sum(lengths) / len(lengths):.1f} tokens sampled for each, "
          f"{config.engine.max_num_seqs} sequences at a time, engine {engine.fingerprint}")  # fmt: skip
    print(table(measured))
    engine.close()


if __name__ == "__main__":
    run_entry(main, ThroughputConfig, __doc__)
