"""The GPU benchmark: what it derives follows from what it measured, and it runs at toy size."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.step_time import LayerTime, Plan, StepTime, all_to_all_seconds, fit_head, fit_layer, layer_flops
from benchmarks.train_gpu import Bench, TrainGpuConfig, derive, main, rows_of
from core.config import UserError
from core.cost import QWEN25
from train.steps import visits

ROOT = Path(__file__).parent.parent
SHAPE = QWEN25["Qwen/Qwen2.5-32B-Instruct"]
PEAK = 989e12


def points_at(mfu: float) -> list[tuple]:
    rows = [row for tokens in (2048, 4096, 8192, 16384) for row in rows_of(tokens, "varlen-full")]
    return [(sum(row), sum(n * n for n in row), layer_flops(SHAPE, row) / (mfu * PEAK)) for row in rows]


def head_at(mfu: float) -> list[tuple]:
    return [(tokens, 6.0 * tokens * SHAPE.embedding_parameters / (mfu * PEAK)) for tokens in (4096, 8192)]


def test_layers_and_head_make_up_the_model():
    layers = SHAPE.num_layers * layer_flops(SHAPE, [3000])
    assert layers + 6.0 * 3000 * SHAPE.embedding_parameters == pytest.approx(SHAPE.flops(3000))


def test_a_fit_finds_what_the_times_were_made_of():
    made = LayerTime(2e-4, 3e-6, 5e-11)
    points = [(t, p, made.seconds(t, p)) for t, p, _ in points_at(0.4)]
    found, error = fit_layer(points)
    assert found.per_token == pytest.approx(3e-6) and found.per_pair == pytest.approx(5e-11) and error < 1e-6
    _, error = fit_layer([*points[:-1], (*points[-1][:2], 1.2 * points[-1][2])])
    assert error > 0.03
    with pytest.raises(ValueError, match="2 points"):
        fit_layer(points[:2])


def test_times_at_half_the_peak_give_a_run_at_half_the_peak_times_balance():
    lengths = [700 + 37 * i % 9000 for i in range(64)]
    plan = Plan(SHAPE, lengths, visits(64, 16, 2, 0))
    layer, _ = fit_layer(points_at(0.5))
    model = StepTime(SHAPE.num_layers, layer, fit_head(head_at(0.5)), all_to_all=0.0, update=0.0)
    for size in (1, 4):
        run = plan.replay(model, 16, size)
        assert plan.flops / run.seconds / (16 * PEAK) == pytest.approx(0.5 * run.balance, rel=1e-6)
    assert plan.replay(model, 1, 1).balance == 1
    slower = StepTime(SHAPE.num_layers, layer, fit_head(head_at(0.5)), all_to_all=1e-6, update=0.25)
    extra = plan.replay(slower, 16, 4).seconds - plan.replay(model, 16, 4).seconds
    assert extra > len(plan.steps) * 0.25


def test_all_to_all_moves_what_the_estimate_of_20_gb_says():
    seconds = all_to_all_seconds(SHAPE, 4, "full", 1.0)
    assert 64 * 5600 * seconds == pytest.approx(19.8, rel=0.01)  # GB at 1 GB/s: 5.6K tokens a device


@pytest.mark.slow
def test_derived_numbers_are_printed_as_such(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    bench = Bench(SimpleNamespace(type="cuda"), "H100", PEAK, int(84.9e9), 5, 0.0)
    points = {"varlen-full": points_at(0.45), "varlen-none": points_at(0.55)[:2], "sdpa-full": points_at(0.45)[::2]}
    derive(bench, TrainGpuConfig(), SHAPE, points, head_at(0.45), 0.02)
    printed = capsys.readouterr().out
    assert "DERIVED, not measured" in printed and "varlen-none: too few sizes" in printed
    runs = [row for row in bench.rows if row["part"] == "derived"]
    assert [(row["variant"], row["layout"].split()[3]) for row in runs] == [
        ("varlen-full", "16"), ("varlen-full", "4"), ("sdpa-full", "16"),
    ]  # fmt: skip
    assert runs[1]["balance"] > 0.95 > runs[0]["balance"] and runs[1]["minutes"] < runs[0]["minutes"]
    assert 0.95 * 0.45 * runs[1]["balance"] < runs[1]["mfu"] < 0.45


@pytest.mark.slow
def test_what_begins_too_late_is_skipped_and_a_failure_remembered(capsys):
    from benchmarks.train_gpu import attempts

    bench = Bench(SimpleNamespace(type="cpu"), "CPU", None, 0, 5, time.monotonic() - 1)
    assert not bench.has_time("the head") and "the head: skipped" in capsys.readouterr().out
    results = dict(attempts(bench, [("a", lambda: 1 / 0), ("b", lambda: 2)]))
    assert results == {"b": 2} and bench.failed == ["a"] and "a: FAILED" in capsys.readouterr().out


def test_unknown_parts_are_named():
    with pytest.raises(UserError, match="'heads' is unknown"):
        main(TrainGpuConfig(parts=["heads"]))


@pytest.mark.slow
def test_it_runs_at_toy_size_and_derives_nothing(tmp_path):
    command = [sys.executable, "-m", "benchmarks.train_gpu", f"json={tmp_path}/out.json",
               "variants=[varlen-selective,sdpa-full]"]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    if "no GPU here" not in result.stdout:
        pytest.skip("there is a GPU")
    assert "nothing is derived from a toy run" in result.stdout and "MFU -" in result.stdout
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"layers", "head", "update", "trainer"}
    assert all(row["device"] == "CPU (toy)" and row["repeats"] == 2 for row in rows)
    for row in rows:
        assert f"| n=2 | CPU (toy) | torch {row['torch']}" in result.stdout
