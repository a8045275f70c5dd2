"""How figures look, how a curve is drawn, how figures are written, and how what they show is read back.

Sizes are those of a paper in two columns: nothing is scaled when it is set, and no letter is below 6 points.
"""

import contextlib
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMN, PAGE = 3.25, 6.75  # inches: the width of a column, and of both
# Okabe and Ito's colour-blind-safe palette; with a shape for each, so that nothing hangs on colour alone
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<>"
INK, GREY, PALE = "#222222", "#767676", "#D9D9D9"
WAIT = "Wait "  # what notes of points with ignored ends begin with
HANDLE, LETTER = 0.5, 0.055  # inches that a legend takes for the sign and for a letter of a name
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "pdf.fonttype": 42,  # text stays text
    "figure.max_open_warning": 0,
}


@dataclass(frozen=True)
class Curve:
    """Points of one line. line: what it is known by when it is read back. panel: usually the benchmark.

    lows, highs: ends of the error bars; empty: none. notes: what each point was asked for; empty: not said.
    """

    line: str
    label: str
    panel: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    is_paper: bool = False


Wait = tuple[float, float, float, str | None]  # x, y, where its bar ends, how often ("": not said; None: none ignored)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Figures made inside look as above; no screen is needed."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE):
        yield


def save(figure, folder: Path, name: str) -> None:
    """name.pdf, vector, and name.png, and the figure is closed; the same bytes each time."""
    import matplotlib.pyplot as plt

    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    figure.savefig(folder / f"{name}.png", dpi=250, metadata={"Software": None})
    plt.close(figure)


