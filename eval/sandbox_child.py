"""The processes that eval/sandbox.py starts. Each limits and confines itself, then runs code that nobody has read.

program   runs the code as a script, on the standard input and output it was started with
serve     runs the code, then calls one of its functions for each request on standard input
check     runs HumanEval's tests; the function they test is in a `serve` process, so that the tested code can reach
          neither the tests nor the word that tells they have passed
probe     tries what a confined process must not be able to do
"""

import builtins
import ctypes
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

from eval.confine import confine

STACK_BYTES = 256 * 1024**2
MAX_OPEN_FILES = 64
PR_SET_PDEATHSIG = 1
BROKEN_TESTS = 3  # exit status of `check`: the tests themselves cannot be run


def main(job_fd: int) -> None:
    sys.path.pop(0)  # our own packages
    with os.fdopen(job_fd, encoding="utf-8") as file:
        job = json.load(file)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a grader killed by kill -9 leaves nothing behind
    mode = {"program": program, "serve": serve, "check": check, "probe": probe}[job["mode"]]
    sys.set_int_max_str_digits(0)
    limit(job["limits"])
    mode(job, confine if job["confined"] else lambda: None)


def limit(limits: dict[str, int]) -> None:
    for what, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["output_bytes"]),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = STACK_BYTES if hard == resource.RLIM_INFINITY else min(hard, STACK_BYTES)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))


def program(job: dict[str, Any], confine: Callable[[], None]) -> None:
    confine()
    run(job["variants"], "__main__")


def serve(job: dict[str, Any], confine: Callable[[], None]) -> None:
    """Requests and replies are lines of JSON: {"args", "kwargs"}, and {"value"} or {"error"}. What the code prints goes
    nowhere."""
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    confine()
    namespace = run(job["variants"], "solution")
    function = namespace.get(job["function"])
    if function is None and "Solution" in namespace:
        function = getattr(namespace["Solution"](), job["function"], None)
    if not callable(function):
        raise SystemExit(f"the code defines no function {job['function']}")
    for line in requests:
        request = json.loads(line)
        try:
            value = function(*from_plain(request["args"]), **from_plain(request["kwargs"]))
            reply = {"value": to_plain(value)}
        except Exception as error:  # noqa: BLE001 the tests may expect it
            reply = {"error": [type(error).__name__, str(error)[:1000]]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def check(job: dict[str, Any], confine: Callable[[], None]) -> None:
    """Prints job["token"] when all tests have passed."""
    requests = os.fdopen(job["requests_fd"], "w", encoding="utf-8")
    replies = os.fdopen(job["replies_fd"], encoding="utf-8")
    confine()

    def candidate(*args: Any, **kwargs: Any) -> Any:
        requests.write(json.dumps({"args": to_plain(args), "kwargs": to_plain(kwargs)}) + "\n")
        requests.flush()
        line = replies.readline()
        if not line:
            raise RuntimeError("the code ended before it answered")
        reply = json.loads(line)
        if "error" in reply:
            name, text = reply["error"]
            kind = getattr(builtins, name, None)
            raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError)(text)
        return from_plain(reply["value"])

    try:
        namespace = run([[head] for head in job["heads"]], "tests")  # what the prompt gives beside the head
        namespace[job["function"]] = candidate
        exec(compile(job["test"], "tests.py", "exec"), namespace)
        test = namespace["check"]
    except Exception as error:  # noqa: BLE001
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(BROKEN_TESTS) from None
    test(candidate)
    print(job["token"], flush=True)


def probe(job: dict[str, Any], confine: Callable[[], None]) -> None:
    """Prints job["token"] if it can, once confined, neither reach the network nor start a process nor write a file."""
    import socket

    confine()

    def start_process() -> None:
        if os.fork() == 0:
            os._exit(0)

    for attempt in (socket.socket, start_process, lambda: open("file", "w"), lambda: os.kill(os.getppid(), 0)):
        try:
            attempt()
        except OSError:
            continue
        raise SystemExit("the system call filter does not hold here")
    print(job["token"], flush=True)


def run(variants: list[list[str]], name: str) -> dict[str, Any]:
    """Runs the first variant that compiles (else the last, for its error), its parts one after the other, as a module.
    Returns its names."""
    for parts in variants:
        try:
            codes = [compile(part, "solution.py", "exec", dont_inherit=True) for part in parts]
            break
        except (SyntaxError, ValueError):
            if parts is variants[-1]:
                raise
    module = types.ModuleType(name)
    sys.modules[name] = module
    for code in codes:
        exec(code, module.__dict__)
    return module.__dict__


# --- values between processes: what cannot lie about being equal


def to_plain(value: Any) -> Any:
    """A value as JSON. Raises TypeError for what is not data."""
    for kind in (bool, int, float, str):  # exact: a subclass may say that it equals everything
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [to_plain(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if hasattr(value, "tolist"):  # numpy
        return to_plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} is no data that can be compared")


def from_plain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "complex":
        return complex(*items)
    if kind == "bytes":
        return bytes.fromhex(items)
    if kind == "dict":
        return {from_plain(key): from_plain(item) for key, item in items}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](map(from_plain, items))
