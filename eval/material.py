"""What figures are made from: the paper's numbers, and finished runs of any step, each read and checked once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from core.config import UserError
from core.types import read_jsonl
from eval.comparison import EvalCell
from eval.paper import BENCHMARKS, PaperPoint
from eval.plotting import WAIT, Curve
from eval.samples import Row, num_thinking
from eval.wait_example import WaitExample
from eval.whole_run import check_run, read_json, read_run, rows_of

PAPERS_NAME = {ours: theirs for theirs, ours in BENCHMARKS.items()}
KINDS = {"scores.json": "eval.run", "funnel.json": "data.filter", "metrics.jsonl": "train.sft"}


@dataclass
class Material:
    """paper: its rows, empty where it is not to be drawn. cells, votes: of runs of eval.run (eval/comparison.py).
    measures: of their methods. funnels: {run: steps of data.filter}. training: {run: rows of metrics.jsonl}.
    waits: samples for Figure 3. difficulty: {benchmark: the cell whose scores say how hard its questions are}. labels:
    {run: what to call it}.
    """

    paper: list[PaperPoint] = field(default_factory=list)
    cells: list[EvalCell] = field(default_factory=list)
    votes: list[Row] = field(default_factory=list)
    measures: list[Row] = field(default_factory=list)
    funnels: dict[str, list[Row]] = field(default_factory=dict)
    training: dict[str, list[Row]] = field(default_factory=dict)
    waits: list[WaitExample] = field(default_factory=list)
    difficulty: dict[str, EvalCell] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def label(self, run: str) -> str:
        return self.labels.get(run, run)

    def paper_label(self, name: str) -> str:
        """Said to be the paper's where something else is drawn beside it."""
        return f"{name} (paper)" if self.cells else name

    def runs(self) -> list[str]:
        """Names of the runs of eval.run."""
        return list(dict.fromkeys(cell.run for cell in self.cells))

    def benchmarks(self) -> list[str]:
        """Of those runs, by the paper's names."""
        return list(dict.fromkeys(panel_of(cell.benchmark) for cell in self.cells))


def add_run(material: Material, path: str | Path, name: str) -> None:
    """Reads one finished run. Raises UserError (one line, naming the run) for what `check_run` refuses, a part of a
    sharded run, one that is not whole, or of a step that has no figure."""
    path = check_run(path)
    kind = next((kind for kind in KINDS if (path / kind).exists()), None)
    if kind is None:
        known = ", ".join(f"{file} ({step})" for file, step in KINDS.items())
        raise UserError(f"run {path} has nothing to draw: none of {known}")
    if kind == "funnel.json":
        material.funnels[name] = _funnel(path)
    elif kind == "metrics.jsonl":
        material.training[name] = _training(path)
    else:
        run = read_run(path, name)
        material.cells += run.cells
        material.votes += run.votes
        material.measures += [{**row, "run": name} for row in run.measures]


def _funnel(path: Path) -> list[Row]:
    """Steps of data.filter. Raises UserError for those of another run than run.json sums up."""
    file, headline = path / "funnel.json", read_json(path, "run.json").get("headline", {})
    steps = rows_of(read_json(path, file.name), "steps", ("step", "in", "out", "reasons"), file)
    for step in steps:
        said = headline.get(f"num_after_{step['step']}", step["out"])
        if said != step["out"]:
            raise UserError(f"run {path}: {step['step']} leaves {step['out']:,} in {file.name}, {said:,} in run.json")
    return steps


def _training(path: Path) -> list[Row]:
    """Rows of metrics.jsonl. Raises UserError for others than those that run.json sums up."""
    file, headline = path / "metrics.jsonl", read_json(path, "run.json").get("headline", {})
    rows = rows_of({"rows": list(read_jsonl(file))}, "rows", ("step", "loss", "seconds"), file)
    said = headline.get("seconds_per_step")
    if said is not None and median(row["seconds"] for row in rows) != said:
        raise UserError(f"run {path} is not whole: the {len(rows):,} steps of {file.name} are not those of run.json")
    return rows


