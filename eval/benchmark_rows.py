"""One row of a benchmark, as its authors publish it, becomes a Question: prompt, reference answer, options, tests."""

import base64
import io
import json
import math
import pickle
import random
import re
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, get_args

from core.config import option
from core.types import AnswerType, Question, question_id
from eval.answers import last_boxed

READINGS = ("field", "boxed", "hashes")
TEST_FORMATS = ("humaneval", "stdin", "livecodebench")
MAX_OPTIONS = 10  # the grader knows the letters A to J


@dataclass
class Benchmark:
    """Where a benchmark is, and how one of its rows becomes a question. Columns are tried in the order given; the first
    that a row has and fills is read."""

    name: str = option(help="in tables and file names")
    hub_id: str | None = option(None, help="dataset on the hub; null: local files alone")
    config: str | None = option(None, help="its config on the hub")
    split: str = option("test", help="its split on the hub")
    revision: str | None = option(None, help="commit on the hub; null reads the newest, and the run records which")
    address: str | None = option(None, help="JSON Lines file on the hub, where its dataset is a script")
    files: list[str] = option([], help="local files below root; the first that is there is read")
    only: dict[str, str] = option({}, help="{column: text}: rows that have the column are read if it holds the text")
    question: list[str] = option(["question", "problem"], help="columns of the question")
    prompt: str = option("{question}", help="what the model is asked; {question} and {any column} are filled in")
    answer: list[str] = option(["answer"], help="columns of the reference answer; [] where tests decide")
    answer_from: str = option("field", help=f"how the answer column is read: {', '.join(READINGS)}")
    answer_type: str = option(help=f"how answers are compared: {', '.join(get_args(AnswerType))}")
    choices: list[str] = option([], help="column of the options, or one column an option, the right one first")
    shuffle: bool = option(False, help="put the options in an order drawn from the seed and the question")
    tests: str | None = option(None, help=f"format of the tests of code questions: {', '.join(TEST_FORMATS)}")
    domain: list[str] = option([], help="columns of the subject, for accuracy by subject")
    repeats: int = option(1, help="samples a question where temperature > 0 and the run names no number")
    expected: int | None = option(None, help="number of questions; another number is an error. null: any")
    duplicates: str = option("error", help="the same question twice: error, or first (read once)")


class BadRow(Exception):
    """What is wrong with a row, in words that follow "row 3:"."""


def question_of(benchmark: Benchmark, row: Mapping[str, Any], seed: int) -> Question:
    """Raises BadRow for a column that is missing, and an answer, options or tests that cannot be read."""
    text = _filled(row, benchmark.question, "question")
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"the question is not text but {str(text)[:50]!r}")
    text = _prompt(benchmark.prompt, text.strip(), row)
    domain = str(_filled(row, benchmark.domain, "domain")) if benchmark.domain else benchmark.name
    about = {"source": benchmark.hub_id or benchmark.name, "domain": domain}
    if benchmark.choices:
        return _multiple_choice(benchmark, row, text, seed, about)
    if benchmark.tests:
        return Question.of(text, None, "code", **about, tests=tests_of(benchmark.tests, row))
    answer = reference_of(_filled(row, benchmark.answer, "answer"), benchmark.answer_from)
    if benchmark.answer_type == "integer":
        answer = plain_number(answer)
    return Question.of(text, answer, benchmark.answer_type, **about)


def _prompt(template: str, text: str, row: Mapping[str, Any]) -> str:
    def fill(match: re.Match) -> str:
        if match[1] != "question" and match[1] not in row:
            raise BadRow(f"prompt: there is no column {match[1]}; the columns are {', '.join(map(str, row))}")
        return text if match[1] == "question" else str(row[match[1]] or "")

    return re.sub(r"\{(\w+)\}", fill, template).strip()


def _filled(row: Mapping[str, Any], columns: Sequence[str], key: str) -> Any:
    """The first of the columns that the row fills."""
    for column in columns:
        value = row.get(column)
        if value is not None and value != "":
            return value
    raise BadRow(f"{key}: no value in {' or '.join(columns)}; the columns are {', '.join(map(str, row))}")


# --- answers


