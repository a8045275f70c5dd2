"""Our engine as a model of lm-evaluation-harness: on a scripted engine, and under the harness's own command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_model import tiny_model
from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.config import UserError, load
from core.types import Question, read_jsonl, write_jsonl
from eval.harness import results_of, task_samples
from eval.import_samples import ImportConfig
from eval.import_samples import main as import_samples
from inference.budget import Budget
from inference.engine import Sampling
from inference.scripted_engine import ScriptedEngine

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
from eval.lm_eval_model import BudgetForcingLM, cut_at, settings_of, without_effect  # noqa: E402

ROOT = Path(__file__).parent.parent
THINKING, ANSWER = "\nTwo and two.\n", "\nAnswer: 4<stop> Q: more"
QUESTION = "What is 2 + 2?"


def script(prefix, seed) -> int:
    """A model that thinks THINKING, anew after every Wait, and then says ANSWER."""
    tokenizer = tiny_tokenizer()
    text = tokenizer.decode(list(prefix))
    _, has_answered, said = text.rpartition("<|im_start|>answer")
    if has_answered:
        wanted, said = ANSWER, said.removeprefix("\nFinal Answer:")
    else:
        wanted, said = f"{THINKING}<|im_start|>answer", text.rpartition("<|im_start|>think")[2].rpartition("Wait")[2]
    rest = wanted.removeprefix(said) if wanted.startswith(said) else ""
    return tokenizer.encode(rest)[0] if rest else tokenizer.eos_token_id


@pytest.fixture
def model(tmp_path, monkeypatch):
    """model(**model_args) -> (the model, the requests its engine got)."""
    monkeypatch.chdir(tmp_path)

    def build(max_model_len=300, **args):
        asked = []

        class Engine(ScriptedEngine):
            def submit(self, key, request):
                asked.append(request)
                super().submit(key, request)

        engine = Engine(script, max_model_len, len(tiny_tokenizer()))
        monkeypatch.setattr(inference.engine, "load_engine", lambda model, config: (engine, tiny_tokenizer()))
        return BudgetForcingLM(pretrained="m", max_answer_tokens=40, **args), asked

    return build


def generate(model, *prompts, **gen_kwargs):
    return model.generate_until([SimpleNamespace(args=(prompt, gen_kwargs)) for prompt in prompts])


def test_a_response_is_the_answer_up_to_its_stop_string(model):
    lm, _ = model()
    assert generate(lm, QUESTION) == [ANSWER.strip()]
    assert generate(lm, QUESTION, QUESTION, until=["Q:", "<stop>"]) == ["Answer: 4"] * 2
    assert generate(lm, QUESTION, until="\n\n") == [ANSWER.strip()], "white space before the answer stops nothing"


def test_budgets_come_from_the_model_and_from_the_task(model):
    lm, _ = model(num_ignore=1, return_thinking=True)
    natural = f"<|im_start|>think{THINKING}Wait{THINKING}<|im_start|>answer\n{ANSWER.strip()}"
    assert generate(lm, QUESTION) == [natural]
    (forced,) = generate(lm, QUESTION, max_thinking_tokens=2)
    assert "Wait" not in forced and "<|im_start|>answer\nFinal Answer:" in forced
    (ignored,) = generate(lm, QUESTION, ignore_text="\\nWait", num_ignore=2)
    assert ignored.count("\nWait\n") == 2, "a command line cannot write a newline"


def test_thinking_that_was_cut_off_is_no_response(model, capsys):
    lm, _ = model(max_model_len=60)
    assert generate(lm, QUESTION * 5) == [""]
    assert "context without an answer 1" in capsys.readouterr().err
    assert "Two" not in generate(lm, QUESTION, max_thinking_tokens=3, max_gen_toks=5)[0]


def test_the_harness_may_render_the_conversation(model):
    lm, asked = model(system="Be brief.")
    generate(lm, QUESTION)
    num_asked = len(asked)
    rendered = lm.apply_chat_template([{"role": "user", "content": QUESTION}])
    assert rendered.endswith("<|im_start|>assistant\n") and "Be brief." in rendered
    assert generate(lm, rendered) == [ANSWER.strip()] and len(asked) == num_asked, "the same prefix"
    shots = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    generate(lm, lm.apply_chat_template([*shots, {"role": "user", "content": QUESTION}]))
    text = tiny_tokenizer().decode(list(asked[num_asked].prefix))
    assert text.endswith(f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n<|im_start|>think") and "1 + 1?" in text
    with pytest.raises(UserError, match="begins the answer itself"):
        lm.apply_chat_template([*shots], add_generation_prompt=False)


def test_repeats_of_a_request_differ_only_where_it_samples(model):
    lm, asked = model()
    generate(lm, QUESTION, QUESTION)
    assert {r.seed for r in asked} == {None} and len(set(asked)) == len(asked), "greedy samples are drawn once"
    lm, asked = model()
    generate(lm, QUESTION, QUESTION, do_sample=True, temperature=0.7, top_p=0.9)
    first_of_each = [r.seed for r in asked if tiny_tokenizer().decode(list(r.prefix)).endswith("<|im_start|>think")]
    assert len(set(first_of_each)) == len(first_of_each) == 2 and {r.sampling for r in asked} == {Sampling(0.7, 0.9)}
    first = [r.seed for r in asked]
    lm, asked = model(seed=1)
    generate(lm, QUESTION, QUESTION, do_sample=True, temperature=0.7, top_p=0.9)
    assert not {r.seed for r in asked} & set(first)


@pytest.mark.parametrize(
    ("gen_kwargs", "limit", "temperature", "until"),
    [
        ({}, 512, 0.0, ()),
        ({"max_gen_toks": 32768, "do_sample": False, "temperature": 1}, 512, 0.0, ()),
        ({"max_gen_toks": 100, "temperature": 0.5, "until": ["a", ""]}, 100, 0.5, ("a",)),
        ({"max_new_tokens": 7, "until": "b"}, 7, 0.0, ("b",)),
    ],
)
def test_generation_settings_of_tasks(gen_kwargs, limit, temperature, until):
    settings = settings_of(Budget(64), gen_kwargs)
    assert settings.budget == Budget(64, max_answer_tokens=limit)
    assert (settings.sampling.temperature, settings.until) == (temperature, until)


def test_what_has_no_effect_is_said_and_another_s_budget_is_refused():
    assert without_effect({"num_beams": 1, "until": [], "num_ignore": 2, "top_p": 0.9, "max_gen_toks": 3}) == [
        "num_beams"
    ]
    with pytest.raises(
        UserError, match="'thinking_n_ignore' is unknown; a budget is named by answer_reserve, budget_per_round"
    ):
        without_effect({"thinking_n_ignore": 1})
    with pytest.raises(UserError, match="max_thinking_tokens='lots': expected"):
        settings_of(Budget(), {"max_thinking_tokens": "lots"})


@pytest.mark.parametrize(
    ("args", "said"),
    [({"num_ignor": 1}, "unknown key 'num_ignor'"), ({"max_thinking_tokens": -1}, "expected a number"),
     ({"profile": "qwen"}, "profile 'qwen' is unknown"), ({"options": "x"}, "takes JSON")],
)  # fmt: skip
def test_wrong_arguments_are_refused(model, args, said):
    with pytest.raises(UserError, match=said):
        model(**args)


def test_log_likelihoods_are_refused(model):
    lm, _ = model()
    with pytest.raises(UserError, match="compares log-likelihoods"):
        lm.loglikelihood([])
    with pytest.raises(UserError, match="needs pretrained="):
        BudgetForcingLM()


def test_the_first_of_the_stop_strings_cuts():
    assert cut_at("\n a b c", ["c", "b"]) == "a " and cut_at("a", []) == "a" and cut_at("", ["x"]) == ""


# The command

TASK = {
    "task": "sums",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{problem}}",
    "doc_to_target": "{{answer}}",
    "repeats": 2,
    "generation_kwargs": {"until": ["Q:"], "max_gen_toks": 8},
    "filter_list": [{"name": "number", "filter": [
        {"function": "regex", "regex_pattern": "(-?[0-9]+)"}, {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1.0},
}  # fmt: skip


def command(folder: Path, *args: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "eval.lm_eval_model", "run", "--model", "s1", *args]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def harness_run(tmp_path_factory):
    """A run of the harness itself, on the transformers engine: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("harness")
    tiny_model(folder / "model")
    write_jsonl(folder / "sums.jsonl", ({"problem": f"{i} + {i} = ?", "answer": str(2 * i)} for i in range(3)))
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(folder / "sums.jsonl")}}}
    (folder / "tasks").mkdir()
    (folder / "tasks" / "sums.yaml").write_text(json.dumps(task))
    model_args = "pretrained=model,max_thinking_tokens=12,num_ignore=1,backend=transformers,max_model_len=160"
    result = command(folder, "--tasks", "sums", "--include_path", "tasks", "--model_args", model_args,
                     "--output_path", "out", "--log_samples")  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return folder, result.stdout


