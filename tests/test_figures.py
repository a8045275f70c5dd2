"""What is drawn is what results/paper and the runs say; what cannot be drawn from is refused with one line."""

import csv
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_eval import scripted_engines
from tiny_tokenizer import tiny_tokenizer

from core.config import UserError, load
from core.runs import open_run
from core.types import Question, read_jsonl, write_jsonl
from eval.figures import FIGURES, FiguresConfig, draw, main, material_of
from eval.material import Material
from eval.paper import check_drawn, load_paper
from eval.paper_tables import tables_of
from eval.plotting import Curve, draw_curves, drawn_points, panels, styled
from eval.run import EvalConfig
from eval.run import main as eval_main
from eval.wait_example import Piece, WaitExample, find_example, write_example
from eval.whole_run import read_run

ROOT = Path(__file__).parent.parent
PAPER_YAML = str(ROOT / "configs/figures/paper.yaml")
OF_RUNS_ALONE = {"figure_3", "matched_tokens", "flips_per_wait", "accuracy_by_difficulty", "training_curves"}
GRID = [
    "cells=[{max_thinking_tokens: [10, 40]}, {max_thinking_tokens: [40], num_ignore: [1, 2]}, "
    "{control: tokens, asked: [20], max_thinking_tokens: [40, asked]}, {control: short, max_thinking_tokens: [40]}]",
    "rejection={limits: [20, 30], max_tries: 3}",
    "searches=[{method: rebase, max_thinking_tokens: 40, max_step_tokens: 15, step_delimiter: a, n: 2}]",
    "scorer={kind: mean_logprob}", "repeats=2", "sampling.temperature=1", "max_answer_tokens=12",
    "engine.max_model_len=300", "model=m", "questions=q.jsonl",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished run of every kind of cell, of the filter and of a training."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        scripted_engines(patch)
        write_jsonl("q.jsonl", [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(6)])
        eval_main(load(EvalConfig, ["name=every", *GRID])).rename("every")
        with open_run("train", FiguresConfig(name="sft")) as run:
            rows = [
                {"step": i, "loss": 2 / i, "learning_rate": 1e-4, "grad_norm": None, "seconds": i} for i in (1, 2, 3)
            ]
            write_jsonl(run.path / "metrics.jsonl", rows)
            run.finish(seconds_per_step=2)
        run.path.rename("sft")
        with open_run("data", FiguresConfig(name="kept")) as run:
            steps = [{"step": "quality", "in": 40, "out": 30, "reasons": {"image": 10}, "domains": {}}]
            (run.path / "funnel.json").write_text(json.dumps({"unreadable": {}, "steps": steps}))
            run.finish(num_pool=40, num_after_quality=30)
        run.path.rename("kept")
    return folder


@pytest.fixture(autouse=True)
def in_home(home, tmp_path, monkeypatch):
    """Runs may be spoiled: each test has its own copies."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def config(*args: str) -> FiguresConfig:
    return load(FiguresConfig, ["name=t", *args])


def spoil(file: str, old: str, new: str) -> None:
    path = Path("every", file)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def edit_samples(**values) -> None:
    """The first sample of max=10, after the run has ended."""
    rows = list(read_jsonl("every/samples.jsonl"))
    first = next(row for row in rows if (row["cell"], row["repeat"]) == ("max=10", 0))
    write_jsonl("every/samples.jsonl", [{**row, **values} if row is first else row for row in rows])


SPOILED = {
    "missing": (lambda: shutil.rmtree("every"), "run folder every does not exist"),
    "crashed": (lambda: Path("every/DONE").unlink(), "run every is not finished"),
    "crashed, copied": (lambda: spoil("run.json", '"done"', '"running"'), "every is not finished (status 'running'"),
    "no record": (lambda: Path("every/run.json").unlink(), "every has no run.json, so it is no run of this project"),
    "foreign record": (lambda: Path("every/run.json").write_text('{"id": 1}'), "lacks package, name, status, commit"),
    "half a record": (lambda: Path("every/run.json").write_text('{"id": '), "every/run.json is not JSON"),
    "foreign scores": (
        lambda: Path("every/scores.json").write_text('{"results": {"aime": 1}}'),
        "every/scores.json is of another make: its cells lack cell, num_samples",
    ),
    "nothing to draw": (lambda: Path("every/scores.json").unlink(), "run every has nothing to draw"),
    "no samples": (lambda: Path("every/samples.jsonl").unlink(), "run every is not whole: it has no samples.jsonl"),
    "a shard": (lambda: spoil("config.yaml", "num_shards: 1", "num_shards: 8"), "run every is shard 0 of 8"),
    "torn in a character": (
        lambda: Path("every/samples.jsonl").write_bytes(Path("every/samples.jsonl").read_bytes() + b'{"cell": "\xe2'),
        "every/samples.jsonl, line 103: not UTF-8",
    ),
    "edited": (lambda: edit_samples(num_thinking_tokens=9), "thinking_tokens of questions max=10 is"),
    "graded again": (
        lambda: edit_samples(correct=None),
        "num_ungraded of questions max=10 is 1 by samples.jsonl, 0 by",
    ),
    "twice": (lambda: edit_samples(repeat=1), "samples.jsonl has a sample of questions max=10 twice"),
    "another's interval": (lambda: spoil("scores.json", '"high": ', '"high": 1'), "high of questions max=10 is"),
    "another's votes": (
        lambda: spoil(
            "parallel.jsonl", '"pass_at_k", "k": 2, "scores": {', '"pass_at_k", "k": 2, "scores": {"none": 7.0, '
        ),
        "in scores.json is not that of parallel.jsonl",
    ),
    "part of the samples": (
        lambda: write_jsonl("every/samples.jsonl", [r for r in read_jsonl("every/samples.jsonl") if r["repeat"] != 1]),
        "run every is not whole: samples.jsonl has 6 of the 12 samples of questions max=10",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_run_that_is_not_whole_is_refused(case):
    spoil_it, message = SPOILED[case]
    spoil_it()
    with pytest.raises(UserError) as error:
        material_of(config("runs=[every]"))
    assert message in str(error.value) and "\n" not in str(error.value)


OTHERS = {  # of runs of other steps
    "half a row": ("sft/metrics.jsonl", '"loss":2.0', '"loss', "sft/metrics.jsonl, line 1: not JSON"),
    "other steps": ("sft/metrics.jsonl", '"seconds":1', '"seconds":3', "the 3 steps of metrics.jsonl are not those"),
    "other counts": ("kept/funnel.json", '"out": 30', '"out": 20', "quality leaves 20 in funnel.json, 30 in run.json"),
    "no counts": ("kept/funnel.json", '"out"', '"left"', "kept/funnel.json is of another make: its steps lack out"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_steps_that_are_not_whole_are_refused(case):
    file, old, new, message = OTHERS[case]
    text = Path(file).read_text().replace('": ', '":') if file.endswith("jsonl") else Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        material_of(config(f"runs=[{Path(file).parent}]"))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to draw: give paper=true"),
        (["paper=true", "figures=[figure_9]"], "'figure_9' is unknown; known are figure_1"),
        (["runs=[every]", "check=true"], "it needs paper=true"),
        (["tuned=every", "from_budget=1"], "tuned=... needs from_budget and to_budget"),
        (["runs=[every,every]"], "runs names a run twice"),
        (["runs=[every]", "difficulty={run: every, cell: max=9}"], "run every has no cell 'max=9'"),
        (["wait_example=none.json"], "wait_example=none.json does not exist"),
        (["wait_example=every/scores.json"], "every/scores.json is no recorded example"),
    ],
)
def test_keys_that_do_not_fit(args, message):
    with pytest.raises(UserError) as error:
        main(config(*args))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_is_drawn_wrong_or_left_out_is_found():
    paper = load_paper()
    right = {"figure_7": {"Figure 7 | REBASE | AIME24": [(229085.0, 56.6)]}}
    assert check_drawn(right, paper, is_all=False) == (1, 1)
    with pytest.raises(UserError, match=r"figure_7 shows \(229085, 56.7\) as Figure 7 | REBASE | AIME24"):
        check_drawn({"figure_7": {"Figure 7 | REBASE | AIME24": [(229085.0, 56.7)]}}, paper, is_all=False)
    with pytest.raises(UserError, match="rows are not drawn, the first: Figure 1 "):
        check_drawn(right, paper, is_all=True)


def test_runs_stand_in_the_tables_of_their_benchmarks():
    cells = read_run("every", "every").cells
    measures = {"control": [100.0, 90.0, 100.0], "scaling": [1.5, None, None], "performance": None}
    measures |= {"run": "every", "method": "budget_forcing", "benchmark": "aime24"}
    cells = [replace(cell, benchmark="aime24") for cell in cells]
    material = Material(load_paper(), cells, measures=[measures], labels={"every": "ours"})
    tables = {table.name: table for table in tables_of(material)}
    (scores,) = [cell.settings for cell in cells if cell.cell == "max=40"]
    accuracy = f"{scores['accuracy']:.1f} [{scores['low']:.1f}, {scores['high']:.1f}]"
    assert ("ours, max=40", "", accuracy, "", "") in tables["table_1"].rows
    assert [row[0] for row in tables["table_4"].rows[-3:]] == [
        "ours, max=40",
        "ours, max=40 ignore=1",
        "ours, max=40 ignore=2",
    ]
    assert tables["table_3"].rows[-1] == ("ours, budget forcing, AIME24", "100.0 [90.0, 100.0]", "1.5", "", "", "")
    assert len(tables["runs"].rows) == len(cells)


def test_the_example_is_the_one_that_turned_right():
    run = read_run("every", "every")
    rows = list(read_jsonl("every/samples.jsonl"))
    waiting = [row for row in rows if row["cell"] == "max=40 ignore=1" and row["num_ignored"]]
    chosen = waiting[-1]
    for row in rows:
        same = (row["question_id"], row["repeat"]) == (chosen["question_id"], chosen["repeat"])
        row["correct"] = same and row["cell"] == "max=40 ignore=1"
    write_jsonl("every/samples.jsonl", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.checkpoint.resolve", lambda *args, **kwargs: "nowhere")
        patch.setattr("inference.checkpoint.load_tokenizer", lambda path: tiny_tokenizer())
        example = find_example(run, "tiny")
    assert example.origin["question_id"] == chosen["question_id"] and (example.before, example.after) == (False, True)
    assert [piece.text for piece in example.pieces if piece.source == "forced"][0] == "Wait"
    assert example.question.endswith("= ?") and len(run.cells) == 10


# Everything below needs matplotlib, whose import takes a second.

DRAWN = {  # figures of the paper alone, and how many of its lines each shows
    "figure_1": 3, "figure_2_domains": 51, "figure_2_examples": 8, "figure_4": 4, "figure_6": 1, "figure_7": 3,
    "trace_lengths": 2, "funnel": 1,
}  # fmt: skip


@pytest.mark.slow
def test_every_series_of_the_paper_is_drawn_as_it_is_in_results():
    paper = load_paper()
    with styled():
        figures = draw(Material(paper=paper), [])
    drawn = {name: drawn_points(figure) for name, figure in figures.items()}
    for axes in [axes for figure in figures.values() for axes in figure.axes]:
        (left, right), (low, high) = axes.get_xlim(), sorted(axes.get_ylim())
        for line in [line for line in axes.lines if line.get_gid()]:
            assert all(left <= x <= right and low <= y <= high for x, y in zip(*line.get_data(), strict=True))
        assert all(bar.get_x() + bar.get_width() <= right for bar in axes.patches)
    assert {name: len(lines) for name, lines in drawn.items()} == DRAWN
    lines = {line for own in drawn.values() for line in own}
    assert all(any(point.line == line for point in paper) for line in lines)
    lines, values = check_drawn(drawn, paper, is_all=True)
    assert (lines, values) == (72, 17 + 51 + 8 + 1 + 9 + 6 + 6 + 65 + 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_no_label_lies_over_another(name):
    with styled():
        figure = FIGURES[name](Material(paper=load_paper()))
        figure.canvas.draw()
    texts = [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible() and text.get_text()]
    over = [(a, b) for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2)
            if box_a.shrunk(0.9, 0.7).overlaps(box_b.shrunk(0.9, 0.7))]  # fmt: skip
    assert over == []
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= 6
    width, height = figure.bbox.width, figure.bbox.height
    assert [t for t, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height] == []


@pytest.mark.slow
def test_runs_lie_over_the_paper_with_the_numbers_of_their_scores():
    example = WaitExample("1 + 1 = ?", (Piece("thinking", "forced", "Wait"),), False, None,
                          {"run": "r", "cell": "c", "question_id": "q"})  # fmt: skip
    write_example(example, "wait.json")
    path = main(load(FiguresConfig, [PAPER_YAML, "runs=[every,sft,kept]", "wait_example=wait.json", "check=true",
                                     "difficulty={run: every, cell: max=10}"]))  # fmt: skip
    assert {file.stem for file in path.glob("*.pdf")} == set(FIGURES) == {file.stem for file in path.glob("*.png")}
    with open(path / "drawn.csv") as file:
        rows = list(csv.DictReader(file))
    drawn = {(r["figure"], r["line"], round(float(r["y"]), 9)) for r in rows}
    scores = json.loads(Path("every/scores.json").read_text())
    for cell in scores["cells"]:
        figure = {"budget_forcing": "figure_1"}.get(cell["method"], "matched_tokens")
        method = cell["method"] if figure == "figure_1" else cell["method"].replace("_", " ")
        assert (figure, f"every | {method} | questions", round(cell["accuracy"], 9)) in drawn
    assert ("training_curves", "sft | loss", 2 / 3) in {(r["figure"], r["line"], float(r["y"])) for r in rows}
    assert ("funnel", "kept | funnel", 30.0) in drawn
    assert not any(r["line"].endswith("grad_norm") for r in rows)
    tables = {file.stem for file in (path / "tables").glob("*.tex")}
    assert tables >= {"table_1", "table_2", "table_3", "table_4", "table_5", "table_11", "runs", "runs_measures"}


@pytest.mark.slow
def test_bars_end_where_the_interval_does():
    with styled():
        _, (axes,) = panels(1, 3, 2)
        draw_curves(axes, [Curve("line", "run", "b", (8.0, 4.0), (50.0, 40.0), (45.0, 10.0), (70.0, 41.0))], {"run": 0})
    (bars,) = [own.get_segments() for own in axes.collections]
    assert [bar.tolist() for bar in bars] == [[[4, 10], [4, 41]], [[8, 45], [8, 70]]]


@pytest.mark.slow
def test_a_run_alone_has_no_number_of_the_paper():
    path = main(config("runs=[every]"))
    assert OF_RUNS_ALONE - {"figure_3", "accuracy_by_difficulty", "training_curves"} <= {
        file.stem for file in path.glob("*.png")
    }
    with open(path / "drawn.csv") as file:
        assert {row["line"].split(" | ")[0] for row in csv.DictReader(file)} == {"every"}
    assert "s1-32B" not in (path / "tables.md").read_text()


@pytest.mark.slow
def test_the_command_needs_no_torch_and_writes_vector_figures(tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['eval.figures', *sys.argv[1:]]\n"
        "runpy.run_module('eval.figures', run_name='__main__')\n"
        "heavy = {'torch', 'vllm', 'transformers'} & sys.modules.keys()\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    example = f"wait_example={ROOT / 'results/demo/wait_example.json'}"
    command = [sys.executable, "-c", code, PAPER_YAML, example, "check=true"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "check: 168 values of 72 lines, read back from the axes, are those of paper" in done.stderr
    folder = tmp_path / done.stdout.strip()
    for file in folder.glob("*.pdf"):
        content = file.read_bytes()
        assert b"/Subtype /Image" not in content and b"CreationDate" not in content, file
    assert r"s1-32B & 1,000 & 56.7 & 93.0 & 59.6 \\" in (folder / "tables/table_1.tex").read_text()
    table_2 = (folder / "tables/table_2.md").read_text()
    assert "| 1K-random | 36.7 [-26.7, -3.3] | 90.6 [-4.8, 0.0] | 52.0 [-12.6, 2.5] |" in table_2
    assert "59K-full,53.3 " in (folder / "tables/table_2.csv").read_text().replace('"', "")
    table_3 = (folder / "tables/table_3.md").read_text()
    assert "| rejection sampling | 100 | -35 | 40.0 | 5 | -35.5 |" in table_3
