import json
import os
import subprocess
import sys
import types
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from core.config import UserError, load, option
from core.types import Question, Trace, question_id, read_jsonl, write_jsonl
from data import earlier
from data.decontaminate import Hit
from data.filter import FilterConfig, check, difficulty_reason, is_trusted, main

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p for pattern in ("s1k*", "own-*", "ablation-*") for p in ROOT.glob(f"configs/data/{pattern}.yaml"))


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
    return Trace(question, **{"teacher": "solver", **fields, **changed})


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


def check_that_the_numbers_add_up(path: Path, ids_in: list[str]) -> dict[str, dict]:
    """Every number of funnel.json against the files, and every input id in one place. Returns the steps by name."""
    funnel = json.loads((path / "funnel.json").read_text())
    steps = funnel["steps"]
    places = [row["question"]["id"] for row in read_jsonl(path / "traces.jsonl")]
    num_left = len(ids_in)
    for step in steps:
        rows = list(read_jsonl(path / "dropped" / f"{step['step']}.jsonl"))
        assert step["in"] == num_left and step["out"] == num_left - len(rows)
        assert sum(step["reasons"].values()) == len(rows)
        for reason, count in step["reasons"].items():
            assert sum(row["reason"] == reason for row in rows) == count
        for key in ("in", "out"):
            assert sum(domain[key] for domain in step["domains"].values()) == step[key]
        num_left = step["out"]
        places += [row["question_id"] for row in rows]
    assert sorted(places) == sorted(ids_in)
    unreadable = list(read_jsonl(path / "dropped" / "unreadable.jsonl"))
    assert sum(sum(reasons.values()) for reasons in funnel["unreadable"].values()) == len(unreadable)
    return {step["step"]: step for step in steps}


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


@pytest.fixture
def with_pool(config) -> FilterConfig:
    """The questions of the 40 traces and 4 without: one refused, one dropped twice, two nobody speaks of."""
    questions = [trace_row["question"] for trace_row in read_jsonl(Path(config.traces) / "traces.jsonl")]
    lost = [asdict(make_trace(i).question) for i in (100, 101, 102, 103)]
    write_jsonl(
        Path(config.traces) / "dropped.jsonl",
        [
            {"reason": "refusal", "domain": "sums", "question": lost[0]},
            {"reason": "truncated", "question_id": lost[2]["id"]},
            {"reason": "api_error", "question_id": lost[2]["id"]},
        ],
    )
    return changed(config, pool=finished_run("runs/pool", "questions.jsonl", questions + lost))


def test_with_the_pool_every_question_is_kept_or_dropped_with_a_reason(with_pool):
    path = main(with_pool)
    ids_in = [row["id"] for row in read_jsonl(Path(with_pool.pool) / "questions.jsonl")]
    steps = check_that_the_numbers_add_up(path, ids_in)
    assert list(steps) == ["contamination", "traces", "quality", "difficulty", "diversity"]
    assert (steps["contamination"]["in"], steps["traces"]["out"]) == (44, 38)
    assert steps["traces"]["reasons"] == {"no_trace": 2, "api_error": 1, "refusal": 1}


def test_unattempted_and_ungraded_questions(config):
    rows = list(read_jsonl(Path(config.attempts[0]) / "grades.jsonl"))[:30]
    some = changed(
        config, attempts=[finished_run("runs/some", "grades.jsonl", rows)], unattempted="drop", num_selected=9
    )
    path = main(some)
    steps = check_that_the_numbers_add_up(path, ids(read_jsonl(Path(config.traces) / "traces.jsonl")))
    assert steps["difficulty"]["reasons"] == {"not_attempted": 10, "solved_by_7b": 3, "not_gradable_7b": 1}
    path = main(changed(some, ungraded="keep"))
    assert json.loads((path / "funnel.json").read_text())["steps"][2]["reasons"] == {
        "not_attempted": 10,
        "solved_by_7b": 3,
    }


