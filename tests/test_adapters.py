"""Every adapter on rows in the upstream schema: real rows where a checkout has them beside it, hand-made ones with the
documented columns for all sixteen. Hand-made only, because no real row is at hand: OlympicArena, GPQA, LiveCodeBench,
USACO's hub rows, AGIEval's hub rows, s1-prob and s1-teasers (of these and OlympicArena there are real texts, below)."""

import gzip
import json
from pathlib import Path

import pytest

from core.tables import Drop
from core.types import question_from_row, question_id, read_jsonl
from data.adapters import MAX_QUESTION_CHARS, jsonable, math_answer
from data.collect import CollectConfig, adapted, main
from data.sources import DATASETS, SOURCES
from eval.grading import grade

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
PARAMS = {"seed": 0, "max_year": 2021, "keep": {"kept"}, "excluded": {"In diamond?"}}

ARENA = {
    "id": "Math_1", "problem": "Find $x$.\n", "answer": "$\\frac{1}{2}$", "answer_type": "NV", "solution": "So half.",
    "subject": "Math", "language": "EN", "modality": "text-only", "unit": None,
}  # fmt: skip
OLYMPIAD = {
    "id": 1, "question": "Find $v$.", "context": "A ball falls.\n", "solution": ["First way", "Second"], "unit": "m",
    "final_answer": ["$\\sqrt{2 g h}$"], "question_type": "Open-ended", "subject": "Physics", "language": "English",
    "is_multiple_answer": False, "answer_type": "Expression", "error": None, "image_1": None,
}  # fmt: skip
SAT = {
    "passage": " A text. ", "question": " What?", "options": ["(A)one", "(B)two"], "label": "1", "solution": "It is B.",
}  # fmt: skip
SCIEVAL = {
    "question": "Why?\n\nA. x\nB. y\n\nAnswer:", "answer": ["B"], "category": "physics", "topic": "Heat", "id": "1",
    "type": "multiple-choice", "task_name": "SocraticQA", "prompt": "p", "cot_prompt": "c", "ability": "Knowledge",
}  # fmt: skip
GPQA = {
    "Question": "Which?", "Correct Answer": "right\n", "Incorrect Answer 1": "no", "Incorrect Answer 2": "nay",
    "Incorrect Answer 3": "never", "Explanation": "Because.", "High-level domain": "Physics",
}  # fmt: skip
LIVE = {
    "question_content": " Print it. ", "difficulty": "hard", "public_test_cases": '[{"input": "1", "output": "2"}]',
    "private_test_cases": "eJx=", "starter_code": "", "question_title": "T", "metadata": "{}", "contest_date": "2023",
}  # fmt: skip

