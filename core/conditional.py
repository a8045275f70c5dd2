"""Conditional control: the question says how long to think at most, and the model is trained to keep to it.

    token-conditional   "{question}", blank line, "Think for up to 2048 tokens."    thinking as it is
    step-conditional    "{question}", blank line, "Think for up to 64 steps."       thinking that counts its steps down:

        <|im_start|>64 steps left
        the first step
        <|im_start|>63 steps left
        the second step
        <|im_start|>answer

What is trained and what an evaluation asks come from here. The forms are the paper's; what it leaves open:

- The limit is the smallest power of two not below the length: 2,048 tokens are "up to 2048", 2,049 "up to 4096".
- Tokens are those of the thinking alone, without delimiters, counted with the tokenizer of the model to be trained.
- A step is a paragraph: thinking is split at blank lines, several in a row being one, also inside a formula or code.
- The first step says the limit, each next one says one less. A trace of 40 steps counts from 64 to 25 and then answers;
  one of 64 ends with "1 steps left" (the released statistics look for " steps left"). "0 steps left" is where the steps
  asked for are used up, and there profile `steps` ends thinking: forced at 16 asked, the published model gave 16 steps
  (Table 12).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from core.chat import PROFILES, ChatFormat
from core.config import UserError
from core.types import Trace

Unit = Literal["tokens", "steps"]
UNITS = ("tokens", "steps")
STEP_START = PROFILES["steps"].start

Length = Literal["short", "long"]
# What the paper asked, word for word: another wording is another experiment (section 5.2, and the released task files)
CLASS_PROMPTS = {
    "short": "Answer after a short amount of thinking. Do not spend excessive time double-checking your work.",
    "long": "Answer after a long amount of thinking. If you feel like you are finished early, spend the extra time "
    "trying to double-check your work until you are absolutely sure that you have the correct answer.",
}


def with_limit(question: str, limit: int, unit: Unit) -> str:
    """The text of a question that asks for at most `limit` tokens or steps of thinking."""
    return f"{question}\n\nThink for up to {limit} {unit}."


def with_class(question: str, length: Length) -> str:
    """The text of a question that asks for short or long thinking (class-conditional control)."""
    return f"{question}\n\n{CLASS_PROMPTS[length]}"


def num_steps(thinking: str) -> int:
    """Steps begun in the thinking of profile `steps`, whose prompt opens the first one."""
    return thinking.count(STEP_START) + 1 if thinking.strip() else 0


def limit_of(length: int) -> int:
    """The smallest power of two not below length (at least 1)."""
    return 1 << (length - 1).bit_length()


def steps_of(thinking: str) -> list[str]:
    """The paragraphs of a text, without the blank lines between them."""
    text = thinking.strip()
    return re.split(r"\n\s*\n", text) if text else []


def token_conditional(trace: Trace, count_tokens: Callable[[str], int]) -> Trace:
    """The trace of a question that asks for at most as many tokens as it thinks. Its id stays the question's.

    Raises UserError where there is no thinking.
    """
    thinking = trace.thinking.strip()
    _check_thinking(trace, thinking)
    num_tokens = count_tokens(thinking)
    question = replace(trace.question, text=with_limit(trace.question.text, limit_of(num_tokens), "tokens"))
    return replace(trace, question=question, num_thinking_tokens=num_tokens)


def step_conditional(trace: Trace) -> Trace:
    """The trace, its steps counted down, of a question that asks for at most so many. Its id stays the question's.

    For profile `steps`, whose start of thinking, <|im_start|>, opens the first step; so the text of thinking begins
    with the count alone. Raises UserError where there is no thinking, or it contains that delimiter.
    """
    steps = steps_of(trace.thinking)
    _check_thinking(trace, steps)
    if STEP_START in trace.thinking:
        raise UserError(f"trace of question {trace.question.id} contains the delimiter {STEP_START!r}")
    limit = limit_of(len(steps))
    thinking = f"\n{STEP_START}".join(f"{limit - i} steps left\n{step}" for i, step in enumerate(steps))
    question = replace(trace.question, text=with_limit(trace.question.text, limit, "steps"))
    return replace(trace, question=question, thinking=thinking, num_thinking_tokens=None)


def conditional(traces: Sequence[Trace], control: str, chat: ChatFormat) -> list[Trace]:
    """The traces as conditional control trains them.

    control: "tokens" or "steps". Raises UserError for another one, or one that the profile of `chat` cannot express.
    """
    if control not in UNITS:
        raise UserError(f"control={control!r} is unknown; use {' or '.join(UNITS)}, or null for none")
    if (control == "steps") != (chat.name == "steps"):
        raise UserError(f"control={control} does not go with profile={chat.name}: steps needs profile=steps, tokens s1")
    if control == "steps":
        return [step_conditional(trace) for trace in traces]
    return [token_conditional(trace, lambda text: len(chat.encode(text))) for trace in traces]


def _check_thinking(trace: Trace, thinking: str | list[str]) -> None:
    if not thinking:
        raise UserError(f"trace of question {trace.question.id} has no thinking, so there is no length to ask for")
