"""Quality rules: a trace in, the reason to drop it out, or None.

`quality_reason` has the rules of s1 (released filter.ipynb) aimed at what they were meant for, and rules a trace needs
in order to be trained on. `s1_quality_reason` has s1's patterns as published, for its published counts.

Where the two differ:
- several problems in one row (AoPS dumps "p1. ... p2. ...", "**B1.** ... **B2.**"): s1 dropped any text with "p1."
  in it ("step1."), and, with a pattern that looked ahead over the whole line, any bold word with a digit somewhere
  after it ("**bar** then 3", "**" as a power in drawing code). Here two labels must stand where labels stand.
- images: s1 knew "![Image]" only; OlympiadBench writes "![](https://...)".
- drawing code: s1 kept AIME questions with "[asy]" whatever else was wrong with them; here the others apply too.
"""

import re

from core.chat import PROFILES
from core.types import Question, Trace

_IMAGE = re.compile(r"(?i)!\[image[^\]\n]*\]|!\[[^\]\n]*\]\(|!\[\]|\\includegraphics")

# "p12." after a blank, a star or a bracket, and bold labels that open a line: **3.**, **B2.1**, **Problem 3**
_P_LABEL = re.compile(r"(?i)(?:^|(?<=[\s*\]]))(p\d{1,3})\.(?!\w)")
_BOLD_LABEL = re.compile(r"(?im)^\s*\*\*((?:problem |question |exercise )?[a-z]{0,2}\d{1,3}(?:\.\d+)*)[.:)]?\*\*")

# Tokens like <|im_end|>, whichever model they belong to, and the delimiters of the profiles.
_CHAT_DELIMITER = re.compile(
    "|".join([r"<\|[a-z_]{3,}\|>", *sorted({re.escape(d) for p in PROFILES.values() for d in (p.start, *p.ends) if d})])
)

_S1_BOLD = re.compile(r"\*\*(?=.*\d)[^\s\]]*\*\*")
_S1_P_LABELS = tuple(f"p{i}." for i in range(1, 1000))


def quality_reason(trace: Trace, max_thinking_tokens: int | None = None) -> str | None:
    """Why `trace` is not fit for training, or None.

    max_thinking_tokens: longest thinking kept, in tokens of the model to be trained; None keeps every length.
    """
    return question_reason(trace.question) or trace_reason(trace, max_thinking_tokens)


def question_reason(question: Question) -> str | None:
    text = question.text
    if not text.strip():
        return "empty_question"
    if "[asy]" in text and "AIME" not in question.source:
        return "drawing_code"  # the exception for AIME is s1's
    if _IMAGE.search(text):
        return "image"
    if any(len({label.lower() for label in pattern.findall(text)}) > 1 for pattern in (_P_LABEL, _BOLD_LABEL)):
        return "several_problems"
    return None


def trace_reason(trace: Trace, max_thinking_tokens: int | None) -> str | None:
    if not trace.thinking.strip():
        return "empty_thinking"
    if not trace.attempt.strip():
        return "empty_attempt"
    if any(_CHAT_DELIMITER.search(text) for text in (trace.question.text, trace.thinking, trace.attempt)):
        return "chat_delimiter"  # the model could not learn where thinking ends
    if max_thinking_tokens is not None and trace.num_thinking_tokens > max_thinking_tokens:
        return "thinking_too_long"
    return None


def s1_quality_reason(trace: Trace) -> str | None:
    """s1's rules as its notebook had them, false positives included (51,607 of 54,116 rows remain there)."""
    question = trace.question
    if "[asy]" in question.text:
        return None if "AIME" in question.source else "drawing_code"
    if "![Image]" in question.text:
        return "image"
    if any(label in question.text for label in _S1_P_LABELS) or _S1_BOLD.search(question.text):
        return "several_problems"
    return None
