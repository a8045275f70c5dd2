"""The data card and the pictures: what they say is what the run did."""

import pytest
from test_filter import changed, config, finished_run, make_trace  # noqa: F401 config is a fixture

from core.types import read_jsonl
from data import figures
from data.datacard import markdown_table
from data.filter import main


@pytest.fixture(autouse=True)
def _outputs_go_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows_of(card: str, heading: str) -> list[list[str]]:
    """The first table below a heading, without its header."""
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_number_of_the_card_is_that_of_the_files(config):  # noqa: F811
    path = main(config)
    card = (path / "datacard.md").read_text()
    traces = list(read_jsonl(path / "traces.jsonl"))
    lengths = [row["num_thinking_tokens"] for row in traces]

    assert rows_of(card, "Funnel") == [
        ["contamination", "40", "38", "exact 2", "", ""],
        ["quality", "38", "36", "empty_thinking 1, thinking_too_long 1", "51,581", "51,607"],
        ["difficulty", "36", "30", "solved_by_7b 3, solved_by_32b 2, not_gradable_7b 1", "24,496", "24,517"],
        ["diversity", "30", "12", "not_drawn 18", "1,000", "1,000"],
    ]
    sources = rows_of(card, "Sources and licences")
    assert sum(int(row[1]) for row in sources) == 40 and sum(int(row[2]) for row in sources) == 12
    domains = rows_of(card, "Domains")
    assert {row[0]: int(row[1]) for row in domains} == {
        d: sum(row["question"]["domain"] == d for row in traces) for d in ("legs", "sums")
    }
    assert sum(int(row[2]) for row in domains) == sum(lengths)
    (tokens,) = rows_of(card, "Thinking tokens")
    assert [int(tokens[i]) for i in (0, 4, 5)] == [min(lengths), max(lengths), sum(lengths)]
    rows = rows_of(card, "Teachers and attempts")
    assert rows[0] == ["solver", "12"] and [row[::2] for row in rows[-2:]] == [["7b", "40"], ["32b", "40"]]
    assert f"`{config.traces}`" in card and "seed 1 of the selection" in card and "num_selected: 12" in card
    assert "data_files: s1k.parquet" in card and "s1k-1.1" not in card.split("---")[1]


def test_what_stands_in_is_said(config):  # noqa: F811
    traces = [make_trace(i, teacher="source") for i in range(10, 40)]
    card = (main(changed(config, traces=finished_run("runs/own", "traces.jsonl", traces))) / "datacard.md").read_text()
    assert "**12 of the 12 traces are no reasoning of a model: the solution that the source itself published" in card
    assert "source (stand-in: the published solution)" in card
    plain = (main(config) / "datacard.md").read_text()
    assert "no reasoning of a model" not in plain and "Not decontaminated" not in plain


def test_a_second_teacher_and_no_decontamination_are_said(config):  # noqa: F811
    second = finished_run("runs/second", "traces.jsonl", [make_trace(i, teacher="r1") for i in range(20, 40)])
    path = main(changed(config, second_traces=second, contamination=False, against=[]))
    card = (path / "datacard.md").read_text()
    kept = {row["question"]["id"] for row in read_jsonl(path / "traces.jsonl")}
    have = sum(make_trace(i).question.id in kept for i in range(20, 40))
    assert f"`deepseek_...` those of r1 ({have} of 12)" in card and "**Not decontaminated in this run**" in card
    assert (path / "s1k-1.1.parquet").exists() and "data_files: s1k-1.1.parquet" in card


def test_texts_cannot_break_a_table():
    table = markdown_table(("name", "n"), [("a|b\nc", 1234), ("d", None)])
    assert table.splitlines() == ["| name | n |", "| --- | ---: |", "| a\\|b c | 1,234 |", "| d |  |"]


@pytest.mark.slow
def test_the_pictures_hold_every_step_and_domain(config):  # noqa: F811
    plt = pytest.importorskip("matplotlib.pyplot")
    path = main(changed(config, pictures=True))
    files = {name: (path / name).read_bytes() for name in ("funnel.png", "funnel.pdf", "domains.png", "domains.pdf")}
    assert all(len(content) > 5000 for content in files.values())
    assert b"CreationDate" not in files["funnel.pdf"], "the same bytes each time"

    traces = [make_trace(i) for i in range(40)]
    steps = [{"step": "quality", "in": 40, "out": 30, "reasons": {f"reason {i}": 2 for i in range(5)}}]
    (axes,) = figures.funnel_figure(steps).axes
    assert [bar.get_width() for bar in axes.patches] == [40, 30, 0, 10]
    notes = [text.get_text() for text in axes.texts]
    assert notes == ["40", "30 left, 10 dropped\nreason 0 2, reason 1 2, reason 2 2, ..."]
    (axes,) = figures.domains_figure(traces).axes
    assert [bar.get_width() for bar in axes.patches] == [20, 20]
    assert [text.get_text() for text in axes.texts] == ["20  (30)", "20  (29)"]
    assert figures.funnel_figure([]) is None
    (axes,) = figures.funnel_figure([steps[0] | {"reasons": {"image": 10}}]).axes
    assert axes.texts[1].get_text() == "30 left, 10 dropped: image"
    plt.close("all")
