"""The invariants of budget forcing, over random scripted engines and budgets."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from inference.budget import Budget, ForcedDecode, closes_on_a_loop
from inference.continuations import ContinuationStore
from inference.engine import Delta, Driver, Sampling
from inference.scripted_engine import ScriptedEngine

QUESTION = "How many legs do 3 spiders have?"


def random_script(seed: int, chat: ChatFormat, end_rate: float):
    """A model that ends thinking now and then, in every way it can, and babbles otherwise."""
    enders = sorted(chat.stop_token_ids) + [end[-1] for end in chat.ends]

    def script(prefix, request_seed):
        rng = random.Random(f"{seed} {request_seed} {prefix}")
        if rng.random() < end_rate:
            return rng.choice(enders)
        return rng.randrange(chat.num_token_ids)

    return script


def decode(chat, budget, script, max_model_len=1000, sampling=None, seed=0, store=None):
    engine = ScriptedEngine(script, max_model_len, chat.num_token_ids, filler=chat.encode("a")[0])
    prompt = chat.prompt_ids(QUESTION)
    forced = ForcedDecode(prompt, budget, chat, max_model_len, sampling or Sampling(), seed)
    assert [key for key, _ in Driver(engine, store).run([("k", forced)])] == ["k"]
    return prompt, forced.sample()


budgets = st.builds(
    Budget,
    max_thinking_tokens=st.one_of(st.just("auto"), st.none(), st.integers(0, 500)),
    min_thinking_tokens=st.integers(0, 60),
    num_ignore=st.integers(0, 4),
    ignore_text=st.sampled_from(["Wait", "", "\nWait!\n", "Hmm, let me think again"]),
    max_answer_tokens=st.integers(1, 40),
    budget_per_round=st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(
    profile=st.sampled_from(["s1", "think-tags", "steps", "plain"]),
    budget=budgets,
    seed=st.integers(0, 10**6),
    end_rate=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    max_model_len=st.sampled_from([30, 60, 90, 400]),
    temperature=st.sampled_from([0.0, 0.7]),
)
def test_invariants_of_forcing(profile, budget, seed, end_rate, max_model_len, temperature):
    chat = ChatFormat(profile, tiny_tokenizer())
    script = random_script(seed, chat, end_rate)
    prompt, sample = decode(chat, budget, script, max_model_len, Sampling(temperature), seed)

    limit = budget.max_thinking_tokens
    if isinstance(limit, int) and not budget.budget_per_round:
        assert sample.num_thinking_tokens <= limit, "the cap holds, ignore texts counted"
    assert len(prompt) + len(sample.token_ids) <= max_model_len or sample.error, "everything fits the context"

    ignore_ids = tuple(chat.encode(budget.ignore_text))
    forced_thinking = [s.token_ids for s in sample.segments if s.phase == "thinking" and s.source == "forced"]
    recorded = sample.num_ignored + sample.num_suppressed
    assert forced_thinking == [ignore_ids] * (recorded if ignore_ids else 0), "what was forced is what is recorded"
    assert sample.num_ignored <= budget.num_ignore
    if not budget.min_thinking_tokens:
        assert sample.num_suppressed == 0

    if sample.error:
        assert sample.ended == "context" and not sample.segments
        return
    closes = [s for s in sample.segments if s.phase == "answer" and s.source == "forced"]
    no_thinking_phase = profile == "plain" and limit is None
    assert len(closes) == (0 if no_thinking_phase else 1), "exactly one close"
    if closes:
        assert list(closes[0].token_ids) in (
            chat.close_ids(False, budget.cue),
            chat.close_ids(True, budget.cue),
            chat.close_ids(True, budget.cue, chat.encode("\n")),
        )
    assert sample.answer_finish in ("stop", "length"), "every sample ends in a sampled answer"
    assert sample.num_answer_tokens <= budget.max_answer_tokens
    assert all(t < chat.num_token_ids for t in sample.token_ids)
    phases = [s.phase for s in sample.segments]
    assert phases == sorted(phases, key=["thinking", "answer"].index), "no thinking after the close"


def scripted_text(chat: ChatFormat, *pieces: str):
    """A model that writes the pieces one after another, whatever it is prompted with (until a close)."""
    pieces_ids = [chat.encode(p) for p in pieces]
    prompt_length = len(chat.prompt_ids(QUESTION))

    def script(prefix, seed):
        written = prefix[prompt_length:]
        flat = [t for piece in pieces_ids for t in piece]
        return flat[len(written)] if len(written) < len(flat) else chat.tokenizer.eos_token_id

    return script


def test_the_sampled_end_is_dropped_and_wait_appended():
    chat = ChatFormat("s1", tiny_tokenizer())
    end = "<|im_start|>answer"

    def script(prefix, seed):
        text = chat.decode(prefix[len(chat.prompt_ids(QUESTION)) :])
        answers = {"": "\n24", "\n24": end, "\n24Wait": " 25", "\n24Wait 25": end}
        for said, reply in answers.items():
            for cut in range(len(chat.encode(reply))):
                if text == said + chat.decode(chat.encode(reply)[:cut]):
                    return chat.encode(reply)[cut]
        return chat.tokenizer.eos_token_id

    _, sample = decode(chat, Budget(num_ignore=1), script)
    assert chat.decode(sample.ids("thinking")) == "\n24Wait 25"
    assert [(s.phase, s.source) for s in sample.segments] == [
        ("thinking", "sampled"), ("thinking", "forced"), ("thinking", "sampled"), ("answer", "forced"),
    ]  # fmt: skip
    assert (sample.num_ignored, sample.ended) == (1, "natural")


def test_a_start_token_that_is_no_end_stays_in_the_thinking():
    chat = ChatFormat("s1", tiny_tokenizer())
    script = scripted_text(chat, "\na<|im_start|>user b", "<|im_start|>answer", "\nAnswer: 7", "<|im_end|>")
    _, sample = decode(chat, Budget(max_thinking_tokens=100), script)
    assert chat.decode(sample.ids("thinking")) == "\na<|im_start|>user b"
    assert chat.answer_text(sample.ids("answer")) == "\nAnswer: 7"
    assert sample.ended == "natural"


@pytest.mark.parametrize(("limit", "ended"), [(5, "budget"), ("auto", "context"), (10_000, "context"), (0, "budget")])
def test_why_thinking_ended(limit, ended):
    chat = ChatFormat("s1", tiny_tokenizer())
    babble = chat.encode("a")[0]
    _, sample = decode(chat, Budget(max_thinking_tokens=limit, max_answer_tokens=10), lambda prefix, seed: babble)
    assert sample.ended == ended
    assert chat.decode(sample.ids("answer", "forced")) == "\n<|im_start|>answer\nFinal Answer:"
    assert sample.num_answer_tokens == 10


def test_min_equals_max_thinks_until_the_budget_is_spent():
    chat = ChatFormat("s1", tiny_tokenizer())
    end_of_turn = chat.tokenizer.eos_token_id

    def ends_at_once(prefix, seed):
        return end_of_turn

    budget = Budget(max_thinking_tokens=50, min_thinking_tokens=50, ignore_text="Wait")
    _, sample = decode(chat, budget, ends_at_once)
    assert sample.num_suppressed > 3 and sample.num_ignored == 0
    assert 50 - len(chat.encode("Wait")) - 1 <= sample.num_thinking_tokens <= 50


def test_partial_deltas_and_whole_ones_give_the_same_sample():
    chat = ChatFormat("s1", tiny_tokenizer())
    script = random_script(3, chat, 0.1)
    samples = []
    for size in (1, 1000):
        forced = ForcedDecode(chat.prompt_ids(QUESTION), Budget(60, num_ignore=2), chat, 400)
        while (request := forced.next_request()) is not None:
            ids = []
            while len(ids) < request.max_tokens and (not ids or ids[-1] not in request.stop_token_ids):
                ids.append(script(request.prefix + tuple(ids), None))
            finish = "stop" if ids[-1] in request.stop_token_ids else "length"
            for i in range(0, len(ids), size):
                last = i + size >= len(ids)
                forced.advance(Delta(tuple(ids[i : i + size]), finish if last else None))
        samples.append(forced.sample())
    assert samples[0] == samples[1]


def test_errors_and_cancels_end_the_sample_and_say_so():
    chat = ChatFormat("s1", tiny_tokenizer())
    forced = ForcedDecode(chat.prompt_ids(QUESTION), Budget(), chat, 600)
    forced.advance(Delta((5, 6), "error", error="the device is gone"))
    assert forced.next_request() is None
    assert (forced.sample().ended, forced.sample().error) == ("error", "the device is gone")

    forced = ForcedDecode(chat.prompt_ids(QUESTION), Budget(), chat, 600)
    forced.advance(Delta((5, 6)))
    forced.cancel()
    assert (forced.sample().ended, forced.sample().ids("thinking")) == ("cancelled", (5, 6))


@pytest.mark.parametrize(
    "wrong",
    [{"max_thinking_tokens": -1}, {"max_thinking_tokens": "much"}, {"max_answer_tokens": 0}, {"num_ignore": -1}],
)
def test_impossible_budgets_are_refused(wrong):
    with pytest.raises(ValueError):
        Budget(**wrong)


def test_loops_are_recognised():
    assert closes_on_a_loop([1, 2, 3] * 20)
    assert closes_on_a_loop([9, 8] + [7] * 40)
    assert not closes_on_a_loop(list(range(200)))
    assert not closes_on_a_loop([1, 2, 3] * 3)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([0.0, 1.0]))
def test_a_grid_from_shared_trajectories_equals_the_grid_cell_by_cell(seed, temperature):
    """Also counts: with sharing, the engine thinks no longer than the longest cell does alone (greedy)."""
    chat = ChatFormat("s1", tiny_tokenizer())
    script = random_script(seed, chat, 0.08)
    cells = [Budget(n, num_ignore=k, max_answer_tokens=8) for n in (80, 40, 20, 10, 0) for k in (2, 1, 0)]
    prompt = chat.prompt_ids(QUESTION)

    def run(store, subset):
        engine = ScriptedEngine(script, 400, chat.num_token_ids, filler=0)
        driver = Driver(engine, store)
        decodings = [(i, ForcedDecode(prompt, cells[i], chat, 400, Sampling(temperature), seed)) for i in subset]
        return {i: d.sample() for i, d in driver.run(decodings)}, driver.num_sampled

    everything = range(len(cells))
    shared, counts = run(ContinuationStore(), everything)
    alone = {i: run(None, [i]) for i in everything}
    assert shared == {i: samples[i] for i, (samples, _) in alone.items()}
    assert counts["thinking"] == alone[0][1]["thinking"], "one trajectory serves the whole grid"
    distinct_answers = {(s.ids("thinking"), s.ids("answer", "forced")) for s in shared.values()}
    assert counts["answer"] <= 8 * len(distinct_answers)
