"""Draws the paper's figures and tables from its numbers, and finished runs over them, beside them or alone.

    python -m eval.figures configs/figures/paper.yaml                     # everything the paper's numbers give
    python -m eval.figures configs/figures/paper.yaml check=true          # and checks what is drawn
    python -m eval.figures configs/figures/paper.yaml dry_run=true        # reads the numbers, draws nothing
    python -m eval.figures configs/figures/paper.yaml "runs=[outputs/eval/s1-32b-1234abcd]"   # a run laid over it
    python -m eval.figures name=own "runs=[outputs/eval/a-1234abcd,outputs/train/b-5678abcd]" # runs alone
    python -m eval.figures configs/demo/figures.yaml tuned=outputs/eval/... "baselines=[outputs/eval/...]"

Runs of eval.run, data.filter and train.sft go into the figures that have a place for them. Writes each figure as .pdf
and .png, drawn.csv (every point, read back from the axes), figures.md, tables.md, and tables/ as .md, .tex and .csv.
With `tuned`, also the demo's page: scaling.png, .pdf and .csv, summary.md, summary.json. Needs no torch.
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from core.config import UserError, option, run_entry
from core.log import say
from core.runs import Run, open_run, run_path
from eval.compare import CellName, cells_named, named_runs
from eval.data_figures import figure_2_domains, funnel, trace_lengths
from eval.material import Material, add_run
from eval.paper import FOLDER, check_drawn, load_paper
from eval.paper_figures import figure_1, figure_2_examples, figure_4, figure_6, figure_7, scaling_figure
from eval.paper_tables import tables_of, write_tables
from eval.plotting import WAIT, Curve, drawn_points, save, styled
from eval.run_figures import accuracy_by_difficulty, flips_per_wait, matched_tokens, training_curves
from eval.summary import EvalRun, Point, curve, load_run, steps_of, summarise, to_markdown
from eval.wait_example import find_example, read_example
from eval.wait_figure import figure_3
from eval.whole_run import check_run, read_run

Points = dict[str, list[tuple[float, float]]]
FIGURES: dict[str, Callable[[Material], Any]] = {
    function.__name__: function
    for function in (
        figure_1, figure_2_domains, figure_2_examples, figure_3, figure_4, figure_6, figure_7, trace_lengths, funnel,
        matched_tokens, flips_per_wait, accuracy_by_difficulty, training_curves,
    )
}  # fmt: skip


@dataclass
class FiguresConfig:
    name: str = option(help="run name; the folder is outputs/figures/<name>-<digest>")
    paper: bool = option(False, help="draw the paper's numbers (results/paper), under those of the runs")
    runs: list[str] = option([], help="finished runs of eval.run, data.filter or train.sft")
    figures: list[str] = option([], help="names of those to draw; none: all that there is something for")
    labels: dict[str, str] = option({}, help="run name: label in the figures")
    difficulty: CellName | None = option(
        None, help="{run, cell}: accuracy by difficulty, which is the scores in this cell; of another seed at best"
    )
    wait_example: str | None = option(None, help="Figure 3: a recorded sample, or a finished run that ignored ends")
    tokenizer: str | None = option(None, help="for Figure 3 from a run; null: that of the run's model")
    check: bool = option(False, help="compare what is drawn, read back from the axes, with results/paper")
    tuned: str | None = option(None, help="finished eval run of the model of interest: writes the demo's page about it")
    baselines: list[str] = option([], help="finished eval runs to set beside it")
    benchmark: str | None = option(None, help="which one, where these runs have several")
    domains: list[str] = option([], help="families the headline is about, named beforehand (none: all)")
    from_budget: int | None = option(None, help="the small budget of the gain")
    to_budget: int | None = option(None, help="the budget called best, fixed on other questions beforehand")
    title: str = option("", help="of the demo's figure")
    records: list[str] = option([], help="runs of all steps, for the table of seconds")
    dry_run: bool = option(False, help="read the numbers and the runs, and draw nothing", affects_result=False)


def check_config(config: FiguresConfig) -> None:
    """Raises UserError for keys that do not fit together."""
    if not (config.paper or config.runs or config.tuned or config.wait_example):
        raise UserError("nothing to draw: give paper=true, runs=[...] or tuned=...")
    unknown = [name for name in config.figures if name not in FIGURES]
    if unknown:
        raise UserError(f"figures: {unknown[0]!r} is unknown; known are {', '.join(FIGURES)}")
    if config.check and not config.paper:
        raise UserError("check=true compares the paper's figures with its numbers: it needs paper=true")
    if config.tuned and None in (config.from_budget, config.to_budget):
        raise UserError("tuned=... needs from_budget and to_budget: between which the gain is told")


def material_of(config: FiguresConfig) -> Material:
    """Everything to draw from. Raises UserError for what cannot be read or is not whole."""
    material = Material(paper=load_paper() if config.paper else [], labels=config.labels)
    paths = named_runs(config.runs) if config.runs else {}
    for name, path in paths.items():
        add_run(material, path, name)
    if config.difficulty is not None:
        evals = {name: path for name, path in paths.items() if name in material.runs()}
        material.difficulty = cells_named(config.difficulty, material.cells, evals, "difficulty")
    if config.wait_example is not None:
        material.waits = _waits(config.wait_example, config.tokenizer)
    return material


def _waits(source: str, tokenizer: str | None):
    if not Path(source).is_dir():
        return [read_example(source)]
    example = find_example(read_run(source, source), tokenizer)
    if example is None:
        raise UserError(f"wait_example: run {source} ignored no end of thinking")
    return [example]


def draw(material: Material, names: Sequence[str]) -> dict[str, Any]:
    """{name: figure}. Call it where `styled` holds. Raises UserError for one that is asked for and has no data."""
    figures = {name: FIGURES[name](material) for name in names or FIGURES}
    without = [name for name, figure in figures.items() if figure is None]
    if names and without:
        raise UserError(f"figures: there is nothing to draw {without[0]} from")
    return {name: figure for name, figure in figures.items() if figure is not None}


def main(config: FiguresConfig) -> Path | None:
    check_config(config)
    named = {"paper": str(FOLDER) if config.paper else None, "wait_example": config.wait_example, "tuned": config.tuned}
    listed = {"run": config.runs, "baseline": config.baselines}
    numbered = {f"{key} {i}": path for key, paths in listed.items() for i, path in enumerate(paths)}
    for path in (*config.runs, *config.baselines, *([config.tuned] if config.tuned else [])):
        check_run(path)
    if config.dry_run:
        say(plan(config))
        return None
    with open_run("figures", config, named | numbered) as run, styled():
        if run.is_done:
            return run.path
        headline = write_page(run, config) if config.tuned else {}
        material = material_of(config)
        points = {}
        for name, figure in draw(material, config.figures).items():
            points[name] = drawn_points(figure)
            save(figure, run.path, name)
        if points:
            headline["figures"] = list(points)
            _write_drawn(run.path, points)
            write_tables(run.path, tables_of(material))
            say(f"{len(points)} figures: {', '.join(points)}")
        if config.check:
            lines, values = check_drawn(points, material.paper, is_all=not config.figures)
            say(f"check: {values} values of {lines} lines, read back from the axes, are those of {FOLDER.name}")
            headline["checked"] = values
        run.finish(**headline)
    return run.path


def plan(config: FiguresConfig) -> str:
    """What there is to draw from. Raises UserError for a run or a record that is not whole."""
    paper = len(material_of(config).paper)
    page = [load_run(path, config.benchmark) for path in (config.tuned, *config.baselines) if config.tuned]
    steps_of(config.records)
    names = ", ".join(config.figures) or "every figure that there is something for"
    return (
        f"{names}: from {paper:,} numbers of the paper and {len(config.runs) + len(page)} runs -> "
        f"{run_path('figures', config)}; nothing was drawn (dry_run)"
    )


def _write_drawn(folder: Path, drawn: Mapping[str, Points]) -> None:
    """drawn.csv and figures.md."""
    with open(folder / "drawn.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["figure", "line", "x", "y"])
        for name, lines in drawn.items():
            writer.writerows([name, line, *point] for line, points in lines.items() for point in points)
    sections = [f"## {name}\n\n![{name}]({name}.png)\n" for name in drawn]
    (folder / "figures.md").write_text("# Figures\n\n" + "\n".join(sections), encoding="utf-8")


def write_page(run: Run, config: FiguresConfig) -> dict[str, Any]:
    """The demo's page about one model: gain, Control, Scaling, Performance, flips, its curve. Returns the headline."""
    paths = (config.tuned, *config.baselines)
    tuned, *baselines = runs = [load_run(path, config.benchmark) for path in paths]
    summary = summarise(tuned, baselines, config.domains, config.from_budget, config.to_budget)
    summary["steps"] = steps_of(config.records)
    save(page_figure(runs, config), run.path, "scaling")
    write_csv(run.path / "scaling.csv", runs, config.domains)
    (run.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (run.path / "summary.md").write_text(to_markdown(summary, "scaling.png"))
    gain = summary["gain"]
    say(f"gain {gain['difference']:.1f} points [{gain['low']:.1f}, {gain['high']:.1f}] | control "
        f"{summary['control']:.0f}% | scaling {summary['scaling_points_per_doubling']:.1f} | performance "
        f"{summary['performance']:.1f}%")  # fmt: skip
    return {"gain": gain, "control": summary["control"], "scaling": summary["scaling_points_per_doubling"],
            "performance": summary["performance"]}  # fmt: skip


def page_figure(runs: Sequence[EvalRun], config: FiguresConfig):
    """The scaling figure over the questions of `domains`, a line a run."""
    curves = []
    for run in runs:
        points = curve(run, config.domains)
        xs, ys, lows, highs = zip(*((p.thinking_tokens, p.accuracy, p.low, p.high) for p in points), strict=True)
        notes = tuple(f"{WAIT}{p.num_ignore}x" if p.num_ignore else str(p.max_thinking_tokens) for p in points)
        curves.append(Curve(run.name, config.labels.get(run.name, run.name), "page", xs, ys, lows, highs, notes))
    return scaling_figure(curves, ["page"], config.title)


def write_csv(path: Path, runs: list[EvalRun], domains: list[str]) -> None:
    """Every drawn point, one a line."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *(f.name for f in fields(Point))])
        for run in runs:
            writer.writerows([run.name, *vars(point).values()] for point in curve(run, domains))


if __name__ == "__main__":
    run_entry(main, FiguresConfig, __doc__)
