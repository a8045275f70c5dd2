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
    GREY,
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
from eval.wait_example import WaitExample

NUM_BINS = 5  # of difficulty, as in the compute-optimal choice
BINS = ["hardest questions", *(f"bin {number}" for number in range(2, NUM_BINS + 1))]
NEAR = 3  # lines shown around what was forced in Figure 3
TEXT_COLUMNS, TEXT_SIZE = 92, 6.5  # of its text: characters a line, points
CHARACTER, LINE = 0.602 * TEXT_SIZE / 72, 0.14  # inches: the width of one (DejaVu Sans Mono), the height of a line
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
    if len(points) == 1:
        axes.errorbar(xs, ys, [[ys[0] - lows[0]], [highs[0] - ys[0]]], color=colour, elinewidth=0.7, capsize=1.8)
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
    name = "\n".join(textwrap.fill(part, 13) for part in parts + [material.label(pair["a"]["run"])] * several)
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
            (drawn,) = axes.plot(*zip(*known, strict=True), color=COLOURS[number % len(COLOURS)], linewidth=0.9,
                                 label=material.label(run))  # fmt: skip
            drawn.set_gid(f"{run} | {name}")
        axes.set_xlabel("step")
        axes.set_title(TRAINING[name])
        axes.set_ylim(bottom=0)
        if name == "learning_rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    legend(figure, all_axes)
    return figure


def figure_3(material: Material):
    """A sample whose end of thinking was ignored: the question, what was thought, what was forced in, the answer."""
    if not material.waits:
        return None
    from matplotlib.figure import Figure

    lines = [line for example in material.waits for line in text_lines(example)]
    longest = max(sum(len(text) for text, _ in line) for line in lines)
    # 4% more: a .png sets letters on whole pixels
    width, height = 1.04 * longest * CHARACTER + 0.2, LINE * len(lines) + 0.15
    figure = Figure(figsize=(width, height))
    looks = {"head": {"color": GREY}, "text": {}, "answer": {"color": COLOURS[0]},
             "forced": {"color": COLOURS[1], "weight": "bold"}}  # fmt: skip
    for row, spans in enumerate(lines):
        column = 0
        for text, kind in spans:
            x, y = 0.1 + CHARACTER * column, height - 0.075 - LINE * (row + 0.5)
            figure.text(x / width, y / height, text, va="center", parse_math=False, family="DejaVu Sans Mono",
                        fontsize=TEXT_SIZE, **looks[kind])  # fmt: skip
            column += len(text)
    return figure


Span = tuple[str, str]  # text and kind: head, text, forced, answer


def text_lines(example: WaitExample) -> list[list[Span]]:
    """The example as lines of at most TEXT_COLUMNS characters."""
    verdict = {True: "right", False: "wrong", None: "not graded"}
    origin = f"{example.origin['run']}, {example.origin['cell']}, question {example.origin['question_id']}"
    told = f"without ignored ends: {verdict[example.before]}; with them: {verdict[example.after]}\n{origin}"
    lines = [[("question", "head")], *_wrapped([(example.question, "text")])]
    for phase, title, kind in (("thinking", "thinking (forced: bold)", "text"), ("answer", "answer", "answer")):
        pieces = [piece for piece in example.pieces if piece.phase == phase]
        spans = [(piece.text, "forced" if piece.source == "forced" else kind) for piece in pieces]
        lines += [[(title, "head")], *_shortened(_wrapped(spans))]
    return [*lines, *_wrapped([(told, "head")])]


def _wrapped(spans: Sequence[Span]) -> list[list[Span]]:
    """Lines of spans, broken at newlines and where a line is full; blank lines are left out."""
    lines: list[list[Span]] = [[]]
    for text, kind in spans:
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            shown = "".join(c if c.isprintable() else "\ufffd" for c in part)
            while shown:
                room = TEXT_COLUMNS - sum(len(own) for own, _ in lines[-1])
                if room == 0:
                    lines.append([])
                    continue
                lines[-1].append((shown[:room], kind))
                shown = shown[room:]
    return [line for line in lines if "".join(text for text, _ in line).strip()]


def _shortened(lines: list[list[Span]]) -> list[list[Span]]:
    """Of many lines the first and last, and those around what was forced; how many are left out is said."""
    forced = [i for i, line in enumerate(lines) if any(kind == "forced" for _, kind in line)]
    near = [-1, len(lines), *forced]
    kept = [i for i in range(len(lines)) if min(abs(i - j) for j in near) <= NEAR]
    shown: list[list[Span]] = []
    for before, i in zip([-1, *kept], kept, strict=False):
        if i - before > 1:
            shown.append([(f"[{i - before - 1} lines]", "head")])
        shown.append(lines[i])
    return shown