def panels(number: int, width: float, height: float):
    """(figure, its axes one after the other): at most three in a row; width and height of one, in inches."""
    import matplotlib.pyplot as plt

    columns = min(3, number)
    rows = -(-number // columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for unused in axes.flat[number:]:
        unused.remove()
    return figure, list(axes.flat[:number])


def legend(figure, all_axes) -> None:
    """Below the panels, each name once, broken where it is longer than the figure is wide, and the figure as much
    taller; none where there is one name."""
    found: dict[str, Any] = {}
    for axes in all_axes:
        found |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if len(found) < 2:
        return
    width = figure.get_figwidth()
    names = [textwrap.fill(name, int((width - HANDLE) / LETTER)) for name in found]
    longest = max(len(line) for name in names for line in name.split("\n"))
    columns = max(1, min(len(names), int(width / (HANDLE + LETTER * longest))))
    lines = max(name.count("\n") + 1 for name in names)
    figure.set_figheight(figure.get_figheight() + 0.15 * lines * -(-len(names) // columns))
    figure.legend(list(found.values()), names, loc="outside lower center", ncols=columns)


def draw_curves(axes, curves: Sequence[Curve], style_of: dict[str, int]) -> None:
    """Each with its error bars, joined in the order of x; what waited is hollow, and joined by dots.

    style_of: {label: number of its colour and shape}.
    """
    waiting: dict[str, list[Wait]] = {}
    for curve in curves:
        number = style_of[curve.label]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        order = sorted(range(len(curve.xs)), key=lambda i: curve.xs[i])
        waits = [i for i in order if curve.notes and curve.notes[i].startswith(WAIT)]
        plain = [i for i in order if i not in waits]
        for some, face in ((plain, colour), (waits, "white")):
            if some:
                drawn = axes.errorbar(
                    [curve.xs[i] for i in some], [curve.ys[i] for i in some], _error_bars(curve, some), color=colour,
                    marker=marker, label=curve.label if some is plain else None, markerfacecolor=face, capsize=1.8,
                    linestyle="-" if some is plain else "", elinewidth=0.7, zorder=3, clip_on=False,
                )  # fmt: skip
                drawn.lines[0].set_gid(curve.line)
        own = waiting.setdefault(curve.label, [])
        own += [(curve.xs[i], curve.ys[i], curve.ys[i], None) for i in plain[-1:] if not own]
        tops = curve.highs or curve.ys
        own += [(curve.xs[i], curve.ys[i], tops[i], curve.notes[i].removeprefix(WAIT)) for i in waits]
    for label, points in waiting.items():
        _draw_waits(axes, points, COLOURS[style_of[label] % len(COLOURS)])


def _draw_waits(axes, points: list[Wait], colour: str) -> None:
    """The dots that join them, and one text over all, so that texts of near points do not meet."""
    xs, ys, tops, waits = zip(*sorted(points, key=lambda point: point[:3]), strict=True)
    if set(waits) != {None}:
        axes.plot(xs, ys, color=colour, linestyle=":")
    if any(waits):
        top = max(top for top, wait in zip(tops, waits, strict=True) if wait)
        axes.annotate(WAIT + ", ".join(filter(None, waits)), (xs[-1], top), xytext=(4, 4), textcoords="offset points",
                      ha="right", fontsize=6, color=colour)  # fmt: skip


def _error_bars(curve: Curve, some: Sequence[int]) -> list[list[float]] | None:
    if not curve.lows:
        return None
    return [[curve.ys[i] - curve.lows[i] for i in some], [curve.highs[i] - curve.ys[i] for i in some]]


def numbered(curves: Iterable[Curve]) -> dict[str, int]:
    """{label: number}: the same label has the same colour and shape in all panels."""
    return {label: i for i, label in enumerate(dict.fromkeys(curve.label for curve in curves))}


def draw_bars(axes, line: str, positions: Sequence[float], heights: Sequence[float], **kwargs) -> None:
    """Vertical bars from 0; read back as (position of the left edge, height)."""
    for bar in axes.bar(positions, heights, **kwargs):
        bar.set_gid(line)


def draw_horizontal_bars(axes, lines: Sequence[str], lengths: Sequence[float], labels: Sequence[str], **kwargs) -> None:
    """A bar a row, from the top, each a line of its own; read back as (0, length)."""
    for line, bar in zip(lines, axes.barh(labels, lengths, **kwargs), strict=True):
        bar.set_gid(line)


def drawn_points(figure) -> dict[str, list[tuple[float, float]]]:
    """{line: [(x, y)]}: what the axes of a figure hold, read back from its lines, dots and bars."""
    found: dict[str, list[tuple[float, float]]] = {}
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_gid():
                xs, ys = line.get_data()
                found.setdefault(line.get_gid(), []).extend(zip(map(float, xs), map(float, ys), strict=True))
        for bar in axes.patches:
            if bar.get_gid():
                # vertical bars stand on 0; those in rows lie around whole numbers
                point = (bar.get_x(), bar.get_height()) if bar.get_y() == 0 else (0, bar.get_width())
                found.setdefault(bar.get_gid(), []).append((float(point[0]), float(point[1])))
    return found


def tokens_axis(axes, label: str, xs: Iterable[float]) -> None:
    """A log2 axis with a tick at each power of two, or at every second or third one where there are many. With points
    at 0 it is linear up to 8."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    xs = list(xs)
    axes.set_xlabel(label)
    high = max(xs, default=1) * 1.3
    powers = [2**i for i in range(40) if 2**i <= high]
    if min(xs, default=1) < 1:
        axes.set_xscale("symlog", base=2, linthresh=8, linscale=0.6)
        low, powers = -0.8, [power for power in powers if power >= 8]
    else:
        axes.set_xscale("log", base=2)
        low = min(xs, default=1) / 1.3
        powers = [power for power in powers if power >= low]
    ticks = powers[:: 1 + len(powers) // 8]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([0, *ticks] if low < 0 else ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))


def short_number(x: float) -> str:
    """512, 4096, 16k, 2M: powers of two as tick labels have them."""
    if x >= 2**20:
        return f"{x / 2**20:.3g}M"
    return f"{x / 1024:.3g}k" if x >= 16384 else f"{x:g}"


def accuracy_axis(axes, curves: Sequence[Curve]) -> None:
    """Whole fives around what is drawn, its error bars included."""
    ends = [y for curve in curves for y in (*curve.ys, *curve.lows, *curve.highs)]
    low, high = math.floor((min(ends) - 2) / 5) * 5, math.ceil((max(ends) + 3) / 5) * 5
    axes.set_ylim(max(0, low), min(102, high))
    axes.locator_params(axis="y", nbins=7, steps=[1, 2, 5, 10], integer=True)
    axes.grid(axis="y", color="0.92", linewidth=0.6)
