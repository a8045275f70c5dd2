"""Upstream row -> Question: one function per dataset, for all sixteen that s1 drew from (released collect_data.py).

An adapter takes (row, subset, params) and returns the question, or raises Drop with the reason. `subset` is the hub
config, or the name of the local file. Rows are data: nothing in them is evaluated, unpickled or formatted into code.

Question texts are, byte for byte, those of s1 (so ids equal its question hashes), except where s1 was wrong:

- AGIEval: passage and question ran together; a blank line now separates them. aqua_rat came without its options.
- OlympiadBench: the context, to which many physics questions refer, was left out.
- GPQA: the choices are shuffled by a generator of the question's own, so a row's letter depends on no other row.

`answer` is a reference that `eval.grading` can grade, or None; the published solution stays in the metadata as it is.
"""

import json
import math
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from core.tables import Drop
from core.types import AnswerType, Question, question_id
from data.rows import MAX_QUESTION_CHARS
from eval.answers import last_boxed

Row = Mapping[str, Any]
Params = Mapping[str, Any]
Adapter = Callable[[Row, str, Params], Question]
Answer = tuple[str | None, AnswerType]

# --- what all adapters need


def field(row: Row, *names: str) -> str:
    """The first of these columns that the row has, as text. Raises Drop where it is missing, empty or no text."""
    name = next((n for n in names if row.get(n) is not None), None)
    if name is None:
        raise Drop("missing_field", f"no {' or '.join(names)}")
    value = row[name]
    if not isinstance(value, str):
        raise Drop("wrong_type", f"{name} is {type(value).__name__}, not text")
    if not value.strip():
        raise Drop("missing_field", f"{name} is empty")
    return value


def optional(row: Row, *names: str) -> str | None:
    """As `field`, with None where the row has nothing there."""
    value = next((row[n] for n in names if row.get(n) is not None), None)
    return field(row, *names) if value is not None and value != "" else None


def texts(row: Row, name: str) -> list[str]:
    """A column that holds a list of texts. Raises Drop as `field` does."""
    value = row.get(name)
    if value is None:
        raise Drop("missing_field", f"no {name}")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Drop("wrong_type", f"{name} is not a list of texts")
    return value


def built(
    row: Row, used: tuple[str, ...], text: str, solution: str | None, answer: Answer, source: str, cot_type: str, **more
) -> Question:
    """The question, checked. used: columns whose content is already in it; the others go to metadata["upstream"]."""
    for part in (text, solution or "", answer[0] or "", source):
        if not is_unicode(part):
            raise Drop("not_utf8", "bytes that are no UTF-8")
        if "\0" in part:
            raise Drop("nul_byte", "a NUL character")
    if len(text) > MAX_QUESTION_CHARS:
        raise Drop("too_long", f"a question of {len(text):,} characters, at most {MAX_QUESTION_CHARS:,} are taken")
    try:
        upstream = jsonable({name: value for name, value in row.items() if name not in used})
        more = jsonable(more)
    except RecursionError:
        raise Drop("wrong_type", "nested too deeply") from None
    metadata = {"solution": solution, "cot_type": cot_type, "upstream": upstream, **more}
    return Question.of(text, *answer, source, cot_type, **metadata)


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates: what was no UTF-8 in the file, or half a "\ud83d\ude00"
        return False
    return True


