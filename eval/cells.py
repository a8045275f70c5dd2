"""The grid of an evaluation: each cell is one way to ask and to force.

cells:
  - {max_thinking_tokens: [512, 1024, 2048, 4096, 8192, 16384, auto]}              # budget forcing
  - {num_ignore: [1, 2, 4, 6], ignore_text: [Wait, Alternatively]}                 # the end of thinking ignored
  - {control: tokens, asked: [1024, 2048], max_thinking_tokens: [auto, asked]}     # token-conditional, also forced
  - {control: steps, asked: [16, 32], max_thinking_tokens: [auto, asked]}          # step-conditional, also forced
  - {control: short}                                                               # class-conditional
  - {control: long}
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.conditional import UNITS, with_class, with_limit
from core.config import UserError, option
from inference.budget import Budget

CONTROLS = ("none", *UNITS, "short", "long")
TOKENS_A_STEP = 100  # what Control allows a step that was asked for (paper, section 5.2)


@dataclass
class Cells:
    """A block of the grid: every combination of its lists is one cell."""

    max_thinking_tokens: list[Any] = option(
        ["auto"], help="numbers, auto, null (plain profile: no thinking), or asked: forced at what was asked for"
    )
    min_thinking_tokens: list[int] = option([0], help="shorter thinking is made to go on")
    num_ignore: list[int] = option([0], help="how many ends of thinking become the ignore text")
    ignore_text: list[str] = option(["Wait"], help="what is appended there")
    control: str = option("none", help="what the question asks for: tokens, steps, short, long, or none")
    asked: list[int] = option([], help="how many tokens or steps it asks for")


@dataclass(frozen=True)
class Cell:
    """One cell. asked: tokens or steps that the question asks for. forced: thinking is ended there.

    way: rejection_sampling or a search (eval/draw_pools.py); None where every sample is drawn by itself.
    repeats: its own number of them; None takes the benchmark's.
    """

    label: str
    budget: Budget
    control: str = "none"
    asked: int | None = None
    forced: bool = False
    way: str | None = None
    repeats: int | None = None

    @property
    def method(self) -> str:
        """The paper's name of the method, in whose curve this cell is a point. Another ignore text is another curve."""
        if self.way:
            return self.way
        names = {"none": "budget_forcing", "tokens": "token_conditional", "steps": "step_conditional"}
        name = names.get(self.control, "class_conditional") + ("+forcing" if self.forced else "")
        appends = self.budget.num_ignore or self.budget.min_thinking_tokens
        return f"{name} {self.budget.ignore_text!r}" if appends and self.budget.ignore_text != "Wait" else name

    @property
    def limit(self) -> int | None:
        """The most thinking tokens that Control counts as kept; None: no limit, or (short, long) the default run's."""
        if self.way not in (None, "rejection_sampling"):
            return None  # each path of a search has one, all together have none
        if self.asked is not None:
            return self.asked * (TOKENS_A_STEP if self.control == "steps" else 1)
        return self.budget.max_thinking_tokens if isinstance(self.budget.max_thinking_tokens, int) else None

    def prompt(self, question: str) -> str:
        """The text of the question as this cell asks it."""
        if self.control == "none":
            return question
        if self.control in UNITS:
            return with_limit(question, self.asked, self.control)
        return with_class(question, self.control)

    def profile(self, profile: str) -> str:
        """Profile `steps` ends thinking where no step is left; asked for without forcing, the model goes on."""
        return "steps-unforced" if self.control == "steps" and not self.forced else profile


def cells_of(
    blocks: Sequence[Cells], profile: str, cue: str, max_answer_tokens: int, budget_per_round: bool
) -> list[Cell]:
    """Every cell of the grid, in its order. Raises UserError for a wrong value, or a cell given twice."""
    cells: dict[str, Cell] = {}
    for block in blocks:
        _check(block, profile)
        lists = (block.asked or [None], block.max_thinking_tokens, block.min_thinking_tokens, block.num_ignore,
                 block.ignore_text)  # fmt: skip
        for asked, limit, minimum, num_ignore, text in itertools.product(*lists):
            forced = limit == "asked"
            if forced:
                limit = asked if block.control == "tokens" else "auto"
            try:
                budget = Budget(limit, minimum, num_ignore, text, cue, max_answer_tokens, budget_per_round)
            except ValueError as error:
                raise UserError(f"cells: {error}") from None
            label = _label(budget, block.control, asked, forced)
            if label in cells:
                raise UserError(f"cells: {label!r} is asked for twice")
            cells[label] = Cell(label, budget, block.control, asked, forced)
    return list(cells.values())


def _check(block: Cells, profile: str) -> None:
    if block.control not in CONTROLS:
        raise UserError(f"cells: control={block.control!r} is unknown; use {', '.join(CONTROLS)}")
    if (block.control in UNITS) != bool(block.asked):
        raise UserError(f"cells: asked=[...] goes with control=tokens or control=steps, here control={block.control}")
    if any(asked < 1 for asked in block.asked):
        raise UserError("cells: asked takes numbers of at least 1")
    if block.control == "steps" and profile != "steps":
        raise UserError(f"cells: control=steps needs profile=steps, not {profile}")
    if "asked" in block.max_thinking_tokens and block.control not in UNITS:
        raise UserError("cells: max_thinking_tokens=asked goes with control=tokens or control=steps")


def _label(budget: Budget, control: str, asked: int | None, forced: bool) -> str:
    limit = "none" if budget.max_thinking_tokens is None else budget.max_thinking_tokens
    parts = [f"max={'asked' if forced else limit}"]
    if control != "none":
        parts.insert(0, control if asked is None else f"{control}={asked}")
    if budget.min_thinking_tokens:
        parts.append(f"min={budget.min_thinking_tokens}")
    if budget.num_ignore:
        parts.append(f"ignore={budget.num_ignore}")
    if (budget.num_ignore or budget.min_thinking_tokens) and budget.ignore_text != "Wait":
        parts.append(f"text={budget.ignore_text!r}")
    return " ".join(parts)
