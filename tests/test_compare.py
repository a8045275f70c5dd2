"""eval.compare says what the samples of its runs say, and refuses what cannot be compared."""

import json
import random
from dataclasses import dataclass
from statistics import fmean

import pytest

from core.config import UserError, load
from core.runs import open_run
from core.types import write_jsonl
from eval.compare import CompareConfig, compare, main
from eval.compare_report import picture, to_markdown
from eval.metrics import mcnemar, paired_difference
from eval.optimal import compute_optimal
from eval.scores import score

SETTINGS = {  # as scores.json has them
    "max=16": {"max_thinking_tokens": 16},
    "max=64": {"max_thinking_tokens": 64},
    "max=64 ignore=1": {"max_thinking_tokens": 64, "num_ignore": 1},
    "max=64 ignore=4": {"max_thinking_tokens": 64, "num_ignore": 4},
    "max=64 ignore=4 text='Hmm'": {"max_thinking_tokens": 64, "num_ignore": 4, "ignore_text": "Hmm"},
}
CHANCE = dict(zip(SETTINGS, (0.3, 0.6, 0.65, 0.7, 0.6), strict=True))


@dataclass
class RunConfig:
    name: str
    version: int = 0


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(name, questions=range(30), repeats=1, seed=0, benchmarks=("aime",), votes=(), version=0, old=False):
    """A finished eval run; old: rows and scores as they were before benchmarks and costs."""
    rng = random.Random(f"{name} {seed}")
    rows = []
    for benchmark in benchmarks:
        for i in questions:
            for repeat in range(repeats):
                for cell, settings in SETTINGS.items():
                    rows.append({
                        "benchmark": benchmark, "cell": cell, "question_id": f"q{i}", "repeat": repeat, "segments": [],
                        "correct": None if i == 29 else rng.random() < CHANCE[cell], "num_answer_tokens": 3,
                        "num_thinking_tokens": settings["max_thinking_tokens"], "num_sampled_tokens": 10 * (i + 1),
                        "ended": "budget", "num_ignored": settings.get("num_ignore", 0), "repetition": False,
                    })  # fmt: skip
    common = {"method": "budget_forcing", "num_ignore": 0, "ignore_text": "Wait"}
    entries = [
        {"benchmark": b, "cell": cell, **common, **own}
        | score([row for row in rows if (row["benchmark"], row["cell"]) == (b, cell)])
        for b in benchmarks for cell, own in SETTINGS.items()
    ]  # fmt: skip
    for row in (*rows, *entries) if old else ():
        for key in ("benchmark", "num_sampled_tokens", "method"):
            row.pop(key, None)
    with open_run("eval", RunConfig(name, version)) as run:
        journal = run.journal("samples.jsonl")
        for row in rows:
            journal.append(row)
        (run.path / "scores.json").write_text(json.dumps({"cells": entries, "parallel": list(votes)}))
        run.finish()
    return run.path, rows


def config(*paths, **keys):
    return CompareConfig(runs=[str(p) for p in paths], num_resamples=keys.pop("num_resamples", 300), **keys)


def means(rows, cell, benchmark="aime"):
    scores = {}
    for row in rows:
        if row["cell"] == cell and row.get("benchmark", "questions") == benchmark and row["correct"] is not None:
            scores.setdefault(row["question_id"], []).append(float(row["correct"]))
    return {q: fmean(values) for q, values in scores.items()}


def test_every_cell_is_compared_with_the_first():
    path, rows = make_run("a")
    result = compare(config(path))
    assert [(p["a"]["cell"], p["b"]["cell"]) for p in result["pairs"]] == [(c, "max=16") for c in list(SETTINGS)[1:]]
    for pair in result["pairs"]:
        a, b = means(rows, pair["a"]["cell"]), means(rows, "max=16")
        interval = [100 * x for x in paired_difference(a, b, 300)]
        assert [pair[key] for key in ("difference", "low", "high")] == pytest.approx(interval)
        assert pair["a"]["accuracy"] == pytest.approx(100 * fmean(a.values()))
        assert pair["wrong_to_right"] == sum(a[q] > b[q] for q in a)
        assert pair["mcnemar_p"] == mcnemar({q: bool(b[q]) for q in b}, {q: bool(a[q]) for q in a})
        assert (pair["num_questions"], pair["num_ungraded"], pair["flips_of"]) == (29, 1, "answers")


def test_waits_are_compared_with_fewer_waits_of_the_same_text():
    path, _ = make_run("a")
    waits = [(p["a"]["cell"], p["b"]["cell"]) for p in compare(config(path))["waits"]]
    assert waits == [
        ("max=64 ignore=1", "max=64"),
        ("max=64 ignore=4", "max=64 ignore=1"),
        ("max=64 ignore=4 text='Hmm'", "max=64"),
    ]


