"""A store answers as the engine would have, also after a kill."""

import random
from dataclasses import replace

import pytest

from inference.continuations import ContinuationStore
from inference.engine import Delta, Request, Sampling

STOP = frozenset({0})


def continuation(prefix, max_tokens, seed=None):
    """What a deterministic model would write: a function of what it sees."""
    ids = []
    while len(ids) < max_tokens and (not ids or ids[-1] != 0):
        ids.append(random.Random(f"{(*prefix, *ids)} {seed}").randrange(0, 12))
    return Delta(tuple(ids), "stop" if ids[-1] == 0 else "length")


def answer(store, request):
    """As the driver does: look, ask for the remainder, look again. Returns (delta, tokens asked)."""
    if (known := store.lookup(request)) is not None:
        return known, 0
    asked = store.remainder(request)
    fresh = continuation(asked.prefix, asked.max_tokens, asked.seed)
    store.add(request, fresh)
    return store.lookup(request), len(fresh.token_ids)


@pytest.mark.parametrize("order", [(20, 5, 40), (40, 20, 5), (5, 20, 40)])
def test_greedy_cuts_and_extensions_equal_fresh_requests(order):
    for start in range(40):
        store, total = ContinuationStore(), 0
        for n in order:
            request = Request((start, 7), n, STOP)
            delta, asked = answer(store, request)
            total += asked
            assert delta == continuation(request.prefix, n)
        assert total == len(continuation((start, 7), 40).token_ids), "no token is sampled twice"


def test_sampled_segments_are_cut_or_drawn_again_never_extended():
    hot = Sampling(temperature=1.0)
    store = ContinuationStore()
    request = Request((1,), 6, frozenset(), sampling=hot, seed=5)
    answer(store, request)
    longer = Request((1,), 9, frozenset(), sampling=hot, seed=5)
    assert store.remainder(longer) == longer
    assert answer(store, longer)[0] == continuation((1,), 9, 5)


def test_what_decides_a_continuation_is_in_its_key():
    store = ContinuationStore()
    base = Request((1, 2), 5, STOP)
    same = [Request((1, 2), 9, STOP), Request((1, 2), 5, STOP, seed=3)]  # greedy: the seed does not matter
    other = [
        Request((1, 2, 3), 5, STOP),
        Request((1, 2), 5, frozenset()),
        Request((1, 2), 5, STOP, min_tokens=1),
        Request((1, 2), 5, STOP, sampling=Sampling(0.7), seed=3),
    ]
    assert {store.key(r) for r in same} == {store.key(base)}
    assert len({store.key(r) for r in [base, *other]}) == 5


def test_a_killed_writer_loses_at_most_the_row_being_written(tmp_path):
    store = ContinuationStore(tmp_path, "a")
    requests = [Request((i,), 20, STOP) for i in range(5)]
    for request in requests:
        answer(store, request)
    store.close()
    journal = tmp_path / "a.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    reopened = ContinuationStore(tmp_path, "a")
    assert [reopened.lookup(r) is not None for r in requests] == [True] * 4 + [False]
    assert answer(reopened, requests[4])[0] == continuation((4,), 20)
    reopened.close()
    other_process = ContinuationStore(tmp_path, "b")
    assert all(other_process.lookup(r) == continuation(r.prefix, 20) for r in requests)


def test_log_probabilities_are_part_of_what_is_known():
    store = ContinuationStore()
    request = Request((1, 2), 4, frozenset({9}))
    asking = replace(request, logprobs=True)
    store.add(request, Delta((5, 6), "length"))
    assert store.lookup(replace(request, max_tokens=2)) is not None
    assert store.lookup(replace(asking, max_tokens=2)) is None and store.remainder(asking) == asking
    store.add(asking, Delta((5, 6, 7, 9), "stop", logprobs=(-1.0, -2.0, -3.0, -4.0)))
    assert store.lookup(replace(asking, max_tokens=3)).logprobs == (-1.0, -2.0, -3.0)
    assert store.lookup(asking) == store.lookup(request)
