"""Grading by rules: one grader for benchmarks, for the difficulty filter and for checking traces.

`grade(response, question)` finds the final answer in the decoded answer part and compares it with the reference
by the rule of `question.answer_type`. No language model takes part. The answer is, in this order:

1. the last complete \\boxed{...} (or \\fbox, or `\\boxed 5$`); boxes joined by commas, "and" or "or" count as one list,
   so that "\\boxed{3} or \\boxed{5}" is not right about 5;
2. the first non-empty line after the last "Answer:" (which "Final Answer:" contains);
3. the rest of the line after the last "answer is";
4. in a response of at most `MAX_UNMARKED_CHARS` characters, the response itself: the last number of the last line
   (integer), the one option it names (letter), its last line (latex, open).

1 and 2 are the order of the released evaluator (PAPER 3.3), which then asked gpt-4o-mini, and for GPQA fell back to
"A". Here what cannot be found is wrong with `extracted=None`, and what cannot be decided has `correct=None`.

LaTeX that strings and fractions cannot decide goes to math-verify in a process of its own: its time-outs are signals,
which in any thread but the main one turn into a silent False.
"""

import atexit
import json
import os
import re
import subprocess
import sys
import threading
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from string import whitespace

from core.types import Grade, Question

GRADER = "rules-1"
MAX_UNMARKED_CHARS = 200  # about 50 tokens: longer text without a marker is working, not an answer
MAX_ANSWER_CHARS = 1000
MAX_DIGITS = 1000  # Python refuses to read integers of more than 4,300 digits
COMPARISON_SECONDS = 10.0
STARTUP_SECONDS = 120.0
ORPHAN_SECONDS = 60.0
WORKER_MEMORY_BYTES = 4 * 1024**3

UNICODE = str.maketrans(
    {c: "-" for c in "\u2010\u2011\u2012\u2013\u2212"}
    | {c: " " for c in "\u00a0\u2007\u3000"}
    | {c: '"' for c in "\u201c\u201d\u201e\u00ab\u00bb"}
    | {c: "'" for c in "\u2018\u2019"}
)
BOX = re.compile(r"\\(?:boxed|fbox)\s*")
BETWEEN_BOXES = re.compile(r"[ \t,;$]*(?:and|or)?[ \t,;$]*")
ANSWER_LINE = re.compile(r"answer\W{0,4}?:", re.IGNORECASE)  # also "**Final Answer**:"
ANSWER_IS = re.compile(r"\banswer\s+(?:is|should\s+be)\b\s*:?", re.IGNORECASE)
LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:the\s+)?(?:(?:final|correct|best)\s+)*answer\s+(?:is|should\s+be)\b\s*:?",
    re.IGNORECASE,
)
TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf)|mbox|operatorname)\s*\{([^{}]*)\}")
NUMBER = re.compile(r"(?<![\w.])(?:(?<![)\]}])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?")
OPTION = r"\(?([A-J])\)?"
OPTIONS = re.compile(rf"{OPTION}(?:\s*(?:,|;|/|&|and|or)+\s*{OPTION})*")


def grade(response: str, question: Question) -> Grade:
    """Grades the decoded answer part of one sample.

    Rules by answer_type:
        integer  equal as exact decimal numbers: "025", "25.0", "1,234" == 1234; units and prose around one number are
                 ignored, several different numbers ("25 or 26") and unevaluated expressions are wrong
        letter   the named option, A to J; a reference of several letters ("BD") must be matched as a set
        latex    equal as strings, as fractions (a non-terminating one also to six digits), else by math-verify
        open     equal as text without case, quotes, spacing, trailing period; list items and numbers one by one
        code     not gradable

    `correct` is None without a reference, for code, for a reference that cannot be read, and where math-verify ran
    out of time or memory (then `grader` says so). `extracted` is canonical for numbers and letters ("25", "B").
    """
    kind, gold = question.answer_type, question.answer
    if gold is None or not gold.strip() or kind == "code":
        return Grade(None, None, GRADER)
    if kind == "integer":
        return _grade_number(response, gold)
    if kind == "letter":
        return _grade_letter(response, gold)
    num_lines = len(_lines(gold)) if kind == "open" else 1  # the reference may be a grid of several lines
    found, _ = _find_answer(response, num_lines)
    if not found:
        return Grade(False, None, GRADER)
    if len(found) > max(MAX_ANSWER_CHARS, 2 * len(gold)):  # a loop inside the box, not an answer
        return Grade(False, found[:MAX_ANSWER_CHARS], GRADER)
    if kind == "open":
        return Grade(_same_text(gold, found), found, GRADER)
    correct, grader = _same_latex(gold, found)
    return Grade(correct, found, grader)