def test_repeats_flip_by_their_majority():
    path, rows = make_run("a", repeats=4)
    pair = compare(config(path))["pairs"][0]
    a, b = means(rows, "max=64"), means(rows, "max=16")
    assert pair["flips_of"] == "majorities"
    assert pair["wrong_to_right"] == sum(b[q] < 0.5 < a[q] for q in a)
    assert pair["right_to_wrong"] == sum(a[q] < 0.5 < b[q] for q in a)
    assert pair["difference"] == pytest.approx(100 * fmean(a[q] - b[q] for q in a))


def test_named_pairs_across_runs_and_benchmarks():
    a, rows_a = make_run("a", benchmarks=("aime", "math"))
    b, rows_b = make_run("b", benchmarks=("math",))
    by_name_and_folder = f"pairs=[{{a: {{run: a, cell: max=64}}, b: {{run: {b}, cell: max=16}}}}]"
    loaded = load(CompareConfig, [f"runs=[{a},{b}]", "num_resamples=300", by_name_and_folder])
    (pair,) = compare(loaded)["pairs"]
    assert (pair["benchmark"], pair["a"]["run"], pair["b"]["run"]) == ("math", "a", "b")
    expected = fmean(means(rows_a, "max=64", "math").values()) - fmean(means(rows_b, "max=16", "math").values())
    assert pair["difference"] == pytest.approx(100 * expected)


def test_runs_of_one_name_go_by_their_folders():
    a, _ = make_run("a")
    again, _ = make_run("a", version=1)
    runs = {p["a"]["run"] for p in compare(config(a, again))["pairs"]}
    assert runs == {a.name, again.name}


def test_different_questions_are_counted_and_compared_only_when_asked():
    a, rows_a = make_run("a", questions=range(20))
    b, rows_b = make_run("b", questions=range(15, 29))
    with pytest.raises(UserError, match=r"9 questions are in b max=16 only, 15 in a max=16 only; common=true .* 5 "):
        compare(config(a, b))
    pair = compare(config(a, b, common=True))["pairs"][-1]
    left, right = means(rows_b, pair["a"]["cell"]), means(rows_a, "max=16")
    assert (pair["num_questions"], pair["num_only_a"], pair["num_only_b"]) == (5, 9, 15)
    assert pair["difference"] == pytest.approx(100 * fmean(left[q] - right[q] for q in left.keys() & right.keys()))
    apart, _ = make_run("c", questions=range(50, 60))
    with pytest.raises(UserError, match="share 0 graded questions"):
        compare(config(a, apart, common=True))


def test_methods_are_sorted_by_price_with_votes_among_them():
    vote = {"benchmark": "aime", "cell": "max=16", "method": "majority", "k": 4, "tokens": 120.0, "accuracy": 99.0,
            "low": 90.0, "high": 100.0, "num_questions": 29}  # fmt: skip
    bound = {**vote, "method": "pass_at_k", "tokens": 1.0, "accuracy": 100.0}
    path, rows = make_run("a", votes=[vote, bound, {**vote, "k": 1}])
    methods = compare(config(path))["methods"]["aime"]
    assert [m["tokens"] for m in methods] == sorted(m["tokens"] for m in methods)
    assert [m["method"] for m in methods[:2]] == ["pass@4 max=16", "majority@4 max=16"]
    assert [m["best_so_far"] for m in methods] == [False, True, *[False] * len(SETTINGS)]  # a bound is no method
    (cell,) = [m for m in methods if m["method"] == "max=64"]
    assert cell["tokens"] == pytest.approx(fmean(r["num_sampled_tokens"] for r in rows))


def test_older_runs_without_benchmarks_or_costs():
    path, _ = make_run("a", old=True)
    result = compare(config(path))
    assert {p["benchmark"] for p in result["pairs"]} == {"questions"}
    assert [m["tokens"] for m in result["methods"]["questions"]] == [19, 67, 67, 67, 67]


def test_methods_of_unknown_price_come_last_and_are_no_choice():
    a, rows = make_run("a")
    unknown = {"num_sampled_tokens": None, "num_thinking_tokens": None, "num_answer_tokens": None}
    blind = [row | unknown if row["cell"] != "max=16" or row["question_id"] == "q0" else row for row in rows]
    write_jsonl(a / "samples.jsonl", blind)
    scores = json.loads((a / "scores.json").read_text())
    for entry in scores["cells"]:
        entry |= {"thinking_tokens": None, "answer_tokens": None}
    (a / "scores.json").write_text(json.dumps(scores))
    b, _ = make_run("b")
    result = compare(load(CompareConfig, [f"runs=[{a},{b}]", "num_resamples=50", "optimal={run: b, cell: max=16}"]))
    methods = result["methods"]["aime"]
    assert [m["tokens"] is None for m in methods] == [False] * 6 + [True] * 4
    assert not any(m["best_so_far"] for m in methods[6:])
    chosen_from = result["optimal"][0]["points"][-1]["methods"]
    assert set(chosen_from) == {"a max=16", *(f"b {cell}" for cell in list(SETTINGS)[1:])}
    assert result["optimal"][0]["num_questions"] == 28
    assert "| - | " in to_markdown(result, "compare.png")


