"""Forced decoding gives the same ids on vLLM, on transformers and in a naive token-by-token reference, and a grid from
shared trajectories is that of separate runs, cell by cell."""

import importlib.util
from dataclasses import replace

import pytest
from tiny_model import tiny_model

from benchmarks.sweep import paper_grid
from core.chat import ChatFormat
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.continuations import ContinuationStore
from inference.engine import GREEDY, Driver, EngineConfig, Sampling, load_engine

pytestmark = pytest.mark.slow

QUESTIONS = ["How many legs do 3 spiders have?", "12 + 34 = ?", "Reverse: one, two, three", "Wait"]
CONTEXT = 256
FULL_GRID = list(paper_grid(CONTEXT, 9).values())
BUDGETS = [Budget(n, num_ignore=k, max_answer_tokens=9) for n in (0, 1, 7, 25, 60) for k in (0, 1, 2)] + FULL_GRID
WARM = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny model that ends thinking now and then, by its delimiter and by its end of turn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for text in ("<|im_start|>", "<|im_end|>"):
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(text)] *= 2.5
        model.lm_head.weight[tokenizer.encode("answer", add_special_tokens=False)[0]] *= 2.5
    model.save_pretrained(folder)
    return folder


def naive(model, chat: ChatFormat, budget: Budget, question: str):
    """s1's rules written once more, one full forward pass a token: (thinking ids, answer ids, ignored ends)."""
    import torch

    def most_likely(ids, banned=()):
        logits = model(torch.tensor([ids])).logits[0, -1].clone()
        logits[chat.num_token_ids :] = -torch.inf
        for token in banned:
            logits[token] = -torch.inf
        return int(logits.argmax())

    prompt, end_of_turn = chat.prompt_ids(question), chat.tokenizer.eos_token_id
    delimiter, wait = chat.encode("<|im_start|>answer"), chat.encode(budget.ignore_text)
    limit = budget.max_thinking_tokens
    if limit == "auto":
        limit = CONTEXT - len(prompt) - len(chat.close_ids(True, budget.cue)) - budget.max_answer_tokens
    thinking, ignored, forced, banned = [], 0, True, ()
    while len(thinking) < limit:
        tail, ended = [most_likely(prompt + thinking, banned)], False
        banned = ()
        while tail and not ended:  # tail: ids that may be the end of thinking
            if tail[-1] == end_of_turn:
                tail, ended = tail[:-1], True
            elif tail == delimiter:
                tail, ended = [], True
            elif tail == delimiter[: len(tail)]:
                tail.append(most_likely(prompt + thinking + tail))
                continue
            keep = tail[:-1] if tail[-1:] == delimiter[:1] and not ended else tail
            if len(thinking) + len(keep) > limit:
                limit = len(thinking)  # what does not fit is dropped, and thinking is cut here
                break
            thinking, tail = thinking + keep, tail[len(keep) :]
            if len(thinking) == limit:
                ended = False
                break
        if not ended:
            continue
        if ignored < budget.num_ignore and len(thinking) + len(wait) + 1 <= limit:
            thinking, ignored, banned = thinking + wait, ignored + 1, chat.stop_token_ids
            continue
        forced = False
        break
    context = prompt + thinking + chat.close_ids(forced, budget.cue, thinking)
    answer = []
    while len(answer) < budget.max_answer_tokens:
        token = most_likely(context + answer)
        if token == end_of_turn:
            break
        answer.append(token)
    return tuple(thinking), tuple(answer), ignored


def decode_all(engine, chat, store, cells=BUDGETS, sampling=GREEDY):
    decodings = [
        ((q, i), ForcedDecode(chat.prompt_ids(q), budget, chat, CONTEXT, sampling, derived_seed(q)))
        for q in QUESTIONS
        for i, budget in reversed(list(enumerate(cells)))
    ]
    engine.reset_prefix_cache()
    driver = Driver(engine, store)
    samples = {key: replace(d.sample(), num_cached_tokens=None) for key, d in driver.run(decodings)}
    return samples, driver.num_sampled.total()


def load(folder, backend):
    return load_engine(
        str(folder), EngineConfig(backend=backend, dtype="float32", max_model_len=CONTEXT, max_num_seqs=8)
    )


@pytest.fixture(scope="module")
def reference(model_folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    chat = ChatFormat("s1", AutoTokenizer.from_pretrained(model_folder))
    with torch.inference_mode():
        return {(q, i): naive(model, chat, b, q) for q in QUESTIONS for i, b in enumerate(BUDGETS)}


def test_the_tiny_model_exercises_the_rules(reference):
    """Otherwise the equalities below would prove little."""
    assert sum(ignored for _, _, ignored in reference.values()) >= 4
    lengths = {len(thinking) for thinking, _, _ in reference.values()}
    assert len(lengths) >= 6, lengths


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def engine_and_chat(request, model_folder):
    if request.param == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed on this platform")
    engine, tokenizer = load(model_folder, request.param)
    yield engine, ChatFormat("s1", tokenizer)
    engine.close()


def test_an_engine_equals_the_reference_shared_and_cell_by_cell(engine_and_chat, reference):
    cell_by_cell, _ = decode_all(*engine_and_chat, store=None)
    shared, _ = decode_all(*engine_and_chat, ContinuationStore())
    for key, sample in cell_by_cell.items():
        got = sample.ids("thinking"), sample.ids("answer", "sampled"), sample.num_ignored
        assert got == reference[key], (key, BUDGETS[key[1]])
    assert shared == cell_by_cell


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["temperature 0", "temperature 1"])
def test_the_papers_grid_from_shared_trajectories_is_that_of_separate_runs(engine_and_chat, sampling):
    separate, num_separate = {}, 0
    for i, cell in enumerate(FULL_GRID):  # each cell in a run of its own
        samples, num_sampled = decode_all(*engine_and_chat, None, [cell], sampling)
        separate |= {(question, i): sample for (question, _), sample in samples.items()}
        num_separate += num_sampled
    shared, num_shared = decode_all(*engine_and_chat, ContinuationStore(), FULL_GRID, sampling)
    assert shared == separate
    assert num_shared < 0.7 * num_separate
    assert {s.ended for s in shared.values()} >= {"natural", "budget"}
    assert sum(s.num_ignored for s in shared.values()) > len(QUESTIONS), "thinking was made to go on"
