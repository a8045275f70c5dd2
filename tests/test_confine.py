"""What hostile code cannot do: the system call filter, the limits, and tests that cannot be talked into passing."""

import errno
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from code_questions import TINY, code_question, confined, double, program

from eval import confine
from eval.math_verify import MATH_VERIFY
from eval.sandbox import Limits, TestsOutcome, run_tests

# The filter


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
    MATH_VERIFY.close()  # of tests before, in the same process
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


@confined
@pytest.mark.slow
def test_a_grader_that_is_killed_leaves_nothing_running():
    code = (
        "from eval.sandbox import *\ntests = {'cases': [{'input': '', 'output': ''}], 'function': None}\n"
        "question = Question.of('?', None, 'code', 'test', 'test', tests=tests)\n"
        "run_tests('```python\\nimport time\\ntime.sleep(600)\\n```', question, Limits(wall_seconds=600.0))"
    )
    grader = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    children = Path(f"/proc/{grader.pid}/task/{grader.pid}/children")
    until(lambda: any(b"sandbox_child" in _reads(Path(f"/proc/{c}/cmdline")) for c in children.read_text().split()))
    child = children.read_text().split()[0]
    time.sleep(0.5)
    grader.kill()
    grader.wait()
    until(lambda: b"sandbox_child" not in _reads(Path(f"/proc/{child}/cmdline")))


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_trusted_code_can_run_where_it_cannot_be_confined(tmp_path):
    """Without the filter a process may start others; they are gone when the test is over."""
    file, nap = str(tmp_path / "x"), f"60.{os.getpid()}"
    code = f"import subprocess\nsubprocess.Popen(['sleep', {nap!r}])\nopen({file!r}, 'w').write('1')\nprint(42)"
    question = code_question(cases=[{"input": "", "output": "42"}], function=None)
    assert run_tests(f"```python\n{code}\n```", question, unconfined=True).correct
    assert Path(file).exists()
    asleep = f"sleep\0{nap}\0".encode()
    until(lambda: all(_reads(p) != asleep for p in Path("/proc").glob("[0-9]*/cmdline")))


def _reads(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
