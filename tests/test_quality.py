import gzip
import json
from pathlib import Path

import pytest

from core.types import Question, Trace
from data.quality import quality_reason, s1_quality_reason

SHARED = Path(__file__).parents[2] / "shared" / "data" / "s1k"
TWO_PROBLEMS = "**p1.** Find the area. \n\n**p2.** Find the volume."


def trace(text="What is 2 + 3?", thinking="2 + 3 = 5.", attempt="5", source="test", num_tokens=9) -> Trace:
    return Trace(Question.of(text, "5", "integer", source, "math"), thinking, attempt, "solver", num_tokens)


# reason, a trace that has it, a near miss that is kept
CASES = [
    ("empty_question", trace(" \n"), trace("x?")),
    ("drawing_code", trace("Area? [asy] draw((0,0)); [/asy]"), trace("What does asy stand for?")),
    (
        "drawing_code",
        trace("Area? [asy] draw((0,0)); [/asy]"),
        trace("Area? [asy] draw((0,0)); [/asy]", source="x/AIME_1983"),
    ),
    ("image", trace("See ![Image](a.png). Area?"), trace("How large is $n![x]$ for 3!?")),
    ("image", trace("See the figure.\n![](https://host/a.jpg)"), trace("Is 5! [sic] even?")),
    ("image", trace(r"Area? \includegraphics[width=2cm]{a}"), trace("Which LaTeX command includes graphics?")),
    (
        "several_problems",
        trace("p1. Find the area. p2. Find the volume."),
        trace("After step1. and step2. we rest. Why?"),
    ),
    ("several_problems", trace(TWO_PROBLEMS), trace("**p1.** Find the area.")),
    ("several_problems", trace("**B1.1** Find a.\n**B1.2** Find b."), trace("**bar** then 3, **foo** then 4")),
    ("several_problems", trace("**Problem 3** Find a.\n\n**Problem 4** Find b."), trace("Draw **3** of **52** cards.")),
    ("several_problems", trace(TWO_PROBLEMS, source="x/AIME"), trace("At p1.5 bar and p2.5 bar, which is denser?")),
    ("empty_thinking", trace(thinking="\n"), trace(thinking="5")),
    ("empty_attempt", trace(attempt=" "), trace(attempt="0")),
    ("chat_delimiter", trace(thinking="so <|im_start|>answer"), trace(thinking="so <|x|> is a bra-ket")),
    ("chat_delimiter", trace(attempt="5</think>"), trace(attempt="5 </thinking>")),
    ("chat_delimiter", trace("What does <|im_end|> do?"), trace("What does im_end do?")),
    ("thinking_too_long", trace(num_tokens=257), trace(num_tokens=256)),
]


@pytest.mark.parametrize(("reason", "dropped", "kept"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_a_case_and_a_near_miss_per_reason(reason, dropped, kept):
    assert quality_reason(dropped, 256) == reason
    assert quality_reason(kept, 256) is None


def test_no_limit_keeps_every_length():
    assert quality_reason(trace(num_tokens=10**6)) is None


@pytest.mark.parametrize(
    ("text", "source", "as_published", "as_meant"),
    [
        ("After step1. we rest. Why?", "x", "several_problems", None),
        ("**bar** then 3", "x", "several_problems", None),
        ("**Problem 3** Find a.\n**Problem 4** Find b.", "x", None, "several_problems"),
        ("See ![](https://host/a.jpg)", "x", None, "image"),
        ("[asy] x [/asy] " + TWO_PROBLEMS, "x/AIME", None, "several_problems"),
        (TWO_PROBLEMS, "x", "several_problems", "several_problems"),
    ],
)
def test_where_the_published_patterns_differ(text, source, as_published, as_meant):
    assert s1_quality_reason(trace(text, source=source)) == as_published
    assert quality_reason(trace(text, source=source)) == as_meant


@pytest.mark.parametrize("name", ["s1k_published_without_gpqa", "s1k_notebook_run_questions_without_gpqa"])
def test_no_published_question_is_dropped(name):
    file = SHARED / f"{name}.jsonl.gz"
    if not file.exists():
        pytest.skip(f"needs {file}")
    rows = [json.loads(line) for line in gzip.open(file, "rt", encoding="utf-8", newline="\n")]
    assert len(rows) > 800
    reasons = [quality_reason(trace(row["question"], source=row["source_type"] or "unknown")) for row in rows]
    assert [(r, row["question"]) for r, row in zip(reasons, rows, strict=True) if r] == []
