"""The published tables: written, read as inputs of training, and published only where asked to."""

import json
import sys
import types
from pathlib import Path

import pytest

from core.config import UserError
from core.published import S1K_1_1_COLUMNS, S1K_COLUMNS, trace_from_published
from core.types import Question, Trace, read_jsonl, write_jsonl
from data.export import publish, write_tables
from train.dataset import load_traces

FIVE_ROWS = Path(__file__).parents[2] / "shared" / "data" / "s1k" / "s1k_traces_5rows.parquet"


def some_traces() -> list[Trace]:
    metadata = {
        "dataset": "AIME",
        "solution": "It is 12, \u2028 so 12.",
        "cot_type": "math",
        "upstream": {"ID": "1983-I-1"},
    }
    first = Question.of("How many? \u00e9", "12", "integer", "qq8933/AIME_1983_2024", "Number theory", **metadata)
    second = Question.of("Which?", "B", "letter", "Idavidrein/gpqa", "Quantum theory", cot_type="science")
    return [
        Trace(first, "six and six\n\nare twelve", "Answer: 12", "gemini", 7),
        Trace(second, "not A", "It is (C)", "gemini", 3),
    ]


@pytest.fixture
def tables(tmp_path) -> Path:
    first, second = some_traces()
    other = Trace(first.question, "5 + 7 = 12", "\\boxed{12}", "deepseek-r1", 9)
    write_tables(tmp_path, [first, second], {first.question.id: other})
    return tmp_path


def test_the_schema_of_s1k(tables):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(tables / "s1k.parquet")
    assert table.column_names == list(S1K_COLUMNS)
    assert [str(f.type) for f in table.schema] == ["string"] * 5 + ["null", "list<element: string>", "string"]
    first, second = rows = table.to_pylist()
    assert rows == list(read_jsonl(tables / "s1k.jsonl"))
    assert first["question"] == "How many? \u00e9" and first["solution"] == "It is 12, \u2028 so 12."
    assert (first["cot_type"], first["source_type"], first["cot"]) == ("math", "qq8933/AIME_1983_2024", None)
    assert first["thinking_trajectories"] == ["six and six\n\nare twelve"] and first["attempt"] == "Answer: 12"
    assert json.loads(first["metadata"]) == {
        "dataset": "AIME", "upstream": {"ID": "1983-I-1"}, "question_id": some_traces()[0].question.id, "answer": "12",
        "answer_type": "integer", "domain": "Number theory", "teacher": "gemini", "num_thinking_tokens": 7,
    }  # fmt: skip
    assert second["solution"] == "B", "the reference answer, where no solution was published"


def test_the_schema_of_s1k_1_1(tables):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(tables / "s1k-1.1.parquet")
    assert table.column_names == list(S1K_1_1_COLUMNS)
    first, second = rows = table.to_pylist()
    assert rows == list(read_jsonl(tables / "s1k-1.1.jsonl"))
    assert (first["gemini_grade"], first["deepseek_grade"], second["gemini_grade"]) == ("Yes", "Yes", "No")
    assert (
        first["deepseek_thinking_trajectory"] == "5 + 7 = 12"
        and "found 12, reference 12" in first["deepseek_grade_reason"]
    )
    assert [second[f"deepseek_{what}"] for what in ("thinking_trajectory", "attempt", "grade", "grade_reason")] == [
        None
    ] * 4


def test_one_teacher_writes_one_table(tmp_path):
    write_tables(tmp_path, some_traces())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s1k.jsonl", "s1k.parquet"]


# As inputs of training


def texts(traces: list[Trace]) -> list[tuple[str, str, str]]:
    return [(t.question.text, t.thinking, t.attempt) for t in traces]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_tables_load_as_inputs_of_training(tables, suffix):
    assert texts(load_traces(tables / f"s1k.{suffix}")) == texts(some_traces())
    gemini = load_traces(tables / f"s1k-1.1.{suffix}", teacher="gemini")
    assert texts(gemini) == texts(some_traces()) and gemini[0].teacher == "gemini"
    assert gemini[0].question.id == some_traces()[0].question.id
    with pytest.raises(UserError, match="no text in column 'deepseek_thinking_trajectory'.*Which"):
        load_traces(tables / f"s1k-1.1.{suffix}")


