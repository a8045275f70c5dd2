"""math-verify in a process of its own: the one place where sympy reads what a model wrote.

Its own time-outs are signals, which in any thread but the main one turn into a silent False; and an expression like
9^{9^{9}} keeps the interpreter inside one operation, where no signal is seen. So it runs in a child, which is killed
when it hangs and starts again with the next question.
"""

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

from eval.numbers import Number, same_number

COMPARISON_SECONDS = 10.0
STARTUP_SECONDS = 120.0
ORPHAN_SECONDS = 60.0
WORKER_MEMORY_BYTES = 4 * 1024**3
# (value of the first symbol, step from one symbol to the next), in 1/10,000
POSITIVE_POINTS = ((7312, 3871), (14139, 2371), (39173, -2719))
ALL_POINTS = (*POSITIVE_POINTS, (-4139, 22371), (19173, -8311))
LONG_DECIMAL = re.compile(r"(?=[\d.]{7})\d*\.\d+")
DIGITS = 30  # of numerical comparisons


class MathVerify:
    """Compares in one persistent child process.

    A plain child on pipes, not multiprocessing: it can be used from any thread, from daemon processes and from
    scripts without a main guard, and it ends by itself when our end of the pipe closes.
    """

    def __init__(self, seconds: float = COMPARISON_SECONDS):
        self.seconds = seconds
        self.version = ""
        self.num_starts = 0
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def compare(self, gold: str, found: str) -> tuple[bool | None, str]:
        """(equal or None, name and version, with the reason where it is None).

        Raises RuntimeError if math-verify cannot be started.
        """
        with self._lock:
            if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
                self._start()
            reply, timed_out = self._ask(json.dumps([gold, found]), self.seconds)
        name = f"math-verify-{self.version}"
        if reply is None:
            return None, f"{name} ({'timed out' if timed_out else 'died'})"
        equal = json.loads(reply)
        return equal, name if equal is not None else f"{name} (undecided)"

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _start(self) -> None:
        self.close()
        self.num_starts += 1
        self._owner = os.getpid()  # a forked child must not share our pipes
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from eval.math_verify import serve; serve()"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        version, _ = self._ask("", STARTUP_SECONDS)
        if version is None:
            raise RuntimeError("math-verify could not be started; its process says why above")
        self.version = json.loads(version)

    def _ask(self, line: str, seconds: float) -> tuple[str | None, bool]:
        """(reply line, timed out). No reply means that the process is dead."""
        process, timed_out = self._process, threading.Event()

        def kill():
            timed_out.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        timer.cancel()
        timer.join()
        if timed_out.is_set() or not reply:
            process.wait()
        return reply or None, timed_out.is_set()


MATH_VERIFY = MathVerify()
atexit.register(MATH_VERIFY.close)


def serve() -> None:
    """The child: the version first, then for each line [gold, found] one of true, false, null (cannot tell)."""
    import faulthandler
    import logging
    import resource
    from importlib.metadata import version

    import sympy  # noqa: F401 before the memory limit, which its import may need

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the parser prints warnings
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY_BYTES, WORKER_MEMORY_BYTES))

    sys.stdin.readline()
    print(json.dumps(version("math-verify")), file=replies, flush=True)
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            # a parent killed by kill -9 cannot end a hang; this watchdog does, whoever holds the interpreter lock
            faulthandler.dump_traceback_later(ORPHAN_SECONDS, exit=True, file=nowhere)
            print(json.dumps(_compare(*json.loads(line))), file=replies, flush=True)
            faulthandler.cancel_dump_traceback_later()


