"""What only the vLLM engine has: engines one after the other in a process, fingerprints, its own options."""

import random
from dataclasses import replace

import pytest
from tiny_model import decode_naively, tiny_model

from core.config import UserError
from inference.engine import Delta, EngineConfig, Request, Sampling, load_engine

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow


def load(folder, **changes):
    changes = {"max_model_len": 128, "max_num_seqs": 4} | changes
    return load_engine(str(folder), EngineConfig(backend="vllm", **changes))[0]


def first_tokens(engine, prefix=(7, 8, 9)):
    engine.submit(0, Request(prefix, 6, frozenset()))
    ids = ()
    while deltas := engine.step():
        ids += deltas[0][1].token_ids
    return ids


def until_end(engine, on_end=lambda key, delta: None) -> dict:
    """{key: its whole Delta}. on_end: called as each ends, before the engine's next step."""
    got: dict = {}
    while deltas := engine.step():
        for key, new in deltas:
            old = got.get(key, Delta(logprobs=()))
            logprobs = old.logprobs + (new.logprobs or ())
            cached = new.num_cached_tokens if key not in got else old.num_cached_tokens
            got[key] = Delta(old.token_ids + new.token_ids, new.finish_reason, cached, new.error, logprobs)
            if new.finish_reason:
                on_end(key, got[key])
    return got


def test_what_goes_on_from_a_request_that_just_ended_goes_on_in_place(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = tiny_model(tmp_path)
    model, engine = AutoModelForCausalLM.from_pretrained(folder), load(folder, max_model_len=200, dtype="float32")
    rng = random.Random(0)
    first = {i: Request(tuple(rng.randrange(5, 300) for _ in range(40 + i)), 9 + i, frozenset({60, 61, 62}),
                        logprobs=True) for i in range(10)}  # fmt: skip
    asked = dict(first)

    def go_on(key, delta, wait=(70, 71, 72)):
        if isinstance(key, int):
            seen = asked[key].prefix + delta.token_ids[:-1]
            asked[key, "on"] = Request(seen + wait, 12, frozenset({63, 64}), min_tokens=2, logprobs=True)
            asked[key, "beside"] = replace(asked[key, "on"], prefix=seen + wait[1:])
            asked[key, "warm"] = replace(asked[key, "on"], sampling=Sampling(1.0), seed=key)
            for name in ("on", "beside", "warm"):
                engine.submit((key, name), asked[key, name])
        elif key[1] == "on" and len(key) == 2:  # and once more
            asked[*key, "again"] = Request(asked[key].prefix + delta.token_ids, 5, frozenset(), logprobs=True)
            engine.submit((*key, "again"), asked[*key, "again"])

    for key, request in first.items():
        engine.submit(key, request)
    got = until_end(engine, go_on)
    for key, request in asked.items():
        if request.sampling.temperature == 0:
            assert got[key].token_ids == decode_naively(model, request, engine.num_token_ids), key
            assert len(got[key].logprobs) == len(got[key].token_ids)
    for i in first:
        assert got[i, "on"].num_cached_tokens == len(asked[i, "on"].prefix) - 3, "all but the new ids is there"
        assert got[i, "on", "again"].num_cached_tokens == len(asked[i, "on", "again"].prefix) - 1
        assert got[i, "beside"].num_cached_tokens % 32 == got[i, "warm"].num_cached_tokens % 32 == 0, "whole blocks"

    engine.reset_prefix_cache()
    later = [key for key in asked if key not in first]
    for key in later:
        engine.submit(key, asked[key])
    fresh = until_end(engine)
    for key in later:
        assert fresh[key].token_ids == got[key].token_ids
        assert fresh[key].logprobs == pytest.approx(got[key].logprobs, abs=1e-4)
    engine.close()


def test_two_models_one_after_the_other_in_one_process(tmp_path):
    from transformers import AutoModelForCausalLM

    fingerprints = set()
    for seed in (0, 1):
        folder = tiny_model(tmp_path / str(seed), seed=seed)
        engine = load(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        request = Request((7, 8, 9), 6, frozenset())
        assert first_tokens(engine) == decode_naively(model, request, engine.num_token_ids)
        fingerprints.add(engine.fingerprint)
        engine.close()
    again = load(tmp_path / "0", max_num_seqs=2, options={"kv_cache_memory_bytes": 1 << 26})
    assert again.fingerprint in fingerprints, "memory and batch size change no result"
    again.close()
    other = load(tmp_path / "0", dtype="bfloat16")
    assert other.fingerprint not in fingerprints
    other.close()
    assert len(fingerprints) == 2


def test_more_context_than_the_model_has_is_refused(tmp_path):
    with pytest.raises(UserError, match="max_model_len=4096 exceeds the context"):
        load(tiny_model(tmp_path), max_model_len=4096)


def test_too_little_memory_for_the_cache_says_what_to_lower(tmp_path):
    with pytest.raises(UserError, match="engine.max_model_len"):
        load(tiny_model(tmp_path), options={"kv_cache_memory_bytes": 1 << 14})


def test_seeded_requests_with_more_prompts_than_one_step_reads(tmp_path):
    """They wait for a step of their own: read in pieces, the prompt of a seeded request crashes vLLM on a CPU."""
    engine = load(tiny_model(tmp_path), max_model_len=200, dtype="float32", options={"max_num_batched_tokens": 200})
    rng = random.Random(0)
    requests = {
        i: Request(tuple(rng.randrange(5, 300) for _ in range(150)), 8, frozenset(), sampling=Sampling(1.0), seed=i)
        for i in range(4)
    }
    for key, request in requests.items():
        engine.submit(key, request)
    together = until_end(engine)
    for key, request in requests.items():
        engine.submit(key, request)
        assert until_end(engine)[key].token_ids == together[key].token_ids
    engine.close()
