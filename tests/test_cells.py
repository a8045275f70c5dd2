"""The grid says what each cell asks and forces."""

from collections import Counter
from pathlib import Path

import pytest

from core.config import UserError
from eval.cells import Cells, cells_of

ROOT = Path(__file__).parents[1]


def grid(*blocks: Cells, profile: str = "s1"):
    return {cell.label: cell for cell in cells_of(blocks, profile, "\nFinal Answer:", 8, False)}


def test_a_block_is_the_product_of_its_lists():
    waits = Cells(["auto"], num_ignore=[1, 2], ignore_text=["Wait", ""])
    cells = grid(Cells([16, "auto"]), waits, Cells([64], min_thinking_tokens=[64]))
    assert list(cells) == [
        "max=16", "max=auto", "max=auto ignore=1", "max=auto ignore=1 text=''", "max=auto ignore=2",
        "max=auto ignore=2 text=''", "max=64 min=64",
    ]  # fmt: skip
    assert [cells[label].limit for label in ("max=16", "max=auto")] == [16, None]
    methods = {"budget_forcing": 5, "budget_forcing ''": 2}
    assert Counter(cell.method for cell in cells.values()) == methods, "another ignore text is another curve"


def test_token_conditional_cells_ask_and_force_the_same_number():
    cells = grid(Cells(["auto", "asked"], control="tokens", asked=[1024, 2048]))
    free, forced = cells["tokens=2048 max=auto"], cells["tokens=2048 max=asked"]
    assert free.prompt("Q") == forced.prompt("Q") == "Q\n\nThink for up to 2048 tokens."
    assert (free.budget.max_thinking_tokens, forced.budget.max_thinking_tokens) == ("auto", 2048)
    assert free.limit == forced.limit == 2048, "Control asks whether the model keeps to it, forced or not"
    assert (free.method, forced.method) == ("token_conditional", "token_conditional+forcing")


def test_step_conditional_cells_end_at_no_step_left_only_where_forced():
    cells = grid(Cells(["auto", "asked"], control="steps", asked=[16]), profile="steps")
    free, forced = cells["steps=16 max=auto"], cells["steps=16 max=asked"]
    assert free.prompt("Q") == "Q\n\nThink for up to 16 steps."
    assert (free.profile("steps"), forced.profile("steps")) == ("steps-unforced", "steps")
    assert free.budget.max_thinking_tokens == forced.budget.max_thinking_tokens == "auto"
    assert free.limit == 1600, "the paper allows 100 tokens a step"


def test_class_conditional_cells_add_the_papers_words():
    cells = grid(Cells(control="short"), Cells(control="long"))
    assert cells["short max=auto"].prompt("Q").startswith("Q\n\nAnswer after a short amount of thinking.")
    assert "double-check your work until" in cells["long max=auto"].prompt("Q")
    assert {cell.method for cell in cells.values()} == {"class_conditional"}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Cells(control="words"), "control='words' is unknown"),
        (Cells(control="tokens"), "asked=.* goes with control=tokens"),
        (Cells(asked=[5]), "asked=.* goes with"),
        (Cells(control="tokens", asked=[0]), "at least 1"),
        (Cells(control="steps", asked=[5]), "control=steps needs profile=steps, not s1"),
        (Cells(["asked"]), "max_thinking_tokens=asked goes with"),
        (Cells([16, 16]), "'max=16' is asked for twice"),
        (Cells(["many"]), "expected a number >= 0, auto, or null"),
        (Cells([-1]), "expected a number >= 0, auto, or null"),
        (Cells(num_ignore=[-1]), "cannot be negative"),
    ],
)
def test_what_makes_no_sense_is_refused(block, message):
    with pytest.raises(UserError, match=message):
        grid(block)