def test_missing_any_counts_as_s1_did(with_pool):
    domains = [
        {"question_id": row["question"]["id"], "code": "11", "domain": "Number theory"}
        for row in read_jsonl(Path(with_pool.traces) / "traces.jsonl")
    ]
    classified = finished_run("runs/domains", "domains.jsonl", domains[:-3])
    path = main(changed(with_pool, domains=classified, missing="any"))
    steps = {s["step"]: s for s in json.loads((path / "funnel.json").read_text())["steps"]}
    traces = {"no_trace": 2, "api_error": 1, "refusal": 1, "not_classified": 3, "not_gradable_7b": 1}
    assert steps["traces"]["reasons"] == traces
    assert steps["domains"]["in"] == steps["domains"]["out"]
    assert {row["question"]["domain"] for row in read_jsonl(path / "traces.jsonl")} == {"Number theory"}
    path = main(changed(with_pool, domains=classified))
    steps = {s["step"]: s for s in json.loads((path / "funnel.json").read_text())["steps"]}
    assert steps["domains"]["reasons"] == {"not_classified": 3}


def test_correct_only_keeps_what_is_graded_right(config):
    traces = [replace(make_trace(i), attempt="0") if i % 3 == 0 else make_trace(i) for i in range(10, 40)]
    traces[1] = replace(traces[1], question=replace(traces[1].question, answer=None))
    config = changed(
        config, traces=finished_run("runs/some", "traces.jsonl", traces), correct_only=True, selection="all"
    )
    path = main(config)
    steps = check_that_the_numbers_add_up(path, [t.question.id for t in traces])
    assert steps["correctness"]["reasons"] == {"wrong_answer": 10, "not_gradable": 1}
    assert all(row["attempt"] == row["question"]["answer"] for row in read_jsonl(path / "traces.jsonl"))


def test_near_duplicates_inside_the_pool_count_as_contamination(config, monkeypatch):
    def first_two_alike(questions):
        assert all(q.text not in ("What is 0 + 0?", "What is 1 + 7?") for q in questions), "these are gone by then"
        return {questions[1].id: Hit(questions[1], questions[0], "duplicate_in_pool", "the same")}

    monkeypatch.setattr("data.filter.near_duplicates_within", first_two_alike)
    path = main(changed(config, near_duplicates=True))
    steps = check_that_the_numbers_add_up(path, ids(read_jsonl(Path(config.traces) / "traces.jsonl")))
    assert steps["contamination"]["reasons"] == {"exact": 2, "duplicate_in_pool": 1}
    path = main(config)
    assert json.loads((path / "funnel.json").read_text())["steps"][0]["reasons"] == {"exact": 2}


def test_an_evaluation_set_that_cannot_be_read(config, capsys):
    config = changed(config, against=[*config.against, "gone.jsonl"])
    with pytest.raises(UserError, match=r"against: gone.jsonl.*missing_sets=skip"):
        main(config)
    path = main(changed(config, missing_sets="skip"))
    assert "NOT CHECKED against gone.jsonl" in capsys.readouterr().err
    assert "**Not checked for contamination by** `gone.jsonl`" in (path / "datacard.md").read_text()
    assert json.loads((path / "funnel.json").read_text())["steps"][0]["reasons"] == {"exact": 2}


def test_an_evaluation_set_from_the_hub(monkeypatch):
    asked = []
    fake = types.SimpleNamespace(hf_hub_download=lambda *args, **kwargs: asked.append((args, kwargs)) or "/cache/x.csv")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert earlier.downloaded("hf://datasets/a/b@c0ffee/folder/x.csv") == "/cache/x.csv"
    assert asked == [(("a/b", "folder/x.csv"), {"repo_type": "dataset", "revision": "c0ffee"})]
    assert earlier.downloaded("folder/x.csv") == "folder/x.csv"