# --- finding the answer in the response


def _find_answer(response: str, num_lines: int = 1) -> tuple[str | None, bool]:
    """(answer, whether the response marks it as its answer). An unmarked answer is the end of a short response."""
    boxed = last_boxed(response)
    if boxed:
        return boxed, True
    for marker in (ANSWER_LINE, ANSWER_IS):
        ends = [match.end() for match in marker.finditer(response)]
        if ends:
            lines = _lines(response[ends[-1] :])
            text = "\n".join(lines[:num_lines])
            return (None if BOX.search(text) else text or None), True  # a box cut off inside is no answer
    lines = _lines(response)
    if len(response.strip()) > MAX_UNMARKED_CHARS or not lines or BOX.search(response):
        return None, False
    return "\n".join(lines[-num_lines:]), False


def last_boxed(text: str) -> str | None:
    """Content of the last complete box; boxes that stand in one list with it are joined by commas."""
    matches = list(BOX.finditer(text))
    closing = _closing_braces(text) if matches else {}
    contents: list[str] = []
    start = 0
    for match in reversed(matches):
        end, content = _box_content(text, match.end(), closing)
        if contents and (end > start or not BETWEEN_BOXES.fullmatch(text, end, start)):
            break
        if content:
            contents.insert(0, content)
            start = match.start()
    return ", ".join(dict.fromkeys(contents)) or None


def _box_content(text: str, begin: int, closing: dict[int, int]) -> tuple[int, str]:
    """(end, content) of the box whose argument begins here; no content if its braces do not close."""
    if text[begin : begin + 1] == "{":
        end = closing.get(begin, begin)
        return end + 1, _clean(text[begin + 1 : end])
    line = re.compile(r"[^$\n]{0,200}").match(text, begin)[0]  # `\boxed 25$`
    return begin + len(line), "" if BOX.search(line) else _clean(line)


def _closing_braces(text: str) -> dict[int, int]:
    """Position of the closing brace for each opening one. One pass: a model in a loop writes thousands of them."""
    opened: list[int] = []
    closing = {}
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):  # \{1,2\} are printed braces
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _lines(text: str) -> list[str]:
    return [line for line in map(_clean, text.splitlines()) if line]


def _clean(text: str) -> str:
    """One line without what surrounds an answer: "**The final answer is $\\frac12$.**" -> "\\frac12"."""
    text = text.translate(UNICODE)
    before = None
    while text != before:
        before = text
        text = text.lstrip("`:*" + whitespace).rstrip("`.,;:*" + whitespace)
        text = LEAD_IN.sub("", _without_delimiters(text))
    return text


def _without_delimiters(text: str) -> str:
    """ "$5$" -> "5", also where the other "$" is on another line; "$5$ or $6$" stays."""
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text.removeprefix(opening)
        inner = inner if inner.endswith("\\$") else inner.removesuffix(closing)
        if opening not in inner.replace("\\$", "") and closing not in inner.replace("\\$", ""):
            text = inner
    return text


