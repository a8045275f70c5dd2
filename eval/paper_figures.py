"""The paper's scaling figures, redrawn from its numbers, with runs laid over them or in their place.

Each function takes the material and gives a figure, or None where there is nothing for it. Figures of the data are in
eval/data_figures.py, those the paper does not have in eval/run_figures.py.
"""

from collections.abc import Sequence
from dataclasses import replace

from eval.material import Material, cell_curves, majority_curves, paper_curves
from eval.paper import NUM_QUESTIONS, select
from eval.plotting import (
    COLOURS,
    COLUMN,
    INK,
    PAGE,
    Curve,
    accuracy_axis,
    draw_curves,
    legend,
    numbered,
    panels,
    tokens_axis,
)

TITLES = {
    "MATH500": "Mathematical Problem\nSolving (MATH500)",
    "AIME24": "Competition Math\n(AIME24)",
    "GPQA-Diamond": "PhD-Level Science\nQuestions (GPQA Diamond)",
}
THINKING = "average thinking time (tokens)"
ACCURACY = "accuracy (%)"
# Figure 2, right: what it shows of Table 1, and where the name stands from the dot (points; its side)
EXAMPLES = {
    "s1-32B": (6, -3, "left"),
    "s1.1-32B": (6, -2, "left"),
    "Bespoke-32B": (0, -11, "center"),
    "Sky-T1": (6, -3, "left"),
    "R1-distill-32B": (0, 5, "center"),
    "QwQ-32B-preview": (-6, -3, "right"),
    "o1-preview": (-6, -3, "right"),
    "o1": (0, 5, "center"),
}
NOT_KNOWN = 2e7  # where dots without a number of examples stand on that axis


def scaling_figure(curves: Sequence[Curve], names: Sequence[str], title: str = ""):
    """Accuracy against mean thinking tokens, a panel a benchmark; one panel alone is larger, and has the title."""
    single = len(names) == 1
    figure, all_axes = panels(len(names), COLUMN * 1.5 if single else PAGE / 3, 2.9 if single else 2.35)
    style_of = numbered(curves)
    for axes, name in zip(all_axes, names, strict=True):
        own = [curve for curve in curves if curve.panel == name]
        draw_curves(axes, own, style_of)
        tokens_axis(axes, THINKING, (x for curve in own for x in curve.xs))
        accuracy_axis(axes, own)
        axes.set_title(title if single and title else TITLES.get(name, name))
    for axes in all_axes[::3]:
        axes.set_ylabel(ACCURACY)
    legend(figure, all_axes)
    return figure


def _benchmarks(material: Material) -> list[str]:
    """The paper's three where it is drawn, then whatever else the runs have."""
    papers = list(TITLES) if material.paper else [name for name in TITLES if name in material.benchmarks()]
    return papers + [name for name in material.benchmarks() if name not in TITLES]


def figure_1(material: Material):
    """Sequential scaling by budget forcing."""
    curves = paper_curves(select(material.paper, "Figure 1"), label=material.paper_label("s1-32B"))
    curves += cell_curves(material, ["budget_forcing"])
    names = [name for name in _benchmarks(material) if any(curve.panel == name for curve in curves)]
    return scaling_figure(curves, names) if names else None


def figure_2_examples(material: Material):
    """MATH500 against the number of training examples; models whose number is not known stand at N/A."""
    points = select(material.paper, "Table 1", benchmark="MATH500", y_name="accuracy_percent")
    points = [point for point in points if point.series in EXAMPLES]
    if not points:
        return None
    figure, (axes,) = panels(1, COLUMN, 2.3)
    for point in points:
        x = point.x or NOT_KNOWN
        ours = point.series.startswith("s1")
        (dot,) = axes.plot([x], [point.y], marker="*" if ours else "o", markersize=8 if ours else 4.5,
                           color=COLOURS[1 if ours else 0], linestyle="")  # fmt: skip
        dot.set_gid(point.line)
        dx, dy, side = EXAMPLES[point.series]
        axes.annotate(point.series, (x, point.y), xytext=(dx, dy), textcoords="offset points", ha=side, fontsize=6.5,
                      color=COLOURS[1] if ours else INK)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(500, NOT_KNOWN * 2.5)
    axes.set_xticks([1000, 17000, 800000, NOT_KNOWN], ["1K", "17K", "800K", "N/A"], minor=False)
    axes.minorticks_off()
    axes.set_ylim(80, 100)
    axes.set_yticks(range(80, 101, 5))
    axes.grid(axis="y", color="0.92", linewidth=0.6)
    axes.set_xlabel("number of training examples")
    axes.set_ylabel("MATH500 accuracy (%)")
    return figure