def reference_of(value: Any, reading: str) -> str:
    """The reference answer in a cell.

    field   the cell itself, a number as text; where it holds a \\boxed{...}, the content of the last one
    boxed   the content of the last \\boxed{...}, in a worked solution
    hashes  what follows the last "####" (GSM8K)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRow(f"the answer is neither text nor a number but {str(value)[:50]!r}")
    text = str(value).strip()
    if reading == "hashes":
        _, found, text = text.rpartition("####")
        if not found:
            raise BadRow(f"no #### before the answer, in {text[-50:]!r}")
    elif reading == "boxed" or "\\boxed" in text:
        boxed = last_boxed(text)
        if boxed is None:
            raise BadRow(f"no complete \\boxed{{...}} in {text[-50:]!r}")
        text = boxed
    if not text.strip():
        raise BadRow("the answer is empty")
    return text.strip()


def plain_number(text: str) -> str:
    """ "025", "70.0", "1,234" and "$18" as "25", "70", "1234" and "18": one form for one number."""
    try:
        value = Decimal(text.replace(",", "").strip(" $"))
        if not math.isfinite(value) or value.adjusted() > 100:
            raise InvalidOperation
    except InvalidOperation:
        raise BadRow(f"the answer is no number but {text[:50]!r}") from None
    digits = f"{value:f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


# --- options


def _multiple_choice(
    benchmark: Benchmark, row: Mapping[str, Any], text: str, seed: int, about: dict[str, str]
) -> Question:
    """The prompt of the released evaluator: question, blank line, "A) ...", one option a line.

    Where options are shuffled, the id is that of the prompt with its options sorted, and the order is drawn from the
    seed and the id: neither depends on the other rows, nor the id on the order.
    """
    options, labels = _options(benchmark, row)
    right = 0 if len(benchmark.choices) > 1 else _index(_filled(row, benchmark.answer, "answer"), options, labels)
    order = list(range(len(options)))
    id = question_id(with_options(text, sorted(options) if benchmark.shuffle else options))
    drawn = {}
    if benchmark.shuffle:
        random.Random(f"{seed} {id}").shuffle(order)
        drawn = {"choice_order": order, "choice_seed": seed}
    prompt = with_options(text, [options[i] for i in order])
    letter = string.ascii_uppercase[order.index(right)]
    return Question(id, prompt, letter, "letter", **about, metadata=drawn)


def with_options(text: str, options: Sequence[str]) -> str:
    lines = (f"{letter}) {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))
    return f"{text}\n\n" + "\n".join(lines)


def _options(benchmark: Benchmark, row: Mapping[str, Any]) -> tuple[list[str], list[str] | None]:
    """(options, their labels where the row has some). A column holds a list, or {"text": [...], "label": [...]}."""
    if len(benchmark.choices) > 1:
        texts, labels = [row.get(column) for column in benchmark.choices], None
    else:
        value = _filled(row, benchmark.choices, "choices")
        texts, labels = (value.get("text"), value.get("label")) if isinstance(value, Mapping) else (value, None)
    if not isinstance(texts, list) or any(not str(t).strip() or t is None for t in texts):
        raise BadRow(f"choices: an option is missing or empty, in {str(texts)[:80]}")
    if not 2 <= len(texts) <= MAX_OPTIONS or (labels is not None and len(labels) != len(texts)):
        raise BadRow(f"choices: {len(texts)} options, with {len(labels or texts)} labels; 2 to {MAX_OPTIONS} can be")
    return [str(t).strip() for t in texts], None if labels is None else [str(label).strip() for label in labels]


def _index(answer: Any, options: Sequence[str], labels: Sequence[str] | None) -> int:
    """The option that the answer names: by a label of the row (ARC's are A-D or 1-4), else by an index from 0 (MMLU) or
    a letter (MMLU-Pro)."""
    name = str(answer).strip()
    if labels is None:
        labels = [str(i) for i in range(len(options))] if name.isdigit() else string.ascii_uppercase[: len(options)]
    if not name or name not in labels:
        raise BadRow(f"the answer {name[:50]!r} names none of the {len(options)} options")
    return labels.index(name)


# --- tests of code questions


def tests_of(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """What eval/sandbox.py runs. {"prompt", "test", "entry_point"} as HumanEval has it, or {"cases": [{"input",
    "output"}], "function": None or the name that is called with the JSON values of `input`, one a line}."""
    if kind == "humaneval":
        return {key: _text(row, key) for key in ("prompt", "test", "entry_point")}
    if kind == "stdin":
        return {"cases": _cases(row.get("tests"), "tests"), "function": None}
    cases = _cases(row.get("public_test_cases"), "public_test_cases")
    cases += _cases(row.get("private_test_cases"), "private_test_cases")
    function = _json(row.get("metadata") or "{}", "metadata").get("func_name")
    for text in (part for case in cases for part in (*case["input"].split("\n"), case["output"]) if function):
        if text.strip():
            _json(text, "a test of a function")
    return {"cases": cases, "function": function}


def _text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row.get(column), str):
        raise BadRow(f"tests: no text in {column}; the columns are {', '.join(map(str, row))}")
    return row[column]


def _cases(value: Any, column: str) -> list[dict[str, str]]:
    cases = _json(value, column)
    if not isinstance(cases, list) or not cases or not all(isinstance(c, Mapping) for c in cases):
        raise BadRow(f"tests: {column} is no list of {{input, output}} but {str(cases)[:50]!r}")
    for case in cases:
        if not isinstance(case.get("input"), str) or not isinstance(case.get("output"), str):
            raise BadRow(f"tests: a case of {column} lacks input or output as text")
    return [{"input": c["input"], "output": c["output"]} for c in cases]


def _json(value: Any, column: str) -> Any:
    """A JSON text, or, as LiveCodeBench has its private tests, one that is pickled, deflated and in base64."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return json.loads(_TextUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(value)))).load())
    except (ValueError, zlib.error, EOFError, pickle.UnpicklingError, TypeError):
        raise BadRow(f"tests: {column} is not JSON") from None


class _TextUnpickler(pickle.Unpickler):
    """Reads plain values; whatever would call something is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refused: {module}.{name}")
