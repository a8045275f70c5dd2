"""Results in lm-evaluation-harness's format: what is in them, and that its own tooling reads them."""

import json
import math

import pytest
from scripted_eval import scripted_engines

from core.config import UserError, load
from core.types import Question, read_jsonl, write_jsonl
from eval.harness import budget_of, folder_names, read_log, results_beside, task_of, write_harness_results
from eval.run import EvalConfig, main

QUESTIONS = [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two cells and two repeats, with its results files."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        scripted_engines(patch)
        write_jsonl("q.jsonl", QUESTIONS)
        args = ["name=t", "model=org/m", "questions=q.jsonl", "cells=[{max_thinking_tokens: [10, auto]}]", "repeats=2"]
        path = main(load(EvalConfig, [*args, "sampling.temperature=1", "engine.max_model_len=300"]))
        files = write_harness_results(path, {"questions": QUESTIONS})
        assert write_harness_results(path, {"questions": QUESTIONS}) == files, "written again, replaced"
        return folder / path, [folder / file for file in files]


def test_every_cell_is_a_run_of_the_harness(run):
    path, files = run
    assert sorted(file.parent.name for file in files) == ["max=10", "max=auto"]
    scores = {s["cell"]: s for s in json.loads((path / "scores.json").read_text())["cells"]}
    for file in files:
        results = json.loads(file.read_text())
        (task,) = results["results"]
        score = scores[file.parent.name]
        metrics = results["results"][task]
        assert 100 * metrics["exact_match,none"] == pytest.approx(score["accuracy"])
        assert metrics["thinking_tokens,none"] == pytest.approx(score["thinking_tokens"])
        assert results["n-samples"] == {"questions": {"original": 5, "effective": 5}}
        assert results["config"]["model_args"]["pretrained"] == results["model_name"] == "org/m"
        assert results["config"]["gen_kwargs"]["max_thinking_tokens"] == score["max_thinking_tokens"]
        assert results["config"]["gen_kwargs"]["do_sample"] and results["model_name_sanitized"] == "org__m"


def test_the_standard_error_is_of_the_mean_over_questions(run):
    path, files = run
    for file in files:
        rows = [r for r in read_jsonl(path / "samples.jsonl") if r["cell"] == file.parent.name]
        means = [sum(r["correct"] for r in rows if r["question_id"] == q.id) / 2 for q in QUESTIONS]
        mean = sum(means) / 5
        expected = math.sqrt(sum((m - mean) ** 2 for m in means) / 4 / 5)
        metrics = json.loads(file.read_text())["results"]["questions"]
        assert metrics["exact_match_stderr,none"] == pytest.approx(expected)


def test_a_line_of_samples_holds_all_repeats_of_a_question(run):
    path, files = run
    rows = [r for r in read_jsonl(path / "samples.jsonl") if r["cell"] == "max=10"]
    (log,) = next(file for file in files if file.parent.name == "max=10").parent.glob("samples_*.jsonl")
    assert task_of(log) == "questions" and results_beside(log)["model_source"] == "s1"
    lines = read_log(log)
    assert [line.doc["id"] for line in lines] == [q.id for q in QUESTIONS]
    for line, question in zip(lines, QUESTIONS, strict=True):
        own = [r for r in rows if r["question_id"] == question.id]
        assert list(line.responses) == [r["response"] for r in own] and line.prompt == question.text
        assert line.target == question.answer and budget_of(line.settings)["max_thinking_tokens"] == 10


def test_the_harness_reads_them(run):
    utils = pytest.importorskip("lm_eval.utils", reason="lm-eval is not installed")
    path, files = run
    table = utils.make_table(json.loads(files[0].read_text()))
    assert "|questions|" in table and "exact_match" in table and "±" in table
    names = [file.as_posix() for file in sorted((path / "harness").rglob("*")) if file.is_file()]
    assert sorted(utils.get_results_filenames(names)) == sorted(file.as_posix() for file in files)
    samples = utils.get_sample_results_filenames(names)
    assert len(samples) == 2 and {utils.get_file_task_name(name.rpartition("/")[2]) for name in samples} == {
        "questions"
    }
    dates = {utils.get_file_datetime(name).removesuffix(".json") for name in names}
    assert len(dates) == 1, "results and samples belong together by their date"


def test_what_the_harness_hands_to_wandb_is_whole(run):
    pytest.importorskip("wandb")
    logger = pytest.importorskip("lm_eval.loggers.wandb_logger", reason="lm-eval is not installed")
    _, files = run
    (log,) = files[0].parent.glob("samples_*.jsonl")
    results = json.loads(files[0].read_text())
    bare = logger.WandbLogger.__new__(logger.WandbLogger)  # the rest of it talks to a server
    bare.post_init(results)
    summary, metrics = bare._sanitize_results_dict()
    assert summary == {"questions/name": "questions", "questions/alias": "questions"}
    assert metrics["questions/exact_match"] == results["results"]["questions"]["exact_match,none"]
    lines = [
        {**line, "arguments": [[line["arguments"]["gen_args_0"]["arg_0"], {}]]}  # as before they are written
        for line in read_jsonl(log)
    ]
    frame = bare._generate_dataset(lines, results["configs"]["questions"])
    assert list(frame["labels"]) == [q.answer for q in QUESTIONS] and frame["exact_match"].between(0, 1).all()


def test_every_cell_has_a_folder_of_its_own():
    cells = ["max=8", "max=8 ignore=1 text='!'", "max=8 ignore=1 text='?'"]
    assert list(folder_names(cells).values()) == ["max=8", "max=8_ignore=1_text=_", "max=8_ignore=1_text=_.2"]


# Settings of old logs


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        ({"max_gen_toks": 32768, "temperature": 0.0}, {"max_thinking_tokens": None}),
        ({"max_gen_toks": 32768, "max_tokens_thinking": "auto"}, {"max_thinking_tokens": "auto"}),
        ({"max_gen_toks": 32768, "max_tokens_thinking": "4000"}, {"max_thinking_tokens": 4000}),
        ({"max_gen_toks": 512, "thinking_start": "<|im_start|>"}, {"max_thinking_tokens": 512}),
        ({"max_gen_toks": 9, "max_tokens_thinking": 4000, "rejection_sample": True}, {"max_thinking_tokens": 4000}),
        (
            {"max_tokens_thinking": "auto", "thinking_n_ignore": 2, "thinking_n_ignore_str": "Wait"},
            {"max_thinking_tokens": "auto", "num_ignore": 2, "ignore_text": "Wait", "budget_per_round": True},
        ),
        (
            {"max_tokens_thinking": "auto", "thinking_n_ignore": 2},
            {"max_thinking_tokens": "auto", "num_ignore": 2, "ignore_text": "", "budget_per_round": True},
        ),
        ({"num_ignore": 1, "max_gen_toks": 64}, {"max_thinking_tokens": "auto", "num_ignore": 1}),
    ],
)
def test_budgets_of_the_released_evaluator_in_our_words(settings, budget):
    assert budget_of(settings) == budget


