"""What the paper's grid of budgets costs: lock-step runs as s1's, separate runs without a barrier, shared trajectories.

    python -m benchmarks.sweep model=outputs/train/demo-1234abcd/model questions=outputs/data/demo-heldout-1234abcd

The grid is that of s1's evaluation commands: budgets 500 ... 16,000 of a context of 32,768, scaled to this one; auto;
Wait x1, x2, x4, x6; and x2 with Hmm, with Alternatively and with no text. The three ways run in one process on one
engine, the prefix cache is reset before each and their order rotates between repeats. Prints seconds, sampled tokens
and ratios, and cell by cell how many samples are the same; the latter also with seeds at temperature 1. Then the tokens
of the grid at the paper's own lengths, on a scripted engine.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from core.chat import ChatFormat
from core.config import option, run_entry
from core.log import Progress
from core.types import Question, Sample
from eval.cells import Cells, cells_of
from eval.draw import load_questions
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.continuations import ContinuationStore
from inference.engine import GREEDY, Driver, Engine, EngineConfig, Sampling, load_engine
from inference.scripted_engine import ScriptedEngine

PAPER_BUDGETS = (500, 1000, 2000, 4000, 8000, 16000)
PAPER_CONTEXT = 32768

Grid = dict[str, dict[str, ForcedDecode]]  # {cell: {question id: decoding}}, the cheapest cell first


@dataclass
class SweepConfig:
    name: str = option("sweep", help="of the benchmark")
    model: str = option(help="local folder or hub id")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    num_questions: int = option(12, help="questions of the grid")
    profile: str = option("s1", help="delimiters")
    max_answer_tokens: int = option(16, help="answer limit")
    repeats: int = option(3, help="how often each way is measured")
    engine: EngineConfig = option(EngineConfig, help="how to load the model; max_model_len scales the budgets")


@dataclass
class Measured:
    """One way, once: seconds, sampled tokens by phase, samples by (cell, question)."""

    seconds: float
    sampled: Counter
    samples: dict[tuple[str, str], Sample]


def paper_grid(context: int, max_answer_tokens: int) -> dict[str, Budget]:
    """{label: budget} of the paper's fourteen cells, its budgets scaled from its context to this one."""
    blocks = [
        Cells(max_thinking_tokens=[*(max(1, round(n * context / PAPER_CONTEXT)) for n in PAPER_BUDGETS), "auto"]),
        Cells(num_ignore=[1, 2, 4, 6]),
        Cells(num_ignore=[2], ignore_text=["Hmm", "Alternatively", ""]),
    ]
    cells = cells_of(blocks, "s1", Budget.cue, max_answer_tokens, budget_per_round=False)
    return {cell.label: cell.budget for cell in cells}


def lock_step(engine: Engine, grid: Grid) -> tuple[Counter, dict]:
    """A run per cell, a barrier after each segment: nobody goes on before the slowest is done (s1's evaluator)."""
    sampled, samples = Counter(), {}
    for cell, decodings in grid.items():
        active = dict(decodings)
        while active:
            requests = {key: (d.phase, r) for key, d in active.items() if (r := d.next_request()) is not None}
            samples.update({(cell, key): d.sample() for key, d in active.items() if key not in requests})
            active = {key: active[key] for key in requests}
            for key, (_, request) in requests.items():
                engine.submit(key, request)
            flying = set(requests)
            while flying:
                for key, delta in engine.step():
                    sampled[requests[key][0]] += len(delta.token_ids)
                    active[key].advance(delta)
                    if delta.finish_reason:
                        flying.discard(key)
    return sampled, samples


def without_barrier(engine: Engine, grid: Grid) -> tuple[Counter, dict]:
    """A run per cell, each sample at its own pace."""
    sampled, samples = Counter(), {}
    for cell, decodings in grid.items():
        driver = Driver(engine)
        samples.update({(cell, key): d.sample() for key, d in driver.run(decodings.items())})
        sampled += driver.num_sampled
    return sampled, samples


def shared(engine: Engine, grid: Grid) -> tuple[Counter, dict]:
    """All cells at once from shared trajectories, question by question, the longest first."""
    driver = Driver(engine, ContinuationStore())
    questions = next(iter(grid.values()))
    decodings = (((cell, key), grid[cell][key]) for key in questions for cell in reversed(grid))
    samples = {key: d.sample() for key, d in driver.run(decodings)}
    return driver.num_sampled, samples


Way = Callable[[Engine, Grid], tuple[Counter, dict]]
WAYS: dict[str, Way] = {"lock-step": lock_step, "no barrier": without_barrier, "shared": shared}


def measure(way: Way, engine: Engine, grid: Grid) -> Measured:
    engine.reset_prefix_cache()
    started = time.perf_counter()
    sampled, samples = way(engine, grid)
    return Measured(time.perf_counter() - started, sampled, samples)


def compare(engine: Engine, make_grid: Callable[[], Grid], repeats: int) -> dict[str, list[Measured]]:
    """Each way `repeats` times, the order rotated between repeats."""
    measured: dict[str, list[Measured]] = {name: [] for name in WAYS}
    names = list(WAYS)
    with Progress("sweep", repeats * len(names), "measurements") as progress:
        for repeat in range(repeats):
            for name in names[repeat % 3 :] + names[: repeat % 3]:
                measured[name].append(measure(WAYS[name], engine, make_grid()))
                progress.update(sum(map(len, measured.values())), name)
    return measured


