"""From finished eval runs to a summary: curves, gain with its paired interval, Control, Scaling, Performance, flips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import UserError
from core.runs import read_record
from eval.metrics import control, flips, paired_difference, performance, scaling
from eval.samples import Row
from eval.scores import by_question, score
from eval.whole_run import read_run


@dataclass(frozen=True)
class EvalRun:
    """One benchmark of a finished eval run: its cells' budgets, and per cell the rows of samples.jsonl."""

    path: Path
    name: str
    cells: list[dict[str, Any]]  # scores.json: budget and overall scores of each cell, in the grid's order
    rows: dict[str, list[Row]]

    def cell(self, max_thinking_tokens: Any, num_ignore: int = 0) -> dict[str, Any]:
        """The cell of this budget. Raises UserError where the run has none."""
        for cell in self.cells:
            forced = (cell["max_thinking_tokens"], cell["num_ignore"])
            if cell.get("method", "budget_forcing") in ("budget_forcing", "unforced") and forced == (
                max_thinking_tokens,
                num_ignore,
            ):
                return cell
        known = ", ".join(c["cell"] for c in self.cells)
        raise UserError(f"run {self.path} has no cell max={max_thinking_tokens} ignore={num_ignore}; it has {known}")

    def rows_of(self, cell: dict[str, Any], domains: list[str]) -> list[Row]:
        """Rows of one cell, of the named domains (none named: all). Raises UserError where there are none."""
        rows = [r for r in self.rows[cell["cell"]] if not domains or r["domain"] in domains]
        if not rows:
            raise UserError(f"run {self.path} has no question in {', '.join(domains)}")
        return rows

    def percents(self, cell: dict[str, Any], domains: list[str]) -> dict[str, float]:
        """{question id: percent of its repeats that are right}."""
        return {q: 100 * sum(v) / len(v) for q, v in by_question(self.rows_of(cell, domains)).items()}


@dataclass(frozen=True)
class Point:
    """One cell on a curve: mean thinking tokens, accuracy in percent with its 95% interval, n questions."""

    cell: str
    max_thinking_tokens: Any
    num_ignore: int
    thinking_tokens: float
    accuracy: float
    low: float
    high: float
    num_questions: int


def load_run(path: str | Path, benchmark: str | None = None) -> EvalRun:
    """Reads a finished eval run. benchmark: which one, where it has several.

    Raises UserError where it is not whole (eval/whole_run.py), or has not the one benchmark that is meant.
    """
    run = read_run(path, str(path))
    known = list(dict.fromkeys(cell.benchmark for cell in run.cells))
    if benchmark is None and len(known) > 1:
        raise UserError(f"run {path} has the benchmarks {', '.join(known)}; name one with benchmark=...")
    benchmark = benchmark or known[0]
    if benchmark not in known:
        raise UserError(f"run {path} has no benchmark {benchmark!r}, but {', '.join(known)}")
    cells = [cell for cell in run.cells if cell.benchmark == benchmark]
    rows = {cell.cell: cell.rows for cell in cells}
    return EvalRun(run.path, run.record["name"], [cell.settings for cell in cells], rows)


def curve(run: EvalRun, domains: list[str]) -> list[Point]:
    """The points of one run, over the questions of the named domains. Raises UserError where grades or lengths are not
    known."""
    points = []
    for cell in run.cells:
        scores = score(run.rows_of(cell, domains))
        if None in (scores["accuracy"], scores["thinking_tokens"]):
            raise UserError(
                f"run {run.path} has no grades or no lengths of thinking in {cell['cell']}: no point to draw"
            )
        values = (scores[k] for k in ("thinking_tokens", "accuracy", "low", "high", "num_questions"))
        points.append(Point(cell["cell"], cell["max_thinking_tokens"], cell["num_ignore"], *values))
    return points


def budget_points(points: list[Point]) -> list[Point]:
    """The points of forcing by budget alone: a number as the limit and no ignored end."""
    return [p for p in points if isinstance(p.max_thinking_tokens, int) and p.num_ignore == 0]


def summarise(
    tuned: EvalRun, baselines: list[EvalRun], domains: list[str], from_budget: int, to_budget: int
) -> dict[str, Any]:
    """Everything a reader wants in numbers; intervals are 95%, differences paired by question."""
    points = curve(tuned, domains)
    forced = budget_points(points)
    thinking = [p.thinking_tokens for p in forced if p.max_thinking_tokens > 0]
    accuracies = [p.accuracy for p in forced if p.max_thinking_tokens > 0]
    low_cell, best_cell = tuned.cell(from_budget), tuned.cell(to_budget)
    best = tuned.percents(best_cell, domains)
    return {
        "domains": domains,
        "num_questions": len(best),
        "gain": {
            "from_budget": from_budget,
            "to_budget": to_budget,
            "from_accuracy": _mean(tuned.percents(low_cell, domains)),
            "to_accuracy": _mean(best),
            **_difference(best, tuned.percents(low_cell, domains)),
        },
        "baselines": [_best_of(run, best, domains) for run in baselines],
        "control": control([p.thinking_tokens for p in forced], [p.max_thinking_tokens for p in forced]),
        "scaling_points_per_doubling": scaling(thinking, accuracies),
        "performance": performance([p.accuracy for p in points]),
        "ignored_ends": _ignored_ends(tuned, domains),
        "by_domain": {d: [_point(p) for p in curve(tuned, [d])] for d in _domains_of(tuned)},
        "all_domains": [_point(p) for p in curve(tuned, [])],
        "curves": {run.name: [_point(p) for p in curve(run, domains)] for run in (tuned, *baselines)},
    }


