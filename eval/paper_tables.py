"""The paper's tables as Markdown, LaTeX and CSV, with a row more for each run where it measured the same."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.comparison import EvalCell
from eval.material import Material, base_cell, panel_of
from eval.paper import PaperPoint, select

BENCHMARKS = ("AIME24", "MATH500", "GPQA-Diamond", "AIME25")
LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\^{}",
         "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}", "|": r"\textbar{}", "<": r"\textless{}",
         ">": r"\textgreater{}"}  # fmt: skip
MEASURES = {
    "control_percent": "Control %",
    "scaling_points_per_doubling": "Scaling",
    "performance_percent": "Performance %",
}


@dataclass(frozen=True)
class Table:
    """columns: the first names the row, the others are numbers. rows: texts as they are shown; empty: not known."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        rule = ("---", *["---:"] * (len(self.columns) - 1))
        lines = [" | ".join(cell.replace("|", r"\|") for cell in row) for row in (self.columns, rule, *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"

    def latex(self) -> str:
        """A tabular with booktabs rules."""
        lines = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in (self.columns, *self.rows)]
        begin = [
            f"% {self.title} (needs the package booktabs)",
            r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}",
            r"\toprule",
        ]
        return "\n".join([*begin, lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"

    def csv(self) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return text.getvalue()


def _escaped(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def write_tables(folder: Path, tables: Iterable[Table]) -> None:
    """tables/<name>.md, .tex and .csv, and all of them in tables.md."""
    (folder / "tables").mkdir(exist_ok=True)
    tables = list(tables)
    for table in tables:
        for ending, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            (folder / "tables" / f"{table.name}.{ending}").write_text(text, encoding="utf-8")
    (folder / "tables.md").write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")


def tables_of(material: Material) -> list[Table]:
    """Every table there is something for."""
    tables = [*_paper_tables(material)] if material.paper else []
    return [*tables, *_run_tables(material)]


def pivot(
    points: Sequence[PaperPoint], row: Callable[[PaperPoint], str], column: Callable[[PaperPoint], str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows) in the order in which they first occur; points of the same place stand beside each other."""
    cells: dict[tuple[str, str], str] = {}
    for point in points:
        place = row(point), column(point)
        cells[place] = f"{cells[place]} {shown(point)}" if place in cells else shown(point)
    columns = tuple(dict.fromkeys(column for _, column in cells))
    rows = [(name, *(cells.get((name, c), "") for c in columns)) for name in dict.fromkeys(name for name, _ in cells)]
    return columns, rows


def shown(point: PaperPoint) -> str:
    """72.6, 5,300, [-26.7, -3.3]: percentages and points with a decimal, counts with none."""
    decimals = 1 if point.y_name.endswith(("percent", "points", "per_doubling")) else 0
    if point.y is None:
        return f"[{point.low:.{decimals}f}, {point.high:.{decimals}f}]"
    whole = point.y_name.startswith(("control", "scaling")) and point.how == "published"
    return f"{point.y:,.{0 if whole else decimals}f}"


def _series(point: PaperPoint) -> str:
    return f"{point.series}, {point.setting}" if point.setting else point.series


def _asked(point: PaperPoint) -> str:
    return f"{point.series}, {point.x_name.removeprefix('asked_')} asked: {point.x:,.0f}"


def _benchmark(point: PaperPoint) -> str:
    return point.benchmark


def _measure(point: PaperPoint) -> str:
    return point.y_name.removesuffix("_percent").replace("_", " ") + (" %" if "percent" in point.y_name else "")


def _both(point: PaperPoint) -> str:
    return f"{point.benchmark} {_measure(point)}".strip()


def _measured(point: PaperPoint) -> str:
    if point.y_name == "evaluations":
        return "|A|"
    return MEASURES[point.y_name] + (", recomputed" if point.how == "recomputed" else "")


PIVOTS = {  # element: (title, what names a row, what names a column)
    "Table 2": ("Data ablations: accuracy %, 95% interval of the difference to s1K", _series, _benchmark),
    "Table 4": ("What is appended at an ignored end: accuracy %", _series, _benchmark),
    "Table 5": ("Ignored ends: accuracy %", _series, _benchmark),
    "Table 11": ("Token-conditional control, AIME24", _asked, _measure),
    "Table 12": ("Step-conditional control, AIME24", _asked, _measure),
    "Table 13": ("Class-conditional control", _series, _both),
    "Figure 6": ("Rejection sampling, AIME24: accuracy %, mean tries a sample", _series, _measure),
    "Sources": ("The sources of the 59,029 questions", _series, _measure),
    "Composition": ("Where s1K's 1,000 questions come from", _series, _measure),
    "Figure 2 domains": ("s1K's questions and thinking tokens by domain", _series, _measure),
    "Funnel": ("Questions left after each step", lambda point: point.setting, lambda point: point.series),
    "Sequence length": ("Training with rows cut at a length", _series, _both),
}


def _paper_tables(material: Material) -> list[Table]:
    tables = [_table_1(material), _table_3(material)]
    for element, (title, row, column) in PIVOTS.items():
        columns, rows = pivot(select(material.paper, element), row, column)
        rows += _run_rows(material, columns) if element in ("Table 4", "Table 5") else []
        tables.append(Table(_name(element), f"{element}. {title}", ("", *columns), tuple(rows)))
    return tables


def _name(element: str) -> str:
    return element.lower().replace(" ", "_")


def _table_1(material: Material) -> Table:
    points = select(material.paper, "Table 1")
    columns, rows = pivot(points, _series, _benchmark)
    examples = {_series(p): f"{p.x:,.0f}" for p in points if p.x is not None}
    rows = [(row[0], examples.get(row[0], ""), *row[1:]) for row in rows + _run_rows(material, columns)]
    return Table("table_1", "Table 1. Accuracy %, training examples", ("", "examples", *columns), tuple(rows))


def _table_3(material: Material) -> Table:
    columns, rows = pivot(select(material.paper, "Table 3"), _series, _measured)
    rows += [(*row, "", "") for row in _measure_rows(material, "AIME24")]
    return Table("table_3", "Table 3. Control, Scaling (points per doubling), Performance, AIME24", ("", *columns),
                 tuple(rows))  # fmt: skip


def _run_rows(material: Material, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows of runs: the plainest cell of each, and those with ignored ends."""
    labels = dict.fromkeys((cell.run, cell.cell) for cell in material.cells if _is_compared(material, cell))
    rows = [(f"{material.label(run)}, {cell}", *(_accuracy(material, run, cell, c) for c in columns))
            for run, cell in labels]  # fmt: skip
    return [row for row in rows if any(row[1:])]


def _is_compared(material: Material, cell: EvalCell) -> bool:
    own = [c for c in material.cells if (c.run, c.benchmark) == (cell.run, cell.benchmark)]
    return bool(cell.settings["num_ignore"]) or cell is base_cell(own)


def _accuracy(material: Material, run: str, label: str, benchmark: str) -> str:
    for cell in material.cells:
        if (cell.run, cell.cell, panel_of(cell.benchmark)) == (run, label, benchmark):
            return interval(*(cell.settings[name] for name in ("accuracy", "low", "high")))
    return ""


def interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if low is None else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _run_tables(material: Material) -> list[Table]:
    if not material.cells:
        return []
    benchmarks = sorted(material.benchmarks(), key=lambda b: BENCHMARKS.index(b) if b in BENCHMARKS else 9)
    labels = dict.fromkeys((cell.run, cell.cell) for cell in material.cells)
    rows = [(f"{material.label(run)}, {cell}", *(_accuracy(material, run, cell, b) for b in benchmarks))
            for run, cell in labels]  # fmt: skip
    tables = [Table("runs", "Runs: accuracy % with 95% intervals", ("", *benchmarks), tuple(rows))]
    measured = [row for benchmark in benchmarks for row in _measure_rows(material, benchmark)]
    title = "Runs: Control, Scaling (points per doubling), Performance, with 95% intervals"
    return tables + ([Table("runs_measures", title, ("", *MEASURES.values()), tuple(measured))] if measured else [])


def _measure_rows(material: Material, benchmark: str) -> list[tuple[str, ...]]:
    """A row a method of each run: Control, Scaling and Performance with their intervals."""
    return [
        (
            f"{material.label(m['run'])}, {m['method'].replace('_', ' ')}, {benchmark}",
            *(interval(*(m[name] or (None, None, None))) for name in ("control", "scaling", "performance")),
        )
        for m in material.measures
        if panel_of(m["benchmark"]) == benchmark
    ]
