import json
from dataclasses import asdict
from pathlib import Path

import pytest

from core.config import UserError, load
from core.types import Question, Trace, question_id, read_jsonl, write_jsonl
from data.filter import FilterConfig, difficulty_reason, main


@pytest.fixture(autouse=True)
def _outputs_go_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def finished_run(path: str, file: str, rows: list) -> str:
    """A folder that looks like a finished run."""
    folder = Path(path)
    folder.mkdir(parents=True)
    write_jsonl(folder / file, rows)
    (folder / "run.json").write_text(json.dumps({"status": "done"}))
    (folder / "DONE").write_text("now\n")
    return path


def make_trace(i: int, **changed) -> Trace:
    domain = ("sums", "legs")[i % 2]
    text = changed.pop("text", f"What is {i} + {i * 7}?")
    question = Question.of(text, str(i * 8), "integer", f"test/{domain}", domain)
    fields = {"thinking": f"{i} + {i * 7} = {i * 8}.", "attempt": str(i * 8), "num_thinking_tokens": 10 + i}
    return Trace(question, teacher="solver", **{**fields, **changed})


@pytest.fixture
def config(tmp_path) -> FilterConfig:
    """40 traces: 0 and 1 contaminated, 2 and 3 of bad quality, 4 to 8 solved by either model, 9 not gradable."""
    traces = [make_trace(i) for i in range(40)]
    traces[2] = make_trace(2, thinking="")
    traces[3] = make_trace(3, num_thinking_tokens=300)
    grades = {"7b": dict.fromkeys((4, 5, 6), True) | {9: None}, "32b": dict.fromkeys((6, 7, 8), True)}
    attempts = [
        finished_run(
            f"runs/attempt-{model}",
            "grades.jsonl",
            [
                {"question_id": t.question.id, "model": model, "correct": solved.get(i, False)}
                for i, t in enumerate(traces)
            ],
        )
        for model, solved in grades.items()
    ]
    held_out = [Question.of(text, "0", "integer", "held out", "sums") for text in ("what is 0 + 0", "Other?")]
    write_jsonl("more.jsonl", [Question.of("What is 1 + 7?", "8", "integer", "file", "sums")])
    return FilterConfig(
        name="t",
        traces=finished_run("runs/traces", "traces.jsonl", traces),
        against=[finished_run("runs/heldout", "questions.jsonl", held_out), "more.jsonl"],
        attempts=attempts,
        max_thinking_tokens=256,
        num_selected=12,
        seed=1,
        pictures=False,
    )


def changed(config: FilterConfig, **values) -> FilterConfig:
    return FilterConfig(**{**asdict(config), **values})


def ids(rows) -> list[str]:
    return [row["question"]["id"] for row in rows]


def test_the_funnel_counts_every_step_and_keeps_every_dropped_row(config, capsys):
    path = main(config)
    steps = json.loads((path / "funnel.json").read_text())["steps"]
    assert [(s["step"], s["in"], s["out"]) for s in steps] == [
        ("contamination", 40, 38),
        ("quality", 38, 36),
        ("difficulty", 36, 30),
        ("diversity", 30, 12),
    ]
    assert [s["reasons"] for s in steps] == [
        {"exact": 2},
        {"empty_thinking": 1, "thinking_too_long": 1},
        {"solved_by_7b": 3, "solved_by_32b": 2, "not_gradable_7b": 1},
        {"not_drawn": 18},
    ]
    assert steps[0]["domains"] == {"legs": {"in": 20, "out": 19}, "sums": {"in": 20, "out": 19}}
    kept = list(read_jsonl(path / "traces.jsonl"))
    dropped = {s["step"]: list(read_jsonl(path / "dropped" / f"{s['step']}.jsonl")) for s in steps}
    every = ids(kept) + [row["question_id"] for rows in dropped.values() for row in rows]
    assert sorted(every) == sorted(ids(read_jsonl(Path(config.traces) / "traces.jsonl")))
    assert all(question_id(row["text"]) == row["question_id"] for rows in dropped.values() for row in rows)
    assert {(r["text"], r["match_text"], r["match_source"], r["reason"]) for r in dropped["contamination"]} == {
        ("What is 0 + 0?", "what is 0 + 0", "held out", "exact"),
        ("What is 1 + 7?", "What is 1 + 7?", "file", "exact"),
    }
    said = capsys.readouterr().err
    assert "filter difficulty | 36 -> 30 | solved_by_7b 3 solved_by_32b 2 not_gradable_7b 1" in said
    assert main(config) == path and "already done" in capsys.readouterr().err


