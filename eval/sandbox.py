"""Grades code by running it: run_tests(response, question) on tests of HumanEval's kind, on programs that read standard
input, and on functions called with JSON values (LiveCodeBench).

The code runs in processes of its own, which limit their time, memory, output and open files, and which the kernel lets
neither write a file, nor reach the network, nor start, signal or trace a process (eval/confine.py): where that cannot
be had nothing is run, and `correct` is None. They start in an empty folder with an empty environment, and are killed
when their time is over.

What this does not protect from: confined code can read every file that this user can read, and so may print it (what it
prints is compared, and the first characters of a wrong answer are recorded). Where neither user namespaces are allowed
nor processes of one user kept apart (kernel.yama.ptrace_scope = 0) it could look for expected outputs in the memory of
this process. Errors of the kernel are no concern of a system call filter: an adversary's code belongs in a virtual
machine.
"""

import contextlib
import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import IO, Any

from core.types import Question
from eval.sandbox_child import BROKEN_TESTS

ROOT = Path(__file__).resolve().parents[1]
BOOT = "import sys; sys.path[0] = sys.argv[1]; from eval.sandbox_child import main; main(int(sys.argv[2]))"
FENCED = re.compile(r"^([ \t]*)```[ \t]*([\w+#.-]*)[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PYTHON = ("python", "python3", "py")
MAX_SHOWN_CHARS = 80
MAX_NUMBER_CHARS = 1000
STARTUP_SECONDS = 30.0
# What LeetCode has imported for a solution. (Not all of math: its pow would hide the one that takes a modulus.)
HEADER = """import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import ceil, comb, floor, gcd, inf, isqrt, lcm, log, log2, sqrt
from typing import *
"""


@dataclass(frozen=True)
class Limits:
    """Of the processes of one test; wall_seconds also counts what other programs take from this machine.

    total_seconds: of all tests of a question together.
    """

    cpu_seconds: int = 6
    wall_seconds: float = 15.0
    total_seconds: float = 120.0
    memory_bytes: int = 4 * 1024**3
    output_bytes: int = 16 * 1024**2


@dataclass(frozen=True)
class TestsOutcome:
    """correct: whether all tests pass; None where they could not be run. detail: what happened, one line."""

    __test__ = False  # to pytest, by its name

    correct: bool | None
    detail: str


class _Failed(Exception):
    """Why a test is not passed."""


def run_tests(response: str, question: Question, limits: Limits = Limits(), unconfined: bool = False) -> TestsOutcome:
    """Runs the code of a response on the tests of its question (question.metadata["tests"], eval/benchmark_rows.py).

    unconfined: run it even where the kernel cannot confine it. Only for code that is trusted.
    """
    tests = question.metadata.get("tests")
    if not tests:
        return TestsOutcome(None, "the question has no tests")
    problem = None if unconfined else confinement_problem()
    if problem:
        return TestsOutcome(None, problem)
    humaneval = "entry_point" in tests
    code = code_of(response, tests["entry_point"] if humaneval else tests["function"])
    if code is None and humaneval and "```" not in response:
        code = response
    if not code or not code.strip():
        return TestsOutcome(False, "no code in the response")
    sandbox = _Sandbox(limits, not unconfined)
    try:
        if humaneval:
            return sandbox.humaneval(code, tests)
        return sandbox.cases(code, tests["cases"], tests["function"])
    except _Failed as failed:
        return TestsOutcome(False, str(failed))


def code_of(response: str, function: str | None = None) -> str | None:
    """The last fenced block in Python, else the last of any language; of several the last that defines the function
    asked for, for the others may be examples of its use. A last block may lack its closing fence."""
    blocks = [
        (language, textwrap.dedent(code) if indent else code)  # a block in a list
        for indent, language, code in FENCED.findall(response)
    ]
    found = [code for language, code in blocks if language.lower() in PYTHON] or [code for _, code in blocks]
    defining = [code for code in found if function and _defines(code, function)]
    return (defining or found or [None])[-1]


def _defines(code: str, function: str) -> bool:
    name = re.escape(function)
    return bool(re.search(rf"^[ \t]*(?:async\s+)?(?:def|class)\s+{name}\b|^{name}\s*=", code, re.MULTILINE))


@cache
def confinement_problem() -> str | None:
    """Why code cannot be confined on this machine, or None. A process tries it, once."""
    token = secrets.token_hex(16)
    sandbox = _Sandbox(replace(Limits(), wall_seconds=STARTUP_SECONDS), confined=True)
    try:
        output = sandbox.run({"mode": "probe", "token": token}, "")
    except _Failed as failed:
        output = str(failed)
    if output.strip() == token:
        return None
    return f"code is not run: it cannot be confined on this machine ({output.strip()[:200]})"


class _Sandbox:
    """The processes of one question. Raises _Failed for a test that is not passed."""

    def __init__(self, limits: Limits, confined: bool):
        self.limits, self.confined = limits, confined
        self.deadline = time.monotonic() + limits.total_seconds

    def cases(self, code: str, cases: Sequence[dict[str, str]], function: str | None) -> TestsOutcome:
        for number, case in enumerate(cases, 1):
            try:
                if function:
                    self._call(code, function, case)
                else:
                    output = self.run({"mode": "program", "variants": [[code]]}, case["input"])
                    if not same_output(output, case["output"]):
                        raise _Failed(f"wrong output {_shown(output)}, expected {_shown(case['output'])}")
            except _Failed as failed:
                raise _Failed(f"test {number} of {len(cases)}: {failed}") from None
        return TestsOutcome(True, f"{len(cases)} tests passed")

    def _call(self, code: str, function: str, case: dict[str, str]) -> None:
        """LiveCodeBench's form: an argument a line, each in JSON; lists and tuples are equal."""
        args = [_plain(json.loads(line)) for line in case["input"].split("\n") if line.strip()]
        job = {"mode": "serve", "variants": [[HEADER, code]], "function": function}
        output = self.run(job, json.dumps({"args": {"list": args}, "kwargs": {"dict": []}}) + "\n")
        try:
            value = _answer(output)
            same = value == json.loads(case["output"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _Failed(f"no answer but {_shown(output)}") from None
        if not same:
            raise _Failed(f"wrong value {_shown(json.dumps(value))}, expected {_shown(case['output'])}")

    def humaneval(self, code: str, tests: dict[str, str]) -> TestsOutcome:
        """The function runs in one process, its tests in another."""
        prompt, function, token = tests["prompt"], tests["entry_point"], secrets.token_hex(16)
        heads = [f"{prompt}\n    pass\n", prompt, ""]  # imports and helpers that the prompt gives
        solution = {"mode": "serve", "variants": _programs(code, heads, function, prompt), "function": function}
        checker = {"mode": "check", "heads": heads, "test": tests["test"], "function": function, "token": token}
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(tempfile.TemporaryFile())
            (from_checker, requests), (replies, to_checker) = os.pipe(), os.pipe()
            try:
                stack.enter_context(self._process(solution, from_checker, to_checker, errors))
                checker |= {"requests_fd": requests, "replies_fd": replies}
                output, said = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
                process = stack.enter_context(
                    self._process(checker, subprocess.DEVNULL, output, said, requests, replies)
                )
            finally:
                for fd in (from_checker, requests, replies, to_checker):
                    os.close(fd)
            ended = self._wait(process)
            if ended == 0 and token in _read(output):
                return TestsOutcome(True, "the tests passed")
            if ended == BROKEN_TESTS:
                return TestsOutcome(None, f"the tests cannot be run: {_last_line(said)}")
            raise _Failed(_last_line(errors) or _last_line(said) or "the tests did not come to their end")

    def run(self, job: dict[str, Any], stdin: str) -> str:
        """What a process printed that ended well."""
        with contextlib.ExitStack() as stack:
            given, output, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            given.write(stdin.encode(errors="replace"))
            given.seek(0)
            process = stack.enter_context(self._process(job, given, output, errors))
            ended = self._wait(process)
            if ended != 0:
                signalled = f"killed by {signal.Signals(-ended).name}" if ended < 0 else f"exit status {ended}"
                raise _Failed(_last_line(errors) or signalled)
            return _read(output)

    @contextlib.contextmanager
    def _process(
        self, job: dict[str, Any], stdin: Any, stdout: Any, stderr: Any, *fds: int
    ) -> Iterator[subprocess.Popen]:
        """A process of eval/sandbox_child.py, which is gone, with all that it started, at the end of the block."""
        job = {**job, "limits": asdict(self.limits), "confined": self.confined}
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
            file.write(json.dumps(job).encode())
            file.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-s", "-c", BOOT, str(ROOT), str(file.fileno())],
                stdin=stdin, stdout=stdout, stderr=stderr, cwd=folder, env=_environment(folder),
                start_new_session=True, pass_fds=(file.fileno(), *fds),
            )  # fmt: skip
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)  # it has not been waited for, so the number is still its own
                process.wait()

    def _wait(self, process: subprocess.Popen) -> int:
        """Its exit status, negative for a signal. The process is left to be waited for."""
        seconds = min(self.limits.wall_seconds, self.deadline - time.monotonic())
        ended = select.poll()
        fd = os.pidfd_open(process.pid)
        try:
            ended.register(fd, select.POLLIN)
            if seconds <= 0 or not ended.poll(1000 * seconds):
                raise _Failed(f"not done after {max(seconds, 0):.0f} s")
        finally:
            os.close(fd)
        status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if status.si_code != os.CLD_EXITED and status.si_status == signal.SIGXCPU:
            raise _Failed(f"more than {self.limits.cpu_seconds} s of computing time")
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status


def _programs(code: str, heads: Sequence[str], function: str, prompt: str) -> list[list[str]]:
    """Ways to read the code of a HumanEval response, the likeliest first: the whole function, or what follows the
    prompt (whose first indentation chat models and tokenizers lose)."""
    if _defines(code, function):
        return [[head, code] for head in heads]
    completions = (code, "    " + code, textwrap.indent(code, "    "))
    return [*([f"{prompt.rstrip()}\n{completion}"] for completion in completions), [code]]


def same_output(output: str, expected: str) -> bool:
    """Whether two outputs have the same words, white space aside; numbers are the same in any form ("1.0", "1.00")."""
    words, others = output.split(), expected.split()
    return len(words) == len(others) and all(map(_same_word, words, others))


def _same_word(word: str, other: str) -> bool:
    if word == other or max(len(word), len(other)) > MAX_NUMBER_CHARS:
        return word == other
    try:
        return Decimal(word) == Decimal(other)
    except InvalidOperation:
        return False


def _plain(value: Any) -> Any:
    """JSON values as eval/sandbox_child.py sends them."""
    if isinstance(value, list):
        return {"list": [_plain(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[key, _plain(item)] for key, item in value.items()]}
    return value


def _answer(output: str) -> Any:
    """The value in the reply of a function, as JSON has it; the code may have written anything in its place.

    Nothing is hashed but text, whose hashes nobody can foresee: a dict of a million crafted numbers takes hours.
    """
    (reply,) = output.splitlines()
    reply = json.loads(reply)
    if "error" in reply:
        name, text = reply["error"]
        raise _Failed(f"{name}: {text}"[:MAX_SHOWN_CHARS])
    return _json(reply["value"])


def _json(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    ((kind, items),) = plain.items()
    if kind in ("list", "tuple"):
        return [_json(item) for item in items]
    if kind == "dict" and all(isinstance(key, str) for key, _ in items):
        return {key: _json(item) for key, item in items}
    raise ValueError(f"JSON has no {kind}")


def _environment(folder: str) -> dict[str, str]:
    """Nothing of ours but where shared libraries are; hashes, and so the order of sets, are the same each time."""
    ours = {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}
    return ours | {
        "HOME": folder,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "TMPDIR": folder,
    }


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _last_line(file: IO[bytes]) -> str:
    lines = _read(file).strip().splitlines()
    return lines[-1][:200] if lines else ""


def _shown(text: str) -> str:
    text = " ".join(text[: 4 * MAX_SHOWN_CHARS].split())
    return repr(text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "...")
