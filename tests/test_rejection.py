"""Rejection sampling: its law, its costs, its bound; one pool of tries is as good as a run for every limit."""

import random
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import pytest
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from core.config import UserError
from eval.rejection import Rejection, RejectionConfig, check_rejection, run_rejections
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.continuations import ContinuationStore
from inference.engine import Delta, Driver, Sampling
from inference.scripted_engine import ScriptedEngine

CHAT = ChatFormat("s1", tiny_tokenizer())
PROMPT = CHAT.prompt_ids("How many legs do 3 spiders have?")
END = CHAT.ends[0]
END_RATE = 0.12


def script(prefix, seed):
    """Thinking ends with the same chance after every token, by either end; answers are a few tokens."""
    for written in range(1, len(END)):
        if prefix[-written:] == END[:written]:
            return END[written] if len(prefix) % 7 else 7  # now and then it is no end after all
    rng = random.Random(seed * 1009 + len(prefix))
    if rng.random() < END_RATE:
        return rng.choice([CHAT.tokenizer.eos_token_id, END[0]])
    return rng.randrange(8, 60)


@lru_cache(100_000)
def thinking_of(seed: int, longest: int) -> tuple[int, bool]:
    """(length, ended by itself) of one sample thinking at most `longest` tokens, by budget forcing alone."""
    decode = ForcedDecode(PROMPT, Budget(longest, max_answer_tokens=5), CHAT, 400, Sampling(1.0), seed)
    engine = ScriptedEngine(script, 400, CHAT.num_token_ids)
    ((_, decode),) = Driver(engine).run([(0, decode)])
    return len(decode.thinking_ids), decode.ended == "natural"


def sample(config: RejectionConfig, num: int, store=None, max_in_flight=64, script=script):
    """{question: outcomes by limit}, and the engine."""
    engine = ScriptedEngine(script, 400, CHAT.num_token_ids)

    def begin_try(question):
        def begin(number, longest):
            seed = derived_seed(0, question, number)
            return ForcedDecode(PROMPT, Budget(longest, max_answer_tokens=5), CHAT, 400, Sampling(1.0), seed)

        return begin

    todo = (Rejection(i, config, config.limits, begin_try(i)) for i in range(num))
    driver = Driver(engine, store, max_in_flight)
    outcomes = {one.key: one.outcomes for one in run_rejections(driver, todo)}
    assert driver.is_idle and len(outcomes) == num
    return outcomes, engine


@pytest.mark.slow
def test_one_pool_gives_what_a_run_for_each_limit_gives():
    config = RejectionConfig([4, 12, 30], max_tries=6, window=3)
    pooled, engine = sample(config, 40)
    num_separate = 0
    for limit in config.limits:
        for window in (1, 5):
            alone, other = sample(replace(config, limits=[limit], window=window), 40)
            assert {i: {limit: o[limit]} for i, o in pooled.items()} == alone
        num_separate += other.num_sampled
    assert engine.num_sampled < num_separate
    assert sample(config, 40, ContinuationStore())[0] == pooled
    assert sample(config, 40, max_in_flight=1)[0] == pooled


@pytest.mark.slow
def test_it_is_the_first_try_within_the_limit_at_the_cost_of_all_before():
    config = RejectionConfig([3, 10], max_tries=3)
    pooled, _ = sample(config, 80)
    exhausted = 0
    for question, outcomes in pooled.items():
        for limit, outcome in outcomes.items():
            tries = [thinking_of(derived_seed(0, question, number), limit + 1) for number in range(3)]
            fits = [length <= limit and natural for length, natural in tries]
            expected = fits.index(True) if True in fits else None
            assert outcome.number == expected
            assert outcome.num_tries == (3 if expected is None else expected + 1)
            assert outcome.num_thinking_tokens == sum(min(n, limit) for n, _ in tries[: outcome.num_tries])
            if expected is None:
                exhausted += 1
                assert outcome.sample.ended == "budget" and not outcome.sample.segments
            else:
                assert outcome.sample.ended == "natural" and outcome.sample.num_thinking_tokens == tries[expected][0]
                assert outcome.sample.answer_finish in ("stop", "length")
            assert outcome.sample.num_prompt_tokens == len(PROMPT)
    assert 5 < exhausted < 80, "both ends of it are tested"


@pytest.mark.slow
def test_tries_are_geometric_and_accepted_lengths_have_the_conditional_law():
    """Where the chance to end is the same after every token, all laws are known; chi-square at 1 in 1,000."""

    def memoryless(prefix, seed):
        return CHAT.tokenizer.eos_token_id if random.Random(seed * 1009 + len(prefix)).random() < END_RATE else 9

    limit, num = 6, 500
    outcomes = [o[limit] for o in sample(RejectionConfig([limit], max_tries=200), num, script=memoryless)[0].values()]
    accepted = 1 - (1 - END_RATE) ** (limit + 1)
    lengths = {n: END_RATE * (1 - END_RATE) ** n / accepted for n in range(limit + 1)}
    assert chi_square(Counter(o.sample.num_thinking_tokens for o in outcomes), lengths, num) < 22.5  # 6 degrees
    tries = {n: accepted * (1 - accepted) ** (n - 1) for n in range(1, 6)}
    tries["more"] = 1 - sum(tries.values())
    seen = Counter(o.num_tries if o.num_tries < 6 else "more" for o in outcomes)
    assert chi_square(seen, tries, num) < 20.5  # 5 degrees


def chi_square(seen: Counter, chances: dict, num: int) -> float:
    assert set(seen) <= set(chances)
    return sum((seen[x] - num * chance) ** 2 / (num * chance) for x, chance in chances.items())


def test_no_more_than_max_tries_and_no_answer_that_no_limit_wants():
    answered = []

    def endless(prefix, seed):
        answered.extend([prefix] if END[0] in prefix[len(PROMPT) :] else [])
        return 9

    outcomes, engine = sample(RejectionConfig([5, 9], max_tries=4), 3, script=endless)
    assert {o.number for by_limit in outcomes.values() for o in by_limit.values()} == {None}
    assert engine.num_sampled == 3 * 4 * 10 and not answered
    assert [o.num_thinking_tokens for o in outcomes[0].values()] == [20, 36]


def test_once_the_long_limits_are_served_tries_are_short():
    config = RejectionConfig([2, 100], max_tries=30, window=1)
    pooled, engine = sample(config, 40)
    accepted_first = sum(o[100].num_thinking_tokens for o in pooled.values())
    assert engine.num_sampled < accepted_first + sum(
        o[2].num_thinking_tokens + 12 * o[2].num_tries for o in pooled.values()
    )


def test_an_engine_error_is_no_rejection():
    class Failing(ScriptedEngine):
        def step(self):
            return [(key, Delta((), "error", error="broken")) for key, _ in super().step()]

    engine = Failing(script, 400, CHAT.num_token_ids)

    def begin(number, longest):
        return ForcedDecode(PROMPT, Budget(longest, max_answer_tokens=5), CHAT, 400, Sampling(1.0), number)

    (one,) = run_rejections(Driver(engine), [Rejection(0, RejectionConfig([5], max_tries=4), [5], begin)])
    assert (one.outcomes[5].sample.ended, one.outcomes[5].sample.error) == ("error", "broken")


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(UserError, match="set sampling.temperature"):
        check_rejection(RejectionConfig([5]), Sampling())
    with pytest.raises(UserError, match="limits"):
        check_rejection(RejectionConfig([5, 5]), Sampling(1.0))
