"""Benchmarks: rows in their authors' formats become the same questions, and what is wrong is said in one line."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from core import tables
from core.config import UserError
from core.runs import open_run, run_path
from core.types import question_id, write_jsonl
from eval.benchmarks import CONFIGS, find_benchmark, input_files, load_benchmark

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"
needs_real_data = pytest.mark.skipif(not DATA.exists(), reason=f"the real benchmarks are not here ({DATA})")
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def benchmark(folder: Path, rows: list[dict] | None = None, **keys) -> str:
    """A benchmark of one's own: its YAML file, and its rows beside it."""
    keys = {"name": "own", "files": ["own.jsonl"], "answer_type": "integer"} | keys
    (folder / "own.yaml").write_text(json.dumps({k: v for k, v in keys.items() if v is not None}))
    if rows is not None:
        write_jsonl(folder / keys["files"][0], rows)
    return str(folder / "own.yaml")


def answers(*args, **kwargs) -> list[str | None]:
    return [question.answer for question in load_benchmark(*args, **kwargs)[1]]


# Configs


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads_and_says_where_to_get_it(name):
    found, path = find_benchmark(name)
    assert found.name == name and path == CONFIGS / f"{name}.yaml" and found.files
    if found.hub_id and not found.revision:
        assert "not known here" in path.read_text()


def test_a_folder_without_its_files_is_told_what_they_are():
    with pytest.raises(UserError, match="benchmark aime25: .* holds none of its files .looked for aime25.jsonl, "):
        load_benchmark("aime25", CONFIGS)


def test_the_benchmarks_of_the_paper_and_their_repeats():
    asked = {"aime24": (30, 16), "aime25": (30, 16), "math500": (500, 1), "gpqa_diamond": (198, 4), "amc23": (40, 16)}
    found = {name: find_benchmark(name)[0] for name in asked}
    assert {name: (b.expected, b.repeats) for name, b in found.items()} == asked


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"anser": ["x"]}, "unknown key 'anser'; did you mean 'answer'"),
        ({"answer_type": "number"}, "answer_type='number' is unknown; known are integer"),
        ({"answer_type": "letter"}, "answer_type=letter needs choices"),
        ({"answer_type": "code"}, "answer_type=code needs tests"),
        ({"choices": ["a"]}, "choices need answer_type=letter"),
        ({"answer_from": "end"}, "answer_from='end' is unknown"),
        ({"duplicates": "drop"}, "duplicates='drop' is unknown; known are error, first"),
        ({"prompt": "Solve it."}, "prompt holds {question}"),
        ({"repeats": 0}, "repeats is at least 1"),
        ({"name": None}, "required: name"),
        ({"files": []}, "looked for none, since `files` is empty"),
        ({"files": ["own.txt"]}, "own.txt: is none of .parquet"),
    ],
)
def test_what_is_wrong_with_a_config(tmp_path, keys, message):
    (tmp_path / "own.txt").touch()
    with pytest.raises(UserError, match=message.replace("{", r"\{")):
        load_benchmark(benchmark(tmp_path, **keys))


def test_an_unknown_name_gets_a_hint():
    with pytest.raises(UserError, match="did you mean 'aime24'"):
        load_benchmark("aime_24")
    with pytest.raises(UserError, match="known are aime24, aime25"):
        load_benchmark("/nowhere/zzz.yaml")


# Answers


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        ([{"problem": "P?", "answer": "025"}, {"problem": "Q?", "answer": "1,234"}], {}),
        ([{"question": "P?", "answer": 25}, {"question": "Q?", "answer": 1234.0}], {}),
        ([{"problem": "P?", "solution": "\\boxed{25}"}, {"problem": "Q?", "solution": "1, so $\\boxed{1,234}$."}],
         {"answer": ["answer", "solution"]}),
        ([{"problem": "P?", "answer": None, "solution": "25"}, {"problem": "Q?", "answer": "", "solution": "1234"}],
         {"answer": ["answer", "solution"]}),
        ([{"problem": "P?", "answer": "5 * 5 = <<5*5=25>>25\n#### 25"}, {"problem": "Q?", "answer": "#### $1,234"}],
         {"answer_from": "hashes"}),
        ([{"problem": "P?", "answer": "\\boxed{1} of \\boxed {25}"}, {"problem": "Q?", "answer": "\\fbox{1234}"}],
         {"answer_from": "boxed"}),
        ([{"problem": "Old?", "answer": 1, "url": "/2023_A/1"}, {"problem": "P?", "answer": 25, "url": "/2024_A/1"},
          {"problem": "Q?", "answer": 1234, "url": "/2024_B/9"}], {"only": {"url": "2024", "absent": "x"}}),
    ],
    ids=["text", "numbers", "boxed solution", "second column", "hashes", "boxed", "sliced"],
)  # fmt: skip
def test_one_answer_in_many_forms(tmp_path, rows, keys):
    found, questions = load_benchmark(benchmark(tmp_path, rows, expected=2, **keys))
    assert [q.answer for q in questions] == ["25", "1234"]
    assert [(q.text, q.id) for q in questions] == [("P?", question_id("P?")), ("Q?", question_id("Q?"))]
    assert {(q.answer_type, q.source, q.domain) for q in questions} == {("integer", "own", "own")}


