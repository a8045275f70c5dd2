"""Old logs become finished runs: split at the delimiters, graded again, beside the log's own verdict."""

import json

import pytest
from tiny_tokenizer import tiny_tokenizer

import eval.samples
from core.config import UserError, load
from core.runs import read_record
from core.types import Grade, question_id, read_jsonl, write_jsonl
from eval import sample_stats
from eval.compare import CompareConfig
from eval.compare import main as compare
from eval.import_samples import ImportConfig, Parts, main, split_response
from eval.sample_stats import StatsConfig
from inference import checkpoint

FORCED = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 32768, "max_tokens_thinking": "auto"}


def line(number: int, text, verdict, settings=FORCED, doc=None, prompt=None, **more):
    """As the released evaluator logs a sample."""
    responses = [text] if isinstance(text, str) else text
    doc = {"id": 60 + number, "problem": f"{number} + 1 = ?", "solution": "...", "answer": str(number + 1)} | (
        doc or {}
    )
    return {
        "doc_id": number, "doc": doc, "target": doc["answer"],
        "arguments": {"gen_args_0": {"arg_0": prompt or doc["problem"], "arg_1": settings}},
        "resps": [responses], "filtered_resps": responses, "doc_hash": "", "prompt_hash": "", "target_hash": "",
        "exact_match": verdict, "extracted_answers": ["..."], **more,
    }  # fmt: skip


def s1(thinking: str, answer: str) -> str:
    return f"<|im_start|>think\n{thinking}\n<|im_start|>answer\n{answer}"


@pytest.fixture
def log(tmp_path, monkeypatch):
    """log(lines, task) -> path of a samples file."""
    monkeypatch.chdir(tmp_path)

    def write(lines, task="aime24_nofigures", folder="."):
        path = tmp_path / folder / f"samples_{task}_2025-01-21T08-02-01.123456.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_jsonl(path, lines)
        return path

    return write


def imported(*paths, args=()):
    samples = f"samples=[{', '.join(map(str, paths))}]"
    path = main(load(ImportConfig, ["name=old", samples, *args]))
    return path, list(read_jsonl(path / "samples.jsonl")), json.loads((path / "scores.json").read_text())["cells"]


def test_a_published_log_is_graded_again_from_its_answers(log, capsys, monkeypatch):
    lines = [
        line(0, s1("\\boxed{7}", "The sum is $\\boxed{1}$."), 1),
        line(1, s1("so", "\\boxed{02}"), 0),  # wrong in the log, whose grader was a chat model
        line(2, s1("so", "Final Answer: 9"), 1),
        line(3, "<|im_start|>think\nIt is \\boxed{4}, but", 1),
    ]
    file = log(lines)
    path, rows, (score,) = imported(file)
    assert [r["correct"] for r in rows] == [True, True, False, False]
    assert [r["original_correct"] for r in rows] == [True, False, True, True]
    assert [r["ended"] for r in rows] == ["natural", "natural", "budget", "context"]
    assert [r["response"] for r in rows][2:] == ["Final Answer: 9", ""], "thinking cut off is no answer"
    assert rows[0]["question_id"] == question_id("0 + 1 = ?") and rows[0]["thinking"] == "\\boxed{7}"
    assert (score["benchmark"], score["cell"], score["accuracy"]) == ("aime24", "max=auto", 50.0)
    assert score["thinking_tokens"] is None, "not known without a tokenizer"
    assert read_record(path)["headline"]["agreement"] == {
        "num_both": 4, "num_right_here_alone": 1, "num_right_there_alone": 2,
    }  # fmt: skip
    said = capsys.readouterr().err
    assert "graders agree on 1 of 4 (25.0%)" in said and "1 of 4 responses hold no '<|im_start|>answer'" in said
    assert len(list(read_jsonl(path / "questions.jsonl"))) == 4
    assert imported(file)[0] == path, "an import is done once"
    monkeypatch.setattr(eval.samples, "grade", lambda response, question: Grade(True, None, "rules-of-tomorrow"))
    _, again, (score,) = imported(file, args=["regrade=true"])
    assert {r["grader"] for r in again} == {"rules-of-tomorrow"} and score["accuracy"] == 100.0
    assert read_record(path)["headline"]["agreement"]["num_right_here_alone"] == 1


@pytest.mark.slow
def test_64_samples_of_a_question_are_its_repeats(log):
    settings = {**FORCED, "temperature": 1}
    lines = [
        line(i, [s1("so", f"\\boxed{{{i + k % 2}}}") for k in range(64)], 0, settings, filter="all",
             exact_matches=[k % 2 for k in range(64)], **{"cov@2": 1, "maj@2": 0})
        for i in (0, 1)
    ]  # fmt: skip
    path, rows, (score,) = imported(log(lines, "aime24_nofigures_agg64"))
    assert [r["repeat"] for r in rows] == [*range(64)] * 2
    assert all(r["correct"] is r["original_correct"] is (r["repeat"] % 2 == 1) for r in rows)
    assert (score["num_questions"], score["num_samples"], score["accuracy"]) == (2, 128, 50.0)
    votes = json.loads((path / "scores.json").read_text())["parallel"]
    (coverage,) = (vote for vote in votes if vote["method"].startswith("pass") and vote["k"] == 2)
    assert coverage["accuracy"] == pytest.approx(100 * (1 - 32 * 31 / (64 * 63))) and coverage["tokens"] is None
    assert len(list(read_jsonl(path / "parallel.jsonl"))) == len(votes)
    compared = compare(load(CompareConfig, [f"runs=[{path}, {imported(log(lines), args=['name=b'])[0]}]"]))
    (pair,) = json.loads((compared / "compare.json").read_text())["pairs"]
    assert pair["difference"] == 0 and pair["num_questions"] == 2