# What is no log


LINE = {"doc_id": 0, "doc": {}, "target": "1", "arguments": [["q", {}]], "resps": [["1"]], "exact_match": 1}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([json.dumps(LINE), json.dumps(LINE)[:40]], r"line 2: not JSON .*cut the line off"),
        ([json.dumps(LINE), json.dumps(LINE)], "line 2: document 0 is there twice"),
        ([json.dumps({**LINE, "resps": [[["-1.5", "True"]]]})], "line 1: holds log-likelihoods"),
        (['{"question": 1}'], "line 1: no sample of lm-evaluation-harness"),
        (["3"], "line 1: no sample of lm-evaluation-harness"),
        ([json.dumps({**LINE, "arguments": {}})], "line 1: no sample"),
        ([""], "holds no samples"),
    ],
)
def test_a_broken_log_is_named_with_its_line(tmp_path, lines, said):
    path = tmp_path / "samples_t_2025.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=said):
        read_log(path)


def test_of_several_filters_the_first_counts(tmp_path):
    path = tmp_path / "samples_t_2025.jsonl"
    rows = [
        {**LINE, "doc_id": i, "filter": f, "exact_match": int(f == "strict")}
        for f in ("strict", "loose")
        for i in (0, 1)
    ]
    write_jsonl(path, rows)
    samples = read_log(path)
    assert [(s.doc_id, s.correct) for s in samples] == [(0, (True,)), (1, (True,))]
    with pytest.raises(UserError, match="are called samples_<task>_<date>.jsonl"):
        task_of(tmp_path / "log.jsonl")
