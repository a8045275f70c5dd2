"""Code questions: what is run, what counts as passing, and what hostile code cannot do."""

import errno
import json
import os
import random
import re
import tempfile
import threading
import time
from pathlib import Path

import pytest

from core.types import Question
from eval import confine, sandbox
from eval.sandbox import Limits, TestsOutcome, code_of, run_tests, same_output
from eval.sandbox_child import from_plain, to_plain

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


def test_system_calls_have_the_numbers_of_the_kernels_tables():
    tables = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
    if not all(table.exists() for table in tables):
        pytest.skip("the kernel's headers are not here")
    for column, table in enumerate(tables):
        found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", table.read_text())
        numbers = {name: int(number) for name, number in found}
        numbers["newfstatat"] = numbers.get("newfstatat", numbers.get("fstatat"))
        for known in (confine.HARMLESS, confine.CHECKED, confine.PRETENDED, confine.MISSING):
            for name, pair in known.items():
                assert pair[column] == numbers.get(name), name


def verdict(machine: str, name: str, *args: int) -> int:
    """What the filter answers, by interpreting its program."""
    column, architecture = confine.ARCHITECTURES[machine]
    numbers = {**confine.HARMLESS, **confine.CHECKED, **confine.PRETENDED, **confine.MISSING, "socket": (41, 198)}
    data = {confine.NUMBER: numbers[name][column], confine.ARCHITECTURE: architecture}
    data |= {confine.FIRST_ARGUMENT + 8 * i: arg for i, arg in enumerate(args)}
    rules = confine.instructions(machine, pid=77)
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = rules[at]
        at += 1
        if code == confine.RETURN:
            return constant
        if code == confine.IF_EQUAL:
            at += if_true if accumulator == constant else if_false
        else:
            accumulator = data[constant] if code == confine.LOAD else accumulator & constant


@pytest.mark.parametrize("machine", confine.ARCHITECTURES)
def test_the_filter_answers_as_it_says(machine):
    assert verdict(machine, "read") == verdict(machine, "exit_group") == confine.ALLOW
    assert verdict(machine, "socket") == confine.REFUSE | errno.EPERM
    assert verdict(machine, "openat", 0, 0, os.O_RDONLY | os.O_CLOEXEC) == confine.ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_TRUNC, os.O_APPEND):
        assert verdict(machine, "openat", 0, 0, flags) == confine.REFUSE | errno.EACCES
    assert verdict(machine, "clone", confine.CLONE_THREAD | 0xF00) == confine.ALLOW
    assert verdict(machine, "clone", 17) == confine.REFUSE | errno.EPERM
    assert verdict(machine, "clone3") == confine.REFUSE | errno.ENOSYS
    assert verdict(machine, "tgkill", 77) == confine.ALLOW != verdict(machine, "tgkill", 78)
    assert verdict(machine, "prlimit64", 0, 3, 0) == confine.ALLOW
    assert verdict(machine, "prlimit64", 0, 3, 5) == verdict(machine, "setrlimit") == confine.REFUSE
    assert verdict(machine, "fcntl", 3, 8) == confine.REFUSE | errno.EPERM  # F_SETOWN


# What passes


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


# What hostile code cannot do

HOSTILE_PROGRAMS = {
    "loops": "while True: pass",
    "loops, deaf to signals": "import signal\nfor s in (2, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
    "forks": "import os\nwhile True: os.fork()",
    "starts a process": "import subprocess\nprint(subprocess.check_output(['echo', '42'], text=True))",
    "becomes another program": "import os\nos.execv('/bin/echo', ['echo', '42'])",
    "takes memory": "x = bytearray(10 * 2**30)\nprint(42)",
    "takes memory bit by bit": "x = []\nwhile True: x.append(bytearray(2**24))",
    "takes memory in threads": "import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()",
    "opens a socket": "import socket\nsocket.socket()\nprint(42)",
    "opens a local socket": "import socket\nsocket.socket(socket.AF_UNIX)\nprint(42)",
    "fetches a page": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:1')\nprint(42)",
    "floods": "while True: print('42 ' * 10000)",
    "floods the errors": "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
    "ends early": "import os\nos._exit(0)\nprint(42)",
    "fails after the answer": "print(42, flush=True)\nraise SystemExit(1)",
    "writes a file": "open('x', 'w').write('x')\nprint(42)",
    "writes elsewhere": "import tempfile\ntempfile.TemporaryFile()\nprint(42)",
    "removes a file": "import os\nos.unlink(os.environ['HOME'])\nprint(42)",
    "changes a mode": "import os\nos.chmod('.', 0)\nprint(42)",
    "ends its parent": "import os\nos.kill(os.getppid(), 9)\nprint(42)",
    "ends its group": "import os\nos.killpg(0, 9)",
    "signals by input": "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())\nprint(42)",
    "traces": "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0: print(42)",
    "looks into its parent": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb', buffering=0)\nprint(42)",
    "looks at its parent's environment": "import os\nopen(f'/proc/{os.getppid()}/environ').read()\nprint(42)",
    "prints no text": "import sys\nsys.stdout.buffer.write(b'\\xff' * 100)",
    "is a null byte": "print(42)\0",
    "nests": "(" * 100000,
}