def table(measured: dict[str, list[Measured]]) -> str:
    """Medians over repeats; ratios to the lock-step way within each repeat."""
    lines = [f"{'way':<12} {'seconds (min, median, max)':<28} {'thinking':>9} {'answer':>7} {'seconds ratio':>14} "
             f"{'tokens ratio':>13}"]  # fmt: skip
    base = measured["lock-step"]
    for name, runs in measured.items():
        seconds = [m.seconds for m in runs]
        shown = f"{min(seconds):.1f}, {statistics.median(seconds):.1f}, {max(seconds):.1f}"
        ratio = statistics.median(m.seconds / b.seconds for m, b in zip(runs, base, strict=True))
        tokens = statistics.median(m.sampled.total() / b.sampled.total() for m, b in zip(runs, base, strict=True))
        thinking, answer = runs[-1].sampled["thinking"], runs[-1].sampled["answer"]
        lines.append(f"{name:<12} {shown:<28} {thinking:>9,} {answer:>7,} {ratio:>14.2f} {tokens:>13.2f}")
    return "\n".join(lines)


def same(a: Sample, b: Sample) -> bool:
    """Token for token, and for the same reasons; what the engine found in its cache is another matter."""
    return replace(a, num_cached_tokens=None) == replace(b, num_cached_tokens=None)


def cell_by_cell(measured: dict[str, Measured]) -> str:
    """Each cell's mean thinking, and how many samples are those of the lock-step way."""
    base = measured["lock-step"].samples
    others = [name for name in measured if name != "lock-step"]
    lines = [f"{'cell':<38} {'thinking':>8}  " + "  ".join(f"{name + ' = lock-step':>23}" for name in others)]
    for cell in dict.fromkeys(cell for cell, _ in base):
        own = [key for key in base if key[0] == cell]
        thinking = statistics.fmean(base[key].num_thinking_tokens for key in own)
        counts = (sum(same(measured[name].samples[key], base[key]) for key in own) for name in others)
        shown = "  ".join(f"{f'{count} of {len(own)}':>23}" for count in counts)
        lines.append(f"{cell:<38} {thinking:>8.1f}  {shown}")
    return "\n".join(lines)


def scripted_cost(chat: ChatFormat, first: int, again: int, answer: int) -> str:
    """Tokens of the paper's grid for one question: thinking ends by itself after `first` tokens, after `again` more
    whenever that is ignored, and every answer takes `answer` tokens. A tenth of the paper's context."""
    word, end_of_turn = chat.encode("a")[0], chat.tokenizer.eos_token_id
    prompt, context = chat.prompt_ids("?"), PAPER_CONTEXT // 10

    def script(prefix: tuple[int, ...], seed: int | None) -> int:
        written = prefix[len(prompt) :]
        if chat.ends[0][0] in written:  # thinking is closed
            return word
        num_words = next((n for n, id in enumerate(reversed(written)) if id != word), len(written))
        due = num_words - (first if num_words == len(written) else again)  # since the first end, or the last ignored
        return end_of_turn if due >= 0 and due % again == 0 else word

    totals = {}
    for name, way in (("separate", without_barrier), ("shared", shared)):
        engine = ScriptedEngine(script, context, chat.num_token_ids, filler=word)
        cells = paper_grid(context, answer)
        totals[name], _ = way(engine, {c: {"q": ForcedDecode(prompt, b, chat, context)} for c, b in cells.items()})
    alone, together = totals["separate"], totals["shared"]
    return (
        f"scripted, a tenth of the paper's context, {first} thinking tokens, {again} more after each ignored end, "
        f"{answer} in an answer:\nseparate runs sample {alone['thinking']:,} + {alone['answer']:,} tokens a question, "
        f"shared trajectories {together['thinking']:,} + {together['answer']:,}: "
        f"{together['thinking'] / alone['thinking']:.2f} of the thinking, {together.total() / alone.total():.2f} of all"
    )


def main(config: SweepConfig) -> None:
    questions = load_questions(config.questions, config.num_questions)
    engine, tokenizer = load_engine(config.model, config.engine)
    chat = ChatFormat(config.profile, tokenizer)
    cells = paper_grid(engine.max_model_len, config.max_answer_tokens)

    def decode(question: Question, budget: Budget, sampling: Sampling) -> ForcedDecode:
        prompt, seed = chat.prompt_ids(question), derived_seed(0, question.id)
        return ForcedDecode(prompt, budget, chat, engine.max_model_len, sampling, seed, question_id=question.id)

    def make_grid(sampling: Sampling = GREEDY) -> Grid:
        return {cell: {q.id: decode(q, budget, sampling) for q in questions} for cell, budget in cells.items()}

    first = next(iter(cells))
    measure(without_barrier, engine, {first: make_grid()[first]})  # warm-up, not counted
    print(f"{len(questions)} questions, {len(cells)} cells, context {engine.max_model_len}, answers of at most "
          f"{config.max_answer_tokens}, engine {engine.fingerprint}, {config.repeats} repeats\n")  # fmt: skip
    measured = compare(engine, make_grid, config.repeats)
    print("temperature 0:\n" + table(measured))
    print(cell_by_cell({name: runs[-1] for name, runs in measured.items()}))
    warm = compare(engine, lambda: make_grid(Sampling(temperature=1.0)), repeats=1)
    print("\ntemperature 1, one seed a question:\n" + table(warm))
    print(cell_by_cell({name: runs[-1] for name, runs in warm.items()}))
    print("\n" + scripted_cost(chat, first=600, again=40, answer=70))
    engine.close()


if __name__ == "__main__":
    run_entry(main, SweepConfig, __doc__)
