"""The summary and the figure say what the samples say."""

import csv
import json
import random
from dataclasses import asdict

import pytest

from core.config import UserError
from core.runs import open_run
from core.types import Segment
from eval.cells import Cells, cells_of
from eval.figures import FiguresConfig, main, page_figure
from eval.metrics import mean_interval
from eval.run import EvalConfig
from eval.scores import scores_of
from eval.summary import curve, load_run, summarise

BLOCKS = [Cells([16, 32, 64, 128]), Cells([128], num_ignore=[1, 2])]
CELLS = cells_of(BLOCKS, "s1", "\nFinal Answer:", 8, False)
ACCURACY = {16: 0.1, 32: 0.2, 64: 0.5, 128: 0.9}


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(name: str, scale: float = 1.0):
    """A finished eval run over 40 questions of two families."""
    rows = []
    for i in range(40):
        luck = random.Random(f"{name} {i}").random()
        for cell in CELLS:
            budget = cell.budget
            segment = Segment("thinking", "sampled", tuple(range(budget.max_thinking_tokens - 2)))
            rows.append({
                "benchmark": "questions", "cell": cell.label, "question_id": f"q{i}", "repeat": 0,
                "segments": [asdict(segment)], "ended": "budget",
                "num_ignored": budget.num_ignore, "repetition": False, "domain": "ab"[i % 2],
                "num_thinking_tokens": budget.max_thinking_tokens - 2, "num_answer_tokens": 3,
                "correct": luck < scale * ACCURACY[budget.max_thinking_tokens] - 0.1 * budget.num_ignore,
            })  # fmt: skip
    with open_run("eval", EvalConfig(name=name, model="m", questions="q")) as run:
        journal = run.journal("samples.jsonl")
        for row in rows:
            journal.append(row)
        cells = scores_of(rows, ["questions"], CELLS)
        (run.path / "scores.json").write_text(json.dumps({"cells": cells}))
        run.finish()
    return run.path


@pytest.mark.slow
def test_every_number_of_the_summary_follows_from_the_samples():
    tuned, base = load_run(make_run("tuned")), load_run(make_run("base", 0.2))
    summary = summarise(tuned, [base], ["a", "b"], 32, 128)
    right = {cell: {r["question_id"]: r["correct"] for r in rows} for cell, rows in tuned.rows.items()}

    def percent(cell):
        return 100 * sum(right[cell].values()) / 40

    gain = summary["gain"]
    assert gain["from_accuracy"] == pytest.approx(percent("max=32"))
    assert gain["difference"] == pytest.approx(percent("max=128") - percent("max=32"))
    assert gain["low"] <= gain["difference"] <= gain["high"] and gain["low"] > 0
    assert summary["control"] == 100.0 and summary["performance"] == max(map(percent, right))
    first_wait = summary["ignored_ends"][0]
    lost = sum(right["max=128"][q] and not right["max=128 ignore=1"][q] for q in right["max=128"])
    assert (first_wait["right_to_wrong"], first_wait["wrong_to_right"]) == (lost, 0)
    (baseline,) = summary["baselines"]
    assert baseline["tuned_minus_baseline"]["difference"] > 30
    assert {p["num_questions"] for p in summary["by_domain"]["a"]} == {20}


def test_curves_carry_the_interval_of_the_metrics():
    run = load_run(make_run("tuned"))
    for point in curve(run, ["a"]):
        rows = [r for r in run.rows[point.cell] if r["domain"] == "a"]
        expected = mean_interval({r["question_id"]: [float(r["correct"])] for r in rows})
        assert (point.accuracy, point.low, point.high) == pytest.approx([100 * x for x in expected])


@pytest.mark.slow
def test_the_figure_draws_the_points_of_the_table(tmp_path):
    paths = [str(make_run("tuned")), str(make_run("base", 0.2))]
    config = FiguresConfig(name="t", tuned=paths[0], baselines=paths[1:], from_budget=16, to_budget=128, records=paths)
    folder = main(config)
    assert {"scaling.png", "scaling.pdf", "summary.md", "summary.json"} <= {p.name for p in folder.iterdir()}
    with open(folder / "scaling.csv") as file:
        table = list(csv.DictReader(file))
    figure = page_figure([load_run(p) for p in paths], config)
    drawn = {(round(x, 6), round(y, 6)) for line in figure.axes[0].lines for x, y in zip(*line.get_data(), strict=True)}
    for row in table:
        assert (round(float(row["thinking_tokens"]), 6), round(float(row["accuracy"]), 6)) in drawn
    assert len(table) == 2 * len(CELLS)


def test_what_is_missing_is_named():
    run = load_run(make_run("tuned"))
    with pytest.raises(UserError, match="no cell max=999"):
        run.cell(999)
    with pytest.raises(UserError, match="no question in geometry"):
        curve(run, ["geometry"])
    with pytest.raises(UserError, match="does not exist"):
        load_run("outputs/eval/nothing")