@confined
@pytest.mark.slow
@pytest.mark.parametrize("code", HOSTILE_PROGRAMS.values(), ids=HOSTILE_PROGRAMS)
def test_hostile_programs_are_wrong_and_leave_nothing(code, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started = time.perf_counter()
    outcome = program(code)
    assert outcome.correct is False and outcome.detail.startswith("test 1 of 1: "), outcome
    assert time.perf_counter() - started < 6
    assert not list(tmp_path.iterdir())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@confined
@pytest.mark.slow
def test_sleeping_ends_with_the_time_of_the_test_and_of_all():
    started = time.perf_counter()
    outcome = program("import time\ntime.sleep(60)", limits=TINY)
    assert outcome == TestsOutcome(False, "test 1 of 1: not done after 1 s")
    three = Limits(wall_seconds=5.0, total_seconds=1.5)
    outcome = program("import time\ntime.sleep(1)\nprint(42)", *[("", "42")] * 3, limits=three)
    assert outcome.detail.startswith("test 2 of 3: not done after") and time.perf_counter() - started < 5


@confined
@pytest.mark.slow
def test_code_finds_no_environment_no_files_and_not_our_packages(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    code = "import os, sys\nprint(sorted(k for k in os.environ if 'SECRET' in k), os.listdir('.'), sys.argv[2:] and '')"
    assert program(code, ("", "[] []")).correct
    assert "ModuleNotFoundError" in program("import eval.grading").detail
    assert program("import os\nprint(len([f for f in os.listdir('/proc/self/fd')]) < 6)", ("", "True")).correct


HOSTILE_FUNCTIONS = {
    "ends the process": "import os\ndef double(x): os._exit(0)",
    "ends it at once": "import os\nos._exit(0)\ndef double(x): return 0",
    "exits": "import sys\ndef double(x): sys.exit(0)",
    "equals everything": "class Yes(int):\n    def __eq__(self, o): return True\n    __hash__ = None\n"
    "def double(x): return Yes(1)",
    "equals everything, no data": "class Yes:\n    def __eq__(self, o): return True\ndef double(x): return Yes()",
    "defines its own check": "def check(candidate): pass\ndef double(x): return 0",
    "prints success": "print('passed')\nimport os\nos.write(1, b'passed')\ndef double(x): return 0",
    "patches asserts": "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\n"
    "def double(x): return 0",
    "looks up the stack": "import sys\ndef double(x):\n    f = sys._getframe()\n    while f:\n"
    "        for v in list(f.f_locals.values()):\n"
    "            if isinstance(v, dict) and 'token' in v: print(v['token'])\n"
    "        f = f.f_back\n    return 0",
    "writes to every file": "import os\ndef double(x):\n    for fd in range(64):\n        try: os.write(fd, b'\\n')\n"
    "        except OSError: pass\n    return 0",
    "answers with noise": "import os\ndef double(x):\n    for fd in range(64):\n"
    '        try: os.write(fd, b\'{"value": {"set": [{"dict": 1}]}}\\n\')\n        except OSError: pass\n    return 0',
    "patches json": "import json\njson.dumps = lambda *a: '{\"value\": true}'\ndef double(x): return 0",
    "loops": "def double(x):\n    while True: pass",
    "floods": "import os\ndef double(x):\n    while True:\n        for fd in range(64):\n"
    "            try: os.write(fd, b'1' * 65536)\n            except OSError: pass",
    "recurses": "def double(x): return double(x)",
    "returns an endless list": "def double(x):\n    a = []\n    a.append(a)\n    return a",
    "looks into the tests' process": "import os\ndef double(x):\n    for p in os.listdir('/proc'):\n"
    "        try:\n            if int(p) > os.getpid() and open(f'/proc/{p}/mem', 'rb', buffering=0): return 2 * x\n"
    "        except (ValueError, OSError): pass\n    return 0",
}


@confined
@pytest.mark.slow
@pytest.mark.parametrize("code", HOSTILE_FUNCTIONS.values(), ids=HOSTILE_FUNCTIONS)
def test_hostile_functions_do_not_pass(code):
    started = time.perf_counter()
    outcome = double(f"```python\n{code}\n```")
    assert outcome.correct is False and outcome.detail, outcome
    assert time.perf_counter() - started < 7


@confined
@pytest.mark.slow
def test_many_threads_grade_at_once():
    outcomes = []
    threads = [
        threading.Thread(target=lambda i=i: outcomes.append(program(f"print({40 + i})").correct == (i == 2)))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 8


@pytest.mark.slow
def test_trusted_code_can_run_where_it_cannot_be_confined(tmp_path):
    """Without the filter a process may start others; they are gone when the test is over."""
    file = str(tmp_path / "x")
    code = f"import subprocess\nsubprocess.Popen(['sleep', '60'])\nopen({file!r}, 'w').write('1')\nprint(42)"
    question = code_question(cases=[{"input": "", "output": "42"}], function=None)
    assert run_tests(f"```python\n{code}\n```", question, unconfined=True).correct
    assert Path(file).exists()
    running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if _reads(p) == b"sleep\x0060\x00"]
    assert not running


def _reads(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
