"""The tables s1 published its traces in: a Trace as their rows, and their rows as a Trace.

    s1K       (also data_ablation_full59K): one teacher, thinking_trajectories and attempt
    s1K-1.1   a pair of columns a teacher, gemini_... and deepseek_..., and each trace's grade with a reason

Columns and their types are those of the hub (simplescaling/s1K and s1K-1.1). `metadata` is a string there: published
as the Python text of a dict, which nothing here evaluates; written here as JSON.
"""

import json
from collections.abc import Mapping
from typing import Any

from core.config import UserError
from core.types import Grade, Question, Trace

TEACHERS = ("gemini", "deepseek")  # column prefixes of s1K-1.1
TRAJECTORY = "_thinking_trajectory"
GRADES = {True: "Yes", False: "No", None: None}

S1K_COLUMNS = {
    "solution": "string",
    "question": "string",
    "cot_type": "string",
    "source_type": "string",
    "metadata": "string",
    "cot": "null",
    "thinking_trajectories": "list",
    "attempt": "string",
}
S1K_1_1_COLUMNS = {
    **{name: "string" for name in ("solution", "question", "cot_type", "source_type", "metadata")},
    **{f"{teacher}_{what}": "string" for teacher in TEACHERS for what in ("thinking_trajectory", "attempt")},
    **{f"{teacher}_{what}": "string" for teacher in TEACHERS for what in ("grade", "grade_reason")},
}


def s1k_row(trace: Trace) -> dict[str, Any]:
    return _question_columns(trace) | {
        "cot": None,
        "thinking_trajectories": [trace.thinking],
        "attempt": trace.attempt,
    }


def s1k_1_1_row(trace: Trace, second: Trace | None, grades: Mapping[str, Grade | None]) -> dict[str, Any]:
    """trace and second go into the columns of `TEACHERS`, in that order, whoever wrote them; a trace that is missing
    leaves its columns null. grades: by teacher."""
    row = _question_columns(trace)
    for teacher, given in zip(TEACHERS, (trace, second), strict=True):
        grade = grades.get(teacher)
        row[teacher + TRAJECTORY] = given and given.thinking
        row[f"{teacher}_attempt"] = given and given.attempt
        row[f"{teacher}_grade"] = grade and GRADES[grade.correct]
        row[f"{teacher}_grade_reason"] = grade and _grade_reason(grade, trace.question.answer)
    return {name: row[name] for name in S1K_1_1_COLUMNS}


def _question_columns(trace: Trace) -> dict[str, Any]:
    question = trace.question
    own = {"solution", "cot_type"}  # columns of their own
    rest = {key: value for key, value in question.metadata.items() if key not in own}
    facts = {
        "question_id": question.id,
        "answer": question.answer,
        "answer_type": question.answer_type,
        "domain": question.domain,
        "teacher": trace.teacher,
        "num_thinking_tokens": trace.num_thinking_tokens,
    }
    return {
        "solution": question.metadata.get("solution", question.answer),
        "question": question.text,
        "cot_type": question.metadata.get("cot_type", question.domain),
        "source_type": question.source,
        "metadata": json.dumps(rest | facts, ensure_ascii=False),
    }


def _grade_reason(grade: Grade, reference: str | None) -> str:
    if grade.correct is None:
        return f"{grade.grader}: cannot be graded (reference answer: {reference})"
    return f"{grade.grader}: found {grade.extracted}, reference {reference}"


def trace_from_published(row: Mapping[str, Any], teacher: str | None = None) -> Trace:
    """The trace of a published row. Such rows have no answer that a grader could use, so the question has none.

    teacher: of s1K-1.1's two. None takes deepseek, whose traces s1.1 was trained on, or the only one there is.
    Raises UserError naming what the row lacks.
    """
    text = _text(row, "question")
    metadata = {"solution": row.get("solution"), "cot_type": row.get("cot_type")}
    source, domain = row.get("source_type") or "published", row.get("cot_type") or "unknown"
    question = Question.of(text, None, "open", source, domain, **metadata)
    if "thinking_trajectories" in row:
        trajectories = row["thinking_trajectories"]
        if not isinstance(trajectories, list) or not all(isinstance(t, str) for t in trajectories) or not trajectories:
            raise UserError(f"question {question.id}: thinking_trajectories is not a list of texts")
        return Trace(
            question, "\n".join(trajectories), _text(row, "attempt"), "published"
        )  # joined as the released tokenization.py does
    teachers = [name.removesuffix(TRAJECTORY) for name in row if name.endswith(TRAJECTORY)]
    if teacher is None:
        teacher = "deepseek" if "deepseek" in teachers else teachers[0] if len(teachers) == 1 else None
    if teacher not in teachers:
        raise UserError(f"the row has traces of {', '.join(teachers) or 'no teacher'}, not of {teacher}")
    return Trace(question, _text(row, teacher + TRAJECTORY), _text(row, f"{teacher}_attempt"), teacher)


def is_published(row: Mapping[str, Any]) -> bool:
    """Is it a row of a published table, rather than a Trace of ours?"""
    return isinstance(row.get("question"), str)


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row.get(name), str):
        raise UserError(
            f"a row of the table has no text in column {name!r} (question: {str(row.get('question'))[:60]!r})"
        )
    return row[name]
