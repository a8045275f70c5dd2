"""What the funnel costs at the size of s1's pool: seconds and peak memory of every step, on synthetic rows.

    python -m benchmarks.funnel
    python -m benchmarks.funnel 'scales=[1]' minhash=true

The steps are the product's own functions. The rows (question, answer, trace) have realistic lengths and word
frequencies; copies of evaluation questions and of other rows are planted, so that recall can be printed. Every scale
runs in a process of its own. minhash=true also finds the duplicates with datasketch (pip install datasketch==2.0.0).
"""

import importlib.util
import itertools
import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from core.config import UserError, option, run_entry
from core.types import Question, Trace
from data.decontaminate import SHINGLE_WORDS, find_contaminated, near_duplicates_within, words_of
from data.filter import difficulty_reason
from data.quality import quality_reason
from data.select import select

NUM_ROWS = 59_029  # of the paper's table of sources
NUM_DOMAINS = 61  # that its questions were given
# (questions, words): AIME24, AIME25, MATH500, GPQA-Diamond, LiveCodeBench
EVALUATION_SETS = ((30, 65), (30, 80), (500, 38), (198, 75), (600, 250))
POOL_WORDS = 58  # words of a question, the mean of the published s1K
THINKING_TOKENS, ATTEMPT_TOKENS = 3_600, 500  # mean of the 59K in the paper
CHARACTERS_PER_TOKEN = 3.2
PLANTED_CONTAMINATED, PLANTED_COPIES = 0.01, 0.02
SOLVED = 0.35  # by each of two models: about half of the rows remain, as in the released notebook


@dataclass
class FunnelBenchmarkConfig:
    name: str = option("funnel", help="of the benchmark")
    rows: int = option(NUM_ROWS, help="rows at scale 1 (s1: 59,029)")
    scales: list[int] = option([1, 2, 4], help="multiples of the rows")
    repeats: int = option(3, help="how often every step is timed; the fastest counts, the machine being shared")
    minhash: bool = option(False, help="also find duplicates with datasketch's MinHash")
    seed: int = option(0, help="of the rows")


# Synthetic rows

_BOILERPLATE = (
    "where $m$ and $n$ are relatively prime positive integers. Find $m+n$.",
    "Express your answer as a common fraction in lowest terms.",
    "where $a,$ $b,$ and $c$ are positive integers and $b$ is not divisible by the square of any prime. Find $a+b+c$.",
    "Determine all possible values and prove that there are no others.",
    "What is the remainder when this number is divided by $1000$?",
)


