"""Grading: hand-written cases, the math-verify process, and the references of real benchmarks against themselves."""

import gzip
import json
import multiprocessing
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from core.types import Question
from eval import math_verify as math_verify_module
from eval.grading import GRADER, grade

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"  # real questions, where this checkout has them beside it; never committed


def question(answer, answer_type):
    return Question.of("text", answer, answer_type, "test", "test")


def cases(name):
    rows = json.loads((ROOT / "tests/assets" / name).read_text(encoding="utf-8"))
    return pytest.mark.parametrize(("answer_type", "answer", "response", "correct", "why"), rows)


@cases("grading_cases.json")
def test_case(answer_type, answer, response, correct, why):
    result = grade(response, question(answer, answer_type))
    assert result.correct is correct, (why, result)
    settled_by = GRADER if answer_type != "code" else f"{GRADER} (tests: the question has no tests)"
    assert result.grader == settled_by, "the rules settle it"


@pytest.mark.slow
@cases("grading_cases_math_verify.json")
def test_case_for_math_verify(answer_type, answer, response, correct, why):
    result = grade(response, question(answer, answer_type))
    assert result.correct is correct, (why, result)
    assert result.grader.startswith(GRADER)


@pytest.mark.parametrize(
    ("answer_type", "response", "extracted"),
    [
        ("integer", "\\boxed{025}", "25"),
        ("integer", "Answer: 1,000.0", "1000"),
        ("integer", "Answer: 25 or 26", "25 or 26"),  # wrong, but there to be read
        ("integer", "Answer:", None),
        ("letter", "Answer: (b)", "B"),
        ("letter", "A cat", None),
        ("latex", "Answer: $\\frac12$.", "\\frac12"),
        ("latex", "\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("open", "Answer: **Friday**.", "Friday"),
        ("open", "", None),
    ],
)
def test_extracted(answer_type, response, extracted):
    gold = "B" if answer_type == "letter" else "\\frac12" if answer_type == "latex" else "7"
    assert grade(response, question(gold, answer_type)).extracted == extracted


def test_import_is_light_and_starts_nothing():
    code = "import sys, eval.grading; assert not {'sympy', 'math_verify', 'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


PIECES = ["\\boxed", "{", "}", "\\{", "\\}", "$", "\\(", "\\)", "Answer:", "The answer is", "\\frac", "\\text{", "^",
          "_", "A", "(B)", "b", " or ", "=", "-", "+", ".", ",", ":", "/", "%", "0", "25", "1,000", "x", "\n", " ",
          "**", '"', "[", "]"]  # fmt: skip


@pytest.mark.slow
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.sampled_from(["integer", "letter", "open"]))
def test_any_text_gets_a_verdict(response, answer_type):
    result = grade(response, question({"integer": "25", "letter": "B", "open": "x, 25"}[answer_type], answer_type))
    assert result.correct is not None
    if result.correct:
        assert result.extracted


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["\\boxed{", "\\boxed", "1, ", "$ ", "\\frac{1}{"])
@pytest.mark.parametrize("answer_type", ["integer", "letter", "latex", "open"])
def test_a_model_in_a_loop_costs_no_time(loop, answer_type):
    started = time.monotonic()
    for response in (loop * 4_000, "Answer: " + loop * 4_000, "\\boxed{" + loop * 4_000 + "}"):
        grade(response, question("B" if answer_type == "letter" else "25", answer_type))
    assert time.monotonic() - started < 5


# --- the math-verify process


@pytest.fixture
def math_verify():
    worker = math_verify_module.MathVerify(seconds=30)
    yield worker
    worker.close()


