"""Attempts are graded once each; what was graded before a failure is not asked again, neither sampled nor judged."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import chat_server
from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.chat import ChatFormat
from core.config import UserError, load
from core.endpoint import ApiConfig, RequestConfig
from core.journal import Journal
from core.runs import read_record
from core.types import Question, read_jsonl, write_jsonl
from data.attempt import AttemptConfig, drawn, main
from eval.judge import JudgeConfig
from inference.scripted_engine import ScriptedEngine

QUESTIONS = [Question.of(f"{i} + 1 = ?", str(i + 1), "integer", "test", "sums") for i in range(6)]


def script(prefix, seed):
    """Answers even questions rightly and odd ones with 0."""
    tokenizer = tiny_tokenizer()
    text = tokenizer.decode(prefix)
    number = int(text.split("user\n")[1].split(" +")[0])
    said = text.split("assistant\n")[1]
    answer = f"Answer: {number + 1 if number % 2 == 0 else 0}"
    ids = tokenizer.encode(answer, add_special_tokens=False)
    done = len(tokenizer.encode(said, add_special_tokens=False))
    return ids[done] if done < len(ids) else tokenizer.eos_token_id


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """The engines that were loaded, in order; a model named "fails" does so once, after 20 tokens."""
    loaded = []

    def load_engine(model, config):
        fail_after = 20 if model == "fails" and not loaded else None
        loaded.append(ScriptedEngine(script, config.max_model_len, len(tiny_tokenizer()), fail_after=fail_after))
        return loaded[-1], tiny_tokenizer()

    monkeypatch.setattr(inference.engine, "load_engine", load_engine)
    monkeypatch.chdir(tmp_path)
    write_jsonl("questions.jsonl", QUESTIONS)
    return loaded


@pytest.mark.slow
def test_a_failed_attempt_resumes_and_pays_for_nothing_twice(engines):
    config = AttemptConfig(name="t", questions="questions.jsonl", model="fails", max_answer_tokens=20)
    with pytest.raises(RuntimeError):
        main(config)
    path = main(config)
    rows = list(read_jsonl(path / "grades.jsonl"))
    assert [row["question_id"] for row in rows] == [q.id for q in QUESTIONS]
    assert [row["correct"] for row in rows] == [i % 2 == 0 for i in range(6)]
    assert len(Journal.read(path / "attempts.jsonl")) == len(QUESTIONS)
    whole = sum(len(ChatFormat("plain", tiny_tokenizer()).encode(row["response"])) + 1 for row in rows)
    assert sum(engine.num_sampled for engine in engines) <= whole + 20, "only what was in flight is sampled again"
    assert main(config) == path and len(engines) == 2, "a finished run loads no engine"


def attempt_config(**changes) -> AttemptConfig:
    usual = {"name": "t", "questions": "questions.jsonl", "model": "m", "max_answer_tokens": 20}
    return AttemptConfig(**{**usual, **changes})


@pytest.mark.slow
def test_merged_shards_are_the_unsharded_run(engines):
    whole = main(attempt_config(num_questions=5))
    shards = [attempt_config(num_questions=5, num_shards=2, shard=shard) for shard in range(2)]
    for config in shards:
        main(config)
    num_loaded = len(engines)
    merged = main(replace(shards[1], merge=True))
    assert len(engines) == num_loaded, "merging loads no engine"
    assert (merged / "grades.jsonl").read_bytes() == (whole / "grades.jsonl").read_bytes()
    assert read_record(merged)["headline"] == read_record(whole)["headline"]


def test_the_questions_drawn_depend_on_seed_and_ids_alone():
    shuffled = random.Random(1).sample(QUESTIONS, len(QUESTIONS))
    three = {q.id for q in drawn(QUESTIONS, 3, seed=0)}
    assert three == {q.id for q in drawn(shuffled, 3, seed=0)} and len(three) == 3
    assert three < {q.id for q in drawn(shuffled, 4, seed=0)}, "a larger draw holds a smaller one"
    assert any({q.id for q in drawn(QUESTIONS, 3, seed)} != three for seed in range(1, 5))
    assert drawn(shuffled, None, 0) == drawn(shuffled, 99, 0) == shuffled
    with pytest.raises(UserError, match="num_questions"):
        main(attempt_config(num_questions=0))


@pytest.mark.slow
def test_an_attempt_may_fill_the_context_and_what_does_not_fit_in_it_is_not_wrong(engines):
    """s1's limit of 32,768 tokens is the whole context of Qwen2.5."""
    write_jsonl(
        "questions.jsonl", [*QUESTIONS, Question.of("9 + 1 = ?" + " and" * 200, "10", "integer", "test", "sums")]
    )
    config = attempt_config(max_answer_tokens=200)
    config.engine.max_model_len = 200
    *fitting, long = read_jsonl(main(config) / "grades.jsonl")
    assert [row["correct"] for row in fitting] == [i % 2 == 0 for i in range(6)]
    assert long["correct"] is None and "not attempted: prompt, close and answer need" in long["grader"]