# key, subset, row, then what the question has: text, answer, answer_type, source, cot_type
CASES = {
    "MATH": ("MATH", "train", {"problem": "2+2?", "solution": "$\\boxed{\\frac{8}{2}}$", "subject": "Algebra"},
             "2+2?", "\\frac{8}{2}", "latex", "simplescaling/openaimath/Algebra", "math"),
    "OlympicArena": ("OlympicArena", "Math", ARENA,
                     "Find $x$.\n", "\\frac{1}{2}", "latex", "GAIR/OlympicArena/Math", "math"),
    "OlympicArena, choices": (
        "OlympicArena", "Physics", ARENA | {"subject": "Physics", "answer_type": "MC", "answer": ["A", "C"]},
        "Find $x$.\n", "AC", "letter", "GAIR/OlympicArena/Physics", "science"),
    "OlympicArena, no answer": (
        "OlympicArena", "CS", ARENA | {"subject": "CS", "answer_type": "CODE", "answer": None, "solution": None},
        "Find $x$.\n", None, "code", "GAIR/OlympicArena/CS", "coding"),
    "TheoremQA, hub": ("TheoremQA", "t", {"Question": "Q?", "Answer": "True", "Answer_type": "bool", "Picture": None},
                       "Q?", "True", "open", "TIGER-Lab/TheoremQA/bool", "math"),
    "TheoremQA, native": ("TheoremQA", "t", {"Question": "Q?", "Answer": [1, 2], "Answer_type": "list of integer"},
                          "Q?", "[1, 2]", "open", "TIGER-Lab/TheoremQA/list of integer", "math"),
    "TheoremQA, option": ("TheoremQA", "t", {"Question": "Q?", "Answer": "(b)", "Answer_type": "option"},
                          "Q?", "B", "letter", "TIGER-Lab/TheoremQA/option", "math"),
    "NuminaMATH": ("NuminaMATH", "train", {"source": "aops_forum", "problem": "P", "solution": "QED", "messages": []},
                   "P", None, "latex", "AI-MO/NuminaMath-CoT/aops_forum", "math"),
    "NuminaMATH, kept": ("NuminaMATH", "train", {"source": "olympiads", "problem": "kept", "solution": "$\\boxed{7}$"},
                         "kept", "7", "integer", "AI-MO/NuminaMath-CoT/olympiads", "math"),
    "OmniMath": ("OmniMath", "test", {"problem": "P", "solution": "S", "answer": "infinitely many", "domain": ["x"]},
                 "P", "infinitely many", "open", "KbsdJames/Omni-MATH", "math"),
    "SciEval": ("SciEval", "test", SCIEVAL, "Why?\n\nA. x\nB. y", "B", "letter",
                "OpenDFM/SciEval/physics/multiple-choice/SocraticQA", "science"),
    "SciEval, filling": (
        "SciEval", "test", SCIEVAL | {"question": "CO,CN\nOptimal solvent:", "answer": ["CO"], "type": "filling"},
        "CO,CN\nWhat is the optimal solvent?", "CO", "open", "OpenDFM/SciEval/physics/filling/SocraticQA", "science"),
    "SciEval, judge": (
        "SciEval", "val", SCIEVAL | {"answer": ["no"], "type": "judge", "task_name": "PubMedQA", "category": "biology"},
        "Why?\n\nA. x\nB. y", "no", "open", "OpenDFM/SciEval/biology/judge/PubMedQA", "health science"),
    "OlympiadBench": ("OlympiadBench", "OE_TO_physics_en_COMP", OLYMPIAD, "A ball falls.\n\nFind $v$.", "\\sqrt{2 g h}",
                      "latex", "Hothan/OlympiadBench/Open-ended/Physics", "math"),
    "OlympiadBench, proof": (
        "OlympiadBench", "TP_TO_maths_en_COMP", {"question": "Show it.", "context": None, "solution": ["QED"]},
        "Show it.", None, "latex", "Hothan/OlympiadBench/Theorem proof/Math", "math"),
    "JEEBench": ("JEEBench", "test", {"subject": "phy", "type": "MCQ(multiple)", "question": "Q\n(A) 1", "gold": "BD"},
                 "Q\n(A) 1", "BD", "letter", "daman1209arora/jeebench/phy", "math"),
    "JEEBench, numeric": ("JEEBench", "test", {"subject": "chem", "type": "Numeric", "question": "Q", "gold": "6.15"},
                          "Q", "6.15", "integer", "daman1209arora/jeebench/chem", "science"),
    "AGIEval": ("AGIEval", "sat_en", SAT,
                "A text.\n\nWhat?\n(A)one\n(B)two", "B", "letter", "baber/agieval/sat_en", "english"),
    "AGIEval, no passage": ("AGIEval", "aqua-rat", SAT | {"passage": None, "label": "A"}, " What?\n(A)one\n(B)two", "A",
                            "letter", "baber/agieval/aqua_rat", "math"),
    "AGIEval, math": ("AGIEval", "math", {"question": "P", "answer": "(3,4]", "other": {"level": 5, "solution": "S"}},
                      "P", "(3,4]", "latex", "baber/agieval/math_agieval", "math"),
    "s1-prob": ("s1-prob", "train", {"question": "Prove", "solution": "Indeed"}, "Prove", None, "latex",
                "simplescaling/s1-prob", "math"),
    "xword": ("xword", "train", {"input": "### Clue: Tree (3)", "output": "### Answer: ELM \n ### Explanation: e"},
              "Solve the crossword puzzle. You are presented with a clue as input and the number of letters in "
              "brackets.\n\nTree (3)", "ELM", "open", "0xharib/xword1", "crossword"),
    "USACO": ("USACO", "test", {"question": "\nCows.\n", "input_output": '{"inputs": ["1"], "outputs": ["2"]}'},
              "Cows.", None, "code", "codegenning/usacobench_formatted", "coding"),
    "s1-teasers": ("s1-teasers", "train", {"Question": " How many? ", "Answer": "12"}, "How many?", "12", "integer",
                   "simplescaling/s1-teasers", "math"),
    "LiveCodeBench": ("LiveCodeBench", "test2", LIVE, "Print it.", None, "code", "LiveCodeBench/release_v2", "coding"),
    "AIME": ("AIME", "train", {"ID": "2021-I-1", "Year": "2021", "Question": "Q?", "Answer": "025", "Part": "I"},
             "Q?", "25", "integer", "qq8933/AIME_1983_2024", "math"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_row_becomes_this_question(case):
    key, subset, row, *expected = CASES[case]
    question = adapted(SOURCES[key], row, subset, {**SOURCES[key].params, **PARAMS})
    got = [question.text, question.answer, question.answer_type, question.source, question.metadata["cot_type"]]
    assert got == expected
    assert question.id == question_id(question.text) and question.domain == question.metadata["cot_type"]
    assert question.metadata["dataset"] == key and set(question.metadata) >= {"solution", "upstream"}
    assert question_from_row(json.loads(json.dumps(question.__dict__))) == question
    if question.answer is not None:  # the reference can be graded, and is right about itself
        assert grade(f"\\boxed{{{question.answer}}}", question).correct


def test_all_sixteen_have_a_case():
    assert {"GPQA", *(case[0] for case in CASES.values())} == {dataset.key for dataset in DATASETS}
    assert len(DATASETS) == 16


@pytest.mark.parametrize(
    ("key", "subset", "row", "reason"),
    [
        ("OlympicArena", "Math", ARENA | {"language": "ZH"}, "not_english"),
        ("OlympicArena", "Math", ARENA | {"modality": "multi-modal"}, "has_picture"),
        ("TheoremQA", "test", {"Question": "Q", "Answer": "1", "Answer_type": "integer", "Picture": {}}, "has_picture"),
        ("NuminaMATH", "train", {"source": "cn_k12", "problem": "P", "solution": "S"}, "other_subset"),
        ("SciEval", "test", SCIEVAL | {"answer": None}, "no_answer"),
        ("OlympiadBench", "OE_MM_maths_en_COMP", OLYMPIAD, "other_subset"),
        ("OlympiadBench", "OE_TO_maths_zh_COMP", OLYMPIAD, "other_subset"),
        ("OlympiadBench", "x", OLYMPIAD | {"context": "See ![](https://a/b.jpg)"}, "has_picture"),
        ("AGIEval", "gaokao-biology", SAT, "other_subset"),
        ("AGIEval", "math_agieval", {"question": "P", "answer": "1", "level": 4}, "not_level_5"),
        ("GPQA", "gpqa_extended", GPQA | {"Question": "In diamond?"}, "in_gpqa_diamond"),
        ("GPQA", "gpqa_extended", GPQA | {"Incorrect Answer 2": None}, "missing_field"),
        ("xword", "train", {"input": "Tree (3)", "output": "ELM"}, "missing_field"),
        ("USACO", "test", {"question": "Q", "input_output": "__import__('os')"}, "wrong_type"),
        ("LiveCodeBench", "test", LIVE | {"difficulty": "easy"}, "not_hard"),
        ("LiveCodeBench", "test4", LIVE, "other_subset"),
        ("AIME", "train", {"Year": 2022, "Question": "Q", "Answer": "1"}, "after_max_year"),
        ("AIME", "train", {"Year": "soon", "Question": "Q", "Answer": "1"}, "wrong_type"),
        ("MATH", "train", {"problem": "a\0b", "solution": "s", "subject": "x"}, "nul_byte"),
        ("MATH", "train", {"problem": "a\udcff", "solution": "s", "subject": "x"}, "not_utf8"),
        ("MATH", "train", {"problem": 3, "solution": "s", "subject": "x"}, "wrong_type"),
        ("MATH", "train", {"problem": "x" * (MAX_QUESTION_CHARS + 1), "solution": "s", "subject": "x"}, "too_long"),
        ("MATH", "train", ["a list"], "wrong_type"),
    ],
)  # fmt: skip
def test_rows_left_out_say_why(key, subset, row, reason):
    outcome = adapted(SOURCES[key], row, subset, {**SOURCES[key].params, **PARAMS})
    assert isinstance(outcome, Drop) and outcome.reason == reason


def test_gpqa_choices_are_shuffled_by_the_question_and_the_letter_follows():
    def read(row, seed=0):
        return adapted(SOURCES["GPQA"], row, "gpqa_extended", {"seed": seed})

    question = read(GPQA)
    head, *choices = question.text.split("\nAnswer Choices:\n")[1].split("\n(")
    choices = [head.removeprefix("("), *choices]
    assert sorted(c[3:] for c in choices) == ["nay", "never", "no", "right"]
    assert [c[0] for c in choices if c[3:] == "right"] == [question.answer]
    assert question.metadata["solution"] == f"Because.\n\nAnswer: {question.answer}"
    many = [read(GPQA | {"Question": f"Which of {i}?"}) for i in range(400)]
    assert many[7] == read(GPQA | {"Question": "Which of 7?"}), "independent of the rows before"
    counts = [sum(q.answer == letter for q in many) for letter in "ABCD"]
    assert all(70 <= count <= 130 for count in counts), f"each letter about 100 times: {counts}"
    assert [q.answer for q in many] != [read(GPQA | {"Question": f"Which of {i}?"}, seed=1).answer for i in range(400)]


def test_coding_questions_keep_their_tests_and_pickles_stay_shut():
    usaco, live = (adapted(SOURCES[k], *reversed(CASES[k][1:3]), SOURCES[k].params) for k in ("USACO", "LiveCodeBench"))
    assert usaco.metadata["tests"] == {"inputs": ["1"], "outputs": ["2"]}
    assert live.metadata["tests"] == {"public": [{"input": "1", "output": "2"}], "private_encoded": "eJx="}
    small = adapted(SOURCES["LiveCodeBench"], LIVE, "test", {"max_test_chars": 3})
    assert small.metadata["tests"] == {"public": {"left_out_chars": 31}, "private_left_out_chars": 4}


def test_olympiad_bench_without_context_as_s1_had_it():
    assert adapted(SOURCES["OlympiadBench"], OLYMPIAD, "x", {"context": False}).text == "Find $v$."


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$12$", ("12", "integer")), ("$1$ or $2$", ("$1$ or $2$", "latex")), ("0.5", ("0.5", "latex")),
     ("not so", ("not so", "open")), ("n", ("n", "latex")), (" ", (None, "latex")), (None, (None, "latex"))],
)  # fmt: skip
def test_how_a_short_answer_is_graded(text, expected):
    assert math_answer(text) == expected