def figure_4(material: Material):
    """Left: sequential scaling with its ignored ends (AIME24). Right: beside parallel scaling, in tokens for all
    questions of the benchmark (GPQA-Diamond). Runs alone that lack these two are shown on their first benchmark, and in
    tokens a question."""
    left, right = (_benchmark(material, name) for name in ("AIME24", "GPQA-Diamond"))
    sequential = [point for point in select(material.paper, "Figure 1", benchmark="AIME24") if point.x >= 1000]
    sequential += select(material.paper, "Figure 4 sequential")
    one = paper_curves(sequential, label=material.paper_label("s1-32B")) + cell_curves(material, ["budget_forcing"])
    two = paper_curves(select(material.paper, "Figure 4 parallel", series="sequential"), material.paper_label("s1-32B"))
    two += paper_curves(select(material.paper, "Figure 4 parallel", series="majority"),
                        material.paper_label("Qwen2.5-32B-Instruct: majority"))  # fmt: skip
    runs = cell_curves(material, ["budget_forcing"], "tokens") + majority_curves(material)
    # a run may have asked some of the questions only: its mean, times as many as the paper's
    number = NUM_QUESTIONS[right] if material.paper else 1
    two += [replace(curve, xs=tuple(number * x for x in curve.xs)) for curve in runs]
    one = [curve for curve in one if curve.panel == left]
    two = [curve for curve in two if curve.panel == right]
    if not one or not any("majority" in curve.label for curve in two):
        return None
    figure, all_axes = panels(2, PAGE * 0.4, 2.4)
    style_of = numbered([*one, *two])
    total = f"tokens for {number} questions" if material.paper else "tokens a question"
    for axes, own, benchmark, label in zip(all_axes, (one, two), (left, right), (THINKING, total), strict=True):
        draw_curves(axes, own, style_of)
        tokens_axis(axes, label, (x for curve in own for x in curve.xs))
        accuracy_axis(axes, own)
        kind = "sequential" if axes is all_axes[0] else "sequential and parallel"
        axes.set_title(f"({'ab'[all_axes.index(axes)]}) {kind}, {benchmark}")
    all_axes[0].set_ylabel(ACCURACY)
    legend(figure, all_axes)
    return figure


def _benchmark(material: Material, preferred: str) -> str:
    known = material.benchmarks()
    return preferred if material.paper or preferred in known or not known else known[0]


def figure_6(material: Material):
    """Rejection sampling: accuracy and length of the first sample that kept to the limit, which stands at the dot."""
    curves = paper_curves(
        select(material.paper, "Figure 6", y_name="accuracy_percent"), label=material.paper_label("s1-32B")
    )
    curves += cell_curves(material, ["rejection_sampling"])
    benchmark = _benchmark(material, "AIME24")
    curves = [curve for curve in curves if curve.panel == benchmark]
    if not curves:
        return None
    figure, (axes,) = panels(1, COLUMN, 2.3)
    style_of = numbered(curves)
    draw_curves(axes, curves, style_of)
    for curve in curves:
        for x, y, limit in zip(curve.xs, curve.ys, curve.notes, strict=True):
            last = x == max(curve.xs) and len(curve.xs) > 1
            axes.annotate(f"\u2264{int(limit):,}", (x, y), xytext=(0, -9) if last else (4, 4),
                          textcoords="offset points", fontsize=6, ha="center" if last else "left",
                          color=COLOURS[style_of[curve.label]])  # fmt: skip
    axes.margins(x=0.16)
    axes.set_xlabel(THINKING)
    axes.set_ylabel(f"{benchmark} accuracy (%)")
    accuracy_axis(axes, curves)
    legend(figure, [axes])
    return figure


def figure_7(material: Material):
    """Sequential scaling beside parallel scaling: majority, and REBASE, a tree search steered by a reward model."""
    curves = [c for series in ("sequential", "majority", "REBASE")
              for c in paper_curves(select(material.paper, "Figure 7", series=series), material.paper_label(series))
              ]  # fmt: skip
    searches = cell_curves(material, ["rebase", "dvts", "beam_search"], "tokens", "{run}: {method}")
    sequential = cell_curves(material, ["budget_forcing", "step_conditional"], "tokens", "{run}: {method}")
    majority = majority_curves(material)
    if searches or majority:
        curves += sequential + majority + searches
    benchmark = _benchmark(material, "AIME24")
    curves = [curve for curve in curves if curve.panel == benchmark]
    if not curves:
        return None
    figure, (axes,) = panels(1, COLUMN, 2.3)
    style_of = numbered(curves)
    draw_curves(axes, curves, style_of)
    tokens_axis(axes, "tokens a question", (x for curve in curves for x in curve.xs))
    accuracy_axis(axes, curves)
    axes.set_ylabel(f"{benchmark} accuracy (%)")
    legend(figure, [axes])
    return figure