def test_two_stages_give_what_one_gives(config):
    whole = main(config)
    cheap = main(changed(config, name="cheap", difficulty=False, selection="all"))
    rest = main(changed(config, name="rest", traces=str(cheap), contamination=False, quality=False))
    for file in ("traces.jsonl", "questions.jsonl", "funnel.json", "dropped/diversity.jsonl"):
        assert (rest / file).read_text() == (whole / file).read_text()


def test_selection_does_not_depend_on_the_order_of_the_traces(config):
    reordered = list(read_jsonl(Path(config.traces) / "traces.jsonl"))[::-1]
    other = changed(config, name="reordered", traces=finished_run("runs/reordered", "traces.jsonl", reordered))
    assert (main(other) / "traces.jsonl").read_text() == (main(config) / "traces.jsonl").read_text()


def test_fewer_than_asked_takes_all_and_says_so(config, capsys):
    path = main(changed(config, num_selected=1000))
    assert len(list(read_jsonl(path / "traces.jsonl"))) == 30
    assert "1,000 asked, only 30 are left: all are taken" in capsys.readouterr().err


def test_attempts_that_do_not_cover_the_questions_are_refused_with_counts(config):
    some = list(read_jsonl(Path(config.attempts[0]) / "grades.jsonl"))[:30]
    partial = changed(config, attempts=[finished_run("runs/partial", "grades.jsonl", some)])
    with pytest.raises(UserError, match=r"runs/partial covers 26 of 36 questions"):
        main(partial)


def test_an_unfinished_input_is_refused(config):
    (Path(config.attempts[1]) / "DONE").unlink()
    with pytest.raises(UserError, match="not finished"):
        main(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"against": []}, "against="),
        ({"attempts": []}, "attempts="),
        ({"contamination_rule": "9-gram"}, "content, s1-8gram"),
        ({"quality_rules": "strict"}, "meant, s1"),
        ({"num_selected": 0}, "num_selected"),
        ({"traces": "runs/nothing"}, "runs/nothing"),
    ],
)
def test_what_the_user_must_mend(config, values, message):
    with pytest.raises(UserError, match=message):
        main(changed(config, **values))


def test_a_step_that_leaves_nothing_says_so_and_keeps_the_rows(config):
    with pytest.raises(UserError, match="step quality left nothing of 38 questions"):
        main(changed(config, max_thinking_tokens=1))
    (rows,) = Path("outputs/data").glob("t-*/dropped/quality.jsonl")
    assert len(list(read_jsonl(rows))) == 38


def test_difficulty_reason():
    assert difficulty_reason([("7b", [False]), ("32b", [False])]) is None
    assert difficulty_reason([("7b", [False, True]), ("32b", [True])]) == "solved_by_7b"
    assert difficulty_reason([("7b", [None]), ("32b", [True])]) == "solved_by_32b"
    assert difficulty_reason([("7b", [False]), ("32b", [None])]) == "not_gradable_32b"
    assert difficulty_reason([("7b", [None, False])]) is None


def test_the_demo_config_loads(request):
    config = load(
        FilterConfig, [str(request.config.rootpath / "configs/demo/filter.yaml"), "traces=x", "attempts=[a,b]"]
    )
    assert config.attempts == ["a", "b"] and config.difficulty
