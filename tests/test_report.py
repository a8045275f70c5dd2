"""The data of a report say what the samples of its runs say, and what cannot be shown is refused or counted."""

import base64
import hashlib
import json
import math
import random
import re
import shutil
import zlib
from pathlib import Path
from statistics import fmean

import pytest
from report_runs import CELLS, ByteTokenizer, ids_of, make_run

from core.config import UserError, load
from core.runs import digest_of
from core.types import read_jsonl, write_jsonl
from eval import report
from eval.report import ReportConfig, pack_texts, page
from eval.report_data import report_data
from eval.report_texts import (
    Packer,
    check_tokenizer,
    decoder_of,
    pieces_of,
    question_texts,
    sample_texts,
    that_fit,
)
from eval.whole_run import read_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        return make_run().resolve()


@pytest.fixture
def path(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "sums"))


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "tokenizer_of", lambda named, settings: ByteTokenizer())


def unpacked(columns):
    values = {k: c if isinstance(c, list) else [c["words"][i] for i in c["of"]] for k, c in columns.items()}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def inflated(chunk):
    return json.loads(zlib.decompress(base64.b64decode(chunk.data)))


def data_and_texts(*runs):
    asked = question_texts(runs)
    data = report_data(runs, asked, 100, 0)
    return data, pack_texts(runs, data, asked, None)


# Data


def test_numbers_flips_and_samples_are_those_of_the_rows(path):
    rows = list(read_jsonl(path / "samples.jsonl"))
    data, texts = data_and_texts(read_run(path, "sums"))

    def right(cell):
        return {row["question_id"]: row["correct"] for row in rows if row["cell"] == cell}

    for cell in data["cells"]:
        assert cell["accuracy"] == pytest.approx(100 * fmean(right(cell["cell"]).values()))
    assert [data["cells"][wait["a"]]["cell"] for wait in data["waits"]] == ["max=256 ignore=1", "max=256 ignore=2"]
    for wait in data["waits"]:
        after, before = (right(data["cells"][wait[side]]["cell"]) for side in "ab")
        ids = [question["id"] for question in unpacked(data["questions"])]
        assert {ids[q] for q in wait["to_right"]} == {q for q in ids if after[q] and not before[q]}
        assert {ids[q] for q in wait["to_wrong"]} == {q for q in ids if before[q] and not after[q]}
        assert (len(wait["to_right"]), len(wait["to_wrong"])) == (wait["wrong_to_right"], wait["right_to_wrong"])
    samples = unpacked(texts.columns)
    assert [sample["correct"] for sample in samples] == [row["correct"] for row in rows]
    assert [data["cells"][sample["cell"]]["cell"] for sample in samples] == [row["cell"] for row in rows]
    asked = unpacked(data["questions"])
    assert asked[3] == {"benchmark": "sums", "id": f"{3:016x}", "domain": "b", "text": "What is 3 + 3?", "answer": "6"}
    assert texts.notes == []


def test_curves_are_drawn_over_thinking_and_over_all_tokens(path):
    curves = data_and_texts(read_run(path, "sums"))[0]["curves"]
    assert [(c["axis"], c["name"]) for c in curves] == [("thinking", "budget forcing"), ("sampled", "budget forcing")]
    for curve in curves:
        xs = [point["x"] for point in curve["points"]]
        assert len(xs) == len(CELLS) and xs == sorted(xs)
        assert all(point["low"] <= point["accuracy"] <= point["high"] for point in curve["points"])


def test_runs_side_by_side_are_compared_cell_by_cell():
    runs = [read_run(make_run(name), name) for name in ("one", "two")]
    data, _ = data_and_texts(*runs)
    sides = [(data["cells"][d["a"]], data["cells"][d["b"]]) for d in data["differences"]]
    assert [(a["run"], b["run"]) for a, b in sides] == [("two", "one")] * len(CELLS)
    assert all(a["cell"] == b["cell"] for a, b in sides)
    assert {c["name"] for c in data["curves"]} == {"one: budget forcing", "two: budget forcing"}