def test_compute_optimal_uses_the_other_cells():
    a, rows_a = make_run("a", repeats=2)
    b, rows_b = make_run("b", repeats=2)
    keys = ["num_resamples=200", "optimal={run: b, cell: max=64, num_bins: 3}"]
    loaded = load(CompareConfig, [f"runs=[{a},{b}]", *keys])
    (optimal,) = compare(loaded)["optimal"]
    labels = {f"{run} {cell}": (rows, cell) for run, rows in (("a", rows_a), ("b", rows_b)) for cell in SETTINGS}
    difficulty = means(rows_b, "max=64")
    labels.pop("b max=64")
    scores = {label: means(*where) for label, where in labels.items()}
    tokens = {label: {f"q{i}": 10.0 * (i + 1) for i in range(29)} for label in labels}
    (expected,) = compute_optimal(scores, tokens, difficulty, num_bins=3, num_resamples=200)
    assert optimal["points"][0]["optimal"] == pytest.approx(expected.optimal)
    assert optimal["points"][0]["chosen"] == expected.chosen
    assert (optimal["num_questions"], optimal["num_left_out"], optimal["shares_seeds"]) == (29, 1, True)


def test_votes_known_by_question_are_among_the_choices():
    entry = {"benchmark": "aime", "cell": "max=16", "method": "majority", "k": 2}
    vote = {**entry, "tokens": 9.0, "accuracy": 100.0, "low": 90.0, "high": 100.0, "num_questions": 29}
    a, _ = make_run("a", votes=[vote, {**vote, "k": 4}, {**vote, "cell": "max=64"}])
    questions = [f"q{i}" for i in range(29)]
    by_question = {"scores": dict.fromkeys(questions, 1.0), "tokens": dict.fromkeys(questions, 9.0)}
    (a / "parallel.jsonl").write_text(
        "".join(json.dumps(e | by_question) + "\n" for e in (entry, entry | {"cell": "max=64"}))
    )
    loaded = load(CompareConfig, [f"runs=[{a}]", "num_resamples=50", "optimal={cell: max=64}"])
    (optimal,) = compare(loaded)["optimal"]
    first, *_ = optimal["points"]
    assert first["methods"] == ["a majority@2 max=16"]  # not of the cell that says what is hard, nor k=4 without scores
    assert (first["optimal"], first["budget"], first["optimal_tokens"]) == (1, 9, 9)


def test_what_does_not_fit_is_one_line():
    path, _ = make_run("a")
    other, _ = make_run("b")
    for keys, message in (
        ({"runs": []}, "runs is empty"),
        ({"runs": [path, path]}, "twice"),
        ({"runs": ["outputs/eval/nothing"]}, "does not exist"),
        (
            {"runs": [path], "pairs": "[{a: {cell: max=9}, b: {cell: max=16}}]"},
            "no cell 'max=9'; it has max=16",
        ),
        ({"runs": [path, other], "pairs": "[{a: {cell: max=16}, b: {cell: max=64}}]"}, "name one"),
    ):
        pairs = [f"pairs={keys['pairs']}"] if "pairs" in keys else []
        with pytest.raises(UserError, match=message.replace("[", r"\[")):
            compare(load(CompareConfig, [f"runs=[{','.join(map(str, keys['runs']))}]", *pairs]))
    (path / "DONE").unlink()
    with pytest.raises(UserError, match="not finished"):
        compare(config(path))


def test_the_page_has_every_number():
    path, _ = make_run("a", votes=[])
    result = compare(config(path))
    page = to_markdown(result, "compare.png")
    for pair in result["pairs"]:
        assert f"| {pair['difference']:+.1f} | [{pair['low']:.1f}, {pair['high']:.1f}] |" in page
    assert "could not be graded on both sides are left out: at most 1" in page
    for line in page.splitlines():
        assert line.count("|") in (0, 13, 8)  # tables of one width
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_the_run_and_its_picture():
    a, _ = make_run("a", benchmarks=("aime", "math"))
    b, _ = make_run("b", benchmarks=("math",))
    loaded = config(a, b)
    folder = main(loaded)
    assert {"compare.json", "compare.md", "compare.png", "DONE"} <= {p.name for p in folder.iterdir()}
    result = json.loads((folder / "compare.json").read_text())
    figure = picture(result["methods"])
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in drawn] == ["aime", "math"]
    for axes in drawn:
        points = {(round(x, 6), round(y, 6)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
        for m in result["methods"][axes.get_title()]:
            assert (round(m["tokens"], 6), round(m["accuracy"], 6)) in points
    assert main(loaded) == folder
