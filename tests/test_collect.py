"""Collecting: every row is counted, broken input is named and left out, and the numbers are checked."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.config import UserError, load
from core.types import Question, question_from_row, read_jsonl
from data.collect import CollectConfig, main, sample

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(path: str, rows: list | bytes) -> None:
    """Writes root/<path>: rows as JSON lines, or these bytes."""
    file = Path("root") / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(rows if isinstance(rows, bytes) else b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def collect(*args: str, sources: str = "{MATH: {}}") -> tuple[list[Question], list[dict], dict[str, dict]]:
    """(questions, rows of dropped.jsonl, counts by source), after checking that they add up."""
    folder = main(load(CollectConfig, ["name=t", "seed=0", f"sources={sources}", "root=root", *args]))
    questions = [question_from_row(row) for row in read_jsonl(folder / "questions.jsonl")]
    dropped = list(read_jsonl(folder / "dropped.jsonl"))
    counts = {entry["source"]: entry for entry in json.loads((folder / "counts.json").read_text())}
    assert sum(entry["rows"] for entry in counts.values()) == len(questions) + len(dropped)
    assert len({q.id for q in questions}) == len(questions)
    return questions, dropped, counts


def math_row(i, **fields):
    return {"problem": f"What is {i} + 1?", "solution": f"$\\boxed{{{i}}}$", "subject": "Algebra", "level": 1, **fields}


ALLOW = "allow_count_mismatch=true"


@pytest.mark.slow
def test_hostile_input_is_named_and_the_rest_goes_on(capfd):
    good = [json.dumps(math_row(i)).encode() for i in range(5)]
    deep = b'{"problem": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bad = {
        "not_json": [b"{broken", b"\xff\xfe{\x00", deep, b'{"problem": ' + b"9" * 5000 + b"}"],
        "missing_field": [b'{"solution": "x", "subject": "y"}', json.dumps(math_row(6, problem="  ")).encode()],
        "wrong_type": [b"[1, 2]", b"null", json.dumps(math_row(7, problem=["a"])).encode()],
        "nul_byte": [json.dumps(math_row(8, problem="a\0b")).encode()],
        "too_long": [json.dumps(math_row(9, problem="x" * 10_000_000)).encode()],
        "not_utf8": [good[3].replace(b"What", b"\xe9t\xe9"), json.dumps(math_row(10, problem="\ud83d")).encode()],
        "duplicate": [good[0], json.dumps(math_row(0, solution="another")).encode()],
    }  # fmt: skip
    lines = [good[0], *(line for kind in bad.values() for line in kind), *good[1:]]
    put("MATH/train.jsonl", b"\n".join(lines))
    code = math_row(20, metadata="__import__('pathlib').Path('hacked').touch()")
    put("MATH/more.json", json.dumps([code]).encode())
    put("MATH/cut.jsonl.gz", gzip.compress(json.dumps(math_row(30)).encode() * 1000)[:-40])
    put("MATH/broken.json", b'[{"problem": "half')
    Path("outside.jsonl").write_bytes(json.dumps(math_row(40)).encode())
    for name, target in (("link.jsonl", "../../outside.jsonl"), ("loop", "loop"), ("up", "../..")):
        Path("root/MATH", name).symlink_to(target)

    questions, dropped, counts = collect(ALLOW)
    assert [q.text for q in questions] == [f"What is {i} + 1?" for i in (20, 0, 1, 2, 3, 4)]  # files by name
    assert questions[0].metadata["upstream"]["metadata"] == code["metadata"] and not Path("hacked").exists()
    reasons = {kind: len(rows) for kind, rows in bad.items()} | {"unreadable_file": 1, "outside_root": 3}
    reasons["not_json"] += 1  # broken.json
    assert counts["MATH"]["dropped"] == reasons
    rows_of_train = {
        kind: [r["row"] for r in dropped if (r["file"], r["reason"]) == ("MATH/train.jsonl", kind)] for kind in bad
    }
    at = 2
    for kind, rows in bad.items():
        assert rows_of_train[kind] == list(range(at, at + len(rows)))
        at += len(rows)
    assert {r["file"] for r in dropped if r["reason"] == "outside_root"} == {"MATH/link.jsonl", "MATH/loop", "MATH/up"}
    said = capfd.readouterr().err
    for kind in set(reasons) - {"duplicate"}:
        line = f"MATH: {reasons[kind]} dropped as {kind}; the first is MATH/"
        assert said.count(line) == 1, kind
    assert said.count("\n") < 40 and max(map(len, said.splitlines())) < 400


def test_a_folder_that_links_out_of_root_is_refused():
    Path("elsewhere").mkdir()
    Path("elsewhere/train.jsonl").write_text(json.dumps(math_row(1)))
    Path("root").mkdir()
    Path("root/MATH").symlink_to("../elsewhere")
    questions, dropped, _ = collect(ALLOW)
    assert questions == [] and [(r["file"], r["reason"]) for r in dropped] == [("MATH", "outside_root")]
    put("MATH2/x.jsonl", [])
    _, dropped, _ = collect(ALLOW, sources="{MATH: {paths: [../elsewhere]}}")
    assert [r["reason"] for r in dropped] == ["outside_root"]


@pytest.mark.slow
def test_formats_read_alike():
    rows = [math_row(i, problem=f'Line one\u2028of {i},\n"two"') for i in range(3)]
    lines = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    put("MATH/a.csv", b"")
    with open("root/MATH/a.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    expected = collect(ALLOW)[0]
    assert [q.text for q in expected] == [row["problem"] for row in rows]
    forms = {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "a.json": json.dumps(rows).encode(),
        "lines.json": lines,
        "by_id.json": json.dumps({str(i): row for i, row in enumerate(rows)}).encode(),
    }
    for name, data in forms.items():
        put(f"{name}/{name}", data)
        read = collect(ALLOW, sources=f"{{MATH: {{paths: ['{name}']}}}}")[0]
        assert [q.text for q in read] == [q.text for q in expected] and len(read) == 3, name


@pytest.mark.slow
def test_parquet_reads_like_jsonl():
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [math_row(i) for i in range(3)]
    put("MATH/train.jsonl", rows)
    expected = collect(ALLOW)[0]
    Path("root/p").mkdir()
    pq.write_table(pyarrow.Table.from_pylist(rows), "root/p/train-00000-of-00001.parquet")
    put("p/broken.parquet", b"PAR1 this is none")
    questions, dropped, _ = collect(ALLOW, sources="{MATH: {paths: [p]}}")
    assert questions == expected and [r["file"] for r in dropped] == ["p/broken.parquet"]


def test_the_test_split_of_math_is_not_read():
    put("MATH/train.jsonl", [math_row(1)])
    put("MATH/test.jsonl", [math_row(2)])
    questions, dropped, _ = collect(ALLOW)
    assert [q.answer for q in questions] == ["1"]
    assert [(r["file"], r["row"], r["reason"]) for r in dropped] == [("MATH/test.jsonl", None, "other_split")]


def test_another_number_is_an_error_with_a_table_unless_allowed(capfd):
    put("s1-teasers/train.jsonl", [{"Question": f"Q{i}", "Answer": "A"} for i in range(22)])
    with pytest.raises(UserError, match="s1-teasers 22 instead of 23.*allow_count_mismatch=true"):
        collect(sources="{s1-teasers: {}}")
    table = [
        line.split() for line in capfd.readouterr().err.splitlines() if line.startswith(("source ", "s1-teasers "))
    ]
    assert table[0] == ["source", "rows", "got", "expected", "paper", "why"]
    assert table[1][:6] == ["s1-teasers", "22", "22", "23", "23", "FEWER:"]
    assert len(collect(ALLOW, sources="{s1-teasers: {}}")[0]) == 22
    assert len(collect(sources="{s1-teasers: {expected: 22}}")[0]) == 22
    assert len(collect(sources="{s1-teasers: {size: 5}}")[0]) == 5


@pytest.mark.parametrize(("max_year", "expected"), [(2021, 860), (2022, 890)])
def test_aime_counts_its_years_and_duplicates_of_other_sources(max_year, expected):
    years = {2020: 830, 2021: 30, 2022: 30, 2024: 14}
    rows = [(year, i) for year, count in years.items() for i in range(count)]
    put("AIME/aime.jsonl", [{"Year": y, "Question": f"What is {y * 1000 + i} + 1?", "Answer": "1"} for y, i in rows])
    put("MATH/train.jsonl", [math_row(2020_000)])
    sources = f"{{MATH: {{expected: 1}}, AIME: {{params: {{max_year: {max_year}}}, expected: {expected}}}}}"
    questions, dropped, counts = collect(sources=sources)
    assert counts["AIME"]["got"] == expected and counts["AIME"]["questions"] == expected - 1
    assert sum(r["reason"] == "duplicate" for r in dropped) == 1 and questions[0].metadata["dataset"] == "MATH"


def test_a_missing_source_is_named_and_skip_goes_on_without():
    put("MATH/train.jsonl", [math_row(1)])
    sources = "{MATH: {}, JEEBench: {}, USACO: {}}"
    with pytest.raises(UserError, match=r"JEEBench \(no root/JEEBench\); USACO .*skip=\[JEEBench, USACO\]"):
        collect(ALLOW, sources=sources)
    assert len(collect(ALLOW, "skip=[JEEBench, USACO]", sources=sources)[0]) == 1
    with pytest.raises(UserError, match="root nowhere is not a folder"):
        main(load(CollectConfig, ["name=t", "seed=0", "sources={MATH: {}}", "root=nowhere"]))
    with pytest.raises(UserError, match="'JEBench' is unknown"):
        collect("skip=[JEBench]")
    with pytest.raises(UserError, match="nothing is left"):
        collect("skip=[MATH]")
    with pytest.raises(UserError, match="AIME: no parameter 'maxyear'; known: max_year"):
        collect(sources="{AIME: {params: {maxyear: 2022}}}")
    with pytest.raises(UserError, match="AIME: params.max_year is 'late', not of type int"):
        collect(sources="{AIME: {params: {max_year: late}}}")


def test_gpqa_leaves_out_diamond_and_says_when_it_cannot():
    columns = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    rows = [{"Question": f"Q{i}", **dict(zip(columns, "wxyz", strict=True)), "Explanation": "e"} for i in range(10)]
    put("GPQA/gpqa_extended.jsonl", rows)
    with pytest.raises(UserError, match=r"GPQA \(no gpqa_diamond beside it"):
        collect(ALLOW, sources="{GPQA: {}}")
    put("GPQA/gpqa_diamond.jsonl", rows[:4])
    questions, _, counts = collect(ALLOW, sources="{GPQA: {}}")
    assert [q.text.split("\n")[0] for q in questions] == [f"Q{i}" for i in range(4, 10)]
    assert counts["GPQA"]["dropped"] == {"other_subset": 4, "in_gpqa_diamond": 4}


@pytest.mark.slow
def test_numina_keeps_the_questions_of_a_file():
    rows = [
        {"source": s, "problem": p, "solution": "s"} for s, p in (("aops_forum", "a"), ("cn_k12", "b"), ("cn_k12", "c"))
    ]
    put("NuminaMATH/train.jsonl", rows)
    Path("keep.jsonl").write_text('{"problem": "c"}\n')
    assert [q.text for q in collect(sources="{NuminaMATH: {}}")[0]] == ["a"]
    assert [q.text for q in collect(sources="{NuminaMATH: {params: {keep: keep.jsonl}}}")[0]] == ["a", "c"]


def test_a_sample_depends_on_seed_and_ids_alone_and_balances_its_strata():
    tasks = ["big"] * 60 + ["small"] * 3 + ["middle"] * 20
    questions = [Question.of(f"Q{i}", None, "open", task, f"topic {i % 4}") for i, task in enumerate(tasks)]

    def strata(q):
        return q.source, q.domain

    drawn = sample(questions, 23, 0, strata)
    assert {q.id for q in sample(questions[::-1], 23, 0, strata)} == {q.id for q in drawn}
    assert {q.id for q in sample(questions, 23, 1, strata)} != {q.id for q in drawn}
    counts = {task: sum(q.source == task for q in drawn) for task in set(tasks)}
    assert counts == {"small": 3, "big": 10, "middle": 10}
    topics = [sum((q.source, q.domain) == ("big", f"topic {i}") for q in drawn) for i in range(4)]
    assert sorted(topics) == [2, 2, 3, 3]
    assert sample(questions, None, 0) == sample(questions, 1000, 0) == questions
    assert {q.id for q in sample(questions, 5, 0)} <= {q.id for q in sample(questions, 9, 0)}


@pytest.mark.slow
def test_the_same_bytes_whatever_the_hash_seed():
    tasks = [{"task_name": t, "topic": [f"topic {i % 7}"]} for t in ("SocraticQA", "MedQA") for i in range(200)]
    row = {"answer": ["A"], "category": "physics", "type": "multiple-choice"}
    put("SciEval/scieval-valid.jsonl", [{"question": f"Q{i}", **row, **task} for i, task in enumerate(tasks)])
    written = []
    for seed in ("1", "2"):
        Path(seed).mkdir()
        command = [sys.executable, "-m", "data.collect", "name=t", "seed=3", "sources={SciEval: {}}", "root=../root"]
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=seed, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folder = Path(seed) / done.stdout.strip()
        written.append([(folder / name).read_bytes() for name in ("questions.jsonl", "dropped.jsonl", "counts.json")])
    assert written[0] == written[1] and written[0][0].count(b"\n") == 250


# --- the hub, in place of which a few rows stand here


@pytest.fixture
def hub(monkeypatch):
    """What is asked of `datasets`: [(path, config, split, revision, data_files)]. Rows are set by path, or an error."""
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    asked, rows = [], {}

    class Api:
        def dataset_info(self, hub_id, revision=None):
            return type("Info", (), {"sha": revision or "newest00"})

    def load_dataset(path, config=None, split=None, revision=None, data_files=None):
        asked.append((path, config, split, revision, data_files))
        found = rows[path]
        if isinstance(found, Exception):
            raise found
        return datasets.Dataset.from_list(found)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked, rows


def from_hub(*args: str) -> Path:
    return main(load(CollectConfig, ["name=t", "seed=0", ALLOW, *args]))


@pytest.mark.slow
def test_the_hub_is_read_at_a_revision_and_the_record_says_which(hub, capfd):
    asked, rows = hub
    rows["simplescaling/openaimath"] = [math_row(1), math_row(2)]
    rows["KbsdJames/Omni-MATH"] = [{"problem": "P", "solution": "S", "answer": "1"}]
    rows["json"] = [{"passage": "", "question": "Q", "options": ["(A)1"], "label": "A", "other": {"solution": "s"}}]
    folder = from_hub("sources={MATH: {}, OmniMath: {}, AGIEval: {revision: abc}}")
    assert len(list(read_jsonl(folder / "questions.jsonl"))) == 3 + 1
    record = json.loads((folder / "run.json").read_text())["sources"]
    pinned = "0000b6bc8be4aa61655413073c3645ae4b3b30e8"
    assert record["MATH"] == {"hub_id": "simplescaling/openaimath", "revision": "newest00", "pinned": False}
    assert record["OmniMath"] == {"hub_id": "KbsdJames/Omni-MATH", "revision": pinned, "pinned": True}
    assert asked[:2] == [
        ("simplescaling/openaimath", None, "train", "newest00", None),
        ("KbsdJames/Omni-MATH", None, "test", pinned, None),
    ]
    assert {a[0] for a in asked[2:]} == {"json"} and all("/AGIEval/abc/data/v1/" in a[4] for a in asked[2:])
    assert len(asked) == 2 + 8
    assert "MATH: no revision is set, so the newest is read: newest00" in capfd.readouterr().err


def test_all_that_cannot_be_reached_is_named_with_the_way_in(hub, capfd):
    asked, rows = hub
    rows["Idavidrein/gpqa"] = ConnectionError("gated: log in\nmore")
    rows["0xharib/xword1"] = OSError("offline")
    rows["simplescaling/openaimath"] = [math_row(1)]
    with pytest.raises(UserError, match=r"cannot be reached: GPQA, xword;.*skip=\[GPQA, xword\]"):
        from_hub("sources={GPQA: {}, MATH: {}, xword: {}}")
    said = capfd.readouterr().err
    assert (
        "GPQA (Idavidrein/gpqa) cannot be reached: ConnectionError: gated: log in more. To get it: accept its terms"
        in said
    )
    folder = from_hub("sources={GPQA: {}, MATH: {}, xword: {}}", "skip=[GPQA, xword]")
    assert len(list(read_jsonl(folder / "questions.jsonl"))) == 1


def test_questions_of_your_own():
    put("own/pool.jsonl", [
        {"question": "2 + 2?", "answer": 4}, {"question": "Half?", "answer": "\\frac{1}{2}", "domain": "fractions"},
        {"question": "x?", "solution": "so \\boxed{7}", "source": "exam"}, {"answer": "no question"},
    ])  # fmt: skip
    questions, dropped, _ = collect(sources="{own: {}}")
    got = [(q.answer, q.answer_type, q.source, q.domain) for q in questions]
    assert got == [("4", "integer", "own", "math"), ("\\frac{1}{2}", "latex", "own", "fractions"),
                   ("7", "integer", "exam", "math")]  # fmt: skip
    assert [row["reason"] for row in dropped] == ["missing_field"]
    with pytest.raises(UserError, match="own is on no hub: set root=<folder>"):
        main(load(CollectConfig, ["name=t", "seed=0", "sources={own: {}}"]))
