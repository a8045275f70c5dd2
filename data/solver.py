"""Worked solutions, step by step, for families whose steps can be computed.

Each solver reads the numbers and words of its question (kept in the metadata), never the reference answer, and
writes one small step a line. The last line of the work is the result, so that thinking cut short still ends in what
has been worked out so far. A seeded share of the traces then checks the last step in a line that begins with "Wait",
the text that budget forcing appends where it suppresses the end of thinking.
"""

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from core.types import Question


@dataclass(frozen=True)
class Work:
    """lines: the steps, one a line; the last is the result as worked out. answer: in the form the question asks for.
    check: the last step once more, as lines, ending with the same result."""

    lines: list[str]
    answer: str
    check: list[str]

    def thinking(self, with_check: bool) -> str:
        lines = [*self.lines, *_marked(self.check)] if with_check else self.lines
        return "\n".join(lines)


def solve(question: Question, check_share: float, seed: int) -> tuple[str, str] | None:
    """(thinking, answer) of a question, or None where no solver fits.

    check_share: the probability that the trace checks itself, drawn from the seed and the question's id, so that it
    depends on no other question.
    """
    solver = SOLVERS.get(question.source)
    work = solver(question) if solver else None
    if work is None:
        return None
    draw = random.Random(f"{seed}/{question.id}").random()
    return work.thinking(draw < check_share), work.answer


def _marked(check: list[str]) -> list[str]:
    return [f"Wait, {check[0]}", *check[1:]]


def chain_sum(question: Question) -> Work | None:
    """5-3-6+2 -> 2-6+2 -> -4+2 -> -2: the first operation done, the rest copied."""
    expression = question.metadata["expression"].replace(" ", "")
    if not re.fullmatch(r"-?\d+([+-]\d+)+", expression):
        return None
    first, *terms = re.findall(r"^-?\d+|[+-]\d+", expression)
    total, lines = int(first), []
    for i, term in enumerate(terms):
        total += int(term)
        lines.append(f"{total}{''.join(terms[i + 1 :])}")
    return Work(lines, str(total), lines[-2:])


def basic_arithmetic(question: Question) -> Work | None:
    """4 + 7 + 1 + 9 -> 4 + 7 = 11, 1, 9 / 11 + 1 = 12, 9 / 12 + 9 = 21: one sum, and the terms that are left."""
    expression = question.metadata["expression"]
    if not re.fullmatch(r"\d+( \+ \d+)+", expression):
        return None
    total, *terms = map(int, expression.split(" + "))
    lines = []
    for i, term in enumerate(terms):
        left = ", ".join([f"{total} + {term} = {total + term}", *map(str, terms[i + 1 :])])
        lines.append(left)
        total += term
    return Work(lines, str(total), [lines[-1]])


LEGS = {
    0: ("snake", "sea slug", "jellyfish", "flatworm", "leech"),
    2: ("chicken", "bird", "human", "duck"),
    4: ("dog", "cat", "cow", "horse", "lion", "elephant", "giraffe", "tiger", "deer", "sheep"),
    5: ("starfish",),
    6: ("insect", "ant", "butterfly", "beetle", "bee", "wasp", "grasshopper", "cricket", "cockroach",
        "praying mantis", "firefly"),
    8: ("spider", "scorpion"),
    10: ("crab", "lobster", "shrimp"),
    14: ("woodlouse",),
}  # fmt: skip
LEGS_OF = {animal: legs for legs, animals in LEGS.items() for animal in animals}


def leg_counting(question: Question) -> Work | None:
    """3 tigers, 2 ants: 3 * 4 = 12, 2 * 6 = 12, 12 + 12 = 24: a product an animal, added at once."""
    total, lines = None, []
    for animal, count in question.metadata["animals"].items():
        if animal not in LEGS_OF:
            return None
        legs = count * LEGS_OF[animal]
        lines.append(f"{animal}: {count} * {LEGS_OF[animal]} = {legs}")
        if total is not None:
            lines.append(f"{total} + {legs} = {total + legs}")
        total = legs if total is None else total + legs
    return Work(lines, str(total), [lines[-1]])


def word_sequence_reversal(question: Question) -> Work:
    """- one / - two, one / - three, two, one: the next word put in front, the rest copied.

    The dash gives every word the space it has in the question, hence the same tokens.
    """
    words = question.metadata["words"]
    lines = [f"- {', '.join(reversed(words[: i + 1]))}" for i in range(len(words))]
    return Work(lines, lines[-1].removeprefix("- "), [lines[-1].removeprefix("- ")])


def spell_backward(question: Question) -> Work:
    """s u n / s / u s / n u s: the letters apart, then each put in front."""
    word = question.metadata["word"]
    lines = [" ".join(word), *(" ".join(reversed(word[: i + 1])) for i in range(len(word)))]
    return Work(lines, word[::-1], [lines[-1]])