@pytest.mark.slow
def test_worker_gives_the_same_from_any_thread(math_verify):
    pairs = [("x=5", "5"), ("2k", "2n"), ("1,-2", "-2,1")]
    expected = [True, False, True]
    results = {}

    def compare(i):
        results[i] = [math_verify.compare(*pair)[0] for pair in pairs]

    threads = [threading.Thread(target=compare, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [expected] * 4


@pytest.mark.slow
def test_a_hang_is_undecided_and_the_next_comparison_works(math_verify):
    assert math_verify.compare("x=5", "5")[0] is True
    first = math_verify._process.pid
    math_verify.seconds = 0.5
    correct, grader = math_verify.compare("9^{9^{9^{9}}}", "2")
    assert correct is None
    assert grader.endswith("(timed out)")
    math_verify.seconds = 30
    correct, grader = math_verify.compare("x=5", "5")
    assert correct is True
    assert re.fullmatch(r"math-verify-[\d.]+", grader)
    assert math_verify._process.pid != first


@pytest.mark.slow
def test_a_dead_worker_is_replaced(math_verify):
    math_verify.compare("x=5", "5")
    math_verify._process.kill()
    math_verify._process.wait()
    assert math_verify.compare("x=5", "6")[0] is False


@pytest.mark.slow
def test_a_forked_process_starts_its_own_worker(math_verify):
    math_verify.compare("x=5", "5")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def child():
        queue.put((math_verify.compare("2k", "2n")[0], math_verify._process.pid))
        math_verify.close()

    process = context.Process(target=child)
    process.start()
    correct, pid = queue.get(timeout=60)
    process.join()
    assert correct is False
    assert pid != math_verify._process.pid
    assert math_verify.compare("x=5", "5")[0] is True  # ours is untouched


def test_a_worker_that_cannot_start_is_an_error_not_a_wrong_answer(math_verify, monkeypatch):
    monkeypatch.setattr(math_verify_module.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="math-verify"):
        math_verify.compare("x=5", "5")


# --- real benchmarks


def rows(path):
    if not (DATA / path).exists():
        pytest.skip(f"{DATA / path} is not there: real benchmark files are not part of the repository")
    text = (gzip.open if path.endswith(".gz") else open)(DATA / path, "rt", encoding="utf-8").read()
    return json.loads(text) if path.endswith(".json") else [json.loads(line) for line in text.split("\n") if line]


def boxed(text):
    return re.search(r"\\boxed\{(.*)\}", text)[1]


INTEGER_SETS = {
    "aime24": lambda: [row["answer"] for row in rows("eval/aime24/test.jsonl")],  # "025"
    "aime25, int": lambda: [str(row["answer"]) for row in rows("eval/aime25/light_r1.json")],
    "aime25, float": lambda: [str(row["answer"]) for row in rows("eval/aime25/eval_reasoning.jsonl")],  # "70.0"
    "aime25, boxed": lambda: [boxed(row["solution"]) for row in rows("eval/aime25/still.jsonl")],
    "amc23": lambda: [str(row["answer"]) for row in rows("eval/amc23/test.jsonl")],  # "27.0"
    "gsm8k": lambda: [row["answer"].split("####")[1].strip() for row in rows("eval/gsm8k/test.jsonl")],  # "1,234"
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INTEGER_SETS)
def test_integer_references(name):
    for gold in INTEGER_SETS[name]()[:60]:
        value = float(gold.replace(",", ""))
        if value != int(value):
            continue
        n = int(value)
        target = question(gold, "integer")
        for same in (gold, str(n), f"{n:03d}", f"{n:,}", f"{n}.0", f"{n}\\text{{ cm}}", f"x = {n}"):
            for response in (f"\\boxed{{{same}}}", f"Work: 3.\nFinal Answer: {same}.", f"The answer is ${same}$."):
                assert grade(response, target).correct is True, (gold, response)
        for other in {n + 1, n - 1, -n, 10 * n, n + 1000, n // 10} - {n}:
            assert grade(f"\\boxed{{{other}}}", target).correct is False, (gold, other)
            assert grade(f"Answer: {other}", target).correct is False, (gold, other)
        for other in (
            f"{n}.5",
            f"{n}x",
            f"\\frac{{{n}}}{{7}}",
            f"{n}/7",
            f"{n}^{{7}}",
            f"{n} \\text{{ or }} {n + 1}",
            f"{n}:30",
        ):
            assert grade(f"\\boxed{{{other}}}", target).correct is False, (gold, other)


def math500():
    return [row["answer"] for row in rows("eval/math500/test.jsonl")]


def respelled(gold):
    """The same LaTeX as other people write it."""
    yield gold.replace("\\frac", "\\dfrac").replace(", ", ",")
    yield gold.replace("\\left", "").replace("\\right", "")
    yield re.sub(r"(?<=[=+,-]) (?=\w)", "", gold)
    yield f"{gold}."


def neighbours(gold):
    """Another number, another sign, another end of an interval."""
    for number in list(re.finditer(r"\d+", re.sub(r"\}\^\d$", "", gold)))[:2]:
        yield gold[: number.start()] + str(int(number[0]) + 1) + gold[number.end() :]
    if gold != "0" and "\\text{(" not in gold:
        yield gold[1:] if gold.startswith("-") else f"-{gold}"
    if gold.startswith("(") and gold.endswith("]"):
        yield f"[{gold[1:-1]})"
        yield f"{gold[:-1]})"


@pytest.mark.slow
def test_math500_references_equal_themselves():
    for gold in math500():
        target = question(gold, "latex")
        for same in {gold, *respelled(gold)}:
            for response in (f"So we get $$\\boxed{{{same}}}$$ as asked.", f"Final Answer: ${same}$"):
                assert grade(response, target).correct is True, (gold, response)


@pytest.mark.slow  # some 400 comparisons by math-verify, 10 to 20 s
def test_math500_neighbours_are_wrong():
    golds = math500()
    generator = random.Random(0)
    for gold in golds:
        target = question(gold, "latex")
        for other in {*neighbours(gold), generator.choice(golds)}:
            if other.replace("^\\circ", "") == gold.replace("^\\circ", ""):
                continue
            assert grade(f"\\boxed{{{other}}}", target).correct is False, (gold, other)


@pytest.mark.slow
def test_four_options_of_mmlu():
    for row in rows("eval/mcq_science/mmlu_stem_test.jsonl.gz")[:150]:
        target = question("ABCD"[row["answer"]], "letter")
        for i, choice in enumerate(row["choices"]):
            letter = "ABCD"[i]
            for response in (f"Answer: {letter}", f"\\boxed{{\\text{{({letter})}}}}", f"Answer: {letter}) {choice}"):
                assert grade(response, target).correct is (i == row["answer"]), response
            if len(choice) > 3 and not re.search(r"\b[A-D]\b", choice):
                assert grade(f"Answer: {choice}", target).extracted is None, choice  # the text names no letter
