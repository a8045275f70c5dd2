"""The scores of a run as people read them while it ends: plain tables in the terminal and in the run's log."""

from collections.abc import Iterable
from itertools import groupby

from core.log import say
from eval.samples import Row


def print_cells(name: str, scores: Iterable[Row]) -> None:
    """One table a benchmark: n, accuracy with its interval, mean tokens, why thinking ended."""
    for benchmark, own in groupby(scores, key=lambda s: s["benchmark"]):
        own = list(own)
        width = max(len(s["cell"]) for s in own)
        say(f"{name} {benchmark}: {own[0]['num_questions']} questions")
        say(f"  {'cell':<{width}} {'n':>6} {'accuracy':>9}  {'95% interval':<14} {'thinking':>9} {'answer':>7}  ended")
        for s in own:
            accuracy = "-" if s["accuracy"] is None else f"{s['accuracy']:.1f}%"
            interval = "" if s["accuracy"] is None else f"[{s['low']:.1f}, {s['high']:.1f}]"
            ended = " ".join(f"{k}={v}" for k, v in s["ended"].items())
            ungraded = f" ungraded={s['num_ungraded']}" if s["num_ungraded"] else ""
            if s["num_exhausted"]:
                ungraded += f" exhausted={100 * s['num_exhausted'] / s['num_samples']:.0f}%"
            say(f"  {s['cell']:<{width}} {s['num_samples']:>6} {accuracy:>9}  {interval:<14} "
                f"{_tokens(s['thinking_tokens']):>9} {_tokens(s['answer_tokens']):>7}  {ended}{ungraded}")  # fmt: skip


def print_parallel(name: str, entries: Iterable[Row]) -> None:
    """A line a cell: accuracy of each method over all its k samples. The curves in k are in scores.json."""
    for benchmark, own in groupby(entries, key=lambda e: e["benchmark"]):
        cells = {cell: list(of_cell) for cell, of_cell in groupby(own, key=lambda e: e["cell"])}
        methods = list(dict.fromkeys(e["method"] for of_cell in cells.values() for e in of_cell))
        width = max(map(len, cells))
        say(f"{name} {benchmark}: k samples a question, accuracy % with 95% intervals over n questions")
        heads = "  ".join(f"{method:<20}" for method in methods)
        say(f"  {'cell':<{width}} {'k':>3} {'n':>5} {'tokens':>8}  {heads}")
        for cell, of_cell in cells.items():
            k = max(e["k"] for e in of_cell)
            found = {e["method"]: e for e in of_cell if e["k"] == k}
            first = next(iter(found.values()))
            tokens = "-" if first["tokens"] is None else f"{first['tokens']:,.0f}"
            values = "  ".join(f"{_accuracy(found.get(method)):<20}" for method in methods)
            say(f"  {cell:<{width}} {k:>3} {first['num_questions']:>5} {tokens:>8}  {values}".rstrip())


def _accuracy(entry: Row | None) -> str:
    return "-" if entry is None else f"{entry['accuracy']:.1f} [{entry['low']:.1f}, {entry['high']:.1f}]"


def print_measures(name: str, measured: Iterable[Row]) -> None:
    for benchmark, own in groupby(measured, key=lambda m: m["benchmark"]):
        own = list(own)
        width = max(len(m["method"]) for m in own)
        say(f"{name} {benchmark}: measures with 95% intervals; Scaling in points per doubling of thinking tokens")
        say(f"  {'method':<{width}} {'cells':>5} {'n':>5}  {'Control %':<22} {'Scaling':<22} Performance %")
        for m in own:
            values = [_shown(m[measure]) for measure in ("control", "scaling", "performance")]
            counts = f"{m['num_cells']:>5} {m['num_questions']:>5}"
            say(f"  {m['method']:<{width}} {counts}  {values[0]:<22} {values[1]:<22} {values[2]}")


def _tokens(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.1f}"


def _shown(value: list[float | None] | None) -> str:
    if value is None or value[0] is None:
        return "-"
    return f"{value[0]:.1f}" + (f" [{value[1]:.1f}, {value[2]:.1f}]" if value[1] is not None else " [no spread]")
