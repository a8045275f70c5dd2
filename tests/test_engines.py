"""Every backend answers requests alike: the transformers engine, vLLM, and a naive loop over full forward passes."""

import importlib.util
import random
import time
from dataclasses import replace

import pytest
from tiny_model import decode_naively, tiny_model

from inference.engine import EngineConfig, Request, Sampling, load_engine

pytestmark = pytest.mark.slow

CONTEXT, SLOTS = 192, 6
WARM = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def engine(request, folder):
    if request.param == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    config = EngineConfig(backend=request.param, max_model_len=CONTEXT, max_num_seqs=SLOTS)
    engine, _ = load_engine(str(folder), config)
    yield engine
    engine.close()


def run(engine, requests: dict) -> dict:
    """{key: (ids, finish reason, cached)}. Feeds everything at once and checks that no delta is empty or late."""
    for key, request in requests.items():
        engine.submit(key, request)
    got = {key: ((), None, None) for key in requests}
    deadline = time.monotonic() + 120
    while any(reason is None for _, reason, _ in got.values()):
        assert time.monotonic() < deadline
        for key, delta in engine.step():
            ids, reason, cached = got[key]
            assert reason is None, "a delta after the end"
            assert delta.token_ids and delta.error is None
            got[key] = (
                ids + delta.token_ids,
                delta.finish_reason,
                delta.num_cached_tokens if cached is None else cached,
            )
    return got


def requests_of_many_lengths(count: int, seed: int, stops=frozenset(), num_ids: int = 300) -> dict:
    rng = random.Random(seed)
    return {
        i: Request(tuple(rng.randrange(5, num_ids) for _ in range(rng.randint(1, 90))), rng.randint(1, 40), stops)
        for i in range(count)
    }


def test_greedy_equals_the_naive_loop_also_in_a_full_batch(engine, model):
    requests = requests_of_many_lengths(4 * SLOTS, seed=0)
    for key, (ids, reason, _) in run(engine, requests).items():
        assert ids == decode_naively(model, requests[key], engine.num_token_ids)
        assert reason == "length"