def test_the_cell_is_read_off_the_settings_and_the_prompt(log):
    wait = {**FORCED, "thinking_n_ignore": 2, "thinking_n_ignore_str": "Wait"}
    prompts = {
        "steps": ("\n\nThink for up to 64 steps.", FORCED),
        "tokens": ("\n\nThink for up to 2048 tokens.", {**FORCED, "max_tokens_thinking": 2048}),
        "plain": ("", {"until": [], "max_gen_toks": 32768}),
        "wait": ("", wait),
    }
    files = {
        name: log([line(0, s1("so", "\\boxed{1}"), 1, settings, prompt="0 + 1 = ?" + more)], folder=name)
        for name, (more, settings) in prompts.items()
    }
    _, rows, scores = imported(files["tokens"], files["plain"], files["wait"])
    assert [s["cell"] for s in scores] == ["tokens=2048 max=2048", "max=none", "max=auto ignore=2"]
    assert scores[2]["budget_per_round"] and len({r["question_id"] for r in rows}) == 1, "so cells can be paired"
    with pytest.raises(UserError, match="profile=steps"):
        imported(files["steps"])
    _, rows, (score,) = imported(files["steps"], args=["profile=steps"])
    assert (score["cell"], score["control"], score["asked"]) == ("steps=64 max=auto", "steps", 64)
    with pytest.raises(UserError, match="are both aime24 max=auto ignore=2"):
        imported(files["wait"], log([line(0, s1("so", "1"), 1, wait)], folder="again"))


def test_choices_keep_their_id_in_any_order(log):
    doc = {"Question": "Which?", "problem": None, "choice1": "b", "choice2": "a", "choice3": "d", "choice4": "c"}
    other = {**doc, "choice1": "a", "choice2": "b"}
    first = log(
        [line(0, s1("so", "Answer: B"), 1, doc={**doc, "answer": "B"}, prompt="Which? A) ...")], "gpqa_diamond_openai"
    )
    second = log(
        [line(0, s1("so", "A"), 0, doc={**other, "answer": "B"}, prompt="Which?")], "gpqa_diamond_openai", folder="two"
    )
    _, (one,), _ = imported(first)
    _, (two,), _ = imported(second)
    assert one["question_id"] == two["question_id"] == question_id("Which?\n\nA) a\nB) b\nC) c\nD) d")
    assert (one["correct"], two["correct"]) == (True, False)


def test_token_counts_come_from_the_tokenizer(log, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "resolve", lambda name, weights: name)
    monkeypatch.setattr(checkpoint, "load_tokenizer", lambda path: tiny_tokenizer())
    lines = [line(0, s1("one\ntwo", "Final Answer: 1"), 1), line(1, s1("", "\\boxed{2}"), 1)]
    path, rows, (score,) = imported(log(lines), args=["tokenizer=model", "max_model_len=100"])
    assert rows[0]["num_thinking_tokens"] > 2 and rows[1]["num_thinking_tokens"] == 0
    assert rows[0]["num_answer_tokens"] < rows[1]["num_answer_tokens"], "a forced cue is nobody's answer"
    capsys.readouterr()
    sample_stats.main(StatsConfig(str(path), json=True))
    (stats,) = json.loads(capsys.readouterr().out)
    assert stats["mean_steps"] == 1 and stats["num_without_thinking"] == 1 and stats["num_over_context"] == 0
    assert stats["limits"] == {"thinking": None, "steps": None, "context": 100}
    sample_stats.main(StatsConfig(str(path)))
    assert capsys.readouterr().out.startswith("aime24 max=auto: 2 samples; means:\n  steps            1.0")
    with pytest.raises(UserError, match="no cell 'max=9'; it has max=auto"):
        sample_stats.main(StatsConfig(str(path), cells=["max=9"]))


@pytest.mark.parametrize(
    ("text", "profile", "parts"),
    [
        ("<think>\nso\n</think>\n\n4", "think-tags", Parts("so", "4")),
        ("so\n</think>4", "think-tags", Parts("so", "4")),  # the template had opened it
        ("so \\boxed{4}", "think-tags", Parts("so \\boxed{4}", None)),
        ("so \\boxed{4}", "plain", Parts("", "so \\boxed{4}")),
        ("<|im_start|>think\nso\n<|im_start|>answer\\nFinal Answer: 4", "s1", Parts("so", "Final Answer: 4", True)),
        ("<|im_start|>2 steps left\na\n<|im_start|>1 steps left\nb\n<|im_start|>answer\n4", "steps",
         Parts("2 steps left\na\n<|im_start|>1 steps left\nb", "4")),
    ],
)  # fmt: skip
def test_responses_are_split_at_the_closing_delimiter(text, profile, parts):
    assert split_response(text, profile) == parts


@pytest.mark.parametrize(
    ("task", "args", "said"),
    [
        ("riddles", [], "task 'riddles' does not say what its answers are"),
        ("aime24", ["profile=qwen"], "profile 'qwen' is unknown"),
        ("aime24", ["answer_type=number"], "task 'aime24' does not say"),
    ],
)
def test_what_cannot_be_imported_is_refused(log, task, args, said):
    with pytest.raises(UserError, match=said):
        imported(log([line(0, s1("so", "1"), 1)], task), args=args)


def test_a_broken_line_is_named(log):
    path = log([line(0, s1("so", "1"), 1)])
    path.write_text(path.read_text() + '{"doc_id": 1, "doc"')
    with pytest.raises(UserError, match=r"samples_aime24_nofigures_.*jsonl, line 2: not JSON"):
        imported(path)
