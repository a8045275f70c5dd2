"""Text read while a decoding runs is the text read at its end."""

import random
from types import SimpleNamespace

import pytest
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from inference.budget import Budget, ForcedDecode
from inference.engine import Delta, Driver, Sampling
from inference.scripted_engine import ScriptedEngine
from inference.stream import StreamedDecode, _Reader

CHAT = ChatFormat("s1", tiny_tokenizer())
PROMPT = CHAT.prompt_ids("How many legs do 3 spiders have?")
SAMPLED = Sampling(temperature=1.0)


def of_text(text: str) -> ScriptedEngine:
    """Says one text, whatever is forced in between: goes on after what it said last."""
    ids = CHAT.encode(text)
    said = iter(ids)
    return ScriptedEngine(lambda prefix, seed: next(said))


def at_random(prefix, seed) -> int:
    """Any id, also halves of characters, delimiters and ends of turn."""
    rng = random.Random(f"{seed} {len(prefix)}")
    if rng.random() < 0.1:
        return rng.choice(sorted(CHAT.stop_token_ids))
    return rng.randrange(CHAT.num_token_ids)


def watched(decode: StreamedDecode, engine) -> list:
    """All pieces, taken after every step."""
    driver = Driver(engine)
    driver.add("it", decode)
    pieces = decode.take()
    while not decode.is_done:
        driver.step()
        pieces += decode.take()
    assert driver.is_idle or driver.step() == [("it", decode)]
    return pieces


def joined(pieces, phase) -> str:
    return "".join(p.text for p in pieces if p.phase == phase)


@pytest.mark.parametrize("profile", ["s1", "think-tags", "plain", "steps"])
@pytest.mark.parametrize("seed", range(25))
def test_pieces_are_the_whole_text(profile, seed):
    chat = ChatFormat(profile, tiny_tokenizer())
    budget = Budget(30, num_ignore=2, max_answer_tokens=20)
    decode = StreamedDecode(chat.prompt_ids("Hi"), budget, chat, 400, SAMPLED, seed)
    plain = ForcedDecode(chat.prompt_ids("Hi"), budget, chat, 400, SAMPLED, seed)
    pieces = watched(decode, ScriptedEngine(at_random))
    [_] = Driver(ScriptedEngine(at_random)).run([("it", plain)])
    sample = decode.sample()
    assert sample == plain.sample(), "being watched changes nothing"
    assert joined(pieces, "answer") == decode.text("answer") == chat.answer_text(sample.ids("answer"))
    assert joined(pieces, "thinking") == decode.text("thinking") == chat.decode(sample.ids("thinking"))


@pytest.mark.parametrize("seed", range(10))
def test_raw_text_is_all_that_was_written(seed):
    decode = StreamedDecode(PROMPT, Budget(30, num_ignore=2), CHAT, 900, SAMPLED, seed, raw=True)
    pieces = watched(decode, ScriptedEngine(at_random))
    sample = decode.sample()
    text = CHAT.decode(sample.ids("thinking")) + CHAT.decode(sample.ids("answer"))
    assert joined(pieces, "thinking") + joined(pieces, "answer") == text


def test_pieces_come_as_they_are_sampled_and_name_their_origin():
    engine = of_text("12 + 34<|im_start|>answer = 46<|im_start|>answer 46<|im_end|>")
    decode = StreamedDecode(PROMPT, Budget(num_ignore=1), CHAT, 900)
    pieces = watched(decode, engine)
    assert len(pieces) > 6, "not all at the end"
    assert [p.text for p in pieces if p.source == "forced" and p.text] == ["Wait"]
    assert joined(pieces, "thinking") == "12 + 34Wait = 46" and joined(pieces, "answer") == " 46"


def test_half_a_character_waits_for_its_other_half():
    ids = CHAT.encode("é")
    assert len(ids) == 2
    decode = StreamedDecode(PROMPT, Budget(), CHAT, 900)
    decode.next_request()
    decode.advance(Delta((ids[0],)))
    assert decode.text("thinking") == ""
    decode.advance(Delta((ids[1],)))
    assert [p.text for p in decode.take() if p.text] == ["é"]


@pytest.mark.parametrize("stop", ["46", "4", "46, 4", " 46"])
def test_a_stop_string_ends_the_answer_and_the_request(stop):
    text = "12 + 34<|im_start|>answer is 46, 46 is 46 is 46 and so on<|im_end|>"
    engine = of_text(text)
    decode = StreamedDecode(PROMPT, Budget(), CHAT, 900, stop=["never", stop])
    pieces = watched(decode, engine)
    assert joined(pieces, "answer") == decode.text("answer") == " is 46, 46"[: " is 46, 46".find(stop)]
    assert decode.matched_stop == stop and decode.sample().answer_finish == "stop"
    assert engine.step() == [], "the engine was told to stop"
    assert engine.num_sampled < len(CHAT.encode(text))


def test_what_only_begins_like_a_stop_string_is_said_at_the_end():
    decode = StreamedDecode(PROMPT, Budget(), CHAT, 900, stop=["46!"])
    pieces = watched(decode, of_text("a<|im_start|>answer is 46<|im_end|>"))
    assert joined(pieces, "answer") == " is 46" and decode.matched_stop is None


def test_thinking_is_not_stopped_by_a_stop_string():
    decode = StreamedDecode(PROMPT, Budget(), CHAT, 900, stop=["Wait"])
    watched(decode, of_text("Wait, Wait<|im_start|>answer 1<|im_end|>"))
    assert decode.text("thinking") == "Wait, Wait"


def test_what_was_said_before_a_cancel_is_kept():
    decode = StreamedDecode(PROMPT, Budget(), CHAT, 900, stop=["46!"])
    decode.next_request()
    decode.advance(Delta(tuple(CHAT.encode("12 + 34"))))
    decode.cancel()
    assert decode.text("thinking") == "12 + 34" and decode.sample().ended == "cancelled"


def test_bytes_that_are_no_characters_do_not_end_a_stream():
    """A tokenizer that falls back to bytes (Llama 2's kind) writes one replacement character a byte."""
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"\u2581a": 256, "b": 257}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = SimpleNamespace(
        backend_tokenizer=backend, decode=lambda ids, skip_special_tokens, **_: backend.decode(ids, skip_special_tokens)
    )
    reader = _Reader(SimpleNamespace(tokenizer=tokenizer), skip=True)
    text = reader.read([256, 257, 0xC3, 0xA9, 257]) + reader.read([0xFF, 0xFE, 0x80, 257, 256]) + reader.flush()
    assert text.startswith(" abéb") and text.endswith("b a")