def _best_of(run: EvalRun, best: dict[str, float], domains: list[str]) -> dict[str, Any]:
    """The baseline at the budget that suits it best, and how far the tuned model is above it there."""
    top = max(curve(run, domains), key=lambda p: p.accuracy)
    cell = run.cell(top.max_thinking_tokens, top.num_ignore)
    return {"run": run.name, **_point(top), "tuned_minus_baseline": _difference(best, run.percents(cell, domains))}


def _ignored_ends(run: EvalRun, domains: list[str]) -> list[dict[str, Any]]:
    """What each further ignored end changed, question by question."""
    changes = []
    for cell in run.cells:
        if cell["num_ignore"] == 0:
            continue
        before_cell = run.cell(cell["max_thinking_tokens"], 0)
        before, after = run.percents(before_cell, domains), run.percents(cell, domains)
        wrong_to_right, right_to_wrong = flips(_grades(run, before_cell, domains), _grades(run, cell, domains))
        changes.append({
            "max_thinking_tokens": cell["max_thinking_tokens"], "num_ignore": cell["num_ignore"],
            "accuracy": _mean(after), "wrong_to_right": wrong_to_right, "right_to_wrong": right_to_wrong,
            **_difference(after, before),
        })  # fmt: skip
    return changes


def _grades(run: EvalRun, cell: dict[str, Any], domains: list[str]) -> dict[tuple[str, int], bool | None]:
    return {(r["question_id"], r["repeat"]): r["correct"] for r in run.rows_of(cell, domains)}


def _domains_of(run: EvalRun) -> list[str]:
    return sorted({row["domain"] for rows in run.rows.values() for row in rows})


def _difference(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    difference, low, high = paired_difference(a, b)
    return {"difference": round(difference, 2), "low": round(low, 2), "high": round(high, 2)}


def _point(point: Point) -> dict[str, Any]:
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in vars(point).items()}


def _mean(scores: dict[str, float]) -> float:
    return round(sum(scores.values()) / len(scores), 2)


def steps_of(records: list[str]) -> list[dict[str, Any]]:
    """What each pipeline step took and what it found, from the run records."""
    steps = []
    for path in records:
        record = read_record(path)
        steps.append({
            "run": str(path), "step": f"{record['package']} {record['name']}", "seconds": round(record["seconds"], 1),
            "commit": record["commit"], "dirty": record["dirty"], "hardware": record["hardware"],
            "headline": record["headline"],
        })  # fmt: skip
    return steps


def to_markdown(summary: dict[str, Any], figure: str) -> str:
    """The one-page summary."""
    gain = summary["gain"]
    lines = [
        "# Test-time scaling on this machine", "", f"![Accuracy against thinking tokens]({figure})", "",
        f"Over {summary['num_questions']} held-out questions of {', '.join(summary['domains']) or 'all families'}: "
        f"**{gain['from_accuracy']:.1f}% at {gain['from_budget']} thinking tokens, {gain['to_accuracy']:.1f}% at "
        f"{gain['to_budget']}**: a gain of {gain['difference']:.1f} points, 95% interval "
        f"[{gain['low']:.1f}, {gain['high']:.1f}] (paired bootstrap over questions).", "",
        "| measure | value |", "|---|---|",
        f"| Control: budgets kept | {summary['control']:.0f}% |",
        f"| Scaling: points per doubling of thinking tokens | {summary['scaling_points_per_doubling']:.1f} |",
        f"| Performance: best accuracy | {summary['performance']:.1f}% |", "",
    ]  # fmt: skip
    lines += [
        "## Baselines",
        "",
        "| model, format | best accuracy | tuned minus it | 95% interval |",
        "|---|---|---|---|",
    ]
    for b in summary["baselines"]:
        d = b["tuned_minus_baseline"]
        best = f"{b['accuracy']:.1f}% ({b['cell']})"
        lines.append(f"| {b['run']} | {best} | {d['difference']:+.1f} | [{d['low']:.1f}, {d['high']:.1f}] |")
    lines += ["", "## Waiting", "", "What replacing the end of thinking by the ignore text changed:", "",
              "| ignored ends | accuracy | difference | 95% interval | wrong to right | right to wrong |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for w in summary["ignored_ends"]:
        lines.append(
            f"| {w['num_ignore']} (max {w['max_thinking_tokens']}) | {w['accuracy']:.1f}% | {w['difference']:+.1f} | "
            f"[{w['low']:.1f}, {w['high']:.1f}] | {w['wrong_to_right']} | {w['right_to_wrong']} |"
        )
    lines += [
        "",
        "## Curves",
        "",
        "| run | cell | mean thinking tokens | accuracy | 95% interval | n |",
        "|---|---|---|---|---|---|",
    ]
    for run, points in summary["curves"].items():
        for p in points:
            lines.append(
                f"| {run} | {p['cell']} | {p['thinking_tokens']:.1f} | {p['accuracy']:.1f}% | "
                f"[{p['low']:.1f}, {p['high']:.1f}] | {p['num_questions']} |"
            )
    lines += ["", "## Families of the tuned model", "", _families_table(summary), "", "## Steps", "",
              "| step | seconds | run |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {s['step']} | {s['seconds']:.0f} | `{s['run']}` |" for s in summary["steps"]]
    lines.append(f"| all | {sum(s['seconds'] for s in summary['steps']):.0f} | |")
    return "\n".join(lines) + "\n"


def _families_table(summary: dict[str, Any]) -> str:
    cells = [p["cell"] for p in summary["all_domains"]]
    rows = ["| family | n | " + " | ".join(cells) + " |", "|---|---|" + "---|" * len(cells)]
    for name, points in {**summary["by_domain"], "all": summary["all_domains"]}.items():
        accuracies = " | ".join(f"{p['accuracy']:.0f}%" for p in points)
        rows.append(f"| {name} | {points[0]['num_questions']} | {accuracies} |")
    return "\n".join(rows)