# Texts


def test_pieces_joined_are_the_text_of_all_ids():
    euro = ids_of("\u20ac")  # three bytes, cut in two
    segments = [
        {"phase": "thinking", "source": "sampled", "token_ids": ids_of("so") + euro[:1]},
        {"phase": "thinking", "source": "sampled", "token_ids": euro[1:] + ids_of(" 4") + euro[:2]},
        {"phase": "thinking", "source": "forced", "token_ids": euro[2:] + ids_of("Wait")},
        {"phase": "answer", "source": "forced", "token_ids": ids_of("!")},
    ]
    pieces = pieces_of(segments, decoder_of(ByteTokenizer()))
    assert pieces == [
        ("thinking", "sampled", "so\u20ac 4"), ("thinking", "forced", "\u20acWait"), ("answer", "forced", "!"),
    ]  # fmt: skip


def test_without_a_tokenizer_the_response_alone_is_shown():
    segments = [{"phase": "thinking", "source": "sampled", "token_ids": [1]}]
    row = {"segments": segments, "response": "4", "ended": "budget", "mean_logprob": -math.inf, "error": None}
    facts = {"ended": "budget", "mean_logprob": "-inf"}
    assert sample_texts(row, None) == {"pieces": [("answer", "unknown", "4")], "facts": facts}
    of_endpoint = {"segments": [], "thinking": "2 + 2", "response": "4", "num_forced_tokens": 0}
    pieces = sample_texts(of_endpoint, None)["pieces"]
    assert pieces == [("thinking", "sampled", "2 + 2"), ("answer", "sampled", "4")]


def test_the_report_says_that_a_tokenizer_was_missing(path, monkeypatch):
    monkeypatch.setattr(report, "tokenizer_of", lambda named, settings: None)
    (note,) = data_and_texts(read_run(path, "sums"))[1].notes
    assert "its tokenizer is not at hand" in note


def test_another_models_tokenizer_is_refused():
    row = {"segments": [{"phase": "answer", "source": "sampled", "token_ids": ids_of("25")}], "response": "42"}
    with pytest.raises(UserError, match="reads '25' where the run recorded '42'; name the right one"):
        check_tokenizer("run", row, ByteTokenizer())


def test_chunks_hold_every_text_once_and_groups_take_turns():
    packer = Packer()
    texts = [("a", f"{i} " * 20_000) for i in range(5)] + [("b", f"{i} " * 20_000) for i in range(5)]
    for group, text in texts:
        packer.add(group, {"text": text})
    packer.close()
    for chunk in packer.chunks:
        assert inflated(chunk) == [{"text": text} for _, text in texts[chunk.first : chunk.first + chunk.count]]
    assert sum(chunk.count for chunk in packer.chunks) == 10
    room = len(packer.chunks[0].data) * 2 + 50
    kept, left_out = that_fit(packer.chunks, room)
    assert {chunk.group for chunk in kept} == {"a", "b"}
    assert len(kept) + len(left_out) == len(packer.chunks) and sum(len(c.data) for c in kept) <= room


def test_what_a_sample_shares_with_an_earlier_one_is_kept_once():
    long = "\U0001d11e " + "a thought " * 100
    packer = Packer()
    for text in (long, long[:500], "\ud800nother " * 50, long[:300]):
        packer.add("a", {"pieces": [("thinking", "sampled", text), ("answer", "forced", "so")]})
    packer.close()
    (chunk,) = packer.chunks
    kept = [texts["pieces"][0][2:] for texts in inflated(chunk)]
    assert kept == [[long], [501, 1], ["\ud800nother " * 50], [301, 2]]  # the clef is two units of UTF-16


# The page


def page_of(path, max_bytes=30_000_000):
    return page("A <title> & more", *data_and_texts(read_run(path, "sums")), max_bytes)