@pytest.mark.slow
@pytest.mark.parametrize("selection", ["random", "longest", "all"])
def test_the_other_selections(config, selection):
    path = main(changed(config, selection=selection))
    steps = check_that_the_numbers_add_up(path, ids(read_jsonl(Path(config.traces) / "traces.jsonl")))
    lengths = [row["num_thinking_tokens"] for row in read_jsonl(path / "traces.jsonl")]
    assert list(steps)[3:] == ([] if selection == "all" else [selection])
    if selection == "longest":
        assert lengths == list(range(49, 37, -1))
    else:
        assert len(lengths) == (30 if selection == "all" else 12)


def test_trusted_traces():
    def trace(source: str, attempt: str = "8", length: int = 10) -> Trace:
        question = Question.of("What is 1 + 7?", "8", "integer", source, "math")
        return Trace(question, "1 + 7 = 8", attempt, "solver", length)

    assert is_trusted(trace("Idavidrein/gpqa")) and is_trusted(trace("qq8933/AIME_1983_2024"))
    assert not is_trusted(trace("Idavidrein/gpqa", attempt="9"))
    assert is_trusted(trace("qfq/openaimath/Algebra", length=5601))
    assert not is_trusted(trace("simplescaling/openaimath/Algebra", length=5600))
    assert not is_trusted(trace("KbsdJames/Omni-MATH", length=9000))


def test_trusted_questions_are_selected_first(config):
    traces = [make_trace(i) for i in range(10, 40)]
    for i in (3, 4):
        traces[i] = replace(traces[i], question=replace(traces[i].question, source="Idavidrein/gpqa"))
    path = finished_run("runs/some", "traces.jsonl", traces)
    trusted = changed(config, traces=path, trusted=True, contamination=False)
    kept = ids(read_jsonl(main(trusted) / "traces.jsonl"))
    assert sorted(kept[:2]) == sorted(traces[i].question.id for i in (3, 4))
    with pytest.raises(UserError, match="2 questions are trusted, more than num_selected=1"):
        main(changed(trusted, num_selected=1))


# Rows of others

SOUND = asdict(make_trace(50))
HOSTILE = [
    ("not_json", b'{"question": '),
    ("not_json", b"[" * 100_000),
    ("not_json", b'{"num_thinking_tokens": ' + b"9" * 10_000 + b"}"),
    ("not_utf8", json.dumps(SOUND).encode().replace(b"What", b"Wh\xe9t")),
    ("not_utf8", json.dumps(SOUND).encode().replace(b"What", b"\\ud83d")),
    ("nul_byte", json.dumps(SOUND).encode().replace(b"What", b"\\u0000")),
    ("wrong_type", b'"a text"'),
    ("wrong_type", json.dumps(SOUND | {"thinking": ["a", "list"]}).encode()),
    ("wrong_type", json.dumps(SOUND | {"num_thinking_tokens": None}).encode()),
    ("wrong_type", json.dumps(SOUND | {"num_thinking_tokens": True}).encode()),
    ("wrong_type", json.dumps(SOUND | {"num_thinking_tokens": -1}).encode()),
    ("wrong_type", json.dumps(SOUND | {"question": "What?"}).encode()),
    ("wrong_type", json.dumps(SOUND | {"question": SOUND["question"] | {"answer_type": "__import__('os')"}}).encode()),
    ("wrong_type", json.dumps(SOUND | {"question": SOUND["question"] | {"metadata": "eval(1)"}}).encode()),
    ("missing_field", json.dumps({k: v for k, v in SOUND.items() if k != "attempt"}).encode()),
    ("missing_field", json.dumps(SOUND | {"question": SOUND["question"] | {"id": ""}}).encode()),
    ("too_long", json.dumps(SOUND | {"question": SOUND["question"] | {"text": "![" * 5_000_000}}).encode()),
    ("duplicate_id", json.dumps(asdict(make_trace(10))).encode()),
]


