"""Draws test-time scaling curves from finished eval runs, and writes the numbers beside them.

    python -m eval.figures configs/demo/figures.yaml tuned=outputs/eval/... "baselines=[outputs/eval/...]"

Writes scaling.png, scaling.pdf, scaling.csv, summary.md and summary.json.
"""

import csv
import json
from dataclasses import dataclass, fields
from pathlib import Path

from core.config import option, run_entry
from core.log import say
from core.runs import open_run
from eval.summary import EvalRun, Point, budget_points, curve, load_run, steps_of, summarise, to_markdown

# Okabe and Ito's colour-blind-safe palette; the first is the model of interest
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass
class FiguresConfig:
    name: str = option(help="run name; the folder is outputs/figures/<name>-<digest>")
    tuned: str = option(help="finished eval run of the model of interest")
    baselines: list[str] = option([], help="finished eval runs to set beside it")
    benchmark: str | None = option(None, help="which one, where the runs have several")
    domains: list[str] = option([], help="families the headline is about, named beforehand (none: all)")
    from_budget: int = option(help="the small budget of the gain")
    to_budget: int = option(help="the budget called best, fixed on other questions beforehand")
    labels: dict[str, str] = option({}, help="run name: label in the figure")
    title: str = option("", help="of the figure")
    records: list[str] = option([], help="runs of all steps, for the table of seconds")


def scaling_figure(runs: list[EvalRun], config: FiguresConfig):
    """Accuracy against mean thinking tokens, a line a run, 95% bars; ignored ends are hollow, joined by dots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for run, colour in zip(runs, COLOURS, strict=False):
        points = curve(run, config.domains)
        _draw_curve(axes, points, config.labels.get(run.name, run.name), colour)
    axes.set_xscale("symlog", base=2, linthresh=8, linscale=0.6)
    ticks = [0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
    longest = max(p.thinking_tokens for run in runs for p in curve(run, config.domains))
    axes.set_xticks([t for t in ticks if t <= longest * 1.3], minor=False)
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlim(left=-0.8)
    axes.set_ylim(0, 100)
    axes.set_xlabel("mean thinking tokens (log scale)")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(config.title, fontsize=9.5)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper left")
    return figure


def _draw_curve(axes, points: list[Point], label: str, colour: str) -> None:
    line = sorted(budget_points(points), key=lambda p: p.thinking_tokens)
    others = [p for p in points if p not in line]
    if line:
        axes.errorbar(
            *_coordinates(line), color=colour, marker="o", markersize=4.5, linewidth=1.6, capsize=2.5, label=label
        )
    for p in others:
        xs, ys, bars = _coordinates([p])
        own = {"label": label} if not line else {}
        axes.errorbar(xs, ys, bars, color=colour, marker="s", markersize=5, markerfacecolor="white", capsize=2.5, **own)
        if p.num_ignore:
            axes.annotate(
                f"Wait\nx{p.num_ignore}", (xs[0], p.high), xytext=(0, 3), textcoords="offset points", color=colour,
                fontsize=7.5, ha="center", linespacing=0.95,
            )  # fmt: skip
            start = next((q for q in line if q.max_thinking_tokens == p.max_thinking_tokens), None)
            if start is not None:
                ends = [start.thinking_tokens, p.thinking_tokens], [start.accuracy, p.accuracy]
                axes.plot(*ends, color=colour, linestyle=":", linewidth=1.2)


def _coordinates(points: list[Point]):
    """x, y and the asymmetric error bars of points."""
    xs, ys = [p.thinking_tokens for p in points], [p.accuracy for p in points]
    return xs, ys, [[p.accuracy - p.low for p in points], [p.high - p.accuracy for p in points]]


def write_csv(path: Path, runs: list[EvalRun], domains: list[str]) -> None:
    """Every drawn point, one a line."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *(f.name for f in fields(Point))])
        for run in runs:
            writer.writerows([run.name, *vars(point).values()] for point in curve(run, domains))


def main(config: FiguresConfig) -> Path:
    inputs = {"tuned": config.tuned, **{f"baseline {i}": path for i, path in enumerate(config.baselines)}}
    with open_run("figures", config, inputs) as run:
        if run.is_done:
            return run.path
        tuned, *baselines = runs = [load_run(p, config.benchmark) for p in (config.tuned, *config.baselines)]
        summary = summarise(tuned, baselines, config.domains, config.from_budget, config.to_budget)
        summary["steps"] = steps_of(config.records)
        figure = scaling_figure(runs, config)
        figure.savefig(run.path / "scaling.png", dpi=200)
        figure.savefig(run.path / "scaling.pdf")
        write_csv(run.path / "scaling.csv", runs, config.domains)
        (run.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (run.path / "summary.md").write_text(to_markdown(summary, "scaling.png"))
        gain = summary["gain"]
        say(f"gain {gain['difference']:.1f} points [{gain['low']:.1f}, {gain['high']:.1f}] | control "
            f"{summary['control']:.0f}% | scaling {summary['scaling_points_per_doubling']:.1f} | performance "
            f"{summary['performance']:.1f}%")  # fmt: skip
        run.finish(gain=gain, control=summary["control"], scaling=summary["scaling_points_per_doubling"],
                   performance=summary["performance"])  # fmt: skip
    return run.path


if __name__ == "__main__":
    run_entry(main, FiguresConfig, __doc__)
