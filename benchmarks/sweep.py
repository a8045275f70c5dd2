"""What a grid of thinking budgets costs: lock-step runs as s1's, separate runs without a barrier, shared trajectories.

    python -m benchmarks.sweep model=outputs/train/demo-1234abcd/model questions=outputs/data/demo-heldout-1234abcd

The three ways run in one process on one engine, the prefix cache is reset before each and their order rotates between
repeats. Prints seconds, sampled tokens and ratios; then, on a scripted engine, the cost of a grid at fixed lengths.
"""

import statistics
import time
from collections import Counter
from dataclasses import dataclass

from core.chat import ChatFormat
from core.config import option, run_entry
from core.log import Progress
from eval.draw import load_questions
from inference.budget import Budget, ForcedDecode
from inference.continuations import ContinuationStore
from inference.engine import Driver, Engine, EngineConfig, load_engine
from inference.scripted_engine import ScriptedEngine


@dataclass
class SweepConfig:
    name: str = option("sweep", help="of the benchmark")
    model: str = option(help="local folder or hub id")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    num_questions: int = option(48, help="questions of the grid")
    profile: str = option("s1", help="delimiters")
    budgets: list[int] = option([16, 32, 64, 96, 128, 192], help="thinking budgets of the grid")
    max_answer_tokens: int = option(16, help="answer limit")
    repeats: int = option(3, help="how often each way is measured")
    engine: EngineConfig = option(EngineConfig, help="how to load the model")


@dataclass
class Measured:
    """One way, once: seconds, sampled tokens by phase, samples by (budget, question)."""

    seconds: float
    sampled: Counter
    samples: dict


def lock_step(engine: Engine, grid: list[dict]) -> tuple[Counter, dict]:
    """A run per budget, a barrier after each segment: nobody goes on before the slowest is done (PAPER 3.2, 4b)."""
    sampled, samples = Counter(), {}
    for decodings in grid:
        active = dict(decodings)
        while active:
            requests = {key: (d.phase, r) for key, d in active.items() if (r := d.next_request()) is not None}
            samples.update({key: d.sample() for key, d in active.items() if key not in requests})
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


def without_barrier(engine: Engine, grid: list[dict]) -> tuple[Counter, dict]:
    """A run per budget, each sample at its own pace."""
    sampled, samples = Counter(), {}
    for decodings in grid:
        driver = Driver(engine)
        samples.update({key: d.sample() for key, d in driver.run(decodings.items())})
        sampled += driver.num_sampled
    return sampled, samples


def shared(engine: Engine, grid: list[dict]) -> tuple[Counter, dict]:
    """All budgets at once from shared trajectories, the longest of each question first."""
    driver = Driver(engine, ContinuationStore())
    keys = [key for decodings in reversed(grid) for key in decodings]
    flat = {key: d for decodings in grid for key, d in decodings.items()}
    order = sorted(keys, key=lambda key: keys.index(key) % len(grid[0]))  # question by question
    samples = {key: d.sample() for key, d in driver.run((key, flat[key]) for key in order)}
    return driver.num_sampled, samples


WAYS = {"lock-step": lock_step, "no barrier": without_barrier, "shared": shared}


def measure(way, engine: Engine, make_grid) -> Measured:
    engine.reset_prefix_cache()
    grid = make_grid()
    started = time.perf_counter()
    sampled, samples = way(engine, grid)
    return Measured(time.perf_counter() - started, sampled, samples)


def compare(engine: Engine, make_grid, repeats: int) -> dict[str, list[Measured]]:
    """Each way `repeats` times, the order rotated between repeats."""
    measured: dict[str, list[Measured]] = {name: [] for name in WAYS}
    names = list(WAYS)
    with Progress("sweep", repeats * len(names), "measurements") as progress:
        for repeat in range(repeats):
            for name in names[repeat % 3 :] + names[: repeat % 3]:
                measured[name].append(measure(WAYS[name], engine, make_grid))
                progress.update(sum(map(len, measured.values())), name)
    return measured


