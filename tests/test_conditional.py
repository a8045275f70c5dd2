"""Conditional control: what is trained is what an evaluation asks for, and where it stops."""

import pytest
from tiny_tokenizer import tiny_tokenizer

from core.chat import IGNORE_LABEL, ChatFormat
from core.conditional import conditional, limit_of, step_conditional, steps_of, token_conditional, with_limit
from core.config import UserError
from core.types import Question, Trace, write_jsonl
from inference.budget import Budget, ForcedDecode
from inference.engine import Driver
from inference.scripted_engine import ScriptedEngine
from train.sft import SftConfig, prepare

QUESTION = Question.of("How many legs do 3 spiders have?", "24", "integer", "test", "legs")


def trace(thinking: str) -> Trace:
    return Trace(QUESTION, thinking, "24", "by hand")


def paragraphs(n: int) -> str:
    return "\n\n".join(f"step {i}" for i in range(n))


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("length", "limit"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (2047, 2048), (2048, 2048), (2049, 4096)]
)
def test_the_limit_is_the_next_power_of_two(length, limit):
    assert limit_of(length) == limit


def test_token_conditional_rows():
    told = token_conditional(trace("\na b c d e\n"), words)
    assert told.question.text == "How many legs do 3 spiders have?\n\nThink for up to 8 tokens."
    assert told.question.text == with_limit(QUESTION.text, 8, "tokens"), "an evaluation asks in the same words"
    assert (told.question.id, told.num_thinking_tokens) == (QUESTION.id, 5)
    chat = ChatFormat("s1", tiny_tokenizer())
    (row,) = conditional([trace("3 * 8 = 24")], "tokens", chat)
    limit = limit_of(len(chat.encode("3 * 8 = 24")))
    assert chat.decode(chat.training_ids(row)[0]) == (
        f"<|im_start|>user\nHow many legs do 3 spiders have?\n\nThink for up to {limit} tokens.<|im_end|>\n"
        "<|im_start|>assistant\n<|im_start|>think\n3 * 8 = 24\n<|im_start|>answer\nAnswer: 24<|im_end|>\n"
    )


def test_step_conditional_rows():
    chat = ChatFormat("steps", tiny_tokenizer())
    (row,) = conditional([trace("first\n\n  \n\nsecond,\nin two lines\n\nthird\n")], "steps", chat)
    input_ids, labels = chat.training_ids(row)
    assert chat.decode(input_ids) == (
        "<|im_start|>user\nHow many legs do 3 spiders have?\n\nThink for up to 4 steps.<|im_end|>\n"
        "<|im_start|>assistant\n"
        "<|im_start|>4 steps left\nfirst\n<|im_start|>3 steps left\nsecond,\nin two lines\n"
        "<|im_start|>2 steps left\nthird\n<|im_start|>answer\nAnswer: 24<|im_end|>\n"
    )
    assert row.question.text == with_limit(QUESTION.text, 4, "steps") and row.question.id == QUESTION.id
    first = len([label for label in labels if label == IGNORE_LABEL])
    assert chat.decode(input_ids[first:]).startswith("<|im_start|>4 steps left"), "the count is trained"


@pytest.mark.parametrize("n", [1, 2, 5, 16, 40, 64])
def test_steps_count_down_by_one_and_never_to_zero(n):
    text = step_conditional(trace(paragraphs(n))).thinking
    counts = [int(line.split()[0].removeprefix("<|im_start|>")) for line in text.splitlines() if " steps left" in line]
    assert counts == list(range(limit_of(n), limit_of(n) - n, -1)) and counts[-1] >= 1
    assert text.count("step ") == n == len(steps_of(paragraphs(n)))


