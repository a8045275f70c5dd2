"""Figures of runs alone: every benchmark is shown, and what is not known is left out."""

import pytest

from eval.comparison import EvalCell
from eval.figures import FIGURES
from eval.material import Material
from eval.plotting import drawn_points, styled
from eval.scores import score

HARD, EASY = ["q0", "q1", "q2"], ["q3"]


def cell(benchmark, label, right, tokens=8, num_ignore=0):
    """A cell of budget forcing over four questions. right: those answered right; None: nothing could be graded."""
    rows = [
        {"question_id": q, "repeat": 0, "correct": None if right is None else q in right, "num_thinking_tokens": tokens,
         "num_answer_tokens": 1, "ended": "budget", "num_ignored": num_ignore, "repetition": False}
        for q in HARD + EASY
    ]  # fmt: skip
    settings = {"method": "budget_forcing", "num_ignore": num_ignore, "max_thinking_tokens": 64, **score(rows)}
    return EvalCell("run", benchmark, label, settings, rows)


def drawn(name, material):
    with styled():
        figure = FIGURES[name](material)
        return figure and drawn_points(figure)


@pytest.mark.slow
def test_accuracy_by_difficulty_has_a_panel_a_benchmark():
    cells = {b: [cell(b, "max=4", EASY, 4), cell(b, "max=8", ["q0"]), cell(b, "ignore=1", HARD, 16, 1)] for b in "ab"}
    material = Material(cells=cells["a"] + cells["b"], difficulty={b: own[0] for b, own in cells.items()})
    lines = drawn("accuracy_by_difficulty", material)
    assert lines == {
        line: points
        for b in "ab"
        for line, points in (
            (f"run | bin 1 | {b}", [(8, pytest.approx(100 / 3)), (16, 100)]),
            (f"run | bin 2 | {b}", [(8, 0), (16, 0)]),
        )
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FIGURES if name != "figure_3"])
def test_cells_that_could_not_be_graded_are_left_out(name):
    base, known, unknown = cell("a", "max=8", EASY), cell("a", "max=16", HARD, 16), cell("a", "max=32", None, 32)
    waited = cell("a", "ignore=1", None, 40, 1)
    found = drawn(name, Material(cells=[base, known, unknown, waited], difficulty={"a": base}))
    xs = {x for points in (found or {}).values() for x, _ in points}
    assert xs <= {8, 16, 9, 17}  # thinking tokens, and all sampled ones
    assert drawn(name, Material(cells=[unknown, waited], difficulty={"a": unknown})) is None