def _compare(gold: str, found: str) -> bool | None:
    """Numbers and expressions by their values, everything else (equations, sets, matrices) by math-verify's rules."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from sympy import Basic, MatrixBase

    # units are read before, and 10m is not 10; our parent keeps the time, so math-verify's own alarms are off
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    )
    configs = (LatexExtractionConfig(normalization_config=normalization), ExprExtractionConfig())
    try:
        references, answers = (parse(f"${text}$", configs, parsing_timeout=None) for text in (gold, found))
        if not any(isinstance(r, Basic | MatrixBase) for r in references):
            return None
        if answers:
            try:
                equal = _same_values(references[0], answers[0], gold, found)
            except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
                equal = None  # sympy on what has no value, such as 4i < x
            if equal is not None:
                return equal
        options = {"allow_set_relation_comp": True, "timeout_seconds": None}
        try:
            return verify(references, answers, raise_on_error=True, **options)
        except (MemoryError, RecursionError):
            return None
        except Exception:  # noqa: BLE001 sympy may fail on one pair of readings; the others decide
            return verify(references, answers, **options)
    except (MemoryError, RecursionError, OverflowError):
        return None


def _same_values(gold, found, gold_text: str, found_text: str) -> bool | None:
    """Do two expressions have the same values (at a few points), two relations the same sides up to a factor?

    math-verify compares six decimals, for which 1/2016 is 1/2017. None where there is no value to compare, and for
    relations that are no multiples of each other (the solutions may agree all the same).
    """
    from sympy import Expr
    from sympy.core.relational import Relational

    gold, found = (_exact(expression) for expression in (gold, found))
    if isinstance(gold, Relational) and isinstance(found, Relational):
        return True if _is_multiple(gold, found) else None
    if not (isinstance(gold, Expr) and isinstance(found, Expr)):
        return None
    pairs = _values(gold, found)
    if not pairs:
        return None
    if not (gold.free_symbols | found.free_symbols) and all(value.is_real for value in pairs[0]):
        values = (Fraction(str(value)) for value in pairs[0])
        return same_number(Number(next(values), gold_text), Number(next(values), found_text), slack=Fraction(1, 10**20))
    # a decimal of six digits inside an expression stands for what it rounds
    slack = 1e-5 if any(LONG_DECIMAL.search(text) for text in (gold_text, found_text)) else 1e-18
    return all(_close(a, b, slack) for a, b in pairs)


def _is_multiple(gold, found) -> bool:
    """Do two relations say the same of one expression, up to a factor (a positive one for inequalities)?"""
    from sympy import Eq, Ge, Gt, Ne

    turned = [relation.reversed if isinstance(relation, Ge | Gt) else relation for relation in (gold, found)]
    if turned[0].func is not turned[1].func:
        return False
    pairs = _values(*(relation.lhs - relation.rhs for relation in turned))
    ratios = [a / b for a, b in pairs if a and b]
    steady = len(ratios) > 1 and all(_close(ratio, ratios[0]) for ratio in ratios)
    return steady and (isinstance(gold, Eq | Ne) or bool(ratios[0] > 0))


def _exact(expression):
    """1.3 as 13/10 (sympy has its nearest float), and i as the imaginary unit."""
    from sympy import Float, I, Rational, Symbol

    if not hasattr(expression, "xreplace"):
        return expression
    exact = {number: Rational(str(number)) for number in expression.atoms(Float)}
    return expression.xreplace(exact | {symbol: I for symbol in expression.atoms(Symbol) if symbol.name == "i"})


def _close(a, b, slack: float = 1e-18) -> bool:
    difference = abs(a - b)
    return bool(difference <= slack * max(abs(a), abs(b)) or (0 in (a, b) and difference < 1e-20))


def _values(gold, found) -> list[tuple]:
    """Values of both at the points where both have one, to `DIGITS` digits."""
    from sympy import Abs, Pow, Rational

    symbols = sorted(gold.free_symbols | found.free_symbols, key=str)
    # \\sqrt{x^2} is x where textbooks take unknowns to be positive; |x| is not
    points = ALL_POINTS if gold.has(Abs) or found.has(Abs) or not gold.has(Pow) else POSITIVE_POINTS
    values = []
    for first, step in points if symbols else points[:1]:
        point = {symbol: Rational(first + i * step, 10_000) for i, symbol in enumerate(symbols)}
        pair = tuple(expression.evalf(DIGITS, subs=point) for expression in (gold, found))
        if all(value.is_number and value.is_finite for value in pair):
            values.append(pair)
    return values