@pytest.mark.parametrize("n", [1, 3, 8])
def test_a_row_cut_at_a_step_is_a_prefix_that_inference_sees(n):
    chat = ChatFormat("steps", tiny_tokenizer())
    row = step_conditional(trace(paragraphs(n)))
    prompt = chat.prompt_ids(with_limit(QUESTION.text, limit_of(n), "steps"))
    input_ids, _ = chat.training_ids(row)
    said, *others = row.thinking.split("\n<|im_start|>")
    for step in others:
        prefix = prompt + chat.encode(said + "\n")
        assert input_ids[: len(prefix) + 1] == [*prefix, chat.encode("<|im_start|>")[0]]
        said += "\n<|im_start|>" + step
    thinking = chat.encode(said + "\n")
    for forced, cue in ((False, ""), (True, "\nAnswer:")):  # closed by the model, and for it
        prefix = prompt + thinking + chat.close_ids(forced, cue, thinking)
        assert input_ids[: len(prefix)] == prefix
    in_midsentence = chat.encode(said[:-3])
    assert chat.decode(chat.close_ids(True, "", in_midsentence)) == "\n<|im_start|>answer", "on a line of its own"


def test_forcing_stops_at_zero_steps_and_at_answer_and_nowhere_else():
    """A model that writes what it was trained on; then one that thinks on after its last step."""
    chat = ChatFormat("steps", tiny_tokenizer())
    row = step_conditional(trace(paragraphs(4)))
    ids, _ = chat.training_ids(row)
    prompt = chat.prompt_ids(row.question)
    end_of_turn = chat.tokenizer.eos_token_id
    overrun = prompt + chat.encode(row.thinking + "\n<|im_start|>0 steps left\nstill thinking")

    def sample_of(text):
        def script(prefix, seed):
            return text[len(prefix)] if tuple(prefix) == tuple(text[: len(prefix)]) else end_of_turn

        forced = ForcedDecode(prompt, Budget(), chat, 1000)
        (_,) = Driver(ScriptedEngine(script, 1000, chat.num_token_ids)).run([("k", forced)])
        return forced.sample()

    trained = sample_of(ids)
    assert (*prompt, *trained.token_ids, end_of_turn, *chat.encode("\n")) == tuple(ids)
    assert chat.decode(trained.ids("thinking")) == row.thinking + "\n"
    stopped = sample_of(overrun)
    assert chat.decode(stopped.ids("thinking")) == row.thinking + "\n"
    assert chat.decode(stopped.ids("answer", "forced")) == "<|im_start|>answer"
    assert (trained.ended, stopped.ended) == ("natural", "natural")


def test_what_cannot_be_controlled_is_refused():
    s1, steps = (ChatFormat(name, tiny_tokenizer()) for name in ("s1", "steps"))
    for control, chat, thinking, message in (
        ("words", s1, "a", "control='words' is unknown; use tokens or steps"),
        ("steps", s1, "a", "steps needs profile=steps"),
        ("tokens", steps, "a", "control=tokens does not go with profile=steps"),
        ("tokens", s1, " \n", f"question {QUESTION.id} has no thinking"),
        ("steps", steps, " \n", f"question {QUESTION.id} has no thinking"),
        ("steps", steps, "a\n\n<|im_start|>b", f"question {QUESTION.id} contains the delimiter"),
    ):
        with pytest.raises(UserError, match=message):
            conditional([trace(thinking)], control, chat)
    for thinking in ("4 steps left\na<|im_start|>0 b", "4 steps left\na<|im_end|>b"):
        with pytest.raises(UserError, match="contains the delimiter"):
            steps.training_ids(trace(thinking))


@pytest.mark.slow
@pytest.mark.parametrize(("control", "profile"), [("tokens", "s1"), ("steps", "steps")])
def test_training_reads_the_same_rows(tmp_path, control, profile):
    pytest.importorskip("torch")
    from tiny_model import tiny_model

    model = tiny_model(tmp_path / "model")
    write_jsonl(tmp_path / "traces.jsonl", [trace(paragraphs(3))])
    data = str(tmp_path / "traces.jsonl")
    config = SftConfig("t", data, model=str(model), control=control, profile=profile, batch_size=1, max_length=500)
    (row,) = prepare(config).batches.rows
    chat = ChatFormat(profile, tiny_tokenizer())
    (expected,) = conditional([trace(paragraphs(3))], control, chat)
    assert (row["input_ids"], row["labels"]) == chat.training_ids(expected)
    assert "Think for up to " in chat.decode(row["input_ids"]) and row["question_id"] == QUESTION.id