def test_latex_answers_stay_as_they_are(tmp_path):
    rows = [{"problem": "P?", "answer": r"\frac{1}{2}", "subject": "Algebra"}, {"problem": "Q?", "answer": 0.5}]
    rows[1]["subject"] = "Sums"
    _, questions = load_benchmark(benchmark(tmp_path, rows, answer_type="latex", domain=["subject"]))
    assert [(q.answer, q.domain) for q in questions] == [(r"\frac{1}{2}", "Algebra"), ("0.5", "Sums")]


@pytest.mark.parametrize("kind", ["own.json", "own.jsonl.gz", "own.csv", "own.parquet"])
def test_every_format_of_file(tmp_path, kind):
    rows = [{"problem": "P\u2028?", "answer": "007"}, {"problem": "Q?", "answer": "8"}]
    path, file = benchmark(tmp_path, files=["missing.jsonl", kind]), tmp_path / kind
    if kind == "own.json":
        file.write_text(json.dumps(rows))
    elif kind == "own.jsonl.gz":
        file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    elif kind == "own.csv":
        with open(file, "w", newline="", encoding="utf-8-sig") as opened:
            writer = csv.DictWriter(opened, ["problem", "answer"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), file)
    assert answers(path) == ["7", "8"]


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        (
            [{"text": "?", "answer": 1}],
            {},
            "row 1: question: no value in question or problem; the columns are text, an",
        ),
        ([{"problem": "?", "gold": 1}], {}, "row 1: answer: no value in answer; the columns are problem, gold"),
        ([{"problem": 7, "answer": 1}], {}, "row 1: the question is not text but '7'"),
        (
            [{"problem": "?", "answer": 1}, {"problem": "!", "answer": "x + 1"}],
            {},
            "row 2: the answer is no number but",
        ),
        ([{"problem": "?", "answer": "nan"}], {}, "the answer is no number"),
        ([{"problem": "?", "answer": "1e999999"}], {}, "the answer is no number"),
        ([{"problem": "?", "answer": [1]}], {}, "the answer is neither text nor a number"),
        ([{"problem": "?", "answer": "so 5"}], {"answer_from": "boxed"}, r"no complete \\boxed{...} in 'so 5'"),
        ([{"problem": "?", "answer": "so 5"}], {"answer_from": "hashes"}, "no #### before the answer"),
        ([{"problem": "?", "answer": 1}], {"domain": ["subject"]}, "domain: no value in subject"),
        ([{"problem": "?", "answer": 1}], {"prompt": "{question} {hint}"}, "prompt: there is no column hint"),
        ([{"problem": "?", "answer": 1}], {"expected": 30}, "1 questions, and own has 30; set limit"),
        ([{"problem": "?", "answer": 1}, {"problem": " ?\n", "answer": 1}], {}, "row 2: the same question as row 1"),
        ([], {}, "holds no questions of own"),
    ],
)
def test_what_is_wrong_with_a_row(tmp_path, rows, keys, message):
    path = benchmark(tmp_path, rows, **keys)
    with pytest.raises(UserError) as error:
        load_benchmark(path)
    assert message.replace("\\\\", "\\") in str(error.value) and str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_broken_line_is_named(tmp_path):
    path = benchmark(tmp_path, [{"problem": "?", "answer": 1}])
    with open(tmp_path / "own.jsonl", "a") as file:
        file.write('{"problem": ')
    with pytest.raises(UserError, match="own.jsonl, row 2: not json"):
        load_benchmark(path)
    assert answers(path, limit=1) == ["1"]


