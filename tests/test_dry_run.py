"""What the data's entries say with dry_run=true: what there is to read, do and write. Nothing is asked or written.
(test_configs.py has every checked-in config, test_eval_plan.py the estimates.)"""

from pathlib import Path

import pytest
from some_traces import some_traces

import inference.engine
from core.config import UserError, load
from core.runs import run_path
from core.types import write_jsonl
from data import attempt, collect, filter
from inference import unpack

MODEL = "model=Qwen/Qwen2.5-7B-Instruct"
MATH = [{"problem": f"What is {i} + 1?", "solution": f"$\\boxed{{{i + 1}}}$", "subject": "Algebra"} for i in range(5)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inference.engine, "load_engine", lambda *_: pytest.fail("an engine was loaded"))
    write_jsonl("traces.jsonl", some_traces(7))
    write_jsonl("q.jsonl", [trace.question for trace in some_traces(7)])
    Path("root/MATH").mkdir(parents=True)
    write_jsonl("root/MATH/train.jsonl", MATH)


def said(module, schema, capsys, *args: str) -> list[str]:
    config = load(schema, ["name=t", *args, "dry_run=true"])
    before = sorted(Path(".").rglob("*"))
    assert module.main(config) is None and sorted(Path(".").rglob("*")) == before
    return capsys.readouterr().err.splitlines()


def test_collect_names_each_source_its_place_and_its_number(capsys):
    given = ["seed=3", "sources={MATH: {}, GPQA: {revision: abc}, NuminaMATH: {}, TheoremQA: {size: 9}}"]
    assert said(collect, collect.CollectConfig, capsys, *given) == [
        "MATH: simplescaling/openaimath at its newest revision; 11,999 questions expected (paper: 11,999)",
        "GPQA: Idavidrein/gpqa at abc; 348 questions expected (paper: 348)",
        "NuminaMATH: AI-MO/NuminaMath-CoT at 78193828787c02a8eb8a8582166f3f0b42644797; their number is not known "
        "before (paper: 30,660)",
        "TheoremQA: TIGER-Lab/TheoremQA at its newest revision; 9 questions expected (paper: 747)",
        "4 sources, seed 3: 12,356 questions expected and those of NuminaMATH (paper: 43,754) -> "
        f"{run_path('data', load(collect.CollectConfig, ['name=t', *given]))}; nothing was collected (dry_run)",
    ]
    (local, _) = said(collect, collect.CollectConfig, capsys, "seed=3", "sources={MATH: {expected: 5}}", "root=root")
    assert local == "MATH: 5 rows below root; 5 questions expected (paper: 11,999)"
    keep = "{NuminaMATH: {params: {keep: k.jsonl}}}"
    for sources, message in [("{own: {}}", "on no hub"), (keep, "k.jsonl does not exist")]:
        with pytest.raises(UserError, match=message):
            said(collect, collect.CollectConfig, capsys, "seed=3", f"sources={sources}")


def test_attempts_are_estimated_as_an_evaluation(capsys, monkeypatch):
    judge = "judge={api: {base_url: http://localhost:1/v1, model: m}, requests: {api_key_env: NO_SUCH_KEY}}"
    lines = said(attempt, attempt.AttemptConfig, capsys, "questions=q.jsonl", MODEL, "max_answer_tokens=99999", judge)
    assert lines[1].split() == ["questions", "max=none", "7", "x", "1", "4,096", "750"]
    assert lines[2].startswith("7 samples; at most 28,672 tokens, expected 5,250 ")
    assert lines[3].startswith("GPU-hours: 0.0") and lines[3].endswith("; nothing was sampled (dry_run)")
    lines = said(attempt, attempt.AttemptConfig, capsys, "questions=q.jsonl", "model=a/b", "num_questions=3")
    assert lines[2].startswith("3 samples; ") and "name a like model by sizes_of=" in lines[3]
    with pytest.raises(UserError, match="NO_SUCH_KEY"):
        attempt.main(load(attempt.AttemptConfig, ["name=t", "questions=q.jsonl", MODEL, judge]))


def test_filter_counts_its_inputs_and_names_its_steps(capsys):
    write_jsonl("grades.jsonl", [{"question_id": "0", "model": "base", "correct": False}] * 3)
    given = ["pool=q.jsonl", "traces=traces.jsonl", "attempts=[grades.jsonl]", "num_selected=2"]
    lines = said(filter, filter.FilterConfig, capsys, *given, "against=[q.jsonl, hf://datasets/a/b/test.jsonl]")
    assert lines[:5] == [
        "pool: 7 rows of q.jsonl",
        "traces: 7 rows of traces.jsonl",
        "attempts: 3 rows of grades.jsonl",
        "against: 7 questions, evaluation sets here: 1",
        "against: hf://datasets/a/b/test.jsonl, not looked for",
    ]
    steps = [line.split(":")[0].removeprefix("step ") for line in lines[5:-1]]
    assert steps == ["contamination", "traces", "quality", "difficulty", "diversity"]
    assert "num_selected=2, seed=0, diversity_method=uniform" in lines[-2]
    assert lines[-1].endswith("; nothing was filtered (dry_run)")
    with pytest.raises(UserError, match=r"no-such\.jsonl"):
        said(filter, filter.FilterConfig, capsys, *given, "contamination=false", "second_traces=no-such.jsonl")


def test_steps_before_the_filter_say_theirs_as_far_as_their_input_is_there(capsys):
    given = [
        "root=root", "collect={seed: 0, sources: {MATH: {expected: 5}}}", "distill={teacher: source, model: m}",
        "attempt={7b: {model: Qwen/Qwen2.5-7B-Instruct}}", "contamination=false", "pictures=false",
    ]  # fmt: skip
    lines = said(filter, filter.FilterConfig, capsys, *given)
    assert lines[0] == "collect: data.collect" and lines[1].startswith("MATH: 5 rows below root; ")
    told = "distill: data.distill teacher=source model=m, which says more once the step before is done"
    assert lines[3] == told and lines[4].startswith("attempt-7b: data.attempt model=Qwen/")
    first = ["name=t-collect", "seed=0", "sources={MATH: {expected: 5}}", "root=root"]
    collect.main(load(collect.CollectConfig, first))
    capsys.readouterr()
    lines = said(filter, filter.FilterConfig, capsys, *given)
    assert lines[0].startswith("collect: done, outputs/data/t-collect-")
    assert lines[1] == "distill: data.distill" and lines[2].startswith("dry run: 5 questions for teacher=source")
    assert lines[3] == "attempt-7b: data.attempt" and lines[5].split()[2:5] == ["5", "x", "1"]
    assert lines[8].startswith("pool: 5 rows of outputs/data/t-collect-")


def test_unpack_says_which_file(capsys):
    Path("a.gguf").write_bytes(b"0" * 2**21)
    (line,) = said(unpack, unpack.UnpackConfig, capsys, "file=a.gguf")
    assert line.startswith("a.gguf, 2 MiB -> outputs/inference/t-") and line.endswith("nothing was unpacked (dry_run)")