def test_metadata_is_json_whatever_it_was():
    value = {"a": float("nan"), 1: b"xyz", "s": "\ud800", "t": (1, {2}), "code": "__import__('os').remove('x')"}
    kept = jsonable(value)
    assert kept == {"a": None, "1": "3 bytes", "s": "?", "t": [1, "{2}"], "code": "__import__('os').remove('x')"}
    json.dumps(kept, allow_nan=False).encode()


NASTY = (
    None, True, 3, 1e400, "", " ", "\0", "\ud800", "x" * 200_000, "9" * 5000, b"x", [], [None], ["\0"], [["x"]], {},
    {"a": {}}, {"\ud800": b"x"}, "\u0663", "__import__('os').system('false')",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "GPQA"])
def test_any_row_is_a_question_or_dropped(case):
    key, subset, row = CASES[case][:3] if case in CASES else ("GPQA", "gpqa_extended", GPQA)
    for column in (*row, "other", "context", "answer", "level", "image_2", "test_cases"):
        for value in NASTY:
            outcome = adapted(SOURCES[key], {**row, column: value}, subset, {**SOURCES[key].params, **PARAMS})
            if not isinstance(outcome, Drop):
                json.dumps(outcome.__dict__, ensure_ascii=False, allow_nan=False).encode()


