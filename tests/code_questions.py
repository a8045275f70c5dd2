"""Code questions for the tests of the sandbox, and their answers run."""

from pathlib import Path

import pytest

from core.types import Question
from eval import sandbox
from eval.sandbox import Limits, TestsOutcome, run_tests

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"
QUICK = Limits(cpu_seconds=1, wall_seconds=5.0)
TINY = Limits(cpu_seconds=1, wall_seconds=1.0)
confined = pytest.mark.skipif(sandbox.confinement_problem() is not None, reason=str(sandbox.confinement_problem()))

DOUBLE = {
    "prompt": "import math\n\n\ndef half(x: int) -> int:\n    return x // 2\n\n\n"
    'def double(x: int) -> int:\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n"
    "    assert candidate(2) == 4\n"
    "    assert half(candidate(7)) == 7\n"
    "    assert candidate(-1) == -2\n",
}


def code_question(**tests) -> Question:
    return Question.of("Write code.", None, "code", "test", "test", tests=tests)


def program(code: str, *cases: tuple[str, str], limits: Limits = QUICK, function: str | None = None) -> TestsOutcome:
    cases = cases or (("", "42"),)
    question = code_question(cases=[{"input": i, "output": o} for i, o in cases], function=function)
    return run_tests(f"```python\n{code}\n```", question, limits)


def double(response: str, limits: Limits = QUICK) -> TestsOutcome:
    return run_tests(response, code_question(**DOUBLE), limits)
