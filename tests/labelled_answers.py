"""Labelled answers: was this prediction right about this reference? What the grader's agreement is measured on.

tests/assets/answers/*.json: cases of [kind, reference, prediction, label]. Most are facts taken from the tests of other
graders, with their labels as they are; `source` says from where. "ours" are by hand.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from core.types import Question
from eval.grading import grade

ASSETS = Path(__file__).parent / "assets" / "answers"


@dataclass(frozen=True)
class Case:
    source: str
    kind: str
    reference: str
    prediction: str
    label: bool

    @property
    def is_same_string(self) -> bool:
        return self.reference.strip("$ ") == self.prediction.strip("$ ")


def sources() -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))["source"] for path in sorted(ASSETS.glob("*.json"))}


def cases() -> list[Case]:
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(ASSETS.glob("*.json"))}
    return [Case(name, *case) for name, file in files.items() for case in file["cases"]]


def ours(case: Case) -> bool | None:
    kind = "letter" if case.source == "ours" and case.kind == "letter" else "latex"
    question = Question.of("?", case.reference, kind, case.source, case.kind)
    marked = "\\boxed" in case.prediction or "\n" in case.prediction
    return grade(case.prediction if marked else f"Answer: {case.prediction}", question).correct


def plain_math_verify(case: Case) -> bool:
    """Its default use, given the LaTeX delimiters that it looks for; in the process of the caller."""
    from math_verify import parse, verify

    reference, prediction = (t if "$" in t or "boxed" in t else f"${t}$" for t in (case.reference, case.prediction))
    return verify(parse(reference), parse(prediction))