def panel_of(benchmark: str) -> str:
    """The paper's name of a benchmark, where it has one."""
    return PAPERS_NAME.get(benchmark, benchmark)


def paper_curves(points: Iterable[PaperPoint], label: str | None = None, panel: str | None = None) -> list[Curve]:
    """A curve for each line of rows with x and y. label, panel: other than the series and the benchmark."""
    lines: dict[str, list[PaperPoint]] = {}
    for point in points:
        if point.x is not None and point.y is not None:
            lines.setdefault(point.line, []).append(point)
    return [
        Curve(
            line,
            label or own[0].series,
            panel or own[0].benchmark,
            tuple(p.x for p in own),
            tuple(p.y for p in own),
            notes=tuple(p.setting for p in own),
            is_paper=True,
        )
        for line, own in lines.items()
    ]


def cell_curves(material: Material, methods: Sequence[str], x: str = "thinking", label: str = "{run}") -> list[Curve]:
    """A curve for each run, benchmark and method of these, its 95% bars with it.

    x: thinking, mean thinking tokens (of rejection sampling the accepted try's); tokens, mean sampled tokens of a
    question, all tries and paths. Cells of which it is not known are left out.
    """
    groups: dict[tuple[str, str, str], list[tuple]] = {}
    for cell in material.cells:
        method, length = cell.settings.get("method"), _length(cell, x)
        if method in methods and length is not None and cell.settings["accuracy"] is not None:
            numbers = (cell.settings[name] for name in ("accuracy", "low", "high"))
            groups.setdefault((cell.run, cell.benchmark, method), []).append((length, *numbers, note_of(cell)))
    return [
        Curve(f"{run} | {method} | {benchmark}", label.format(run=material.label(run), method=method.replace("_", " ")),
              panel_of(benchmark), *zip(*points, strict=True))
        for (run, benchmark, method), points in groups.items()
    ]  # fmt: skip


def _length(cell: EvalCell, x: str) -> float | None:
    if x == "thinking":
        lengths = [num_thinking(row) for row in cell.rows]
        return None if None in lengths or not lengths else fmean(lengths)
    tokens = cell.tokens().values()
    return fmean(tokens) if tokens else None


def note_of(cell: EvalCell) -> str:
    """What the cell was asked for, in a word or two."""
    num_ignore = cell.settings["num_ignore"]
    return f"{WAIT}{num_ignore}x" if num_ignore else str(cell.settings.get("limit") or "")


def majority_curves(material: Material) -> list[Curve]:
    """A curve in k for each run and benchmark: the majority over the samples of its plainest cell (see `base_cell`),
    against the tokens of all k."""
    curves = []
    for run in material.runs():
        for benchmark in dict.fromkeys(cell.benchmark for cell in material.cells if cell.run == run):
            base = base_cell([c for c in material.cells if (c.run, c.benchmark) == (run, benchmark)])
            votes = [v for v in material.votes if base is not None and v["method"].startswith("majority")
                     and (v["run"], v.get("benchmark", "questions"), v["cell"]) == (run, benchmark, base.cell)
                     and None not in (v["tokens"], v["accuracy"])]  # fmt: skip
            if votes:
                numbers = (tuple(vote[name] for vote in votes) for name in ("tokens", "accuracy", "low", "high"))
                notes = tuple(f"k={vote['k']}" for vote in votes)
                label, line = f"{material.label(run)}: majority", f"{run} | majority | {benchmark}"
                curves.append(Curve(line, label, panel_of(benchmark), *numbers, notes))
    return curves


def base_cell(cells: Sequence[EvalCell]) -> EvalCell | None:
    """Of one run and benchmark: budget forcing or no forcing, no end ignored, and the longest thinking of these."""
    plain = [c for c in cells if c.settings.get("method") in ("budget_forcing", "unforced")
             and not c.settings["num_ignore"]]  # fmt: skip
    return max(plain, key=lambda cell: _length(cell, "thinking") or 0, default=None)