def test_hostile_text_is_never_markup():
    hostile = "</script><script>alert(1)</script><!-- \u0000 \u2028 &amp; ' \""

    def change(row):
        return {**row, "extracted": hostile, "response": hostile, "segments": []}

    text = page_of(make_run(change=change, text=lambda i: f"{i} </script><img src=x onerror=alert(2)>"))
    assert "<script>alert" not in text and "<img" not in text and "\0" not in text
    assert text.count("</script>") == text.count("<script")
    assert "<title>A &lt;title&gt; &amp; more</title>" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["samples"]["extracted"] == {"words": [hostile], "of": [0] * 48}


def test_nothing_is_asked_of_the_network(path):
    text = page_of(path)
    assert "default-src 'none'" in text
    assert not re.findall(
        r"""(?:src|href)=["']?(?!#)[a-z]""", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    )


def test_the_chart_library_is_as_published():
    sums = re.findall(r"^([0-9a-f]{64})  (\S+)$", (report.UPLOT / "NOTE").read_text(), re.MULTILINE)
    assert {name for _, name in sums} == {file.name for file in report.UPLOT.iterdir()} - {"NOTE"}
    for digest, name in sums:
        assert hashlib.sha256((report.UPLOT / name).read_bytes()).hexdigest() == digest, name


def test_curves_over_thinking_take_the_accepted_try(path):
    run = read_run(path, "sums")
    for row in run.cells[0].rows:
        row["accepted_thinking_tokens"] = 7
    assert data_and_texts(run)[0]["curves"][0]["points"][0]["x"] == 7