def _plain(text: str) -> str:
    """Takes typography out of LaTeX: \\text{...}, spacing, \\left, \\dfrac, degree, dollar and thousands marks."""
    text = text.translate(UNICODE)
    text = re.sub(r"(?<=\d)(?:,\\!|\{,\}|\\,|[\u2009\u202f])\s*(?=\d{3}(?!\d))", ",", text)
    for _ in range(2):  # \textbf{\text{B}}
        text = TEXT_COMMAND.sub(r" \1 ", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\\!", "", text)
    text = re.sub(r"\\(?:quad|qquad)(?![a-zA-Z])|(?<!\\)\\[,;: ]|~", " ", text)
    text = re.sub(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree|\u00b0", "", text)
    text = re.sub(r"\\?\$|\*\*(?!\d)|(?<!\d)\*\*", "", text)
    return text.replace("\\%", "%").strip()


# --- integer


def _grade_number(response: str, gold: str) -> Grade:
    reference = _number(gold)
    if reference is None:
        return Grade(None, None, GRADER)
    found, marked = _find_answer(response)
    value = _number(found, last=not marked) if found else None
    if value is None:
        return Grade(False, found if marked else None, GRADER)
    digits = f"{value:f}"
    return Grade(value == reference, digits.rstrip("0").rstrip(".") if "." in digits else digits, GRADER)


def _number(text: str, last: bool = False) -> Decimal | None:
    """The one number that a text states, or the last one if `last`.

    Of an equation, the last side that is a plain number. None for several numbers or an expression (2^{10}, 25/3, 5x).
    """
    text = re.sub(r"(?<=[A-Za-z])\s*\^\s*\{?[23]\}?", "", _plain(text))  # cm^2
    text = re.sub(r"(^|=)\s*([-+])\s+(?=\d)", r"\1\2", text)
    if not last:
        text = re.split(r"(?<!\.)\.\s", text)[0]  # a sentence that explains may follow
    text = re.split(r"\b(?:is|are|equals?)\b", text)[-1] if not last else text
    for side in reversed(re.split(r"=|\\approx|\u2248", text)):
        numbers = list(NUMBER.finditer(side))
        if not numbers or re.search(r"\\[a-zA-Z]", side):
            continue
        if any(_in_expression(side, n) for n in (numbers[-1:] if last else numbers)):
            continue
        values = [Decimal(n[0].replace(",", "")) for n in numbers]
        return values[-1] if last or len(set(values)) == 1 else None
    return None


def _in_expression(text: str, number: re.Match) -> bool:
    before, after = text[: number.start()].rstrip()[-3:], text[number.end() :][:20]
    if number[0][0] in "-+" and re.search(r"[\w)\]}]$", before):
        return bool(re.search(r"[\d)\]}]$", before))  # "7 -4", but "is -4"
    return bool(
        re.search(r"[-+^_/*\u00d7\u00b7\u221a]$|\d:$", before)
        or re.match(
            r"\s*(?:[\^_*!\u00d7\u00b7{]|[-+]\s*[\d(a-z]|:\d|/(?!\s*[A-Za-z]{2}))|\(|[A-Za-z](?![A-Za-z])", after
        )
    )


# --- letter


def _grade_letter(response: str, gold: str) -> Grade:
    reference = re.sub(r"[^A-Z]", "", _plain(gold).upper())
    if not re.fullmatch(r"[A-J]+", reference):
        return Grade(None, None, GRADER)
    found, marked = _find_answer(response)
    lines = [found] if marked and found else [] if marked else _lines(response) if found else []
    named = {letters for line in lines if (letters := _letters(line, several=len(reference) > 1))}
    if len(named) != 1:  # nothing named, or lines that disagree
        return Grade(False, None, GRADER)
    letters = named.pop()
    return Grade(set(letters) == set(reference), letters, GRADER)


def _letters(text: str, several: bool = False) -> str:
    """The options a text names, sorted ("B", or "AC" where it names both); "" if it names none.

    "A" alone is an option, in "A cat" it is an article.
    """
    text = _plain(text).rstrip(". ")
    if several and re.fullmatch(r"[A-J]{2,}", text):
        return "".join(sorted(set(text)))
    if re.fullmatch(r"\(?[a-j]\)?", text):
        text = text.upper()
    options = rf"(?:(?:option|choice)s?\s+)?({OPTIONS.pattern})"
    if whole := re.fullmatch(options, text, re.IGNORECASE if re.match(r"(?i:option|choice)", text) else 0):
        return "".join(sorted(set(re.findall(r"(?<![a-zA-Z])[A-J](?![a-zA-Z])", whole[1].upper()))))
    if re.match(rf"{OPTION}\s*(?:,|;|/|&|and|or)\s*{OPTION}(?!\w)", text):  # hedging, then more words
        return ""
    if lead := re.match(r"\(([A-Ja-j])\)|(?!I, ?I)([A-J])(?=[).:,]|\s+-\s|\s+(?:is|because|since)\b)|([a-j])\)", text):
        return (lead[1] or lead[2] or lead[3]).upper()
    named = re.findall(r"(?<!\w)\(([A-J])\)|\b(?:[Oo]ption|[Cc]hoice)\s*(?:is\s*)?:?\s*([A-J])\b", text)
    options = {first or second for first, second in named}
    return options.pop() if len(options) == 1 else ""


# --- open


def _same_text(gold: str, found: str) -> bool:
    return _items(gold) == _items(found) or (_value(gold) is not None and _value(gold) == _value(found))


def _items(text: str) -> list[str | Fraction]:
    """The comma-separated items of a text, normalised; numbers as numbers. Outer brackets do not count."""
    text = TEXT_COMMAND.sub(r"\1", text.translate(UNICODE))
    text = " ".join(text.casefold().split()).replace("**", "")
    text = re.sub(r"(?<!\w)['\"`]|['\"`](?!\w)", "", text).rstrip(". ")
    text = re.sub(r"\s*([,;\[\](){}])\s*", r"\1", text)
    if re.fullmatch(r"\[[^\[\]]*\]|\([^()]*\)|\{[^{}]*\}", text):
        text = text[1:-1]
    return [item if (value := _value(item)) is None else value for item in text.split(",")]


def _value(text: str) -> Fraction | None:
    """A plain integer or decimal, with or without thousands separators."""
    text = text.translate(UNICODE).strip()
    return Fraction(text.replace(",", "")) if len(text) <= MAX_DIGITS and NUMBER.fullmatch(text) else None


# --- latex


def _same_latex(gold: str, found: str) -> tuple[bool | None, str]:
    """(equal or None, grader). Strings, words, bases and fractions are decided here, the rest by math-verify."""
    gold, found = _only_math(_clean(gold)), _only_math(found)
    form, other = _latex_form(gold), _latex_form(found)
    if form == other:
        return True, GRADER
    if letter := re.fullmatch(r"\(([A-J])\)", form):
        return _letters(found) == letter[1], GRADER
    if re.fullmatch(r"[A-Za-z]{3,}(?: [A-Za-z]+)*", _plain(gold)) and "\\" in gold:  # \text{ellipse}
        return _same_text(_plain(gold), _plain(found)), GRADER
    if base := re.fullmatch(r"(\d[0-9A-Z]*)_\d+", form):  # math-verify ignores the subscript: 52_8 == 52_7
        return other == base[1], GRADER
    value, other_value = _rational(form), _rational(other)
    if value is not None and other_value is not None and ("%" in form) == ("%" in other):
        return _same_rational(value, other_value, "." in other), GRADER
    if re.fullmatch(r"[(\[].*,.*[)\]]", form):
        if other.startswith("\\{"):  # a point or an interval is no set, though math-verify says so
            return False, GRADER
        if "," in other and other[0] not in "([":
            found = f"({found})"
    return MATH_VERIFY.compare(_plain(gold), _plain(found))


def _only_math(text: str) -> str:
    """ "The area is $5$ square metres" -> "5", if just one piece of the text is math."""
    pieces = re.findall(r"(?<!\\)\$([^$]+)(?<!\\)\$|\\\((.+?)\\\)", text)
    pieces = ["".join(pair) for pair in pieces if re.search(r"\w", "".join(pair))]
    return pieces[0] if len(pieces) == 1 else text


def _latex_form(text: str) -> str:
    """A spelling that equal LaTeX mostly shares: no spaces, no units, \\frac{1}{2} for \\frac12."""
    unit = r"(?<=[\d}])(?:\s|\\[, ]|~)*\\(?:text|mbox|mathrm)\{[^{}]*\}(?:\^\{?\d\}?)?$"
    text = "".join(_plain(re.sub(unit, "", text.strip())).split())
    if NUMBER.fullmatch(text):
        return text.replace(",", "")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})(\d)", r"\1{\2}", text)
    text = re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text)
    return re.sub(r"_\{(\w+)\}", r"_\1", re.sub(r"\^\{(\w)\}", r"^\1", text))