# --- real rows


@pytest.fixture(scope="module")
def real_questions(tmp_path_factory):
    if not REAL.exists():
        pytest.skip(f"no real questions at {REAL}")
    from core.config import load

    config = load(CollectConfig, ["configs/data/collect-offline.yaml", f"root={REAL / 'candidates'}"])
    patch = pytest.MonkeyPatch()
    patch.setattr("core.runs.OUTPUTS", tmp_path_factory.mktemp("outputs"))
    folder = main(config)
    patch.undo()
    return folder, [question_from_row(row) for row in read_jsonl(folder / "questions.jsonl")]


@pytest.mark.slow
def test_real_rows_give_thousands_of_questions(real_questions):
    folder, questions = real_questions
    counts = {entry["source"]: entry for entry in json.loads((folder / "counts.json").read_text())}
    assert {key: entry["got"] for key, entry in counts.items()} == {
        "MATH": 4500, "TheoremQA": 747, "NuminaMATH": 168, "OmniMath": 2815, "SciEval": 250, "OlympiadBench": 1965,
        "JEEBench": 515, "AGIEval": 940, "xword": 15, "USACO": 1, "AIME": 860,
    }  # fmt: skip
    assert sum(e["rows"] for e in counts.values()) == len(questions) + sum(
        1 for _ in read_jsonl(folder / "dropped.jsonl")
    )
    assert counts["AGIEval"]["dropped"]["duplicate"] == 236, "235 of its level-5 problems are in MATH as well"
    assert all(q.metadata["tests"]["samples"] for q in questions if q.metadata["dataset"] == "USACO")