def test_hostile_rows_are_named_and_the_rest_goes_on(config, capsys):
    file = Path(config.traces) / "traces.jsonl"
    sound = file.read_bytes()
    with open(file, "ab") as traces:
        traces.write(b"".join(row + b"\n" for _, row in HOSTILE))
    grades = Path(config.attempts[0]) / "grades.jsonl"
    with open(grades, "ab") as rows:
        rows.write(b'{"question_id": 5}\n{"question_id": "x", "model": "7b", "correct": "yes"}\n')
    path = main(config)
    ledger = list(read_jsonl(path / "dropped" / "unreadable.jsonl"))
    assert [row["reason"] for row in ledger] == [*(reason for reason, _ in HOSTILE), "wrong_type", "wrong_type"]
    assert [row["line"] for row in ledger] == [*range(41, 41 + len(HOSTILE)), 41, 42]
    assert all(len(row["detail"]) < 200 and "\n" not in row["detail"] for row in ledger)
    check_that_the_numbers_add_up(path, [json.loads(line)["question"]["id"] for line in sound.splitlines()])
    assert "traces.jsonl, line 41: not_json: " in capsys.readouterr().err
    assert (
        "`traces/traces.jsonl` that could not be used: duplicate_id 1, missing_field 2"
        in (path / "datacard.md").read_text()
    )


def test_a_trace_of_a_question_that_is_not_in_the_pool_is_named(with_pool):
    with open(Path(with_pool.traces) / "traces.jsonl", "a") as file:
        file.write(json.dumps(asdict(make_trace(200))) + "\n")
    path = main(with_pool)
    assert [row["reason"] for row in read_jsonl(path / "dropped" / "unreadable.jsonl")] == ["not_in_pool"]


def test_a_file_without_a_usable_trace_is_refused(config):
    unmeasured = finished_run("runs/unmeasured", "traces.jsonl", [make_trace(1, num_thinking_tokens=None)])
    with pytest.raises(UserError, match="holds no traces that can be used"):
        main(changed(config, traces=unmeasured))


# The earlier steps


@dataclass
class StepConfig:
    name: str = option(help="run name")
    questions: str | None = option(None, help="input")
    model: str | None = option(None, help="of the step")
    model_name: str = option("x", help="of data.attempt")
    root: str | None = option(None, help="of data.collect")
    seed: int = option(0, help="of the step")
    dry_run: bool = option(False, help="estimate only")


@pytest.fixture
def steps(config, monkeypatch) -> list[tuple[str, StepConfig]]:
    """Stand-ins for the entries of the earlier steps, which hand out the runs of `config`; the calls made so far."""
    called = []
    pool = [row["question"] for row in read_jsonl(Path(config.traces) / "traces.jsonl")]
    runs = {
        "collect": finished_run("runs/pool", "questions.jsonl", pool),
        "distill": config.traces,
        "unpack": "runs/base",
    }
    runs |= {"attempt": config.attempts[0]}

    def entry(step: str):
        def main(step_config: StepConfig) -> Path | None:
            called.append((step, step_config))
            return None if step_config.dry_run else Path(runs[step])

        return types.SimpleNamespace(main=main, Config=StepConfig)

    modules = {step: (f"stand_in_{step}", "Config") for step in runs}
    for step, (module, _) in modules.items():
        monkeypatch.setitem(sys.modules, module, entry(step))
    monkeypatch.setattr(earlier, "ENTRIES", modules)
    return called


def test_the_earlier_steps_run_first_where_their_results_are_not_given(config, steps):
    Path("distill.yaml").write_text("name: from-file\nseed: 7\n")
    chain = {
        "unpack": {"seed": 1}, "collect": {"seed": 2}, "distill": {"config": "distill.yaml", "seed": 8},
        "attempt": {"7b": {"seed": 3}, "32b": {"seed": 4, "model": "other"}},
    }  # fmt: skip
    whole = changed(config, traces=None, attempts=[], root="rows", **chain)
    path = main(whole)
    assert steps == [
        ("unpack", StepConfig("t-unpack", seed=1)),
        ("collect", StepConfig("t-collect", root="rows", seed=2)),
        ("distill", StepConfig("from-file", questions="runs/pool", model="runs/base/model", seed=8)),
        ("attempt", StepConfig("t-attempt-7b", "runs/pool", "runs/base/model", "7b", seed=3)),
        ("attempt", StepConfig("t-attempt-32b", "runs/pool", "other", "32b", seed=4)),
    ]
    assert json.loads((path / "run.json").read_text())["inputs"].keys() >= {
        "traces",
        "pool",
        "attempts runs/attempt-7b",
    }
    steps.clear()
    main(changed(whole, name="again", pool="runs/pool", traces=config.traces, attempts=config.attempts))
    assert [step for step, _ in steps] == ["unpack"]


