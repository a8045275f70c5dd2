"""Rows with options, and rows with tests, in their authors' formats."""

import base64
import json
import pickle
import zlib
from collections import Counter

import pytest
from test_benchmarks import benchmark

from core.config import UserError
from core.types import write_jsonl
from eval.benchmarks import load_benchmark

# Options

GPQA = {"choices": ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
        "question": ["Question"], "answer_type": "letter", "shuffle": True}  # fmt: skip


def gpqa_rows(n: int) -> list[dict]:
    options = {name: f"{name}\n" for name in GPQA["choices"]}
    return [{"Question": f"Which of {i}?", **options, "Canary String": "x"} for i in range(n)]


def test_options_are_shuffled_by_seed_and_question_alone(tmp_path):
    path = benchmark(tmp_path, gpqa_rows(50), **GPQA)
    questions = {q.id: q for q in load_benchmark(path, seed=1)[1]}
    first = questions[next(iter(questions))]
    lines = first.text.split("\n")
    assert lines[:2] == ["Which of 0?", ""] and [line[:3] for line in lines[2:]] == ["A) ", "B) ", "C) ", "D) "]
    for question in questions.values():
        assert f"\n{question.answer}) Correct Answer" in question.text
        assert question.metadata["choice_seed"] == 1
    counts = Counter(q.answer for q in questions.values())
    assert set(counts) == set("ABCD") and min(counts.values()) > 4
    # fewer rows, in another order: the same questions
    write_jsonl(tmp_path / "own.jsonl", reversed(gpqa_rows(7)))
    fewer = load_benchmark(path, seed=1)[1]
    assert [(q.id, q.text, q.answer) for q in fewer] == [(i, questions[i].text, questions[i].answer)
                                                         for i in (q.id for q in fewer)]  # fmt: skip
    # another seed: the same ids, another order
    other = load_benchmark(path, seed=2)[1]
    assert {q.id for q in other} == {q.id for q in fewer}
    assert {q.text for q in other} != {q.text for q in fewer}


@pytest.mark.parametrize(
    ("row", "keys", "answer"),
    [
        ({"choices": ["a", "b", "c"], "answer": 2}, {}, "C"),
        ({"choices": ["a", "b"], "answer": "1"}, {}, "B"),
        ({"options": ["a", "b"], "answer": "B", "answer_index": 1}, {"choices": ["options"]}, "B"),
        ({"choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"}, {"answer": ["answerKey"]}, "A"),
        ({"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}, {"answer": ["answerKey"]}, "B"),
    ],
    ids=["MMLU", "index as text", "MMLU-Pro", "ARC 1-4", "ARC A-D"],
)
def test_the_right_option_in_many_forms(tmp_path, row, keys, answer):
    keys = {"choices": ["choices"], "answer_type": "letter"} | keys
    (question,) = load_benchmark(benchmark(tmp_path, [{"question": "Q?", **row}], **keys))[1]
    assert question.answer == answer and question.text.startswith("Q?\n\nA) a\nB) b")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "answer": 2}, "the answer '2' names none of the 2 options"),
        ({"choices": ["a", "b"], "answer": "E"}, "the answer 'E' names none"),
        ({"choices": ["a", ""], "answer": 0}, "an option is missing or empty"),
        ({"choices": "a or b", "answer": 0}, "an option is missing or empty"),
        ({"choices": ["a"] * 11, "answer": 0}, "11 options, with 11 labels; 2 to 10 can be"),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}, "answer": "A"}, "2 options, with 1 labels"),
        ({"answer": 0}, "choices: no value in choices"),
    ],
)
def test_what_is_wrong_with_options(tmp_path, row, message):
    path = benchmark(tmp_path, [{"question": "Q?", **row}], choices=["choices"], answer_type="letter")
    with pytest.raises(UserError, match=f"row 1: .*{message}"):
        load_benchmark(path)


# Code


def test_tests_of_code_questions(tmp_path):
    keys = {"answer_type": "code", "answer": []}
    row = {"prompt": "def f():\n", "test": "def check(c): pass", "entry_point": "f", "canonical_solution": "x"}
    path = benchmark(tmp_path, [row], tests="humaneval", question=["prompt"], prompt="Do:\n{question}", **keys)
    (question,) = load_benchmark(path)[1]
    assert question.text == "Do:\ndef f():" and question.answer is None
    assert question.metadata["tests"] == {k: row[k] for k in ("prompt", "test", "entry_point")}
    case = {"input": "1\n", "output": "2\n"}
    path = benchmark(tmp_path, [{"problem": "P", "tests": [case]}], tests="stdin", **keys)
    assert load_benchmark(path)[1][0].metadata["tests"] == {"cases": [case], "function": None}


def packed(value) -> str:
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


class Calls:
    def __reduce__(self):
        return print, ("called",)


def test_packed_tests_are_read_and_never_executed(tmp_path, capsys):
    case = {"input": "[1]", "output": "2", "testtype": "functional"}
    row = {"question_content": "P", "starter_code": "class Solution:", "metadata": json.dumps({"func_name": "f"}),
           "public_test_cases": json.dumps([case]), "private_test_cases": packed(json.dumps([case, case]))}  # fmt: skip
    keys = {"answer_type": "code", "answer": [], "tests": "livecodebench", "question": ["question_content"],
            "prompt": "{question}\n\n{starter_code}"}  # fmt: skip
    (question,) = load_benchmark(benchmark(tmp_path, [row], **keys))[1]
    assert question.metadata["tests"]["function"] == "f" and len(question.metadata["tests"]["cases"]) == 3
    assert question.text == "P\n\nclass Solution:"
    for bad in (packed(Calls()), packed([case]), "no tests", "[]", "[1]", '[{"input": 1, "output": ""}]'):
        with pytest.raises(UserError, match="row 1: tests: .*private_test_cases"):
            load_benchmark(benchmark(tmp_path, [row | {"private_test_cases": bad}], **keys))
    with pytest.raises(UserError, match="row 1: tests: a test of a function is not JSON"):
        load_benchmark(benchmark(tmp_path, [row | {"public_test_cases": [case | {"input": "a = 1"}]}], **keys))
    assert capsys.readouterr().out == ""