def _rational(form: str) -> Fraction | None:
    r"""The value of 12, -1.5, 3/4, \frac{3}{4}, -\frac{3}{4}, 1\frac{4}{5} or 6.7\times10^{-5}; else None."""
    form = form.rstrip("%")
    if len(form) > MAX_DIGITS:
        return None
    if match := re.fullmatch(r"([-+]?)(\d*)\\frac\{(-?\d+)\}\{(-?\d+)\}|([-+]?)(\d+)/(\d+)", form):
        sign, whole, numerator, denominator = match.groups()[:4] if match[3] else (match[5], "", match[6], match[7])
    elif match := re.fullmatch(
        r"([-+]?(?:\d+\.?\d*|\.\d+))(?:(?:\\times|\\cdot|\u00d7)10\^\{?([-+]?\d{1,3})\}?)?", form
    ):
        return Fraction(match[1]) * Fraction(10) ** int(match[2] or 0)
    else:
        return None
    if int(denominator) == 0:
        return None
    value = int(whole or 0) + Fraction(int(numerator), int(denominator))
    return -value if sign == "-" else value


def _same_rational(gold: Fraction, found: Fraction, found_is_decimal: bool) -> bool:
    """Exactly equal; a decimal may also stand for a fraction without an end if six digits agree (0.333333)."""
    if gold == found:
        return True
    rest = gold.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return found_is_decimal and rest > 1 and abs(found - gold) <= abs(gold) * Fraction(5, 10**6)