@pytest.mark.slow
def test_real_rows_give_the_ids_and_sources_of_the_published_s1k(real_questions):
    by_id = {question.id: question for question in real_questions[1]}
    with gzip.open(REAL / "s1k" / "s1k_published_without_gpqa.jsonl.gz", "rt") as lines:
        published = [json.loads(line) for line in lines]
    found = [(row, by_id[row["question_hash"]]) for row in published if row["question_hash"] in by_id]
    datasets = {question.metadata["dataset"] for _, question in found}
    expected = "MATH TheoremQA NuminaMATH OmniMath SciEval OlympiadBench JEEBench AGIEval xword AIME"
    assert datasets == set(expected.split())
    assert len(found) == 689
    known = [(row["source_type"], q.source) for row, q in found if row["source_basis"] not in (None, "candidate")]
    same = [ours == theirs.replace("qfq/", "simplescaling/") for theirs, ours in known]
    assert sum(same) >= 0.95 * len(same)


def test_real_texts_of_s1_prob_s1_teasers_and_olympic_arena():
    path = REAL / "candidates" / "rare_sources_from_s1k.jsonl"
    if not path.exists():
        pytest.skip(f"no real questions at {REAL}")
    for row in read_jsonl(path):
        text, solution, source = row["question"], row["solution"], row["source_type"]
        if source == "qfq/stats_qual":
            question = adapted(SOURCES["s1-prob"], {"question": text, "solution": solution}, "train", PARAMS)
        elif source == "qfq/quant":
            question = adapted(SOURCES["s1-teasers"], {"Question": text, "Answer": solution}, "train", PARAMS)
        elif source.startswith("GAIR"):
            rebuilt = ARENA | {"problem": text, "solution": solution, "subject": source.split("/")[-1]}
            question = adapted(SOURCES["OlympicArena"], rebuilt, "x", PARAMS)
            assert question.source == source
        else:
            continue
        assert question.text == text and question.metadata["solution"] == solution
