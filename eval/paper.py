"""The paper's numbers, from results/paper: a file for each table and figure, a number a row.

element    what of the paper it belongs to; also the file's name (Figure 1: figure_1.csv)
series     the line, bar or row;  model, benchmark, setting: what was measured, where that is said
x_name, x  of a point, or what was asked for; empty where there is none
y_name, y  what the number is, its unit at the end of the name;  low, high: its interval. y is empty where only the
           interval is published
source     where in the paper or its released files
how        published (printed), digitised (read off a figure) or recomputed (by us, from other rows or files)
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from core.config import UserError

FOLDER = Path(__file__).parent.parent / "results" / "paper"
HOW = ("published", "digitised", "recomputed")
BENCHMARKS = {"MATH500": "math500", "AIME24": "aime24", "AIME25": "aime25", "GPQA-Diamond": "gpqa_diamond"}  # ours
NUM_QUESTIONS = {"AIME24": 30, "MATH500": 500, "GPQA-Diamond": 198}


@dataclass(frozen=True)
class PaperPoint:
    """One row. None: empty."""

    element: str
    series: str
    model: str
    benchmark: str
    setting: str
    x_name: str
    x: float | None
    y_name: str
    y: float | None
    low: float | None
    high: float | None
    source: str
    how: str

    @property
    def line(self) -> str:
        """What a picture of it is known by: the points of one line, one set of bars."""
        return " | ".join(part for part in (self.element, self.series, self.benchmark) if part)


COLUMNS = [field.name for field in fields(PaperPoint)]
NUMBERS = ("x", "y", "low", "high")


def load_paper(folder: str | Path = FOLDER) -> list[PaperPoint]:
    """All rows of all files, in the files' order.

    Raises UserError naming file and line of a row that is not as above, or says again what another has said.
    """
    files = sorted(Path(folder).glob("*.csv"))
    if not files:
        raise UserError(f"{folder} has no .csv file with the paper's numbers")
    return [point for file in files for point in _read(file)]


def _read(file: Path) -> list[PaperPoint]:
    with open(file, newline="", encoding="utf-8") as lines:
        reader = csv.reader(lines)
        if next(reader, None) != COLUMNS:
            raise UserError(f"{file}, line 1: the columns must be {','.join(COLUMNS)}")
        points, known = [], {}
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            point = _point(row, where)
            if file_name(point.element) != file.name:
                raise UserError(f"{where}: {point.element!r} belongs into {file_name(point.element)}")
            key = (point.line, point.model, point.setting, point.x, point.y_name, point.how)
            if key in known:
                raise UserError(f"{where}: the same as line {known[key]}: {point.line}, {point.y_name}")
            known[key] = reader.line_num
            points.append(point)
    return points


def file_name(element: str) -> str:
    return element.lower().replace(" ", "_") + ".csv"


def _point(row: Sequence[str], where: str) -> PaperPoint:
    if len(row) != len(COLUMNS):
        raise UserError(f"{where}: {len(row)} values in {len(COLUMNS)} columns")
    values: dict[str, str | float | None] = dict(zip(COLUMNS, row, strict=True))
    for name in ("element", "series", "y_name", "source"):
        if not values[name]:
            raise UserError(f"{where}: {name} is empty")
    if values["how"] not in HOW:
        raise UserError(f"{where}: how={values['how']!r} is none of {', '.join(HOW)}")
    for name in NUMBERS:
        values[name] = _number(values[name], f"{where}: {name}")
    point = PaperPoint(**values)
    if bool(point.x_name) != (point.x is not None):
        raise UserError(f"{where}: x and x_name go together")
    if (point.low is None) != (point.high is None) or (point.y is None and point.low is None):
        raise UserError(f"{where}: needs y, or low and high, or all three")
    if point.low is not None and not point.low <= (point.low if point.y is None else point.y) <= point.high:
        raise UserError(f"{where}: y={point.y} is not between low={point.low} and high={point.high}")
    return point


def _number(text: str, what: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        raise UserError(f"{what}={text!r} is not a number") from None
    if not math.isfinite(number):
        raise UserError(f"{what}={text!r} is not a finite number")
    return number


def select(points: Iterable[PaperPoint], element: str, **values: str) -> list[PaperPoint]:
    """Rows of one element whose columns have these values; with empty columns too, where that is asked for by ""."""
    wanted = {"element": element, **values}
    return [p for p in points if all(getattr(p, name) == value for name, value in wanted.items())]


def check_drawn(
    drawn: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], points: Sequence[PaperPoint], is_all: bool
) -> tuple[int, int]:
    """(lines, values) of the paper that are drawn, as they were read back from the axes: {figure: {line: [(x, y)]}}.

    is_all: every row that figures show must be there. Raises UserError for a value that is not in a file, or a row that
    is not drawn. Where a row has no x, its place in the picture is free.
    """
    rows: dict[str, list[PaperPoint]] = {}
    for point in points:
        rows.setdefault(point.line, []).append(point)
    seen: set[PaperPoint] = set()
    for figure, lines in drawn.items():
        for line, values in ((line, values) for line, values in lines.items() if line in rows):
            for x, y in values:
                found = [p for p in rows[line] if p.x in (None, x) and p.y == y]
                if not found:
                    raise UserError(f"check: {figure} shows ({x:g}, {y:g}) as {line}; results/paper has no such row")
                seen.update(found)
    missing = [p for p in points if is_all and _is_shown(p) and p not in seen]
    if missing:
        p = missing[0]
        raise UserError(f"check: {len(missing)} rows are not drawn, the first: {p.line}, {p.y_name}={p.y:g}")
    return len({point.line for point in seen}), len(seen)


def _is_shown(point: PaperPoint) -> bool:
    """What figures show: not the tries of Figure 6, the tokens of domains, the preselected questions, the notebook."""
    if point.element == "Funnel":
        return point.series == "paper" and point.setting != "trusted beforehand"
    shown = point.y_name in ("accuracy_percent", "questions", "traces")
    return shown and point.element.startswith(("Figure ", "Trace lengths"))
