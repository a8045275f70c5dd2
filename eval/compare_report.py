"""What eval.compare shows to people: a page of tables, and a picture."""

from typing import Any

from eval.samples import Row

# Okabe and Ito's colour-blind-safe palette; with a shape for each, so that nothing hangs on colour alone
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<>"

INTRODUCTION = """Intervals are 95%: of an accuracy clustered by question, of a difference from a paired bootstrap over
questions. Each is for one comparison; of twenty without any true difference, one is expected to exclude zero."""
PRICES = """Tokens are what was sampled for an answer, a mean over questions; what a scorer reads is not among them.
A star marks what is more accurate than everything cheaper. pass@k is a bound: a choice that knows the answers."""
OPTIMAL = """{num_questions} questions are in bins by their mean score in {difficulty}. For each bin the best method
within the budget is chosen on one half of the questions and reported on the other, both ways round; so is the best
single method for all bins. The oracle is the best method per bin on the very questions it is reported on."""
SHARED_LUCK = """Difficulty was measured in the run of a method, with the same seeds: luck that both share counts as
gain. A run apart, with another seed, is free of that."""
FLIPS = {
    "answers": "single answers",
    "majorities": "questions, by the majority of their repeats (a tie is neither right nor wrong)",
}


def to_markdown(result: dict[str, Any], picture_file: str) -> str:
    """The page: differences, what each Wait changed, accuracy by price, the compute-optimal choice."""
    sections = ["# Comparison", f"![Accuracy against tokens]({picture_file})", INTRODUCTION]
    for title, pairs in (("Differences", result["pairs"]), ("Each further Wait", result["waits"])):
        if pairs:
            sections += [f"## {title}", _pairs_table(pairs), _pairs_notes(pairs)]
    for benchmark, methods in result["methods"].items():
        sections += [f"## Accuracy by price: {benchmark}", PRICES, _methods_table(methods)]
    for optimal in result["optimal"]:
        words = {"num_questions": optimal["num_questions"], "difficulty": name_of(optimal["difficulty"])}
        sections += [f"## Compute-optimal choice: {optimal['benchmark']}", OPTIMAL.format(**words)]
        sections += [SHARED_LUCK] * optimal["shares_seeds"] + [_optimal_table(optimal["points"])]
    return "\n\n".join(sections) + "\n"


def name_of(cell: dict[str, Any]) -> str:
    return f"{cell['run']} {cell['cell']}"


