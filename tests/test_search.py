"""Beam search, DVTS and REBASE against each written down directly, on a scripted engine with a fixed scorer."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from core.config import UserError
from core.types import Question
from eval.search import (
    Search,
    SearchConfig,
    balanced_shares,
    check_search,
    choose,
    even_shares,
    run_searches,
    stop_ids_of,
)
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.continuations import ContinuationStore
from inference.engine import Driver, Sampling
from inference.scripted_engine import ScriptedEngine

CHAT = ChatFormat("s1", tiny_tokenizer())
QUESTION = Question.of("How many legs do 3 spiders have?", "24", "integer", "t", "sums")
PROMPT = CHAT.prompt_ids(QUESTION)
END, EOS = CHAT.ends[0], CHAT.tokenizer.eos_token_id
NEWLINE = CHAT.encode("\n")[0]
STOPS = stop_ids_of("\n", CHAT)
CONTEXT, MAX_ANSWER = 400, 4


def script(prefix, seed):
    """Steps of some ten tokens, thinking of some three steps, ended in either way."""
    for written in range(1, len(END)):
        if prefix[-written:] == END[:written]:
            return END[written]
    rng = random.Random(f"{seed} {len(prefix)}")
    roll = rng.random()
    if roll < 0.12:
        return NEWLINE
    return rng.choice([EOS, END[0]]) if roll < 0.17 else rng.randrange(40, 90)


@dataclass
class FixedScorer:
    """A score that is a function of the steps, and costs their characters."""

    name: str = "fixed"
    batches: list = field(default_factory=list)

    def score(self, paths):
        self.batches.append(len(paths))
        return [score_of(path.steps) for path in paths]

    def num_tokens(self, path):
        return sum(map(len, path.steps))


def score_of(steps) -> float:
    return random.Random(repr(tuple(steps))).random()


def text_of(ids) -> str:
    return CHAT.tokenizer.decode(ids, skip_special_tokens=True).strip()


# each method, written down directly


def naive_step(thinking: tuple, seed: int, config: SearchConfig, is_last: bool) -> tuple[tuple, bool]:
    """(thinking after one more step, has it ended)."""
    ids = list(PROMPT) + list(thinking)
    request_seed, num_new, num_blank = derived_seed(seed, len(ids)), 0, 0
    while True:
        if len(ids) - len(PROMPT) == config.max_thinking_tokens:
            return tuple(ids[len(PROMPT) :]), True
        if not is_last and num_new == config.max_step_tokens:
            return tuple(ids[len(PROMPT) :]), False
        token = script(tuple(ids), request_seed)
        if token in (EOS, END[0]):  # the scripted model always goes on to the whole delimiter
            return tuple(ids[len(PROMPT) :]), True
        ids.append(token)
        num_new += 1
        if token in STOPS and num_new == num_blank + 1 < config.max_step_tokens and not is_last:
            num_blank += 1  # nothing but delimiters so far: no step yet, and the rest is asked anew
            request_seed = derived_seed(seed, len(ids))
        elif token in STOPS and not is_last:
            full = len(ids) - len(PROMPT) == config.max_thinking_tokens
            return tuple(ids[len(PROMPT) :]), full


def naive_answer(thinking: tuple, seed: int, was_cut: bool) -> str:
    close = CHAT.close_ids(was_cut, "\nFinal Answer:", thinking)
    ids = [*PROMPT, *thinking, *close]
    request_seed, answer = derived_seed(seed, len(ids)), []
    while len(answer) < MAX_ANSWER:
        token = script(tuple(ids + answer), request_seed)
        if token == EOS:
            break
        answer.append(token)
    return CHAT.answer_text(close + answer)


@dataclass
class Node:
    thinking: tuple = ()
    steps: tuple = ()
    tree: int = 0
    seed: int = 0
    ended: bool = False
    score: float = 0.0


def naive_search(config: SearchConfig, seed: int) -> tuple[list, Counter]:
    """(leaves as (thinking, answer, score), cost), one token after another."""
    n, m = config.n, config.beam_width
    cost, leaves = Counter(thinking=0, answer=0, cached=0, scorer=0), []
    frontier = [(Node(), n)] if config.method != "dvts" else [(Node(tree=t), m) for t in range(n // m)]
    for iteration in range(config.num_iterations):
        children, number = [], Counter()
        for node, share in frontier:
            for _ in range(share):
                child_seed = derived_seed(seed, iteration, node.tree, number[node.tree])
                number[node.tree] += 1
                thinking, ended = naive_step(
                    node.thinking, child_seed, config, is_last=iteration == config.num_iterations - 1
                )
                new = thinking[len(node.thinking) :]
                steps = node.steps + ((text_of(new),) if text_of(new) else ())
                children.append(Node(thinking, steps, node.tree, child_seed, ended, score_of(steps)))
                cost["thinking"] += len(new)
                cost["scorer"] += sum(map(len, steps))
        if config.method == "dvts":
            winners = [max((c for c in children if c.tree == t), key=lambda c: c.score) for t in range(n // m)
                       if any(c.tree == t for c in children)]  # fmt: skip
            leaves += [w for w in winners if w.ended]
            frontier = [(w, m) for w in winners if not w.ended]
        else:
            leaves += [c for c in children if c.ended]
            live, width = [c for c in children if not c.ended], n - len(leaves)
            if config.method == "beam_search":
                live = sorted(live, key=lambda c: c.score, reverse=True)[: n // m]
                frontier = [[c, 0] for c in live]
                for i in range(width):
                    frontier[i % len(frontier)][1] += 1
            else:
                weights = [math.exp(c.score / config.softmax_temperature) for c in live]
                exact = [width * w / sum(weights) for w in weights]
                frontier = [[c, math.floor(x)] for c, x in zip(live, exact, strict=True)]
                left = width - sum(share for _, share in frontier)
                for i in sorted(range(len(live)), key=lambda i: exact[i] - math.floor(exact[i]), reverse=True)[:left]:
                    frontier[i][1] += 1
        if not frontier:
            break
    results = []
    for leaf in leaves:
        answer = naive_answer(leaf.thinking, leaf.seed, len(leaf.thinking) == config.max_thinking_tokens)
        steps = leaf.steps + ((answer.strip(),) if answer.strip() else ())
        results.append((leaf.thinking, answer, score_of(steps)))
        cost["scorer"] += sum(map(len, steps))
    return results, cost


def search(config: SearchConfig, seed: int, scorer=None, key=0) -> Search:
    budget = Budget(config.max_thinking_tokens, max_answer_tokens=MAX_ANSWER)
    root = ForcedDecode(PROMPT, budget, CHAT, CONTEXT, Sampling(1.0), logprobs=True)
    return Search(key, QUESTION, root, config, seed, CHAT, STOPS, scorer or FixedScorer())


def run(searches, store=None, max_in_flight=64, engine=None):
    engine = engine or ScriptedEngine(script, CONTEXT, CHAT.num_token_ids)
    driver = Driver(engine, store, max_in_flight)
    done = list(run_searches(driver, searches))
    assert driver.is_idle
    return done


def leaves_of(done: Search) -> list:
    return [(leaf.sample.ids("thinking"), leaf.answer, leaf.score) for leaf in done.leaves]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["beam_search", "dvts", "rebase"])
@pytest.mark.parametrize(
    ("n", "width", "most", "step", "rounds"), [(4, 2, 60, 15, 40), (6, 3, 25, 100, 3), (1, 1, 60, 9, 40)]
)
def test_a_search_is_what_it_is_written_down_to_be(method, n, width, most, step, rounds):
    config = SearchConfig(method, n, width, most, step, "\n", rounds)
    ended, num_leaves = Counter(), []
    for seed in range(12):
        (done,) = run([search(config, seed)])
        leaves, cost = naive_search(config, seed)
        assert leaves_of(done) == leaves
        cost["answer"] = sum(leaf.sample.num_answer_tokens for leaf in done.leaves)
        assert done.cost == cost
        num_leaves.append(len(leaves))
        ended.update(leaf.sample.ended for leaf in done.leaves)
        for leaf in done.leaves:
            assert leaf.sample.num_thinking_tokens <= most and leaf.sample.answer_finish in ("stop", "length")
    assert set(num_leaves) == {n // width if method == "dvts" else n}, "finished paths take their places out of n"
    if n > 1:
        assert set(ended) == {"natural", "budget"}, "closed by the model and by the budget"


def test_questions_do_not_wait_for_each_other_nor_change_each_other():
    """Alone, side by side, one request at a time, and with a store: the same trees."""
    config = SearchConfig("rebase", 4, 2, 60, 15, "\n")
    alone = {seed: run([search(config, seed)])[0] for seed in range(6)}
    scorer = FixedScorer()
    for settings_ in ({}, {"max_in_flight": 1}, {"store": ContinuationStore()}):
        done = run([search(config, seed, scorer, key=seed) for seed in range(6)], **settings_)
        assert {d.key: leaves_of(d) for d in done} == {seed: leaves_of(d) for seed, d in alone.items()}
        assert {d.key: d.cost for d in done} == {seed: d.cost for seed, d in alone.items()}
    assert max(scorer.batches) > 4, "what is ready at the same time is scored in one batch"


def test_children_of_one_path_differ_and_methods_begin_alike():
    firsts = []
    for method in ("beam_search", "rebase"):
        one = search(SearchConfig(method, 8, 2, 60, 15, "\n"), seed=1)
        steps = one.begin()
        firsts.append([step.next_request() for _, step in steps])
        assert len({request.seed for request in firsts[-1]}) == 8
    assert firsts[0] == firsts[1], "so that the store answers the first steps of the second search"


def test_an_engine_error_ends_the_path_and_says_so():
    from inference.engine import Delta

    class Failing(ScriptedEngine):
        def step(self):
            return [(key, Delta((), "error", error="broken")) for key, _ in super().step()]

    engine = Failing(script, CONTEXT, CHAT.num_token_ids)
    (done,) = run([search(SearchConfig("beam_search", 4, 2, 60, 15, "\n"), 0)], engine=engine)
    assert {(leaf.sample.ended, leaf.sample.error) for leaf in done.leaves} == {("error", "broken")}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 64), st.sampled_from([0.01, 0.2, 5.0]))
@settings(max_examples=60, deadline=None)
def test_balanced_shares_are_whole_and_exact(scores, total, temperature):
    shares = balanced_shares(scores, total, temperature)
    weights = [math.exp((score - max(scores)) / temperature) for score in scores]
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1
    for a, b in zip(range(len(scores)), range(1, len(scores)), strict=False):
        if abs(scores[a] - scores[b]) > 1e-9:  # a difference that their weights show
            assert (scores[a] - scores[b]) * (shares[a] - shares[b]) >= 0, "a better path never gets less"


def test_shares_and_votes_by_hand():
    assert balanced_shares([0.9, 0.9, 0.1], 8, 0.2) == [4, 4, 0]
    assert balanced_shares([], 0, 0.2) == [] and even_shares(7, 3) == [3, 2, 2] and even_shares(2, 3) == [1, 1, 0]
    classes, scores = [0, 0, 1, None, 2], [0.2, 0.3, 0.6, 0.99, 0.5]
    assert choose(classes, scores, "majority") == 1, "the better-scored of the two that agree"
    assert choose(classes, scores, "weighted_vote") == 2
    assert choose(classes, scores, "best_of_n") == 2, "what has no answer is not chosen"
    assert choose([0, 1], [0.1, 0.2], "majority") == 1, "equal votes: the better score"
    assert choose([None, None], [0.1, 0.2], "majority") == 0


def test_the_delimiter_is_found_inside_tokens_and_a_missing_one_refused():
    assert NEWLINE in STOPS and all("\n" in CHAT.tokenizer.decode([i]) for i in STOPS)
    with pytest.raises(UserError, match="no token contains step_delimiter='xyz'"):
        stop_ids_of("xyz", CHAT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mcts"}, "method is one of"),
        ({"select": "first"}, "select one of"),
        ({"n": 5}, "no multiple of beam_width"),
        ({"max_thinking_tokens": None}, "no steps to search"),
        ({"n": 0}, "at least 1"),
    ],
)
def test_searches_that_cannot_be_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_search(SearchConfig(**{"method": "beam_search", **changes}), Sampling(1.0))
    with pytest.raises(UserError, match="set sampling.temperature"):
        check_search(SearchConfig("beam_search"), Sampling())