def test_our_own_traces_load_as_before(tmp_path):
    write_jsonl(tmp_path / "traces.jsonl", some_traces())
    assert load_traces(tmp_path / "traces.jsonl") == some_traces()
    with pytest.raises(UserError, match="run folder .* does not exist"):
        load_traces(tmp_path / "nothing")


def test_real_rows_of_s1k():
    if not FIVE_ROWS.exists():
        pytest.skip(f"needs {FIVE_ROWS}")
    pytest.importorskip("pyarrow")
    traces = load_traces(FIVE_ROWS)
    assert len(traces) == 5 and {t.teacher for t in traces} == {"gemini"}
    assert traces[1].question.id == "67fdacc7bdb34ef2", "the id s1 gave it"
    assert traces[1].thinking.startswith("\nThe problem asks for the number of rational numbers")
    assert [t.question.source for t in traces].count("qq8933/AIME_1983_2024") == 2
    assert traces[1].question.metadata["solution"] == "128"


def test_several_trajectories_are_joined_and_which_teacher_is_meant():
    row = {"question": "Q", "thinking_trajectories": ["a", "b"], "attempt": "c", "metadata": "__import__('os').abort()"}
    assert trace_from_published(row).thinking == "a\nb"
    pair = {"question": "Q"} | {
        f"{t}_{k}": f"{t} {k}" for t in ("gemini", "deepseek") for k in ("thinking_trajectory", "attempt")
    }
    assert trace_from_published(pair).thinking == "deepseek thinking_trajectory"
    assert trace_from_published(pair, "gemini").attempt == "gemini attempt"
    with pytest.raises(UserError, match="traces of gemini, deepseek, not of claude"):
        trace_from_published(pair, "claude")
    with pytest.raises(UserError, match="not a list of texts"):
        trace_from_published(row | {"thinking_trajectories": "a"})


def test_a_dataset_of_the_hub(monkeypatch):
    rows = [{"question": "Q", "thinking_trajectories": ["a"], "attempt": "c", "metadata": "{}"}]

    class Table(list):
        column_names = list(rows[0])

        def remove_columns(self, names):
            assert names == ["metadata"]
            return Table({k: v for k, v in row.items() if k not in names} for row in self)

    def load_dataset(name, split, revision):
        if name == "a/gone":
            raise FileNotFoundError("Dataset 'a/gone' doesn't exist on the Hub\nmore")
        assert (name, split, revision) == ("simplescaling/s1K", "train", "c0ffee")
        return Table(rows)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert texts(load_traces("simplescaling/s1K", revision="c0ffee")) == [("Q", "a", "c")]
    with pytest.raises(UserError, match="a/gone is no path here, and the hub says: Dataset 'a/gone' doesn't exist"):
        load_traces("a/gone")


# Publishing


@pytest.fixture
def hub(monkeypatch) -> list:
    """A hub that records what it is asked, and refuses the repository `no/access`."""
    calls = []

    class HfApi:
        def create_repo(self, repo, **options):
            if repo == "no/access":
                raise OSError("401 Client Error\nmore")
            calls.append(("create_repo", repo, options))
            return f"https://hub/{repo}"

        def create_commit(self, repo, operations, **options):
            calls.append(("create_commit", repo, {o.path_in_repo: Path(o.path_or_fileobj).name for o in operations}))

    def operation(path_in_repo, path_or_fileobj):
        return types.SimpleNamespace(path_in_repo=path_in_repo, path_or_fileobj=path_or_fileobj)

    fake = types.SimpleNamespace(HfApi=HfApi, CommitOperationAdd=operation)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return calls


def test_a_finished_run_is_published_with_its_card_in_one_commit(tmp_path, hub):
    folder = tmp_path / "s1k-1234abcd"
    folder.mkdir()
    for name in ("datacard.md", "s1k.parquet", "funnel.json", "funnel.png", "traces.jsonl"):
        (folder / name).write_text("x")
    (folder / "run.json").write_text(json.dumps({"headline": {"num_selected": 2}}))
    with pytest.raises(UserError, match="not finished"):
        publish(folder, "me/mine")
    assert hub == []
    (folder / "DONE").write_text("now")
    publish(folder, "me/mine")
    names = ("s1k.parquet", "funnel.json", "funnel.png")
    assert hub == [
        ("create_repo", "me/mine", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        ("create_commit", "me/mine", {"README.md": "datacard.md", **{name: name for name in names}}),
    ]
    with pytest.raises(UserError, match="push=no/access: 401 Client Error .log in"):
        publish(folder, "no/access")
