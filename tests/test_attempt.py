"""Attempts are graded once each; what was graded before a failure is not asked again."""

import pytest
from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.chat import ChatFormat
from core.runs import Journal
from core.types import Question, write_jsonl
from data.attempt import AttemptConfig, main
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
    """The engines that were loaded, in order; the first one fails after 20 tokens."""
    loaded = []

    def load(model, config):
        fail_after = 20 if not loaded else None
        loaded.append(ScriptedEngine(script, 300, len(tiny_tokenizer()), fail_after=fail_after))
        return loaded[-1], tiny_tokenizer()

    monkeypatch.setattr(inference.engine, "load_engine", load)
    monkeypatch.chdir(tmp_path)
    write_jsonl("questions.jsonl", QUESTIONS)
    return loaded


def test_a_failed_attempt_resumes_and_pays_for_nothing_twice(engines):
    config = AttemptConfig(name="t", questions="questions.jsonl", model="m", max_answer_tokens=20)
    with pytest.raises(RuntimeError):
        main(config)
    path = main(config)
    rows = {row["question_id"]: row for row in Journal.read(path / "grades.jsonl")}
    assert len(rows) == len(QUESTIONS) == len(Journal.read(path / "grades.jsonl"))
    assert [rows[q.id]["correct"] for q in QUESTIONS] == [i % 2 == 0 for i in range(6)]
    whole = sum(len(ChatFormat("plain", tiny_tokenizer()).encode(rows[q.id]["response"])) + 1 for q in QUESTIONS)
    assert sum(engine.num_sampled for engine in engines) <= whole + 20, "only what was in flight is sampled again"
    assert main(config) == path and len(engines) == 2, "a finished run loads no engine"
