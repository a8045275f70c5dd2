"""Code questions: what is taken for the code, how it is run, and what passes."""

import json
import random
import time

import pytest
from code_questions import DATA, DOUBLE, code_question, confined, double, program

from core.types import Question
from eval import sandbox
from eval.sandbox import Limits, TestsOutcome, code_of, run_tests, same_output
from eval.sandbox_child import from_plain, to_plain

# What is run


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("```python\na\n```\nthen\n```python\nb\n```", "b\n"),
        ("```python\na\n```\n```\noutput\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```cpp\nx\n```\n  ```Python3 title\na\n  ```", "a\n"),
        ("```py\na = '`'\nb", "a = '`'\nb"),
        ("1. Like this:\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b\n"),
        ("no code, `x` aside", None),
        ("", None),
    ],
)
def test_the_last_block_is_the_code(response, code):
    assert code_of(response) == code


def test_an_example_of_use_is_not_the_code():
    response = "```python\ndef f(x): pass\n```\nSo:\n```python\nprint(f(1))\n```"
    assert code_of(response, "f") == "def f(x): pass\n" and code_of(response) == "print(f(1))\n"
    assert code_of("```python\nclass Solution:\n    def f(self): pass\n```\n```py\nx\n```", "f").startswith("class")


def test_finding_the_code_takes_no_time_on_what_is_no_code():
    started = time.perf_counter()
    for text in ("```" * 100_000, "```python\n" * 50_000, "``` \n" * 50_000, "\n" * 500_000):
        code_of(text)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1 2\n3\n", "1  2\n\n3", True),
        ("1.0", "1.00", True),
        ("YES", "Yes", False),
        ("1 2", "1 2 3", False),
        ("", "0", False),
        ("nan", "nan", True),
        ("1e999999999", "1", False),
        ("1" * 10**6, "1" * 10**6 + ".0", False),
    ],
)
def test_outputs_are_compared_word_by_word(output, expected, same):
    assert same_output(output, expected) == same


def test_values_cross_between_processes_as_they_are():
    rng = random.Random(0)

    def value(depth: int):
        kind = rng.randrange(11 if depth else 7)
        if kind < 7:
            return (None, True, 10**30, -0.5, "a\u2028", 2 + 1j, b"\xff")[kind]
        items = [value(depth - 1) for _ in range(rng.randrange(4))]
        keys = {f"{i}": item for i, item in enumerate(items)}
        return (items, tuple(items), {len(items), "x"}, keys | {(1, 2): 3})[kind - 7]

    for _ in range(200):
        original = value(3)
        copied = from_plain(json.loads(json.dumps(to_plain(original))))
        assert copied == original and type(copied) is type(original)
    with pytest.raises(TypeError, match="a generator is no data"):
        to_plain([(x for x in ())])


def test_nothing_runs_that_cannot_be_confined(monkeypatch):
    monkeypatch.setattr(sandbox, "confinement_problem", lambda: "code is not run: no filter")
    assert program("print(42)") == TestsOutcome(None, "code is not run: no filter")
    assert run_tests("x", Question.of("?", None, "code", "test", "test")).correct is None


# What passes


@pytest.mark.slow
@confined
def test_a_program_is_run_on_each_test():
    code = "a, b = map(int, input().split())\nif __name__ == '__main__':\n    print(a + b)"
    assert program(code, ("1 2\n", "3\n"), ("2 2", "4")) == TestsOutcome(True, "2 tests passed")
    outcome = program(code, ("1 2\n", "3\n"), ("2 2", "5"))
    assert outcome == TestsOutcome(False, "test 2 of 2: wrong output '4', expected '5'")


@confined
@pytest.mark.slow
@pytest.mark.parametrize(
    ("response", "correct"),
    [
        ("```python\ndef double(x):\n    return 2 * x\n```", True),
        ("    return 2 * x", True),
        ("return 2 * x", True),
        ("y = 2\nreturn y * x", True),
        ("```python\nfrom __future__ import annotations\ndouble = lambda x: x + x\n```", True),
        ("```python\ndef double(x):\n    return 2 * half(2 * x)\n```", True),  # a helper of the prompt
        ("```python\ndef double(x):\n    return abs(2 * x)\n```", False),
        ("```python\ndef double(x)\n    return 2 * x\n```", False),
        ("```python\ndef twice(x):\n    return 2 * x\n```", False),
        ("It is 2 * x.", False),
        ("```python\n```", False),
    ],
)
def test_humaneval_takes_a_function_or_a_completion(response, correct):
    assert double(response).correct is correct


