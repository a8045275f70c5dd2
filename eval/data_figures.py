"""Figures of the data: the funnel from pool to selection, its domains (Figure 2, left), lengths of its traces."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.material import Material
from eval.paper import select
from eval.plotting import COLOURS, COLUMN, INK, PAGE, PALE, draw_bars, draw_horizontal_bars

MAX_REASONS = 3  # named in the funnel, the most frequent ones
KEPT = COLOURS[0]
TEACHERS = {"s1K": "Gemini 2.0 Flash Thinking", "s1K-1.1": "DeepSeek-R1"}
DOMAINS_A_COLUMN = 17
ROOM = 55  # right of the bars, in questions: for their numbers


def funnel(material: Material):
    """The paper's own funnel; where runs of data.filter are at hand, theirs below it."""
    points = [p for p in select(material.paper, "Funnel", series="paper") if p.setting != "trusted beforehand"]
    funnels = {"paper": (points[0].line, paper_steps(points))} if points else {}
    funnels |= {material.label(run): (f"{run} | funnel", steps) for run, steps in material.funnels.items()}
    return draw_funnels(funnels) if funnels else None


def paper_steps(points) -> list[dict[str, Any]]:
    """Steps as data.filter's funnel.json has them; the first row is the pool."""
    counts = [int(point.y) for point in points]
    return [
        {"step": point.setting, "in": before, "out": after, "reasons": {}}
        for point, before, after in zip(points[1:], counts, counts[1:], strict=False)
    ]


def draw_funnels(funnels: Mapping[str, tuple[str, Sequence[Mapping[str, Any]]]]):
    """{name: (what its bars are known by, steps)}: a bar a step, what it left in blue, what it dropped in grey, with
    the most frequent reasons."""
    import matplotlib.pyplot as plt

    heights = [len(steps) + 1 for _, steps in funnels.values()]
    size = (PAGE, 0.3 * sum(heights) + 0.45 * len(funnels))
    figure, all_axes = plt.subplots(
        len(funnels), 1, figsize=size, layout="constrained", squeeze=False, height_ratios=heights
    )
    for axes, (name, (line, steps)) in zip(all_axes[:, 0], funnels.items(), strict=True):
        labels = ["pool", *(step["step"] for step in steps)]
        left = [steps[0]["in"], *(step["out"] for step in steps)]
        dropped = [0, *(step["in"] - step["out"] for step in steps)]
        draw_horizontal_bars(axes, [line] * len(left), left, labels, color=KEPT, height=0.62)
        axes.barh(labels, dropped, left=left, color=PALE, height=0.62)
        for row, (kept, gone) in enumerate(zip(left, dropped, strict=True)):
            axes.annotate(_note(steps[row - 1] if row else None, kept), (kept + gone, row), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=6.5)  # fmt: skip
        axes.invert_yaxis()
        axes.set_xlim(0, left[0] * 1.75)  # room for the notes
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(left=False)
        title = "questions left after each step (blue), dropped by it (grey)"
        axes.set_title(title if len(funnels) == 1 else f"{name}: {title}", loc="left")
    return figure


def _note(step: Mapping[str, Any] | None, kept: int) -> str:
    if step is None:
        return f"{kept:,}"
    note = f"{kept:,} left, {step['in'] - step['out']:,} dropped"
    reasons = list(step["reasons"].items())
    if len(reasons) == 1:
        return f"{note}: {reasons[0][0]}"
    shown = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:MAX_REASONS])
    return f"{note}\n{shown}{', ...' * (len(reasons) > MAX_REASONS)}" if reasons else note


def figure_2_domains(material: Material):
    """s1K's questions in each domain, and their mean thinking tokens where the paper says them."""
    counts = select(material.paper, "Figure 2 domains", y_name="questions")
    if not counts:
        return None
    totals = {p.series: p.y for p in select(material.paper, "Figure 2 domains", y_name="thinking_tokens")}
    import matplotlib.pyplot as plt

    columns = [counts[i : i + DOMAINS_A_COLUMN] for i in range(0, len(counts), DOMAINS_A_COLUMN)]
    widths = [max(point.y for point in column) + ROOM for column in columns]  # the same scale in all
    size = (PAGE, 0.155 * DOMAINS_A_COLUMN + 0.4)
    figure, all_axes = plt.subplots(
        1, len(columns), figsize=size, layout="constrained", squeeze=False, width_ratios=widths
    )
    for axes, column, width in zip(all_axes[0], columns, widths, strict=True):
        lengths = [point.y for point in column]
        names = [point.series for point in column]
        draw_horizontal_bars(axes, [p.line for p in column], lengths, names, color=KEPT, height=0.7)
        for row, point in enumerate(column):
            mean = f"  ({totals[point.series] / point.y / 1000:.1f}K)" if point.series in totals else ""
            axes.annotate(f"{point.y:.0f}{mean}", (point.y, row), xytext=(3, 0), textcoords="offset points",
                          va="center", fontsize=6, color=INK)  # fmt: skip
        axes.set_ylim(DOMAINS_A_COLUMN - 0.4, -0.6)
        axes.set_xlim(0, width)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(left=False, pad=1, labelsize=6.5)
    figure.suptitle(f"1,000 questions in {len(counts)} domains (in brackets: mean thinking tokens)", fontsize=7.5)
    return figure


def trace_lengths(material: Material):
    """Histograms of thinking tokens: s1K, written by Gemini, and s1K-1.1, written by R1."""
    points = select(material.paper, "Trace lengths")
    if not points:
        return None
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(point.series for point in points))
    figure, all_axes = plt.subplots(len(names), 1, figsize=(COLUMN, 2.7), layout="constrained", sharex=True)
    for number, (axes, name) in enumerate(zip(all_axes, names, strict=True)):
        own = [point for point in points if point.series == name]
        ends = [int(point.setting.removeprefix("to ")) for point in own]
        widths = [end - point.x + 1 for end, point in zip(ends, own, strict=True)]
        firsts, counts = [point.x for point in own], [point.y for point in own]
        colour = COLOURS[number]
        draw_bars(axes, own[0].line, firsts, counts, width=widths, align="edge", color=colour, edgecolor="white",
                  linewidth=0.3)  # fmt: skip
        mean = sum((p.x + end) / 2 * p.y for p, end in zip(own, ends, strict=True)) / sum(counts)
        axes.axvline(mean, color=INK, linestyle="--", linewidth=0.8)
        axes.annotate(f"mean \u2248 {round(mean, -1):,.0f}", (mean, 1.18 * max(counts)), xytext=(4, 0),
                      textcoords="offset points", fontsize=6.5, va="top")  # fmt: skip
        axes.set_ylim(0, 1.2 * max(counts))
        axes.set_title(f"{name}: {TEACHERS[name]}", loc="left")
        axes.set_ylabel("traces")
        axes.set_xlim(0, 27000)
    all_axes[-1].set_xlabel("thinking tokens")
    all_axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    return figure
