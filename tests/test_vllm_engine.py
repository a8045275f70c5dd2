"""What only the vLLM engine has: engines one after the other in a process, fingerprints, its own options."""

import pytest
from tiny_model import decode_naively, tiny_model

from core.config import UserError
from inference.engine import EngineConfig, Request, load_engine

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