@confined
@pytest.mark.slow
def test_functions_are_called_with_json_values():
    case = ('[1, 2]\n"a"\n', '[["a", 1], ["a", 2]]')
    method = "class Solution:\n    def pair(self, xs: List[int], s: str):\n        return [(s, x) for x in xs]"
    function = "def pair(xs, s):\n    print('debug')\n    return [[s, x] for x in xs]"
    for code in (method, function):
        assert program(code, case, function="pair") == TestsOutcome(True, "1 tests passed")
    assert program(function, case, ('[]\n""', "[1]"), function="pair").detail.startswith(
        "test 2 of 2: wrong value '[]'"
    )
    for code in ("def other(): pass", "def pair(xs, s):\n    raise ValueError(xs)", "def pair(xs, s): return print"):
        assert program(code, case, function="pair").correct is False


@confined
@pytest.mark.slow
@pytest.mark.parametrize(
    "reply",
    ["", "null", "5", "[1]", '"value"', '["error"]', '{"error": 1}', '{"error": [1]}', '{"value": {"set": [1]}}',
     '{"value": {"list": 1}}', '{"value": {"dict": [[[], 1]]}}', '{"value": {}}', "[" * 10**6, "1" * 10**5,
     '{"value": {"list": [1]}}\\n{"value": 1}'],
)  # fmt: skip
def test_code_may_reply_what_it_likes(reply):
    code = f"import os\ndef f(x):\n    for fd in range(3, 9):\n        try: os.write(fd, b'{reply}\\n')\n" \
        "        except OSError: pass\n    os._exit(0)"  # fmt: skip
    outcome = program(code, ("1", "[1]"), function="f")
    assert outcome.correct is False and outcome.detail.startswith("test 1 of 1: "), outcome


@confined
@pytest.mark.slow
def test_programs_may_use_threads_and_deep_recursion():
    code = (
        "import sys, threading, functools\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "@functools.lru_cache(None)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(20000)))\nt.start()"
    )
    assert program(code, ("", "20000")).correct
    limits = "import resource\nresource.setrlimit(resource.RLIMIT_STACK, (2**28, -1))\nprint(42)"
    assert program(limits).correct


@confined
@pytest.mark.slow
def test_numpy_can_be_used():
    pytest.importorskip("numpy")
    assert program("import numpy as np\nprint(int(np.dot([6], [7])))", limits=Limits()).correct
    assert double("```python\nimport numpy as np\ndef double(x): return np.int64(2 * x)\n```", Limits()).correct


@confined
@pytest.mark.slow
def test_tests_that_are_broken_grade_nothing():
    for test in ("def check(candidate):\n  assert", "raise ValueError('x')", "def other(): pass"):
        outcome = run_tests("    return 2 * x", code_question(**{**DOUBLE, "test": test}))
        assert outcome.correct is None and outcome.detail.startswith("the tests cannot be run: ")


@confined
@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason=f"the real benchmarks are not here ({DATA})")
def test_a_real_codeforces_problem():
    from eval.benchmarks import load_benchmark

    question = load_benchmark("codeforces_sample", DATA, limit=1)[1][0]
    assert "minimum of $x$ and $y$" in question.text
    code = "for _ in range(int(input())):\n    a, b = map(int, input().split())\n    print({}(a, b), max(a, b))"
    assert run_tests(f"```python\n{code.format('min')}\n```", question) == TestsOutcome(True, "1 tests passed")
    assert "wrong output" in run_tests(f"```python\n{code.format('max')}\n```", question).detail


@pytest.mark.slow
@confined
@pytest.mark.skipif(not DATA.exists(), reason=f"the real benchmarks are not here ({DATA})")
@pytest.mark.parametrize("form", ["whole function", "completion"])
def test_canonical_solutions_of_humaneval_pass(form):
    from core.tables import local_table, whole_rows
    from eval.benchmarks import load_benchmark

    _, questions = load_benchmark("humaneval", DATA)
    file = DATA / "code" / "HumanEval.jsonl.gz"
    failed = []
    for row, question in zip(whole_rows(local_table(file, DATA, "")), questions, strict=True):
        solution = row["canonical_solution"]
        response = f"```python\n{row['prompt']}{solution}```" if form == "whole function" else solution.strip()
        outcome = run_tests(response, question)
        if not outcome.correct:
            failed.append((row["task_id"], outcome))
        if form == "completion" and question.metadata["row"] == 40:
            break
    assert not failed
