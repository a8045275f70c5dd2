"""Grading by rules: one grader for benchmarks, for the difficulty filter and for checking traces.

`grade(response, question)` finds the final answer in the decoded answer part (`eval.answers`) and compares it with the
reference by the rule of `question.answer_type`. No language model takes part. What cannot be found is wrong with
`extracted=None`, and what cannot be decided has `correct=None`.
"""

import re
from decimal import Decimal
from fractions import Fraction

from core.types import AnswerType, Grade, Question
from eval.answers import UNICODE, clean, find_answer, lines_of
from eval.equality import Comparison, Undecided
from eval.latex import bare
from eval.numbers import MAX_DIGITS, NUMBER
from eval.sandbox import run_tests

GRADER = "rules-2"  # a new number for every change of what is right or wrong
MAX_ANSWER_CHARS = 1000

TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf)|mbox|operatorname)\s*\{([^{}]*)\}")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
DAY, YEAR = r"(\d{1,2})(?:st|nd|rd|th)?", r"(?:,? (\d{4}))?"
OPTION = r"\(?([A-J])\)?"
OPTIONS = re.compile(rf"{OPTION}(?:\s*(?:,|;|/|&|and|or)+\s*{OPTION})*")


def grade(response: str, question: Question) -> Grade:
    """Grades the decoded answer part of one sample.

    Rules by answer_type:
        integer  equal as exact decimal numbers: "025", "25.0", "1,234" == 1234; units and prose around one number are
                 ignored, several different numbers ("25 or 26") and unevaluated expressions are wrong
        letter   the named option, A to J; a reference of several letters ("BD") must be matched as a set
        latex    equal as numbers with units, lists, sets, intervals, matrices, relations, expressions, words: see
                 `eval.equality` and `eval.numbers`
        open     equal as text without case, quotes, spacing, trailing period; list items and numbers one by one; dates
        code     right if it passes the tests of the question (`eval.sandbox`)

    `correct` is None without a reference or tests, for a reference that cannot be read, and where math-verify could
    not tell (then `grader` says why). `extracted` is canonical for numbers and letters ("25", "B").
    """
    kind, gold = question.answer_type, question.answer
    if kind == "code":
        outcome = run_tests(response, question)
        return Grade(outcome.correct, None, f"{GRADER} (tests: {outcome.detail})" if outcome.detail else GRADER)
    if gold is None or not gold.strip():
        return Grade(None, None, GRADER)
    if kind == "integer":
        return _grade_number(response, gold)
    if kind == "letter":
        return _grade_letter(response, gold)
    num_lines = len(lines_of(gold)) if kind == "open" else 1  # the reference may be a grid of several lines
    found, _ = find_answer(response, num_lines)
    if not found:
        return Grade(False, None, GRADER)
    if len(found) > max(MAX_ANSWER_CHARS, 2 * len(gold)):  # a loop inside the box, not an answer
        return Grade(False, found[:MAX_ANSWER_CHARS], GRADER)
    if kind == "open":
        return Grade(_same_text(gold, found), found, GRADER)
    correct, grader = _same_latex(gold, found)
    return Grade(correct, found, grader)


def same_answer(a: str, b: str, answer_type: AnswerType) -> bool:
    """Are two extracted answers (`Grade.extracted`) one answer? For votes: no reference takes part.

    What cannot be decided counts as two answers.
    """
    if a == b:
        return True
    if answer_type == "integer":
        value = _number(a)
        return value is not None and value == _number(b)
    if answer_type == "letter":
        return set(a) == set(b)
    if answer_type == "latex" and max(len(a), len(b)) <= MAX_ANSWER_CHARS:
        return _same_latex(a, b)[0] is True
    return answer_type == "open" and _same_text(a, b)


# --- integer


def _grade_number(response: str, gold: str) -> Grade:
    reference = _number(gold)
    if reference is None:
        return Grade(None, None, GRADER)
    found, marked = find_answer(response)
    value = _number(found, last=not marked) if found else None
    if value is None:
        return Grade(False, found if marked else None, GRADER)
    digits = f"{value:f}"
    return Grade(value == reference, digits.rstrip("0").rstrip(".") if "." in digits else digits, GRADER)


def _number(text: str, last: bool = False) -> Decimal | None:
    """The one number that a text states, or the last one if `last`.

    Of an equation, the last side that is a plain number. None for several numbers or an expression (2^{10}, 25/3, 5x).
    """
    text = re.sub(r"(?<=[A-Za-z])\s*\^\s*\{?[23]\}?", "", bare(text))  # cm^2
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
    reference = re.sub(r"[^A-Z]", "", bare(gold).upper())
    if not re.fullmatch(r"[A-J]+", reference):
        return Grade(None, None, GRADER)
    found, marked = find_answer(response)
    lines = [found] if marked and found else [] if marked else lines_of(response) if found else []
    named = {letters for line in lines if (letters := _letters(line, several=len(reference) > 1))}
    if len(named) != 1:  # nothing named, or lines that disagree
        return Grade(False, None, GRADER)
    letters = named.pop()
    return Grade(set(letters) == set(reference), letters, GRADER)


def _letters(text: str, several: bool = False) -> str:
    """The options a text names, sorted ("B", or "AC" where it names both); "" if it names none.

    "A" alone is an option, in "A cat" it is an article.
    """
    text = bare(text).rstrip(". ")
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
    if (date := _date(gold)) is not None:
        return date == _date(found)
    return _items(gold) == _items(found) or (_value(gold) is not None and _value(gold) == _value(found))


def _date(text: str) -> tuple[int, int, int | None] | None:
    """(month, day, year) of "March 5, 2020", "5 Mar 2020", "2020-03-05", "5th of March"."""
    text = TEXT_COMMAND.sub(r"\1", text.translate(UNICODE)).strip(" .*")
    if match := re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", text):
        return int(match[2]), int(match[3]), int(match[1])
    match = re.fullmatch(rf"{DAY} (?:of )?{MONTH}{YEAR}|{MONTH} (?:the )?{DAY}{YEAR}", text, re.IGNORECASE)
    if not match:
        return None
    day, month, year = (
        first or second for first, second in zip(match.groups()[:3], (match[5], match[4], match[6]), strict=True)
    )
    return MONTHS.index(month[:3].lower()) + 1, int(day), int(year) if year else None


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
    """(equal or None, grader)."""
    comparison = Comparison()
    try:
        equal = comparison.same(clean(gold), found)
    except Undecided as reason:
        return None, f"{GRADER} ({reason})"
    return equal, f"{GRADER}+{comparison.grader}" if comparison.grader else GRADER