@pytest.mark.slow
def test_a_task_of_the_harness_runs_under_its_own_command(harness_run):
    folder, printed = harness_run
    assert "|sums |" in printed and "|exact_match|" in printed
    (samples,) = (folder / "out" / "model").glob("samples_sums_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(lines) == 3 and all(len(line["resps"][0]) == 2 for line in lines)
    assert all("<|im_start|>" not in text for line in lines for text in line["resps"][0])


@pytest.mark.slow
def test_our_results_have_the_fields_of_the_harness_s_own(harness_run):
    (results,) = (harness_run[0] / "out" / "model").glob("results_*.json")
    theirs = json.loads(results.read_text())
    question = Question.of("q", "1", "integer", "t", "d")
    row = {"question_id": question.id, "repeat": 0, "response": "1", "correct": True, "num_thinking_tokens": 1,
           "num_answer_tokens": 1}  # fmt: skip
    samples = {"sums": task_samples([row], [question], {})}
    record = {"commit": "c", "started": "2026-01-01T00:00:00+00:00", "versions": {}, "hardware": {}, "seconds": 1.0}
    ours = results_of(record, {"model": "m"}, {}, samples, {"sums": 1})
    of_the_tokenizer = {
        "tokenizer_pad_token",
        "tokenizer_eos_token",
        "tokenizer_bos_token",
        "eot_token_id",
        "max_length",
    }
    assert theirs.keys() - of_the_tokenizer == ours.keys()
    assert theirs["config"].keys() == ours["config"].keys()
    assert {key.replace(",number", ",none") for key in theirs["results"]["sums"]} <= ours["results"]["sums"].keys()
    (log,) = (harness_run[0] / "out" / "model").glob("samples_*.jsonl")
    assert json.loads(log.read_text().splitlines()[0]).keys() <= samples["sums"][0].keys()


@pytest.mark.slow
def test_its_log_is_imported(harness_run, monkeypatch):
    (log,) = (harness_run[0] / "out" / "model").glob("samples_*.jsonl")
    monkeypatch.chdir(harness_run[0])
    path = import_samples(load(ImportConfig, ["name=own", f"samples=[{log}]", "profile=plain", "answer_type=integer"]))
    rows = list(read_jsonl(path / "samples.jsonl"))
    assert [(r["cell"], r["repeat"]) for r in rows] == [("max=12 ignore=1", 0), ("max=12 ignore=1", 1)] * 3


@pytest.mark.slow
def test_mistakes_end_with_one_line(harness_run):
    model_args = "pretrained=./nowhere,backend=transformers"
    result = command(harness_run[0], "--tasks", "sums", "--include_path", "tasks", "--model_args", model_args)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: model=./nowhere does not exist")