@pytest.mark.slow
def test_a_judge_settles_what_rules_cannot_and_is_paid_once(engines, monkeypatch):
    """0 + 1 and 1 + 1 have a free answer, 2 + 1 only a worked solution; the rules settle the others."""
    kinds = [("open", "one"), ("open", "two"), ("integer", None)] + [("integer", str(i + 1)) for i in range(3, 6)]
    questions = [
        Question.of(f"{i} + 1 = ?", answer, kind, "test", "sums", solution=f"Count from {i}.")
        for i, (kind, answer) in enumerate(kinds)
    ]
    write_jsonl("questions.jsonl", questions)
    verdicts = {"0 + 1 = ?": "Right.\nYes", "1 + 1 = ?": "Wrong.\nNo", "2 + 1 = ?": "Hard to tell."}

    def script(user, before):
        return verdicts[user.split("<problem>\n")[1].split("\n</problem>")[0]]

    monkeypatch.setenv("TEST_KEY", "secret")
    with chat_server(script) as server:
        requests = RequestConfig(api_key_env="TEST_KEY", max_concurrency=1)
        judge = JudgeConfig(ApiConfig(base_url=server.url, model="judge"), requests)
        config = attempt_config(judge=judge, model_name="qwen2.5-7b")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("data.attempt.write_jsonl", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            main(config)
        assert server.num_asked == {"0 + 1 = ?": 1, "1 + 1 = ?": 1, "2 + 1 = ?": 3}
        path = main(config)
    assert server.num_asked.total() == 5, "what is judged is not judged again"
    rows = list(read_jsonl(path / "grades.jsonl"))
    assert [row["correct"] for row in rows] == [True, False, None, False, True, False]
    assert [row["grader"].split(" (")[0] for row in rows] == ["judge-2 judge"] * 3 + ["rules-2"] * 3
    assert "(unreadable: ...Hard to tell.)" in rows[2]["grader"]
    assert read_record(path)["headline"]["judge"]["num_answers"] == 5
    assert not any("qwen" in str(body) for body in server.bodies), "the judge is blind"


def test_a_judge_without_a_key_is_found_before_any_attempt(engines):
    judge = JudgeConfig(ApiConfig(base_url="http://x", model="judge"), RequestConfig(api_key_env="NOT_SET"))
    config = attempt_config(judge=judge)
    with pytest.raises(UserError, match="environment variable NOT_SET .* is not set"):
        main(config)
    assert not engines


@pytest.mark.parametrize("size", ["7b", "32b"])
def test_the_checked_in_configs_are_s1s_attempts(size):
    """As the released bulk_inference.py asks."""
    file = Path(__file__).parent.parent / f"configs/data/attempt-qwen2.5-{size}.yaml"
    config = load(AttemptConfig, [str(file), "questions=x", "num_shards=8", "shard=7"])
    assert config.model == f"Qwen/Qwen2.5-{size.upper()}-Instruct" and config.system is None
    assert (config.sampling.temperature, config.max_answer_tokens) == (0.05, 32768)
    assert config.engine.options["tensor_parallel_size"] == {"7b": 1, "32b": 2}[size]
