"""Two pictures of a selection: the funnel, and its domains as in the paper's Figure 2 (left)."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from core.types import Trace
from eval import plotting
from eval.data_figures import KEPT, draw_funnels
from eval.plotting import styled

ROWS_PER_COLUMN = 32


def save(folder: Path, steps: Sequence[Mapping[str, Any]], traces: Sequence[Trace]) -> None:
    """funnel.png, funnel.pdf, domains.png and domains.pdf; the same bytes each time."""
    with styled():
        for name, figure in (("funnel", funnel_figure(steps)), ("domains", domains_figure(traces))):
            if figure is not None:
                plotting.save(figure, folder, name)


def funnel_figure(steps: Sequence[Mapping[str, Any]]):
    """A bar a step (eval/data_figures.py). None: no steps."""
    return draw_funnels({"": ("funnel", steps)}) if steps else None


def domains_figure(traces: Sequence[Trace]):
    """A bar a domain, the largest first, with its questions and their mean thinking tokens; in columns if many."""
    import matplotlib.pyplot as plt

    counts = Counter(t.question.domain for t in traces)
    lengths: dict[str, list[int]] = defaultdict(list)
    for trace in traces:
        lengths[trace.question.domain].append(trace.num_thinking_tokens)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    num_columns = -(-len(names) // ROWS_PER_COLUMN)
    per_column = -(-len(names) // num_columns)
    size = (4.6 * num_columns + 0.6, 0.21 * per_column + 1.1)
    figure, all_axes = plt.subplots(1, num_columns, figsize=size, layout="constrained", squeeze=False, sharex=True)
    for i, axes in enumerate(all_axes[0]):
        column = names[i * per_column : (i + 1) * per_column]
        axes.barh([shortened(name) for name in column], [counts[name] for name in column], color=KEPT, height=0.7)
        for row, name in enumerate(column):
            note = f"{counts[name]:,}  ({mean(lengths[name]):,.0f})"
            axes.annotate(
                note, (counts[name], row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5
            )
        axes.set_ylim(per_column - 0.4, -0.6)
        axes.set_xlim(0, counts[names[0]] * 1.35)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(left=False, labelsize=8)
    title = f"{len(traces):,} questions in {len(names)} domains (in brackets: mean thinking tokens)"
    figure.suptitle(title, fontsize=9.5)
    return figure


def shortened(name: str, most: int = 42) -> str:
    """MSC titles run to 80 characters, and one has math in it."""
    name = name.replace("$", "")
    return name if len(name) <= most else name[: most - 3].rstrip(" ,") + "..."
