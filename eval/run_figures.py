"""Figures that the paper does not have: of runs alone."""

import textwrap
from collections.abc import Sequence
from statistics import fmean

from eval.comparison import EvalCell, compare_pair, methods_by_price, wait_pairs
from eval.material import Material, base_cell, panel_of
from eval.optimal import difficulty_bins
from eval.plotting import (
    COLOURS,
    COLUMN,
    INK,
    LETTER,
    MARKERS,
    PAGE,
    WAIT,
    Curve,
    draw_bars,
    draw_curves,
    legend,
    panels,
    tokens_axis,
)
from eval.samples import Row
from eval.scores import by_question

NUM_BINS = 5  # of difficulty, as in the compute-optimal choice
BINS = ["bin 1, the hardest", *(f"bin {number}" for number in range(2, NUM_BINS + 1))]
DASHES = ("-", (0, (4, 1)), (0, (1, 1)), "-.")  # so that curves of steps differ in grey, too
TRAINING = {"loss": "loss", "learning_rate": "learning rate", "grad_norm": "gradient norm"}


def matched_tokens(material: Material):
    """Accuracy of every method against the tokens it samples for a question, with 95% bands: what is higher at the same
    x is the better use of the same tokens. Votes are those over the plainest cell of a run; pass@k is dotted, since it
    takes a choice that knows the answers."""
    benchmarks = list(dict.fromkeys(cell.benchmark for cell in material.cells))
    methods = {name: _methods(material, name) for name in benchmarks}
    methods = {name: own for name, own in methods.items() if own}
    if not methods:
        return None
    series = list(dict.fromkeys((m["run"], m["family"]) for own in methods.values() for m in own))
    figure, all_axes = panels(len(methods), COLUMN * 1.5 if len(methods) == 1 else PAGE / min(3, len(methods)), 2.4)
    several = len(material.runs()) > 1
    for axes, (benchmark, own) in zip(all_axes, methods.items(), strict=True):
        for number, (run, family) in enumerate(series):
            points = [m for m in own if (m["run"], m["family"]) == (run, family)]
            if points:
                label = f"{material.label(run)}: {family}" if several else family
                _draw_band(axes, points, number, label, f"{run} | {family} | {benchmark}")
        tokens_axis(axes, "sampled tokens a question", [m["tokens"] for m in own])
        top = max(m["high"] for m in own)
        axes.set_ylim(0, min(101, top * 1.08 + 1))
        axes.grid(axis="y", color="0.92", linewidth=0.6)
        axes.set_title(panel_of(benchmark))
    for axes in all_axes[::3]:
        axes.set_ylabel("accuracy (%)")
    legend(figure, all_axes)
    return figure


def _methods(material: Material, benchmark: str) -> list[Row]:
    """Cells, and votes over each run's plainest cell, that have a price."""
    votes = []
    for run in material.runs():
        base = base_cell([c for c in material.cells if (c.run, c.benchmark) == (run, benchmark)])
        votes += [v for v in material.votes if base is not None and (v["run"], v["cell"]) == (run, base.cell)]
    found = methods_by_price(material.cells, votes, benchmark)
    return [{**m, "family": m["family"].removesuffix(_cell_of(m))} for m in found if m["tokens"]]


def _cell_of(method: Row) -> str:
    """Of a vote's family, "majority@k max=512", the cell: all votes shown are over one."""
    family = method["family"]
    return family[family.index("@k ") + 2 :] if "@k " in family else ""


def _draw_band(axes, points: Sequence[Row], number: int, label: str, line: str) -> None:
    points = sorted(points, key=lambda m: m["tokens"])
    xs, ys = [m["tokens"] for m in points], [m["accuracy"] for m in points]
    lows, highs = [m["low"] for m in points], [m["high"] for m in points]
    colour = COLOURS[number % len(COLOURS)]
    is_bound = points[0]["is_bound"]
    if xs[0] == xs[-1]:
        below, above = ([a - b for a, b in zip(*ends, strict=True)] for ends in ((ys, lows), (highs, ys)))
        axes.errorbar(xs, ys, [below, above], color=colour, elinewidth=0.7, capsize=1.8)
    elif not is_bound:
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.1, linewidth=0)
    (drawn,) = axes.plot(
        xs, ys, color=colour, marker=MARKERS[number % len(MARKERS)], linestyle=":" if is_bound else "-",
        label=label, markersize=3.5, clip_on=False,
    )  # fmt: skip
    drawn.set_gid(line)


def flips_per_wait(material: Material):
    """What each further ignored end changed: answers that turned right above the line, that turned wrong below it."""
    pairs = [(a, b) for a, b in wait_pairs(material.cells) if len(by_question(a.rows).keys() & by_question(b.rows)) > 1]
    pairs = [compare_pair(a, b, common=True, num_resamples=1000) for a, b in pairs]
    if not pairs:
        return None
    figure, (axes,) = panels(1, min(PAGE, max(COLUMN, 0.62 * len(pairs) + 0.8)), 2.4)
    for position, pair in enumerate(pairs):
        line = f"{pair['a']['run']} | {pair['a']['cell']} | {pair['benchmark']}"
        gained, lost = pair["wrong_to_right"], pair["right_to_wrong"]
        draw_bars(axes, line, [position], [gained], width=0.6, color=COLOURS[0])
        draw_bars(axes, line, [position], [-lost], width=0.6, color=COLOURS[1], hatch="////", edgecolor="white",
                  linewidth=0)  # fmt: skip
        axes.annotate(f"{gained:+d}", (position, gained), xytext=(0, 2), textcoords="offset points", ha="center",
                      fontsize=6.5, color=COLOURS[0])  # fmt: skip
        axes.annotate(f"{-lost:+d}" if lost else "0", (position, -lost), xytext=(0, -2), textcoords="offset points",
                      ha="center", va="top", fontsize=6.5, color=COLOURS[1])  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.margins(y=0.18)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -1.5), max(high, 1.5))
    axes.locator_params(axis="y", integer=True)
    several = len(material.runs()) > 1
    names = [_wait_name(pair, material, several) for pair in pairs]
    axes.set_xticks(range(len(pairs)), names, fontsize=6 if len(pairs) < 9 else 5.5, linespacing=1.1)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("answers")
    axes.set_title("changed by each further ignored end: to right (up), to wrong (down, hatched)", loc="left")
    if figure.get_figwidth() < 5:
        axes.set_title("changed by each ignored end: to right (up),\nto wrong (down, hatched)", loc="left")
    return figure