def test_stop_ids_end_a_request_and_are_the_last_id(engine, model):
    free = requests_of_many_lengths(12, seed=1)
    plain = run(engine, free)
    # every request is asked again with the ids it writes in the middle as stops
    requests = {
        key: replace(request, stop_token_ids=frozenset({plain[key][0][len(plain[key][0]) // 2], 3}))
        for key, request in free.items()
    }
    for key, (ids, reason, _) in run(engine, requests).items():
        assert reason == "stop" and ids[-1] in requests[key].stop_token_ids
        assert not set(ids[:-1]) & requests[key].stop_token_ids
        assert ids == plain[key][0][: len(ids)]


def test_end_of_turn_stops_only_where_asked(engine, model, folder):
    from transformers import AutoTokenizer

    eos = AutoTokenizer.from_pretrained(folder).eos_token_id
    # a prompt after which the model writes its end of turn
    request = next(
        r for r in requests_of_many_lengths(3000, seed=2).values()
        if decode_naively(model, replace(r, max_tokens=1), engine.num_token_ids) == (eos,)
    )  # fmt: skip
    request = replace(request, max_tokens=8)
    got = run(engine, {"on": request, "off": replace(request, stop_token_ids=frozenset({eos}))})
    assert got["off"][:2] == ((eos,), "stop")
    assert got["on"][0][0] == eos and len(got["on"][0]) == 8 and got["on"][1] == "length"


def test_min_tokens_masks_stops(engine, model):
    free = requests_of_many_lengths(8, seed=3)
    stops = {key: frozenset(ids) for key, (ids, _, _) in run(engine, free).items()}
    for min_tokens in (1, 3):
        requests = {
            key: replace(request, max_tokens=6, min_tokens=min_tokens, stop_token_ids=stops[key])
            for key, request in free.items()
        }
        for key, (ids, _, _) in run(engine, requests).items():
            assert not set(ids[:min_tokens]) & stops[key]
            assert ids == decode_naively(model, requests[key], engine.num_token_ids)


def test_seeded_sampling_repeats_whatever_else_is_in_the_batch(engine):
    requests = {
        key: replace(request, sampling=Sampling(1.0, top_p=0.9, top_k=50, min_p=0.01), seed=key)
        for key, request in requests_of_many_lengths(2 * SLOTS, seed=4).items()
    }
    together = run(engine, requests)
    engine.reset_prefix_cache()
    for key in (0, 5):
        assert run(engine, {key: requests[key]})[key][0] == together[key][0]
    other = {key: replace(request, seed=key + 1000) for key, request in requests.items()}
    assert any(run(engine, other)[key][0] != together[key][0] for key in requests)


def test_sampling_follows_the_distribution(engine, model):
    import torch

    prefix, count = (7, 60, 21), 600
    with torch.inference_mode():
        logits = model(torch.tensor([prefix])).logits[0, -1, : engine.num_token_ids]
    probs = torch.softmax(logits / 2.0, dim=-1)
    request = Request(prefix, 1, frozenset(), sampling=Sampling(2.0))
    drawn = [ids[0] for ids, _, _ in run(engine, {i: replace(request, seed=i) for i in range(count)}).values()]
    likely = probs.topk(5).indices.tolist()
    for token in likely:
        p = float(probs[token])
        assert abs(drawn.count(token) / count - p) < 4 * (p * (1 - p) / count) ** 0.5
    only = run(engine, {i: replace(request, seed=i, sampling=Sampling(2.0, top_k=2)) for i in range(30)})
    assert {ids[0] for ids, _, _ in only.values()} == set(likely[:2])
    nucleus = float(probs[likely[0]]) + 1e-3  # the first alone is not enough, the first two are
    only = run(engine, {i: replace(request, seed=i, sampling=Sampling(2.0, top_p=nucleus)) for i in range(30)})
    assert {ids[0] for ids, _, _ in only.values()} == set(likely[:2])


def test_ids_without_text_are_never_sampled(engine, model):
    import torch

    assert engine.num_token_ids < model.config.vocab_size
    with torch.inference_mode():
        wanted = [
            r for r in requests_of_many_lengths(1500, seed=5).values()
            if int(model(torch.tensor([r.prefix])).logits[0, -1].argmax()) >= engine.num_token_ids
        ][:5]  # fmt: skip
    assert wanted, "no prompt of this model asks for such an id"
    requests = {i: replace(request, max_tokens=5) for i, request in enumerate(wanted)}
    requests |= {("warm", i): replace(r, sampling=Sampling(2.0), seed=i) for i, r in requests.items()}
    for ids, _, _ in run(engine, requests).values():
        assert max(ids) < engine.num_token_ids


def test_a_cancelled_request_says_nothing_more(engine, model):
    requests = {key: replace(r, max_tokens=30) for key, r in requests_of_many_lengths(3 * SLOTS, seed=6).items()}
    for key, request in requests.items():
        engine.submit(key, request)
    got = {key: () for key in requests}
    for key, delta in engine.step() + engine.step():
        got[key] += delta.token_ids
    cancelled = [0, 1, 3 * SLOTS - 1]  # two that run, one that waits
    for key in cancelled:
        engine.cancel(key)
    engine.submit(0, replace(requests[0], max_tokens=2))  # the key is free again
    got[0] = ()
    deadline = time.monotonic() + 120
    while any(len(got[key]) < (2 if key == 0 else 30) for key in requests.keys() - set(cancelled[1:])):
        assert time.monotonic() < deadline
        for key, delta in engine.step():
            assert key not in cancelled[1:]
            got[key] += delta.token_ids
    assert len(got[0]) == 2
    for key in requests.keys() - set(cancelled):
        assert got[key] == decode_naively(model, requests[key], engine.num_token_ids)
    engine.cancel("never seen")
    assert engine.step() == []


def test_a_continued_prefix_is_found_again_and_gives_what_a_fresh_one_gives(engine):
    first = requests_of_many_lengths(SLOTS, seed=7)
    first = {key: replace(r, prefix=r.prefix + tuple(range(40, 90)), max_tokens=30) for key, r in first.items()}
    wait = (60, 61, 62)
    second = {
        key: Request(first[key].prefix + ids + wait, 10, frozenset()) for key, (ids, _, _) in run(engine, first).items()
    }
    cached = run(engine, second)
    assert all(found >= len(second[key].prefix) // 2 for key, (_, _, found) in cached.items())
    engine.reset_prefix_cache()
    fresh = run(engine, second)
    assert all(found == 0 for _, _, found in fresh.values())
    assert {k: v[:2] for k, v in cached.items()} == {k: v[:2] for k, v in fresh.items()}


def test_it_fills_the_context_to_the_last_token(engine, model):
    request = Request(tuple(range(5, 105)), CONTEXT - 100, frozenset())
    ids, reason, _ = run(engine, {0: request})[0]
    assert len(ids) == CONTEXT - 100 and reason == "length"
    with pytest.raises(AssertionError, match="exceeds the context"):
        engine.submit(1, replace(request, max_tokens=CONTEXT - 99))


def test_the_same_prompt_many_times(engine):
    request = Request(tuple(range(5, 85)), 8, frozenset(), sampling=WARM)
    got = run(engine, {i: replace(request, seed=i % 3) for i in range(3 * SLOTS)})
    assert all(got[i][0] == got[i % 3][0] for i in got)
    assert len({ids for ids, _, _ in got.values()}) == 3