def jsonable(value: Any) -> Any:
    """The value in JSON's types: a date as text, bytes as their number, NaN as null, what is no Unicode replaced."""
    if isinstance(value, str):
        return value if is_unicode(value) else value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {jsonable(str(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return f"{len(value)} bytes" if isinstance(value, bytes) else jsonable(str(value))


def math_answer(text: str | None) -> Answer:
    """A short reference answer and the rule that grades it: whole numbers, words as text, everything else as LaTeX."""
    text = (text or "").strip()
    inner = text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1] else text
    if not inner:
        return None, "latex"
    if re.fullmatch(r"-?[0-9]{1,100}", inner):
        return inner, "integer"
    if re.fullmatch(r"[A-Za-z]{2,}([ ,'-]+[A-Za-z]+)*", inner):
        return inner, "open"
    return inner, "latex"


def letters(text: str) -> Answer:
    """ "b", "(B)" or "BD" -> the options named; None where it names none."""
    found = re.fullmatch(r"\(?([A-J]{1,10})\)?\.?", text.strip().upper())
    return (found[1] if found else None), "letter"


def only_subsets(subset: str, *known: str) -> str:
    """The known name of this subset. Raises Drop for another one."""
    name = subset.replace("-", "_")
    if name not in known:
        raise Drop("other_subset")
    return name


# --- the sixteen datasets


def math_dataset(row: Row, subset: str, params: Params) -> Question:
    solution = field(row, "solution")
    answer = optional(row, "answer") or last_boxed(solution)
    source = f"simplescaling/openaimath/{field(row, 'subject')}"
    used = ("problem", "solution", "answer")
    return built(row, used, field(row, "problem"), solution, math_answer(answer), source, "math")


OLYMPIC_ARENA_RULES: dict[str, AnswerType] = {"SC": "letter", "MC": "letter", "TF": "open", "CODE": "code"}


def olympic_arena(row: Row, subset: str, params: Params) -> Question:
    """English, text-only rows. answer_type names the form of the answer: SC, MC (choices), TF, NV (a number), ..."""
    if field(row, "language") != "EN":
        raise Drop("not_english")
    if field(row, "modality") != "text-only":
        raise Drop("has_picture")
    subject = field(row, "subject")
    rule = OLYMPIC_ARENA_RULES.get(optional(row, "answer_type") or "", "latex")
    given = row.get("answer")
    given = given[0] if isinstance(given, list) and len(given) == 1 else given
    answer: Answer = (None, rule)
    if isinstance(given, list) and rule == "letter":
        answer = letters("".join(map(str, given)))
    elif isinstance(given, str) and rule != "code":
        answer = letters(given) if rule == "letter" else math_answer(given)
    cot_type = {"Math": "math", "CS": "coding"}.get(subject, "science")
    tests = {"tests": row["test_cases"]} if row.get("test_cases") else {}
    used = ("problem", "solution", "answer", "test_cases")
    source = f"GAIR/OlympicArena/{subject}"
    return built(row, used, field(row, "problem"), optional(row, "solution"), answer, source, cot_type, **tests)


def theorem_qa(row: Row, subset: str, params: Params) -> Question:
    """Answers are text on the hub and native JSON in the repository: true, 11760, [1, 2], "(a)"."""
    if row.get("Picture") not in (None, ""):
        raise Drop("has_picture")
    kind, given = field(row, "Answer_type"), row.get("Answer")
    if given is None or given == "":
        raise Drop("missing_field", "no Answer")
    if not isinstance(given, str | bool | int | float | list):
        raise Drop("wrong_type", f"Answer is {type(given).__name__}")
    solution = str(given)
    if kind == "option":
        answer = letters(solution)
    elif kind.startswith("list"):
        answer = solution, "open"
    else:
        answer = math_answer(solution)
    used = ("Question", "Answer", "Picture")
    return built(row, used, field(row, "Question"), solution, answer, f"TIGER-Lab/TheoremQA/{kind}", "math")


def numina_math(row: Row, subset: str, params: Params) -> Question:
    """params["keep"]: questions taken from the sources other than aops_forum."""
    origin, text = field(row, "source"), field(row, "problem")
    if origin != "aops_forum" and text not in params.get("keep", ()):
        raise Drop("other_subset")
    solution = field(row, "solution")
    used = ("problem", "solution", "messages")  # messages repeats the two
    answer = math_answer(last_boxed(solution))
    return built(row, used, text, solution, answer, f"AI-MO/NuminaMath-CoT/{origin}", "math")


def omni_math(row: Row, subset: str, params: Params) -> Question:
    solution = field(row, "solution")
    answer = math_answer(optional(row, "answer") or last_boxed(solution))
    used = ("problem", "solution", "answer")
    return built(row, used, field(row, "problem"), solution, answer, "KbsdJames/Omni-MATH", "math")


def sci_eval(row: Row, subset: str, params: Params) -> Question:
    """The prompt's ending goes: "Answer:" is cut off, "Optimal ligand:" becomes a question."""
    given = row.get("answer")
    if given is None or given == []:
        raise Drop("no_answer")  # the test split is published twice, once without answers
    given = given[0] if isinstance(given, list) else given
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise Drop("wrong_type", f"answer is {type(given).__name__}")
    task, kind = field(row, "task_name"), field(row, "type")
    text = field(row, "question").split("\n\nAnswer:")[0]
    text = re.sub(r"\nOptimal (solvent|ligand|reactant):$", r"\nWhat is the optimal \1?", text)
    solution = str(given)
    answer = letters(solution) if kind == "multiple-choice" else math_answer(solution)
    if kind != "multiple-choice" and answer[1] == "latex":
        answer = (answer[0], "open")  # molecules in SMILES are text
    cot_type = "health science" if task in ("MedQA", "PubMedQA") else "science"
    source = f"OpenDFM/SciEval/{field(row, 'category')}/{kind}/{task}"
    return built(row, ("question", "answer", "prompt", "cot_prompt"), text, solution, answer, source, cot_type)


def olympiad_bench(row: Row, subset: str, params: Params) -> Question:
    """Text-only English competition problems. Also reads the authors' first release, whose columns have other names.

    params["context"]: put the context before the question (s1 did not). Where the source allows an error (column
    `error`, mostly physics), the reference is still compared exactly.
    """
    name = re.fullmatch(r"(OE|TP)_(TO|MM)_(maths|physics)_(en|zh)_(COMP|CEE)", subset)
    if (name and (name[2], name[4]) != ("TO", "en")) or row.get("language") in ("Chinese", "zh"):
        raise Drop("other_subset")
    text, context = field(row, "question"), optional(row, "context")
    pictures = any(row.get(f"image_{i}") is not None for i in range(1, 10))
    if pictures or "![" in text + (context or "") or "<image" in text + (context or ""):
        raise Drop("has_picture")
    if context and params.get("context", True):
        text = f"{context.strip()}\n\n{text}"
    kind = optional(row, "question_type", "label") or (name[1] if name else "OE")
    kind = "Theorem proof" if kind.startswith(("Theorem", "TP")) else "Open-ended"
    subject = optional(row, "subject", "classification") or (name[3] if name else "maths")
    subject = "Physics" if subject.lower().endswith("physics") else "Math"
    solution = next(iter(texts(row, "solution")), None)
    finals = texts(row, "final_answer") if row.get("final_answer") else []
    answer = math_answer(finals[0] if len(finals) == 1 and kind == "Open-ended" else None)
    source = f"Hothan/OlympiadBench/{kind}/{subject}"
    return built(row, ("question", "context", "solution", "final_answer"), text, solution, answer, source, "math")


def jee_bench(row: Row, subset: str, params: Params) -> Question:
    kind, subject, gold = field(row, "type"), field(row, "subject"), field(row, "gold")
    answer: Answer = letters(gold) if kind.startswith("MCQ") else (gold, "integer")  # "6.15" too: exact decimals
    cot_type = "science" if subject == "chem" else "math"
    source = f"daman1209arora/jeebench/{subject}"
    return built(row, ("question", "gold"), field(row, "question"), gold, answer, source, cot_type)


AGIEVAL = {
    "sat_en": "english", "sat_math": "math", "lsat_ar": "english", "lsat_lr": "english", "lsat_rc": "english",
    "logiqa": "math", "aqua_rat": "math", "math_agieval": "math",
}  # fmt: skip


def agi_eval(row: Row, subset: str, params: Params) -> Question:
    """Rows of the hub (solution and level are columns) or of the benchmark's own files (they lie in `other`)."""
    aliases = {"math": "math_agieval", "logiqa-en": "logiqa"}
    config = only_subsets(aliases.get(subset, subset), *AGIEVAL)
    other = row["other"] if isinstance(row.get("other"), dict) else {}
    text, solution = field(row, "question"), optional({**other, **row}, "solution")
    if config == "math_agieval":
        if row.get("level", other.get("level")) not in (5, "5"):
            raise Drop("not_level_5")  # s1 took the hardest alone
        answer = math_answer(optional(row, "answer") or last_boxed(solution or ""))
    else:
        passage = (optional(row, "passage") or "").strip()
        text = "\n".join([f"{passage}\n\n{text.strip()}" if passage else text, *texts(row, "options")])
        label = str(row.get("label"))
        answer = letters("ABCDEFGHIJ"[int(label)] if re.fullmatch(r"\d", label) else label)
    used = ("passage", "question", "options", "label", "answer", "solution")
    return built(row, used, text, solution, answer, f"baber/agieval/{config}", AGIEVAL[config])


def s1_prob(row: Row, subset: str, params: Params) -> Question:
    solution = field(row, "solution")
    answer, source = math_answer(last_boxed(solution)), "simplescaling/s1-prob"
    return built(row, ("question", "solution"), field(row, "question"), solution, answer, source, "math")


def gpqa(row: Row, subset: str, params: Params) -> Question:
    """params["excluded"]: questions of GPQA-Diamond, kept for evaluation. params["seed"]: of the order of choices."""
    if subset in ("gpqa_diamond", "gpqa_main", "gpqa_experts"):
        raise Drop("other_subset")
    question = field(row, "Question")
    if question in params.get("excluded", ()):
        raise Drop("in_gpqa_diamond")
    columns = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    choices = [field(row, column).strip("\n") for column in columns]
    if not is_unicode(question):
        raise Drop("not_utf8", "bytes that are no UTF-8")
    order = [0, 1, 2, 3]
    random.Random(f"{params.get('seed', 0)}/{question_id(question)}").shuffle(order)
    lines = [f"({letter}) {choices[i]}" for letter, i in zip("ABCD", order, strict=True)]
    letter = "ABCD"[order.index(0)]
    solution = f"{optional(row, 'Explanation') or ''}\n\nAnswer: {letter}".lstrip("\n")
    text = "\n".join([question, "Answer Choices:", *lines])
    return built(row, ("Question", "Explanation"), text, solution, (letter, "letter"), "Idavidrein/gpqa", "science")


XWORD_INSTRUCTION = (
    "Solve the crossword puzzle. You are presented with a clue as input and the number of letters in brackets."
)


def xword(row: Row, subset: str, params: Params) -> Question:
    _, mark, clue = field(row, "input").partition("### Clue: ")
    if not mark or not clue.strip():
        raise Drop("missing_field", 'no "### Clue: " in input')
    output = field(row, "output")
    named = re.match(r"\s*### Answer:\s*(.+?)\s*(?:\n|### Explanation|$)", output)
    answer: Answer = (named[1] if named else None), "open"
    text = f"{XWORD_INSTRUCTION}\n\n{clue}"
    return built(row, ("input", "output"), text, output, answer, "0xharib/xword1", "crossword")


def usaco(row: Row, subset: str, params: Params) -> Question:
    """Rows of the hub (tests in input_output), or of the benchmark it was formatted from (description, samples)."""
    text = field(row, "question", "description").strip()
    given = optional(row, "input_output")
    tests = parsed_tests(given, params) if given else {"samples": row.get("samples") or []}
    used = ("question", "description", "description_no_samples", "solution", "input_output", "samples")
    source = "codegenning/usacobench_formatted"
    return built(row, used, text, optional(row, "solution"), (None, "code"), source, "coding", tests=tests)


def live_code_bench(row: Row, subset: str, params: Params) -> Question:
    """The hard problems of releases 1 to 3. Private tests stay encoded: inside is a pickle, which is never loaded."""
    if re.fullmatch(r"test[4-9]", subset):
        raise Drop("other_subset")
    if field(row, "difficulty") != "hard":
        raise Drop("not_hard")
    tests = {"public": parsed_tests(field(row, "public_test_cases"), params)}
    private = optional(row, "private_test_cases") or ""
    limit = params.get("max_test_chars", MAX_TEST_CHARS)
    tests |= {"private_encoded": private} if len(private) <= limit else {"private_left_out_chars": len(private)}
    release = {"test": "release_v1", "test2": "release_v2", "test3": "release_v3"}.get(subset, subset)
    used = ("question_content", "public_test_cases", "private_test_cases")
    text = field(row, "question_content").strip()
    return built(row, used, text, None, (None, "code"), f"LiveCodeBench/{release}", "coding", tests=tests)


MAX_TEST_CHARS = 1_000_000  # per question: all of them together would outweigh the other fifteen sources


def parsed_tests(text: str, params: Params) -> Any:
    if len(text) > params.get("max_test_chars", MAX_TEST_CHARS):
        return {"left_out_chars": len(text)}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Drop("wrong_type", "tests are not JSON") from None


def s1_teasers(row: Row, subset: str, params: Params) -> Question:
    solution = field(row, "Answer")
    given = last_boxed(solution) or (solution if re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", solution) else None)
    text = field(row, "Question").strip()
    return built(row, ("Question", "Answer"), text, solution, math_answer(given), "simplescaling/s1-teasers", "math")


def aime(row: Row, subset: str, params: Params) -> Question:
    """params["max_year"]: the last year taken. One answer is no number ("080 or 081"): it cannot be graded."""
    year = row.get("Year")
    year = int(year) if isinstance(year, str) and re.fullmatch(r"\d{4}", year) else year
    if isinstance(year, bool) or not isinstance(year, int):
        raise Drop("missing_field" if year is None else "wrong_type", "Year is no number")
    if year > params["max_year"]:
        raise Drop("after_max_year")
    solution = str(row["Answer"]) if isinstance(row.get("Answer"), int) else field(row, "Answer")
    answer = (str(int(solution)) if re.fullmatch(r"\s*[0-9]{1,4}\s*", solution) else None), "integer"
    source = "qq8933/AIME_1983_2024"
    return built(row, ("Question", "Answer"), field(row, "Question"), solution, answer, source, "math")


def own(row: Row, subset: str, params: Params) -> Question:
    """A row of your own: question, answer and, where there are any, solution, source and domain."""
    solution, given = optional(row, "solution"), row.get("answer")
    if isinstance(given, int | float) and not isinstance(given, bool):
        given = str(given)
    answer = math_answer(given if isinstance(given, str) else last_boxed(solution or ""))
    source, domain = optional(row, "source") or "own", optional(row, "domain") or "math"
    used = ("question", "answer", "solution", "source", "domain")
    return built(row, used, field(row, "question").strip(), solution, answer, source, domain)