# --- math-verify, in a process of its own


class _MathVerify:
    """Compares by math-verify in one persistent child process, which is killed when it hangs.

    A plain child on pipes, not multiprocessing: it can be used from any thread, from daemon processes and from
    scripts without a main guard, and it ends by itself when our end of the pipe closes.
    """

    def __init__(self, seconds: float = COMPARISON_SECONDS):
        self.seconds = seconds
        self.version = ""
        self._process: subprocess.Popen | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def compare(self, gold: str, found: str) -> tuple[bool | None, str]:
        """(equal or None, grader). Raises RuntimeError if math-verify cannot be started."""
        with self._lock:
            if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
                self._start()
            reply, timed_out = self._ask(json.dumps([gold, found]), self.seconds)
        grader = f"{GRADER}+math-verify-{self.version}"
        if reply is None:
            return None, f"{grader} ({'timed out' if timed_out else 'died'})"
        equal = json.loads(reply)
        return equal, grader if equal is not None else f"{grader} (undecided)"

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _start(self) -> None:
        self.close()
        self._owner = os.getpid()  # a forked child must not share our pipes
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from eval.grading import serve_math_verify; serve_math_verify()"],
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


MATH_VERIFY = _MathVerify()
atexit.register(MATH_VERIFY.close)


def serve_math_verify() -> None:
    """The child: the version first, then for each line [gold, found] one of true, false, null (cannot tell)."""
    import faulthandler
    import logging
    import resource
    from importlib.metadata import version

    from sympy import Basic, MatrixBase

    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the parser prints warnings
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY_BYTES, WORKER_MEMORY_BYTES))

    from math_verify import parse, verify

    def compare(gold: str, found: str) -> bool | None:
        # our parent keeps the time, so math-verify's own alarms are off
        references = parse(f"${gold}$", parsing_timeout=None)
        if not any(isinstance(r, Basic | MatrixBase) for r in references):
            return None
        answers = parse(f"${found}$", parsing_timeout=None)
        options = {"allow_set_relation_comp": True, "timeout_seconds": None}
        try:
            return verify(references, answers, raise_on_error=True, **options)
        except (MemoryError, RecursionError):
            return None
        except Exception:  # noqa: BLE001 sympy may fail on one pair of readings; the others decide
            return verify(references, answers, **options)

    sys.stdin.readline()
    print(json.dumps(version("math-verify")), file=replies, flush=True)
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            # a parent killed by kill -9 cannot end a hang; this watchdog does, whoever holds the interpreter lock
            faulthandler.dump_traceback_later(ORPHAN_SECONDS, exit=True, file=nowhere)
            print(json.dumps(compare(*json.loads(line))), file=replies, flush=True)
            faulthandler.cancel_dump_traceback_later()


def same_answer(a: str, b: str, answer_type: str) -> bool:
    """Are two extracted answers one answer?"""
    return a == b
