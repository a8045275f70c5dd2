"""results/paper is what its schema says, agrees with itself, and a bad row is named."""

import pytest

from core.config import UserError
from eval.paper import COLUMNS, FOLDER, load_paper, select
from train.lengths import read_histogram

PAPER = load_paper()
GOOD = "Figure 9,budget forcing,s1-32B,AIME24,500,thinking_tokens,500,accuracy_percent,12.5,10,15,Figure 9,digitised"


def test_every_element_is_there():
    tables = {f"Table {n}" for n in (1, 2, 3, 4, 5, 11, 12, 13)}
    figures = {"Figure 1", "Figure 2 domains", "Figure 4 sequential", "Figure 4 parallel", "Figure 6", "Figure 7"}
    others = {"Composition", "Funnel", "Sequence length", "Sources", "Trace lengths"}
    assert {point.element for point in PAPER} == tables | figures | others
    assert all(0 <= p.y <= 100 for p in PAPER if p.y_name == "accuracy_percent")


def total(element, y_name="questions", **values):
    return sum(p.y for p in select(PAPER, element, y_name=y_name, **values) if not p.series.startswith("all"))


def test_parts_add_up():
    assert total("Sources") == 59_029 == select(PAPER, "Sources", series="all", y_name="questions")[0].y
    assert total("Figure 2 domains") == total("Composition") == 1000
    assert len(select(PAPER, "Figure 2 domains", y_name="questions")) == 51
    rest = select(PAPER, "Figure 2 domains", series="all others", y_name="thinking_tokens")[0].y
    assert total("Figure 2 domains", "thinking_tokens") + rest == pytest.approx(4.7e6, rel=0.002)
    for series in ("paper", "notebook"):
        counts = [p.y for p in select(PAPER, "Funnel", series=series) if p.setting != "trusted beforehand"]
        assert counts == sorted(counts, reverse=True) and (counts[0], counts[-1]) == (59_029, 1000)


def test_elements_that_say_the_same_agree():
    def accuracy(element, series, benchmark, setting=""):
        return select(PAPER, element, series=series, benchmark=benchmark, setting=setting)[0].y

    best = {"AIME24": "Wait 4x", "MATH500": "Wait 2x", "GPQA-Diamond": "Wait 2x"}
    for benchmark, waits in best.items():
        assert accuracy("Table 1", "s1-32B", benchmark) == accuracy("Table 5", "s1-32B", benchmark, waits)
        top = max(p.y for p in select(PAPER, "Figure 1", benchmark=benchmark))
        assert top == pytest.approx(accuracy("Table 1", "s1-32B", benchmark), abs=0.21)  # a question of MATH500 more
        assert accuracy("Table 2", "s1K", benchmark) == accuracy("Table 4", "no extrapolation", benchmark)
    one_panel = [(p.x / 198, p.y) for p in select(PAPER, "Figure 4 parallel", series="sequential")]
    the_other = [(p.x, p.y) for p in select(PAPER, "Figure 1", benchmark="GPQA-Diamond")[2:]]
    for a, b in zip(one_panel, the_other, strict=True):
        assert a == pytest.approx(b, rel=0.002)


@pytest.mark.parametrize(("series", "file"), [("s1K", "s1k.csv"), ("s1K-1.1", "s1.1.csv")])
def test_the_planner_draws_lengths_from_the_same_histogram(series, file):
    bins = [(p.x, int(p.setting.removeprefix("to ")), p.y) for p in select(PAPER, "Trace lengths", series=series)]
    assert bins == read_histogram(FOLDER.parent.parent / "configs" / "train" / "lengths" / file)
    mean = sum((first + last) / 2 * count for first, last, count in bins) / sum(count for *_, count in bins)
    assert mean == pytest.approx({"s1K": 4699, "s1K-1.1": 9285}[series], rel=0.01)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD.replace("12.5", "twelve"), "line 3: y='twelve' is not a number"),
        (GOOD.replace("12.5", "nan"), "line 3: y='nan' is not a finite number"),
        (GOOD.replace("12.5", "9"), "line 3: y=9.0 is not between low=10.0 and high=15.0"),
        (GOOD.replace("12.5,10,15", ",,"), "line 3: needs y, or low and high"),
        (GOOD.replace("thinking_tokens,500", "thinking_tokens,"), "line 3: x and x_name go together"),
        (GOOD.replace("digitised", "guessed"), "line 3: how='guessed' is none of published, digitised, recomputed"),
        (GOOD.replace("Figure 9,digitised", ",digitised"), "line 3: source is empty"),
        (GOOD.replace("Figure 9,b", "Figure 8,b"), "line 3: 'Figure 8' belongs into figure_8.csv"),
        (GOOD.replace("12.5", "13"), "line 3: the same as line 2: Figure 9 | budget forcing | AIME24"),
        (GOOD + ",more", "line 3: 14 values in 13 columns"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    file = tmp_path / "figure_9.csv"
    file.write_text("\n".join([",".join(COLUMNS), GOOD, row]) + "\n")
    with pytest.raises(UserError) as error:
        load_paper(tmp_path)
    assert str(error.value).startswith(f"{file}, {message}") and "\n" not in str(error.value)


def test_a_wrong_header_and_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no .csv file"):
        load_paper(tmp_path)
    (tmp_path / "figure_9.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="figure_9.csv, line 1: the columns must be element,series"):
        load_paper(tmp_path)
