"""Training ids and inference prefixes are one thing; profiles are checked against the tokenizer."""

import pytest
from tiny_tokenizer import CHATML, tiny_tokenizer

from core.chat import IGNORE_LABEL, PROFILES, ChatFormat, detect_profile
from core.config import UserError
from core.types import Question, Trace

QUESTION = Question.of("How many legs do 3 spiders have?", "24", "integer", "test", "legs")
TRACE = Trace(QUESTION, "\n3 * 8 = 24.\n", "Final Answer: 24", "by hand")


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_training_prefix_is_the_inference_prefix(profile, system):
    chat = ChatFormat(profile, tiny_tokenizer())
    prompt = chat.prompt_ids(QUESTION, system)
    input_ids, labels = chat.training_ids(TRACE, system)
    assert input_ids[: len(prompt)] == prompt
    start = chat.encode(PROFILES[profile].start)
    first_label = next(i for i, label in enumerate(labels) if label != IGNORE_LABEL)
    assert first_label == len(prompt) - len(start), "loss begins with the start of thinking"
    assert labels[first_label:] == input_ids[first_label:]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_decoded_training_row_is_continued_as_trained_after_a_forced_close(profile):
    """prompt + thinking + forced close is a prefix of the training row, when the attempt opens with the cue."""
    chat = ChatFormat(profile, tiny_tokenizer())
    input_ids, _ = chat.training_ids(TRACE)
    p = chat.profile
    thinking = chat.encode(p.before_thinking + TRACE.thinking.strip() + p.after_thinking)
    cue = f"{p.before_attempt}Final Answer:"
    prefix = chat.prompt_ids(QUESTION) + thinking + chat.close_ids(True, cue, thinking)
    assert input_ids[: len(prefix)] == prefix


def test_s1_rows_read_as_the_paper_wrote_them():
    chat = ChatFormat("s1", tiny_tokenizer())
    trace = Trace(QUESTION, "3 * 8 = 24", "24", "by hand")
    assert chat.decode(chat.training_ids(trace)[0]) == (
        "<|im_start|>user\nHow many legs do 3 spiders have?<|im_end|>\n<|im_start|>assistant\n"
        "<|im_start|>think\n3 * 8 = 24\n<|im_start|>answer\nAnswer: 24<|im_end|>\n"
    )
    assert chat.training_ids(trace)[0] == chat.encode(chat.decode(chat.training_ids(trace)[0]))


def test_close_ids():
    chat = ChatFormat("s1", tiny_tokenizer())
    assert chat.decode(chat.close_ids(False)) == "<|im_start|>answer"
    assert chat.decode(chat.close_ids(True, thinking=chat.encode("a"))) == "\n<|im_start|>answer\nFinal Answer:"
    assert chat.decode(chat.close_ids(True, thinking=chat.encode("a\n"))) == "<|im_start|>answer\nFinal Answer:"
    plain = ChatFormat("plain", tiny_tokenizer())
    assert plain.decode(plain.close_ids(True)) == plain.decode(plain.close_ids(False)) == "\nFinal Answer:"


def test_the_answer_is_read_with_its_cue_and_without_its_delimiter():
    chat = ChatFormat("s1", tiny_tokenizer())
    assert chat.answer_text(chat.close_ids(True) + chat.encode(" 24<|im_end|>")) == "\nFinal Answer: 24"
    assert chat.answer_text(chat.close_ids(False) + chat.encode("\nAnswer: 24")) == "\nAnswer: 24"
    assert chat.answer_text(chat.encode("24")) == "24"


def test_a_template_that_opens_thinking_itself_is_not_opened_twice():
    opened = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    chat = ChatFormat("think-tags", tiny_tokenizer(chat_template=opened))
    assert chat.decode(chat.prompt_ids("Hi")).endswith("<|im_start|>assistant\n<think>\n")


def test_what_cannot_work_is_refused_before_any_work():
    with pytest.raises(UserError, match="unknown; known profiles"):
        ChatFormat("s2", tiny_tokenizer())
    with pytest.raises(UserError, match="no chat template"):
        ChatFormat("s1", tiny_tokenizer(chat_template=None))
    with pytest.raises(UserError, match="ordinary text; choose another profile"):
        ChatFormat("think-tags", tiny_tokenizer(special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>")))
    with pytest.raises(UserError, match="contains the delimiter"):
        ChatFormat("s1", tiny_tokenizer()).training_ids(Trace(QUESTION, "a<|im_start|>answer b", "1", "x"))


def test_a_chat_goes_through_the_template_as_the_question_does():
    chat = ChatFormat("s1", tiny_tokenizer())
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION.text}]
    assert chat.chat_ids(messages) == chat.prompt_ids(QUESTION, "Be brief.")


def test_tools_go_to_the_template_or_are_refused():
    tools = [{"type": "function", "function": {"name": "add"}}]
    with pytest.raises(UserError, match="takes no tools"):
        ChatFormat("s1", tiny_tokenizer()).chat_ids([{"role": "user", "content": "Hi"}], tools)
    chat = ChatFormat("s1", tiny_tokenizer(chat_template="{{ tools[0].function.name }}: " + CHATML))
    assert chat.decode(chat.chat_ids([{"role": "user", "content": "Hi"}], tools)).startswith("add: <|im_start|>user")


def test_a_template_that_refuses_a_chat_says_why():
    picky = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="refuses these messages: roles must alternate"):
        ChatFormat("s1", tiny_tokenizer(chat_template=picky)).chat_ids([{"role": "user", "content": "Hi"}])


def test_a_profile_is_found_from_the_tokenizer_or_the_name():
    without_tags = tiny_tokenizer()
    opens = tiny_tokenizer(chat_template=CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"))
    strips = tiny_tokenizer(chat_template="{% set x = messages[0].content.split('</think>') %}" + CHATML)
    assert detect_profile(opens) == detect_profile(strips, "simplescaling/s1-32B") == "think-tags"
    assert detect_profile(without_tags, "Qwen/Qwen2.5-7B-Instruct") == "plain"
    for name in ("simplescaling/s1-32B", "simplescaling/s1.1-7B", "models/s1", "my_s1_model"):
        assert detect_profile(without_tags, name) == "s1"
    for name in ("outputs1", "gps1-7b", "s10", "s1.5-7B", "s123"):
        assert detect_profile(without_tags, name) == "plain"
