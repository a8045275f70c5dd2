"""What only the transformers engine has: its slots."""

import pytest
from tiny_model import decode_naively, tiny_model

from core.config import UserError
from inference import checkpoint
from inference.engine import EngineConfig, Request, load_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"), num_attention_heads=4, num_key_value_heads=2)


def load(folder, **changes):
    return load_engine(str(folder), EngineConfig(backend="transformers", **changes))[0]


def test_a_tokenizer_that_was_read_already_is_not_read_again(folder, monkeypatch):
    tokenizer = checkpoint.load_tokenizer(folder)
    monkeypatch.setattr(checkpoint, "load_tokenizer", lambda path: pytest.fail("read again"))
    engine, same = load_engine(str(folder), EngineConfig(backend="transformers", max_model_len=64), tokenizer)
    engine.close()
    assert same is tokenizer


def finish(engine, key, request):
    engine.submit(key, request)
    ids, cached = (), None
    while deltas := engine.step():
        for _, delta in deltas:
            ids += delta.token_ids
            cached = delta.num_cached_tokens if cached is None else cached
    return ids, cached


def test_the_next_segment_reads_only_what_is_new(folder):
    engine = load(folder, max_model_len=256, max_num_seqs=2)
    a, b = tuple(range(10, 50)), tuple(range(100, 140))
    written, cached = finish(engine, "a", Request(a, 9, frozenset()))
    assert cached == 0
    assert finish(engine, "b", Request(b, 5, frozenset()))[1] == 0
    # the last sampled id has not been read yet, so it counts as new
    assert finish(engine, "a", Request(a + written + (7, 8), 3, frozenset()))[1] == len(a) + 8
    # a shorter prefix of what a slot holds: all but the id whose logits are wanted
    assert finish(engine, "fork", Request(a + written[:2], 3, frozenset()))[1] == len(a) + 1
    engine.reset_prefix_cache()
    assert finish(engine, "a", Request(a, 1, frozenset()))[1] == 0


def test_a_fork_leaves_the_trajectory_in_its_slot(folder):
    engine = load(folder, max_model_len=256, max_num_seqs=3)
    prefix = tuple(range(10, 40))
    written, _ = finish(engine, "long", Request(prefix, 60, frozenset()))
    for cut in (10, 30, 20):
        _, cached = finish(engine, cut, Request(prefix + written[:cut] + (5, 6), 4, frozenset()))
        assert cached == len(prefix) + cut
    assert finish(engine, "long", Request(prefix + written + (7,), 4, frozenset()))[1] == len(prefix) + 59


def test_the_cache_grows_with_need_and_keeps_what_it_holds(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    engine = load(folder, max_model_len=400, max_num_seqs=40)
    assert engine._cache.num_slots == 0
    requests = {i: Request((10 + i, 20, 30), 5 + 9 * i, frozenset()) for i in range(40)}
    got = dict.fromkeys(requests, ())
    for key in range(3):
        engine.submit(key, requests[key])
    for _ in range(4):
        for key, delta in engine.step():
            got[key] += delta.token_ids
    assert (engine._cache.num_slots, engine._cache.length) == (8, 256)
    for key in range(3, 40):
        engine.submit(key, requests[key])
    while deltas := engine.step():
        for key, delta in deltas:
            got[key] += delta.token_ids
    assert (engine._cache.num_slots, engine._cache.length) == (40, 400)
    for key in (0, 7, 39):
        assert got[key] == decode_naively(model, requests[key], engine.num_token_ids)


@pytest.mark.parametrize("lengths", [(20, 20, 20), (20, 7, 33)], ids=["even", "uneven"])
@pytest.mark.parametrize("leaves", [None, 1, 2])
def test_rows_side_by_side_and_with_a_gap(folder, lengths, leaves):
    """Slots are read in place where they lie side by side, and without a mask where all rows are equally long."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    engine = load(folder, max_model_len=256, max_num_seqs=4)
    requests = {i: Request(tuple(range(10 * i + 7, 10 * i + 7 + n)), 25, frozenset()) for i, n in enumerate(lengths)}
    got = dict.fromkeys(requests, ())
    for key, request in requests.items():
        engine.submit(key, request)
    for step in range(40):
        if step == 5 and leaves is not None:
            engine.cancel(leaves)
        for key, delta in engine.step():
            got[key] += delta.token_ids
    for key in requests.keys() - {leaves}:
        assert got[key] == decode_naively(model, requests[key], engine.num_token_ids)


def test_sliding_window_models_are_refused(tmp_path):
    import torch
    from tiny_tokenizer import tiny_tokenizer
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(vocab_size=400, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, use_sliding_window=True, sliding_window=16,
                         max_window_layers=1)  # fmt: skip
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sliding_attention"):
        load(tmp_path, max_model_len=64)


def test_more_context_than_the_model_has_is_refused(folder):
    with pytest.raises(UserError, match="max_model_len=4096 exceeds the context .* 512"):
        load(folder, max_model_len=4096)