def test_a_wrong_key_of_an_earlier_step_is_found_before_any_runs(config, steps):
    chain = {"collect": {}, "distill": {"sead": 8}}
    with pytest.raises(UserError, match="distill: unknown key 'sead'; did you mean 'seed'"):
        main(changed(config, traces=None, **chain))
    assert steps == []


def test_an_estimate_ends_it_before_anything_is_filtered(config, steps, capsys):
    assert main(changed(config, traces=None, collect={"seed": 1}, distill={"dry_run": True})) is None
    assert [step for step, _ in steps] == ["collect", "distill"]
    assert "distill was only estimated" in capsys.readouterr().err and not Path("outputs/data").exists()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_checked_in_configs_load(file, monkeypatch):
    """Their keys for earlier steps are checked against those steps."""
    monkeypatch.chdir(ROOT)
    given = ["root=x", "against=[x]"] if file.stem in ("own-1k", "s1k-offline") else []
    given += ["traces=x", "pool=y"] if file.stem.startswith("ablation") else []
    config = load(FilterConfig, [str(file), *given])
    check(config)
    assert config.name == file.stem


SAME_BYTES = """
import sys
from core.config import load
from data.filter import FilterConfig, main
sys.orig_argv = ["python", "-m", "data.filter"]
main(load(FilterConfig, sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_with_other_hash_seeds_give_the_same_bytes(with_pool, tmp_path):
    contents = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        subprocess.run(["cp", "-r", "runs", "more.jsonl", folder], check=True, cwd=tmp_path)
        args = [f"{key}={getattr(with_pool, key)}" for key in ("name", "traces", "pool", "num_selected", "seed")]
        args += [f"against=[{','.join(with_pool.against)}]", f"attempts=[{','.join(with_pool.attempts)}]"]
        command = [sys.executable, "-c", SAME_BYTES, *args, "max_thinking_tokens=256", "pictures=false"]
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, cwd=folder, env=env, capture_output=True)
        (path,) = (folder / "outputs" / "data").iterdir()
        files = sorted(
            f for f in path.rglob("*") if f.is_file() and f.name not in ("run.json", "log.txt", "DONE", ".lock")
        )
        contents.append({str(f.relative_to(path)): f.read_bytes() for f in files})
    assert {"traces.jsonl", "s1k.parquet", "s1k.jsonl", "funnel.json", "datacard.md"} < contents[0].keys()
    assert contents[0] == contents[1]


def test_difficulty_reason():
    assert difficulty_reason([("7b", [False]), ("32b", [False])]) is None
    assert difficulty_reason([("7b", [False, True]), ("32b", [True])]) == "solved_by_7b"
    assert difficulty_reason([("7b", [None]), ("32b", [True])]) == "solved_by_32b"
    assert difficulty_reason([("7b", [False]), ("32b", [None])]) == "not_gradable_32b"
    assert difficulty_reason([("7b", [None, False])]) is None
    assert difficulty_reason([("7b", []), ("32b", [True])]) == "solved_by_32b"
    assert difficulty_reason([("7b", []), ("32b", [False])], ungraded="keep") == "not_attempted"
    assert difficulty_reason([("7b", [None]), ("32b", [False])], ungraded="keep") is None


def test_the_demo_config_loads(request):
    config = load(
        FilterConfig, [str(request.config.rootpath / "configs/demo/filter.yaml"), "traces=x", "attempts=[a,b]"]
    )
    assert config.attempts == ["a", "b"] and config.difficulty