def count_bits(question: Question) -> Work:
    """21 -> 21-16=5 (1), 5-4=1 (2), 1-1=0 (3): the largest power of two away, and count."""
    rest, lines = question.metadata["number"], []
    while rest:
        power = 1 << (rest.bit_length() - 1)
        lines.append(f"{rest}-{power}={rest - power}, count {len(lines) + 1}")
        rest -= power
    return Work(lines, str(len(lines)), [lines[-1]])


def gcd(question: Question) -> Work | None:
    """42, 28: 42-28=14, 28-14=14, both 14: the smaller taken away until both are equal."""
    if len(question.metadata["numbers"]) != 2:
        return None
    a, b = sorted(question.metadata["numbers"], reverse=True)
    lines = []
    while a != b:
        lines.append(f"{a}-{b}={a - b}")
        a, b = sorted((b, a - b), reverse=True)
    lines.append(f"{a}, {b}: {a}")
    return Work(lines, str(a), [lines[-1]])


def lcm(question: Question) -> Work | None:
    """6, 4: 6 no, 12 yes: multiples of the larger until the smaller divides one."""
    if len(question.metadata["numbers"]) != 2:
        return None
    small, large = sorted(question.metadata["numbers"])
    multiple, lines = large, []
    while multiple % small:
        lines.append(f"{multiple}={multiple // small}*{small}+{multiple % small}")
        multiple += large
    lines.append(f"{multiple}={multiple // small}*{small}")
    return Work([*lines, str(multiple)], str(multiple), [lines[-1], str(multiple)])


def products(question: Question) -> Work | None:
    """23*47: 23*40=920, 23*7=161, 920+161=1081."""
    factors = re.fullmatch(r"(\d+) \* (\d+)", question.metadata["expression"])
    if not factors:
        return None
    a, b = map(int, factors.groups())
    tens, ones = b // 10 * 10, b % 10
    lines = [f"{a}*{tens}={a * tens}", f"{a}*{ones}={a * ones}", f"{a * tens}+{a * ones}={a * b}"]
    return Work(lines, str(a * b), [lines[-1]])


def simple_equations(question: Question) -> Work | None:
    """5*e+12=47: 5*e=47-12=35, e=35/5=7."""
    x, equation = question.metadata["variable"], question.metadata["equation"].replace(" ", "")
    left, right = equation.split("=")
    terms = re.findall(rf"[+-]?(?:\d+\*)?{x}|[+-]?\d+", left)
    unknown = [t for t in terms if x in t]
    if len(unknown) != 1 or "".join(terms) != left:
        return None
    a = int({"": "1", "+": "1", "-": "-1"}.get(c := unknown[0][:-1].removesuffix("*"), c))
    b, c = sum(int(t) for t in terms if x not in t), int(right)
    lines = []
    if b:
        lines.append(f"{a}*{x}={c}{-b:+d}={c - b}")
    if (c - b) % a:
        return None
    lines.append(f"{x}={c - b}/{a}={(c - b) // a}")
    return Work(lines, str((c - b) // a), [lines[-1]])


def number_filtering(question: Question) -> Work | None:
    """Each number against the limit, then who stays: < 39 no, > 39 yes / 73 > 39 yes / 35 < 39 no / no: 35 / yes: 73.

    The length of this work does not tell how many stay, so that a preference for long traces prefers no answer.
    """
    limit = question.metadata["filter_value"]
    smaller_stay = question.metadata["operation"] in ("keep_smaller", "remove_larger")
    verdict = {"<": "yes", ">": "no"} if smaller_stay else {"<": "no", ">": "yes"}
    stays: dict[str, list[str]] = {"no": [], "yes": []}
    lines = [", ".join(f"{sign} {limit} {verdict[sign]}" for sign in "<>")]
    for number in question.metadata["original_numbers"]:
        if float(number) == float(limit):
            return None  # whether the limit itself counts is the source's convention
        sign = "<" if float(number) < float(limit) else ">"
        stays[verdict[sign]].append(number)
        lines.append(f"{number} {sign} {limit} {verdict[sign]}")
    lines += [f"{word}: {' '.join(numbers)}".rstrip() for word, numbers in stays.items()]
    return Work(lines, str(stays["yes"]), [lines[-1]])


def prime_factorization(question: Question) -> Work:
    """84: 84/2=42, 42/2=21, 21/3=7, 7 is prime."""
    rest, factors, lines = question.metadata["number"], [], []
    for p in range(2, math.isqrt(rest) + 1):
        while rest % p == 0 and rest > p:
            lines.append(f"{rest}/{p}={rest // p}")
            factors.append(p)
            rest //= p
    answer = " × ".join(map(str, [*factors, rest]))
    return Work([*lines, answer], answer, [answer])


SOLVERS: dict[str, Callable[[Question], Work | None]] = {
    f"reasoning_gym/{solver.__name__}": solver
    for solver in (
        chain_sum, basic_arithmetic, leg_counting, word_sequence_reversal, spell_backward, count_bits, gcd, lcm,
        products, simple_equations, number_filtering, prime_factorization,
    )
}  # fmt: skip