def test_limit_reads_the_first_and_duplicates_can_be_read_once(tmp_path):
    rows = [{"problem": f"{i // 3}?", "answer": i // 3} for i in range(9)]
    path = benchmark(tmp_path, rows, expected=3, duplicates="first")
    assert answers(path) == ["0", "1", "2"]
    assert answers(path, limit=2) == ["0", "1"] and answers(path, limit=100) == ["0", "1", "2"]
    with pytest.raises(UserError, match="limit=0: at least one"):
        load_benchmark(path, limit=0)


# The hub, and what a run records


def test_the_hub_is_read_at_one_revision(tmp_path, monkeypatch):
    asked = []

    def hub_table(*args):
        asked.append(args)
        return tables.Table("x", "org/set", 1, lambda: iter([{"problem": "P?", "answer": 3}]))

    monkeypatch.setattr(tables, "hub_table", hub_table)
    monkeypatch.setattr(tables, "hub_revision", lambda hub_id, revision: f"newest of {hub_id}")
    keys = {"config": "main", "split": "dev", "files": []}
    path = benchmark(tmp_path, hub_id="org/pinned", revision="abc", **keys)
    assert answers(path) == ["3"] and input_files(path) == {"own.yaml": path, "own": "own:org/pinned@abc"}
    path = benchmark(tmp_path, hub_id="org/newest", **keys)
    assert answers(path) == ["3"] and input_files(path)["own"] == "own:org/newest@newest of org/newest"
    assert asked == [("org/pinned", "main", "dev", "abc"), ("org/newest", "main", "dev", "newest of org/newest")]


def test_a_hub_that_does_not_answer(monkeypatch):
    def hub_table(*args):
        raise ConnectionError("Couldn't reach it\nat all")

    monkeypatch.setattr(tables, "hub_table", hub_table)
    with pytest.raises(UserError, match=r"gpqa_diamond: Idavidrein/gpqa cannot be read \(Couldn't reach it\); log in"):
        load_benchmark("gpqa_diamond")


@pytest.mark.slow
def test_the_hub_is_read_by_datasets(tmp_path):
    """A folder of parquet files, in the hub's own layout, stands for a dataset of the hub."""
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    rows = [{"problem": f"{i}?", "answer": float(i), "choices": {"text": ["a"], "label": ["1"]}} for i in range(3)]
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    path = benchmark(tmp_path, hub_id=str(tmp_path / "hub"), split="train", expected=3)
    assert answers(path) == ["0", "1", "2"] and answers(path, limit=1) == ["0"]
    with pytest.raises(UserError, match="own: .*hub cannot be read"):
        load_benchmark(benchmark(tmp_path, hub_id=str(tmp_path / "hub"), split="test"))


def test_an_edited_file_is_refused_by_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = benchmark(tmp_path, [{"problem": "P?", "answer": 3}])
    config = find_benchmark(path)[0]  # any config with a name
    with open_run("eval", config, input_files(path)):
        pass
    for file in ("own.jsonl", "own.yaml"):
        before = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(before + b"\n")
        with (
            pytest.raises(UserError, match="changed since this run began"),
            open_run("eval", config, input_files(path)),
        ):
            pass
        (tmp_path / file).write_bytes(before)
    with open_run("eval", config, input_files(path)) as run:
        assert run.path == run_path("eval", config)


# Real files


@needs_real_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["aime24", "aime25", "amc23", "hmmt_feb_2025", "math500", "gpqa_standin", "humaneval"])
def test_real_benchmarks(name):
    found, questions = load_benchmark(name, DATA)
    assert found.expected in (None, len(questions)) and len({q.id for q in questions}) == len(questions)
    assert all((q.answer is None) == (q.answer_type == "code") for q in questions)
    if found.answer_type == "integer":
        assert all(q.answer.removeprefix("-").isdecimal() for q in questions)


@needs_real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num"),
    [
        ("minerva_math", 272), ("gsm8k", 1319), ("mmlu_pro_science", 3148), ("arc_challenge", 1172),
        ("codeforces_sample", 80), ("mmlu_stem", 3006),  # 12 of 3018 are there twice
    ],
)  # fmt: skip
def test_bigger_real_benchmarks(name, num):
    assert len(load_benchmark(name, DATA)[1]) == num


def as_file(tmp_path: Path, name: str, file: str) -> str:
    """The benchmark, reading one of its files."""
    found, path = find_benchmark(name)
    assert file in found.files
    lines = path.read_text().split("files:\n")
    rest = [line for line in lines[1].split("\n") if not line.startswith("- ") or line[2:] not in found.files]
    copy = tmp_path / f"{name}.yaml"
    copy.write_text(f"{lines[0]}files:\n- {file}\n" + "\n".join(rest))
    return str(copy)


@needs_real_data
def test_three_files_of_aime25_have_the_same_answers(tmp_path):
    files = ("eval_reasoning.jsonl", "light_r1.json", "still.jsonl")
    floats, integers, boxed = (answers(as_file(tmp_path, "aime25", f"aime25/{file}"), DATA) for file in files)
    assert floats == integers == boxed and len(boxed) == 30 and boxed[0] == "70"


@needs_real_data
@pytest.mark.slow
def test_aime24_is_cut_from_the_validation_set_by_its_url(tmp_path):
    alone = load_benchmark("aime24", DATA)[1]
    for file in ("aimo_validation_aime_2022_2024.jsonl", "aimo_validation_aime_hub.parquet"):
        if file.endswith(".parquet"):
            pytest.importorskip("pyarrow")
        cut = load_benchmark(as_file(tmp_path, "aime24", f"aime24/{file}"), DATA)[1]
        assert [(q.id, q.answer) for q in cut] == [(q.id, q.answer) for q in alone]
    assert {q.answer for q in alone} >= {"25", "73"}  # "025", "073"