class Writer:
    """Questions and prose whose words follow Zipf's law, with formulas in between."""

    def __init__(self, seed: int, num_words: int = 40_000):
        self.rng = random.Random(seed)
        syllables = [c + v for c in "bcdfghklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "er", "on")]
        words = {"".join(self.rng.choices(syllables, k=self.rng.choice((2, 2, 3, 3, 4)))) for _ in range(2 * num_words)}
        self.words = self.rng.sample(sorted(words), num_words)
        self.cum_weights = list(itertools.accumulate(1 / rank for rank in range(2, num_words + 2)))

    def prose(self, num_words: int) -> list[str]:
        return self.rng.choices(self.words, cum_weights=self.cum_weights, k=num_words)

    def formula(self) -> str:
        rng = self.rng
        x, y, n = rng.choice("xyzabcnk"), rng.choice("xyzabcnk"), rng.randint(2, 400)
        forms = (
            f"${x}$",
            f"${x}$",
            f"${n}$",
            f"${x}_{{{n}}} = \\frac{{{y}}}{{{rng.randint(2, 99)}}}$",
            f"${x}^2 + {rng.randint(2, 99)}{y} \\leq {n}$",
            f"$\\sqrt{{{x} - {n}}}$",
            f"$\\angle {x.upper()}{y.upper()}C$",
        )
        return rng.choice(forms)

    def question(self, mean_words: int) -> str:
        # formulas and set phrases add about a third
        length = max(8, round(self.rng.lognormvariate(math.log(mean_words / 1.35) - 0.15, 0.55)))
        words = [self.formula() if self.rng.random() < 0.2 else word for word in self.prose(length)]
        for at in range(self.rng.randint(7, 14), length, 12):
            words[at - 1] += "."
            words[at] = words[at].capitalize()
        text = "Let " + " ".join(words) + "."
        return f"{text} {self.rng.choice(_BOILERPLATE)}" if self.rng.random() < 0.3 else text

    def copy(self, text: str) -> str:
        """The text as another publication would have it."""
        kind = self.rng.randrange(4)
        if kind == 0:  # other LaTeX, other lines
            text = text.replace("\\frac", "\\dfrac").replace("\\leq", "\\le").replace("$", " $ ")
            return text.replace(". ", ".\n")
        if kind == 1:  # told otherwise
            return text.replace("Let ", "Suppose that ", 1).replace("Find", "Compute").replace("What is", "Determine")
        if kind == 2:  # inside another text
            return f"{' '.join(self.prose(25))}: {text} {' '.join(self.prose(10))}"
        words = text.split(" ")  # words lost here and there, none of them a formula
        plain = [i for i, word in enumerate(words) if word.isalpha()]
        lost = set(self.rng.sample(plain, len(plain) // 15))
        return " ".join(word for i, word in enumerate(words) if i not in lost)


@dataclass
class Rows:
    traces: list[Trace]
    against: list[Question]
    grades: list[list[tuple[str, list[bool]]]]  # per trace
    contaminated: dict[str, str] = field(default_factory=dict)  # planted question id -> what it copies
    copies: dict[str, str] = field(default_factory=dict)


def make_rows(num: int, seed: int) -> Rows:
    writer = Writer(seed)
    rng = writer.rng
    against = [_question(writer.question(words)) for count, words in EVALUATION_SETS for _ in range(count)]
    rows = Rows([], against, [])
    questions: dict[str, Question] = {}
    originals: list[Question] = []
    while len(questions) < num:
        chance = rng.random()
        if chance < PLANTED_CONTAMINATED:
            original, planted = rng.choice(against), rows.contaminated
        elif chance < PLANTED_CONTAMINATED + PLANTED_COPIES and originals:
            original, planted = rng.choice(originals), rows.copies
        else:
            original, planted = None, {}
        text = writer.question(POOL_WORDS) if original is None else writer.copy(original.text)
        question = _question(text, rng.randrange(NUM_DOMAINS))
        if question.id in questions:
            continue
        questions[question.id] = question
        if original is None:
            originals.append(question)
        else:
            planted[question.id] = original.id
        num_tokens = min(26_000, round(rng.lognormvariate(math.log(THINKING_TOKENS) - 0.32, 0.8)))
        rows.traces.append(Trace(question, "", "", "synthetic", num_tokens))
        rows.grades.append([(model, [rng.random() < SOLVED]) for model in ("7b", "32b")])
    prose = " ".join(writer.prose(100_000))  # 0.5 MB; traces are stretches of it
    for i, trace in enumerate(rows.traces):
        at = rng.randrange(len(prose) // 2)
        thinking = prose[at : at + round(CHARACTERS_PER_TOKEN * trace.num_thinking_tokens)]  # at most 83 kB
        attempt = prose[at : at + round(CHARACTERS_PER_TOKEN * ATTEMPT_TOKENS)]
        rows.traces[i] = Trace(trace.question, thinking, attempt, trace.teacher, trace.num_thinking_tokens)
    return rows


def _question(text: str, domain: int = 0) -> Question:
    return Question.of(text, "7", "integer", "synthetic", f"domain {domain:02}")


# The references


def eight_grams(pool: Iterable[Question], against: Iterable[Question]) -> set[str]:
    """Ids of the questions that share 8 words in a row with an evaluation set (the rule s1-8gram), found plainly."""

    def grams(text: str) -> Iterable[tuple[str, ...]]:
        words = text.lower().split()
        return (tuple(words[i : i + 8]) for i in range(len(words) - 7))

    known = {gram for question in against for gram in grams(question.text)}
    return {question.id for question in pool if any(gram in known for gram in grams(question.text))}


def minhash_pairs(pool: list[Question], jaccard: float = 0.5) -> set[tuple[str, str]]:
    """Pairs of questions that datasketch's MinHash finds, the usual way: 128 permutations, on our words."""
    from datasketch import MinHash, MinHashLSH

    words = (words_of(question.text) for question in pool)
    shingles = ({" ".join(w[i : i + SHINGLE_WORDS]).encode() for i in range(len(w) - SHINGLE_WORDS + 1)} for w in words)
    index, pairs = MinHashLSH(threshold=jaccard, num_perm=128), set()
    for question, minhash in zip(pool, MinHash.generator(shingles, num_perm=128), strict=True):
        pairs.update((other, question.id) for other in index.query(minhash))
        index.insert(question.id, minhash, check_duplication=False)
    return pairs


# Measuring


@dataclass
class Step:
    name: str
    seconds: list[float]  # one a repeat
    peak_gb: float
    result: Any
    note: str = ""


def measure(name: str, work: Callable[[], Any], repeats: int = 1) -> Step:
    """Runs `work` so often; the peak is that of the whole process while it ran (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forgets the peak so far
    seconds, result = [], None
    for _ in range(repeats):
        result = None  # the one before goes first
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    with open("/proc/self/status") as file:
        peak_kb = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
    return Step(name, seconds, peak_kb * 1024 / 1e9, result)


def funnel(num: int, seed: int, repeats: int, minhash: bool) -> tuple[list[Step], list[str]]:
    """(the steps, what else there is to say), at `num` rows."""
    made = measure("(making the rows)", lambda: make_rows(num, seed))
    rows: Rows = made.result
    questions = [trace.question for trace in rows.traces]

    dedup = measure("dedup", lambda: near_duplicates_within(questions), repeats)
    contamination = measure("decontamination", lambda: find_contaminated(questions, rows.against), repeats)
    plain = measure("8-gram", lambda: eight_grams(questions, rows.against), repeats)
    left = [t for t in rows.traces if t.question.id not in dedup.result and t.question.id not in contamination.result]
    grades = {t.question.id: g for t, g in zip(rows.traces, rows.grades, strict=True)}
    quality = measure("quality", lambda: [t for t in left if quality_reason(t) is None], repeats)

    def unsolved() -> list[Trace]:
        return [t for t in quality.result if difficulty_reason(grades[t.question.id]) is None]

    difficulty = measure("difficulty", unsolved, repeats)
    selection = measure("selection", lambda: select(difficulty.result, 1000, seed), repeats)
    steps = [made, dedup, contamination, quality, difficulty, selection]

    counts = [num - len(dedup.result), len(left), *(len(step.result) for step in steps[3:])]
    for step, count in zip(steps[1:], counts, strict=True):
        step.note = f"{count:,} rows left"
    remarks = list(_remarks(rows, dedup, contamination, plain, minhash))
    return [replace(step, result=None) for step in steps], remarks


def _remarks(rows: Rows, dedup: Step, contamination: Step, plain: Step, minhash: bool) -> Iterator[str]:
    dropped = dedup.result.keys()
    found = sum(id in dropped or original in dropped for id, original in rows.copies.items())
    planted = {*rows.copies, *rows.copies.values(), *rows.contaminated}  # two copies of one text are copies
    others = sum(not {id, hit.match.id} <= planted for id, hit in dedup.result.items())
    found /= len(rows.copies)
    yield f"dedup finds {found:.1%} of {len(rows.copies):,} planted copies, and {others:,} other pairs"

    for name, flagged in (("decontamination", contamination.result.keys()), ("a plain 8-gram set", plain.result)):
        found = len(flagged & rows.contaminated.keys()) / len(rows.contaminated)
        others = len(flagged - rows.contaminated.keys())
        yield f"{name} finds {found:.1%} of {len(rows.contaminated):,} planted rows, and {others:,} others"
    ratio = min(contamination.seconds) / min(plain.seconds)
    each = "; ".join(", ".join(f"{s:.2f}" for s in step.seconds) for step in (contamination, plain))
    yield f"decontamination takes {ratio:.2f} times the seconds of the plain 8-gram set (all repeats: {each})"

    if minhash:
        step = measure("minhash", lambda: minhash_pairs([trace.question for trace in rows.traces]))
        found = sum(not step.result.isdisjoint([pair, pair[::-1]]) for pair in rows.copies.items()) / len(rows.copies)
        yield f"datasketch's MinHash takes {step.seconds[0]:.1f} s for its pairs, with {found:.1%} of the copies"


def slopes(measured: dict[int, list[Step]]) -> list[str]:
    """Exponents of rows: 1 is linear. Least squares on logarithms."""
    sizes = np.log([*measured])
    lines = []
    for at, step in enumerate(next(iter(measured.values()))[1:], 1):
        seconds = np.polyfit(sizes, np.log([min(steps[at].seconds) for steps in measured.values()]), 1)[0]
        lines.append(f"{step.name:<16} seconds grow with rows^{seconds:.2f}")
    total = np.polyfit(sizes, np.log([_total(steps) for steps in measured.values()]), 1)[0]
    peak = np.polyfit(sizes, np.log([_peak(steps) for steps in measured.values()]), 1)[0]
    return [*lines, f"all steps: seconds grow with rows^{total:.2f}, peak memory with rows^{peak:.2f}"]


def _total(steps: list[Step]) -> float:
    return sum(min(step.seconds) for step in steps[1:])  # the first makes the rows


def _peak(steps: list[Step]) -> float:
    return max(step.peak_gb for step in steps)


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown CPU")


def main(config: FunnelBenchmarkConfig) -> None:
    print(f"{_cpu()}, one process on one core; the fastest of {config.repeats} repeats; seed {config.seed}")
    if config.minhash and not importlib.util.find_spec("datasketch"):
        raise UserError("minhash=true needs datasketch: pip install datasketch==2.0.0")
    measured = {}
    for scale in config.scales:
        minhash = config.minhash and scale == 1
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # memory of one scale only
            steps, remarks = process.submit(funnel, scale * config.rows, config.seed, config.repeats, minhash).result()
        measured[scale * config.rows] = steps
        print(f"\n{scale * config.rows:,} rows\n{'step':<18} {'seconds':>8} {'peak GB':>8}")
        for step in steps:
            print(f"{step.name:<18} {min(step.seconds):>8.2f} {step.peak_gb:>8.2f}  {step.note}")
        print(f"{'all but making':<18} {_total(steps):>8.2f} {_peak(steps):>8.2f}")
        print("\n".join(remarks), flush=True)
    if len(measured) > 1:
        print("\n" + "\n".join(slopes(measured)))


if __name__ == "__main__":
    run_entry(main, FunnelBenchmarkConfig, __doc__)