def table(measured: dict[str, list[Measured]], longest: Counter) -> str:
    """Medians over repeats; ratios to the lock-step way within each repeat; thinking against the longest point."""
    lines = [f"{'way':<12} {'seconds (min, median, max)':<30} {'thinking':>9} {'answer':>7} {'seconds ratio':>14} "
             f"{'tokens ratio':>13} {'thinking / longest point':>25}"]  # fmt: skip
    base = measured["lock-step"]
    for name, runs in measured.items():
        seconds = [m.seconds for m in runs]
        shown = f"{min(seconds):.1f}, {statistics.median(seconds):.1f}, {max(seconds):.1f}"
        ratio = statistics.median(m.seconds / b.seconds for m, b in zip(runs, base, strict=True))
        tokens = statistics.median(m.sampled.total() / b.sampled.total() for m, b in zip(runs, base, strict=True))
        thinking, answer = runs[-1].sampled["thinking"], runs[-1].sampled["answer"]
        lines.append(f"{name:<12} {shown:<30} {thinking:>9,} {answer:>7,} {ratio:>14.2f} {tokens:>13.2f} "
                     f"{thinking / longest['thinking']:>25.2f}")  # fmt: skip
    return "\n".join(lines)


def scripted_cost(budgets: list[int], max_answer_tokens: int, chat: ChatFormat) -> str:
    """The grid of one question that thinks to the end of every budget and answers in exactly max_answer_tokens."""
    word = chat.encode("a")[0]
    prompt = chat.prompt_ids("?")
    budgets_ = [Budget(n, max_answer_tokens=max_answer_tokens) for n in budgets]
    totals = {}
    for name, chosen in (("grid", budgets_), ("longest point", budgets_[-1:]), ("separate", budgets_)):
        totals[name] = Counter()
        store = ContinuationStore()
        for budget in reversed(chosen):
            store = ContinuationStore() if name == "separate" else store
            driver = Driver(ScriptedEngine(lambda prefix, seed: word, 1 << 20, chat.num_token_ids), store)
            list(driver.run([("q", ForcedDecode(prompt, budget, chat, 1 << 20))]))
            totals[name] += driver.num_sampled
    separate, grid, longest = (totals[name] for name in ("separate", "grid", "longest point"))
    return (
        f"scripted, budgets {budgets}, {max_answer_tokens} answer tokens: separate runs sample "
        f"{separate['thinking'] / separate['answer']:.1f} thinking tokens to one answer token; the shared grid samples "
        f"{grid.total():,} tokens, {grid.total() / longest.total():.2f} times its longest point and "
        f"{grid.total() / separate.total():.2f} of separate runs"
    )


def main(config: SweepConfig) -> None:
    questions = load_questions(config.questions, config.num_questions)
    engine, tokenizer = load_engine(config.model, config.engine)
    chat = ChatFormat(config.profile, tokenizer)
    prompts = {q.id: chat.prompt_ids(q) for q in questions}

    def make_grid() -> list[dict]:
        return [
            {
                (n, q): ForcedDecode(
                    prompt, Budget(n, max_answer_tokens=config.max_answer_tokens), chat, engine.max_model_len
                )
                for q, prompt in prompts.items()
            }
            for n in sorted(config.budgets)
        ]

    measure(without_barrier, engine, lambda: make_grid()[:1])  # warm-up, not counted
    measured = compare(engine, make_grid, config.repeats)
    longest, _ = without_barrier(engine, make_grid()[-1:])
    print(
        f"{len(questions)} questions, budgets {sorted(config.budgets)}, {engine.fingerprint}, {config.repeats} repeats"
    )
    print(table(measured, longest))
    alone, together = measured["no barrier"][-1].samples, measured["shared"][-1].samples
    same = sum(alone[key] == together[key] for key in alone)
    print(f"{same} of {len(alone)} samples are the same token for token, shared and separate")
    forks = {(s.question_id, s.ids("thinking"), s.ids("answer", "forced")) for s in together.values()}
    print(f"{len(together)} cells and questions, {len(forks)} distinct prefixes answered")
    print(scripted_cost([512, 1024, 2048, 4096, 8192, 16384], 538, chat))
    engine.close()


if __name__ == "__main__":
    run_entry(main, SweepConfig, __doc__)