def tokens_of(method: Row) -> str:
    return "-" if method["tokens"] is None else f"{method['tokens']:,.0f}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    """Columns whose name ends in a colon are numbers, set to the right."""
    rule = ["--:" if name.endswith(":") else "---" for name in columns]
    lines = [[name.removesuffix(":") for name in columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(low: float, high: float) -> str:
    return f"[{low:.1f}, {high:.1f}]"


def _accuracy(scores: dict[str, float]) -> str:
    return f"{scores['accuracy']:.1f}% {_interval(scores['low'], scores['high'])}"


def _pairs_table(pairs: list[Row]) -> str:
    columns = ["benchmark", "a", "b", "n:", "accuracy of a:", "of b:", "a - b:", "95% interval", "wrong to right:",
               "right to wrong:", "p:", "questions needed:"]  # fmt: skip
    rows = []
    for p in pairs:
        needed = "-" if p["questions_needed"] is None else f"{p['questions_needed']:,}"
        rows.append([
            p["benchmark"], name_of(p["a"]), name_of(p["b"]), str(p["num_questions"]), _accuracy(p["a"]),
            _accuracy(p["b"]), f"{p['difference']:+.1f}", _interval(p["low"], p["high"]), str(p["wrong_to_right"]),
            str(p["right_to_wrong"]), f"{p['mcnemar_p']:.2g}", needed,
        ])  # fmt: skip
    return _table(columns, rows)


def _pairs_notes(pairs: list[Row]) -> str:
    over = " or ".join(FLIPS[kind] for kind in sorted({p["flips_of"] for p in pairs}))
    notes = [f"Flips are from b to a; they, and McNemar's exact p, are over {over}.",
             "Questions needed: to see a difference of this size in four of five such comparisons."]  # fmt: skip
    one_sided = max(p["num_only_a"] + p["num_only_b"] for p in pairs)
    ungraded = max(p["num_ungraded"] for p in pairs)
    if one_sided:
        notes.append(f"Questions that one side lacks are left out: at most {one_sided} of a pair.")
    if ungraded:
        notes.append(f"Questions that could not be graded on both sides are left out: at most {ungraded} of a pair.")
    return " ".join(notes)


def _methods_table(methods: list[Row]) -> str:
    rows = [
        [tokens_of(m), f"{m['accuracy']:.1f}%", "*" if m["best_so_far"] else "",
         _interval(m["low"], m["high"]), str(m["num_questions"]), m["method"], m["run"]]
        for m in methods
    ]  # fmt: skip
    return _table(["tokens:", "accuracy:", "", "95% interval", "n:", "method", "run"], rows)


def _optimal_table(points: list[Row]) -> str:
    columns = ["budget:", "compute-optimal:", "tokens:", "best single:", "tokens:", "difference:", "95% interval",
               "oracle:", "chosen per bin, from low scores to high"]  # fmt: skip
    rows = []
    for p in points:
        difference, low, high = (100 * x for x in p["optimal_minus_single"])
        chosen = "; or ".join(dict.fromkeys(", ".join(methods) for methods in p["chosen"]))
        rows.append([
            f"{p['budget']:,.0f}", f"{100 * p['optimal']:.1f}%", f"{p['optimal_tokens']:,.0f}",
            f"{100 * p['single']:.1f}%", f"{p['single_tokens']:,.0f}", f"{difference:+.1f}", _interval(low, high),
            f"{100 * p['oracle']:.1f}%", chosen,
        ])  # fmt: skip
    return _table(columns, rows)


def picture(methods_of: dict[str, list[Row]]):
    """Accuracy against mean sampled tokens: a panel a benchmark, a line a family of methods, 95% bars; the most
    accurate one bears its name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False})
    methods_of = {name: [m for m in methods if m["tokens"] is not None] for name, methods in methods_of.items()}
    series = list(dict.fromkeys((m["run"], m["family"]) for methods in methods_of.values() for m in methods))
    columns = min(3, len(methods_of))
    rows = -(-len(methods_of) // columns)
    size = 4.4 * columns + 2.2, max(3.4 * rows, 0.19 * len(series) + 0.6)  # inches; the rest is for the legend
    figure, panels = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes, (benchmark, methods) in zip(panels.flat, methods_of.items(), strict=False):
        _draw_panel(axes, benchmark, methods, series)
    for axes in panels.flat[len(methods_of) :]:
        axes.set_visible(False)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), frameon=False, loc="outside right upper", fontsize=8)
    return figure


def _draw_panel(axes, benchmark: str, methods: list[Row], series: list[tuple[str, str]]) -> None:
    from matplotlib.ticker import FuncFormatter

    several_runs = len({run for run, _ in series}) > 1
    for number, (run, family) in enumerate(series):
        points = [m for m in methods if (m["run"], m["family"]) == (run, family)]
        bars = [[m["accuracy"] - m["low"] for m in points], [m["high"] - m["accuracy"] for m in points]]
        line = ":" if any(m["is_bound"] for m in points) else "-"
        axes.errorbar(
            [max(m["tokens"], 1) for m in points], [m["accuracy"] for m in points], bars, linestyle=line, linewidth=1.2,
            elinewidth=0.8, capsize=2, color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)],
            markersize=4.5, label=f"{run}: {family}" if several_runs else family,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    best = next((m for m in reversed(methods) if m["best_so_far"]), None)
    if best is not None:
        axes.annotate(best["method"], (max(best["tokens"], 1), best["high"]), xytext=(0, 3),
                      textcoords="offset points", fontsize=7, ha="center")  # fmt: skip
    axes.set_ylim(-2, 110)  # whole points at either end, and room for the name
    axes.set_yticks(range(0, 101, 20))
    axes.set_title(benchmark, fontsize=9.5)
    axes.set_xlabel("mean sampled tokens (log scale)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