def _wait_name(pair: Row, material: Material, several: bool) -> str:
    cell = next(c for c in material.cells if (c.run, c.benchmark, c.cell) == (
        pair["a"]["run"], pair["benchmark"], pair["a"]["cell"]))  # fmt: skip
    parts = [f"{cell.settings.get('ignore_text', 'Wait')} {cell.settings['num_ignore']}x", panel_of(pair["benchmark"])]
    name = "\n".join(
        textwrap.fill(part, 13, max_lines=3, placeholder="...")
        for part in parts + [material.label(pair["a"]["run"])] * several
    )
    return f"{name}\nn={pair['num_questions']}"


def accuracy_by_difficulty(material: Material):
    """Accuracy against thinking tokens, a line a bin of questions, from hard to easy by the scores in the cell
    `difficulty`, which is itself left out; a panel a run and benchmark."""
    groups: dict[tuple[str, str], list[EvalCell]] = {}
    for cell in material.cells:
        is_plain = cell.settings["method"] == "budget_forcing" and cell.settings["thinking_tokens"] is not None
        if is_plain and cell is not material.difficulty.get(cell.benchmark) and by_question(cell.rows):
            groups.setdefault((cell.run, cell.benchmark), []).append(cell)
    found = {key: _bins(material.difficulty[key[1]], key, cells) for key, cells in groups.items()
             if key[1] in material.difficulty}  # fmt: skip
    found = {key: bins for key, bins in found.items() if bins}
    if not found:
        return None
    figure, all_axes = panels(len(found), COLUMN * 1.4 if len(found) == 1 else PAGE / min(3, len(found)), 2.5)
    style_of = {BINS[number]: number for number in range(NUM_BINS)}
    several = len({run for run, _ in found}) > 1
    for axes, ((run, benchmark), bins) in zip(all_axes, found.items(), strict=True):
        curves, sizes = zip(*bins, strict=True)
        draw_curves(axes, curves, style_of)
        tokens_axis(axes, "average thinking time (tokens)", (x for curve in curves for x in curve.xs))
        title = [panel_of(benchmark), *[material.label(run)] * several, f"n = {', '.join(map(str, sizes))}"]
        axes.set_title("\n".join(textwrap.shorten(line, 36, placeholder="...") for line in title))
        axes.set_ylim(-3, 103)
        axes.grid(axis="y", color="0.92", linewidth=0.6)
    for axes in all_axes[::3]:
        axes.set_ylabel("accuracy (%)")
    reference = next(iter(material.difficulty.values()))
    by = f"questions in bins by their score in {material.label(reference.run)} {reference.cell}"
    figure.suptitle(textwrap.fill(by, int(figure.get_figwidth() / LETTER)), fontsize=7)
    legend(figure, all_axes)
    return figure


def _bins(reference: EvalCell, key: tuple[str, str], cells: Sequence[EvalCell]) -> list[tuple[Curve, int]]:
    """(curve, number of questions) of each bin, the hardest first, over the questions that could be graded in all cells
    and in the reference. key: run and benchmark of the cells."""
    hardness = {question: fmean(scores) for question, scores in by_question(reference.rows).items()}
    graded = [by_question(cell.rows) for cell in cells]
    questions = set(hardness).intersection(*graded)
    bins = difficulty_bins({q: hardness[q] for q in questions}, NUM_BINS) if questions else {}
    xs = tuple(cell.settings["thinking_tokens"] for cell in cells)
    notes = tuple(WAIT if cell.settings["num_ignore"] else "" for cell in cells)
    found = []
    for number in sorted(set(bins.values())):
        own = sorted(question for question in questions if bins[question] == number)
        ys = tuple(100 * fmean(fmean(scores[question]) for question in own) for scores in graded)
        line = f"{key[0]} | bin {number + 1} | {key[1]}"
        found.append((Curve(line, BINS[number], key[1], xs, ys, notes=notes), len(own)))
    return found


def training_curves(material: Material):
    """Loss, learning rate and gradient norm by step."""
    if not material.training:
        return None
    names = [name for name in TRAINING if any(row.get(name) is not None for rows in material.training.values()
                                              for row in rows)]  # fmt: skip
    figure, all_axes = panels(len(names), PAGE / 3, 2.0)
    for axes, name in zip(all_axes, names, strict=True):
        for number, (run, rows) in enumerate(material.training.items()):
            known = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            if not known:
                continue
            (drawn,) = axes.plot(*zip(*known, strict=True), color=COLOURS[number % len(COLOURS)], linewidth=0.9,
                                 linestyle=DASHES[number % len(DASHES)], label=material.label(run))  # fmt: skip
            drawn.set_gid(f"{run} | {name}")
        axes.set_xlabel("step")
        axes.set_title(TRAINING[name])
        axes.set_ylim(bottom=0)
        if name == "learning_rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    legend(figure, all_axes)
    return figure