def test_questions_are_read_where_the_run_read_them(path):
    (path / "questions.jsonl").rename("q.jsonl")
    record = json.loads((path / "run.json").read_text())
    for change, num_known in ((digest_of("q.jsonl"), 12), ("another", 0)):
        record["inputs"] = {"questions": change}
        (path / "run.json").write_text(json.dumps(record))
        (path / "config.yaml").write_text("questions: q.jsonl\n")
        data, texts = data_and_texts(read_run(path, "sums"))
        known = [question["text"] for question in unpacked(data["questions"]) if question["text"] is not None]
        assert len(known) == num_known and len(texts.notes) == (num_known == 0)


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_and_counted():
    def change(row):
        digits = random.Random(f"{row['cell']} {row['question_id']}").randbytes(600).hex()  # hardly to be compressed
        return {**row, "segments": [], "thinking": digits}

    path = make_run(num_questions=100, change=change)
    whole = page_of(path)
    small = page_of(path, max_bytes=len(whole) * 9 // 10)
    assert len(small) <= len(whole) * 9 // 10
    data = json.loads(re.search(r'id="data">(.*?)</script>', small, re.DOTALL)[1])
    num_samples = sum(chunk["count"] for chunk in data["chunks"] if not chunk["group"])
    assert f"The texts of {400 - num_samples} of 400 samples" in data["notes"][0]
    assert 0 < num_samples < 400


def test_main_writes_the_report_and_records_it(path):
    made = report.main(load(ReportConfig, [f"run={path}", "num_resamples=100"]))
    assert "<title>sums</title>" in (made / "report.html").read_text()
    record = json.loads((made / "run.json").read_text())
    assert record["headline"]["num_samples"] == 48 and record["status"] == "done"


# Refusals


def spoil(path, name, change):
    value = json.loads((path / name).read_text())
    change(value)
    (path / name).write_text(json.dumps(value))


def drop_half(path):
    write_jsonl(path / "samples.jsonl", list(read_jsonl(path / "samples.jsonl"))[:-7])


def turn_one(path):
    rows = list(read_jsonl(path / "samples.jsonl"))
    rows[0]["correct"] = not rows[0]["correct"]
    write_jsonl(path / "samples.jsonl", rows)


def drop_lengths(path):
    rows = list(read_jsonl(path / "samples.jsonl"))
    write_jsonl(path / "samples.jsonl", [{k: v for k, v in row.items() if k != "num_thinking_tokens"} for row in rows])


REFUSALS = {
    "crashed": (lambda p: (p / "DONE").unlink(), "is not finished"),
    "no record": (lambda p: (p / "run.json").unlink(), "has no run.json"),
    "half a record": (lambda p: (p / "run.json").write_text('{"name": '), "run.json is not JSON"),
    "a foreign record": (lambda p: (p / "run.json").write_text("[1]"), "run.json lacks package, name, status, commit"),
    "no scores": (lambda p: (p / "scores.json").unlink(), "has no scores.json"),
    "half a file": (lambda p: (p / "scores.json").write_text('{"cells": ['), "scores.json is not JSON"),
    "other scores": (lambda p: (p / "scores.json").write_text('{"acc": 1}'), "scores.json is of another make"),
    "another package": (lambda p: spoil(p, "run.json", lambda r: r.update(package="data")), "is of data, not of eval"),
    "failed": (lambda p: spoil(p, "run.json", lambda r: r.update(status="failed")), "not finished (status 'failed'"),
    "a shard": (lambda p: (p / "config.yaml").write_text("{shard: 2, num_shards: 8}"), "is shard 2 of 8; join them"),
    "no config": (lambda p: (p / "config.yaml").unlink(), "has no config.yaml"),
    "half a config": (lambda p: (p / "config.yaml").write_text("cells: [1"), "config.yaml is not YAML"),
    "part of the rows": (drop_half, "is not whole: samples.jsonl has"),
    "half a row": (lambda p: (p / "samples.jsonl").write_text('{"cell": "ma'), "samples.jsonl, line 1: not JSON"),
    "regraded in part": (turn_one, "of sums max=64 is 25 by samples.jsonl, 16.6667 by scores.json"),
    "other rows": (lambda p: (p / "samples.jsonl").write_text('{"loss": 1}\n'), "of another make: a row lacks 'cell'"),
    "rows of lists": (lambda p: (p / "samples.jsonl").write_text("[1]\n"), "samples.jsonl is of another make"),
    "less in the rows": (drop_lengths, "its rows lack num_thinking_tokens"),
    "no rows": (lambda p: (p / "samples.jsonl").write_text(""), "samples.jsonl has 0 of the 12 samples"),
    "no samples": (lambda p: (p / "samples.jsonl").unlink(), "it has no samples.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_runs_that_are_not_whole_or_not_ours(case, path):
    change, words = REFUSALS[case]
    change(path)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        report.main(load(ReportConfig, [f"run={path}"]))
    assert "\n" not in str(error.value)
    assert not Path("outputs").exists(), "nothing was begun"


def test_refuses_a_wrong_config():
    cases = (
        ([], "name what to look at"),
        (["run=a", "runs=[b]"], "one of the two"),
        (["run=a", "max_megabytes=0.1"], "at least 1"),
        (["run=a", "wandb=yes"], "off, offline or online"),
        (["run=nowhere"], "does not exist"),
    )
    for args, words in cases:
        with pytest.raises(UserError, match=words):
            report.main(load(ReportConfig, args))


def test_wandb_gets_the_same_curves(path, monkeypatch):
    logged, axes = [], {}

    class Tracker:
        def define_metric(self, name, step_metric=None, hidden=False):
            axes[name] = step_metric

        def log(self, row):
            logged.append(row)

        def finish(self):
            logged.append("finished")

    monkeypatch.setattr(report, "open_wandb", lambda config, folder: Tracker())
    report.main(load(ReportConfig, [f"run={path}", "num_resamples=100", "wandb=offline"]))
    name = "sums/budget forcing by thinking tokens"
    assert axes[f"{name}/*"] == f"{name}/tokens"
    points = data_and_texts(read_run(path, "sums"))[0]["curves"][0]["points"]
    assert [(row[f"{name}/tokens"], row[f"{name}/accuracy"]) for row in logged[: len(points)]] == [
        (point["x"], point["accuracy"]) for point in points
    ]  # fmt: skip
    assert logged[-1] == "finished"
