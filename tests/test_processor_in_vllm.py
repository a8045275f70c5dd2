"""The processor in vLLM's hands: requests that come, go, move and are interrupted, what is refused, and the real thing
through LLM.generate and `vllm serve`."""

import json
import os
import random
import urllib.error
import urllib.request

import pytest
from test_vllm_processor import VOCAB, batches, folder, greedy_logits, params_of, random_script  # noqa: F401
from tiny_model import tiny_model
from tiny_tokenizer import tiny_tokenizer
from vllm_server import vllm_server

from core.chat import ChatFormat
from core.config import UserError
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.engine import Driver, EngineConfig, load_engine

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow

NAME = "inference.vllm_processor:BudgetForcing"
TEXT = "Let me check: "


# requests that come and go


def warm_batch(folder, interface, num=6, slots=9):  # noqa: F811
    from processor_batches import vllm_config

    chat = ChatFormat("think-tags", tiny_tokenizer())
    extra = {"max_thinking_tokens": 30, "num_ignore": 2, "min_thinking_tokens": 3, "ignore_text": TEXT,
             "answer_reserve": 8}  # fmt: skip
    params = [params_of(extra, seed=i, top_p=0.9, max_tokens=100) for i in range(num)]
    return batches()[interface](vllm_config(folder, slots, VOCAB, chat.name, 512), params, chat.prompt_ids("?"))


def warm_logits(batch):
    """A function of what each request has written, so that a token lost or doubled shows."""
    import torch

    chat = ChatFormat("think-tags", tiny_tokenizer())
    scripts = [random_script(seed, chat) for seed in range(3)]
    rows = []
    for request in batch.rows:
        seed = hash(tuple(batch.outputs[request]))
        row = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed % (1 << 31)))
        for script in scripts:
            row[script(tuple(batch.outputs[request]), None)] += 12
        rows.append(row)
    return torch.stack(rows)


def uninterrupted(folder, interface):  # noqa: F811
    batch = warm_batch(folder, interface)
    for _ in range(40):
        batch.sample(warm_logits(batch))
    return [thinking(outputs) for outputs in batch.outputs]


def thinking(outputs):
    """To its end; the answer's noise is vLLM's own."""
    end = tiny_tokenizer().convert_tokens_to_ids("</think>")
    return outputs[: outputs.index(end) + 1] if end in outputs else outputs


def test_both_interfaces_draw_the_same(folder):  # noqa: F811
    assert uninterrupted(folder, "V1") == uninterrupted(folder, "V2")


def test_v1_requests_that_move_and_are_interrupted_lose_nothing(folder):  # noqa: F811
    """Interrupted anywhere, also in the middle of an ignore text; back as other rows, with lists of their own."""
    from vllm.v1.sample.logits_processor import MoveDirectionality

    rng = random.Random(0)
    batch = warm_batch(folder, "V1")
    for _ in range(80):
        if len(batch.rows) > 1 and rng.random() < 0.4:
            row = rng.randrange(len(batch.rows))  # out; vLLM then fills the hole with its last row
            removed, last = batch.rows[row], len(batch.rows) - 1
            moved = [(last, row, MoveDirectionality.UNIDIRECTIONAL)] if row != last else []
            batch.rows[row] = batch.rows[last]
            batch.rows.pop()
            old = batch.outputs[removed]
            batch.outputs[removed] = list(old)
            if rng.random() < 0.5:
                old.append(-1)  # one more was on its way, which vLLM then drops
            elif old:
                old[-1] = -1
            batch.update(removed=[row], moved=moved)
        for request in set(range(6)) - set(batch.rows):
            if rng.random() < 0.5:
                batch.rows.append(request)
                entry = (len(batch.rows) - 1, batch.params[request], batch.prompt, batch.outputs[request])
                batch.update(added=[entry])
        if len(batch.rows) > 1 and rng.random() < 0.3:
            a, b = rng.sample(range(len(batch.rows)), 2)
            batch.rows[a], batch.rows[b] = batch.rows[b], batch.rows[a]
            batch.update(moved=[(a, b, MoveDirectionality.SWAP)])
        batch.sample(warm_logits(batch))
        for _ in range(rng.choice([1, 1, 2])):
            batch.sample(warm_logits(batch), keep=False)  # as of prompts read in pieces
    assert [thinking(outputs) for outputs in batch.outputs] == uninterrupted(folder, "V1")


def test_v2_requests_that_are_interrupted_are_read_again(folder):  # noqa: F811
    """Exact here, where the model never begins the ignore text by itself."""
    batch, rng = warm_batch(folder, "V2"), random.Random(0)
    free = [0, 1, 2]
    for _ in range(40):
        if rng.random() < 0.5:
            request = rng.choice(batch.rows)
            free.insert(0, batch.slots[request])
            batch.slots[request] = free.pop()
            batch.enter(request)
        for _ in range(rng.choice([0, 0, 1])):
            batch.sample(warm_logits(batch), keep=False)
        batch.sample(warm_logits(batch))
    assert [thinking(outputs) for outputs in batch.outputs] == uninterrupted(folder, "V2")


def test_what_reading_again_cannot_tell():
    """An ignore text that the model wrote by itself; and the beginning of one, if that is all there is."""
    from inference.forced_rows import ANSWER, AT, CLOSE, IGNORE, NUM_IGNORED, PHASE, Rules, forced_texts

    chat = ChatFormat("s1", tiny_tokenizer())
    texts = forced_texts(chat, TEXT, "\nFinal Answer:")
    rules, ignore, close = Rules(texts, (60, 60), num_ignore=1), texts[IGNORE], texts[CLOSE]
    words = tuple(chat.encode("24. "))
    assert rules.replayed(chat, True, words)[NUM_IGNORED] == 0
    assert rules.replayed(chat, True, words + ignore + words)[NUM_IGNORED] == 1, "forced or not"
    assert rules.replayed(chat, True, words + ignore[:2])[: AT + 1] == [IGNORE, 2], "goes on with the text"
    assert rules.replayed(chat, True, words + close[:1])[: AT + 1] == [CLOSE, 1]
    assert rules.replayed(chat, True, words + close + words)[PHASE] == ANSWER
    assert rules.replayed(chat, False, texts[0] + words)[2:4] == [len(words), 0]


def test_samples_that_share_their_parameters_and_greedy_ones_beside(folder):  # noqa: F811
    from processor_batches import BudgetForcing

    batch = warm_batch(folder, "V1")
    shared = params_of(batch.params[0].extra_args, max_tokens=100)
    batch.params[:3] = [shared] * 3
    batch.params[3] = params_of(batch.params[0].extra_args, temperature=0, max_tokens=100)
    batch.params[4] = params_of(None, temperature=0)
    batch.build(BudgetForcing)
    for _ in range(12):
        logits = warm_logits(batch)
        tokens = batch.sample(logits)
        assert tokens[4] == int(logits[4].argmax()), "a request without a budget is left alone"
    assert len({tuple(outputs) for outputs in batch.outputs[:3]}) == 3, "noise of their own"


# what is refused


@pytest.mark.parametrize(
    "extra, changes, message",
    [
        ({"num_ignores": 1}, {}, "did you mean num_ignore"),
        ({"num_ignore": "2"}, {}, "whole number"),
        ({"num_ignore": -1}, {}, "negative"),
        ({"max_thinking_tokens": 1.5}, {}, "whole number"),
        ({"max_thinking_tokens": True}, {}, "whole number"),
        ({"num_ignore": 1, "ignore_text": ""}, {}, "ignore_text is empty"),
        ({"ignore_text": [1, 2]}, {}, "expected a text"),
        ({"cue": "x" * 300}, {}, "at most 256 bytes"),
        ({"answer_reserve": 0}, {}, "at least one token"),
        ({"num_ignore": 1}, {"max_tokens": 16}, "lower answer_reserve"),
        ({"num_ignore": 1}, {"presence_penalty": 0.5}, "presence_penalty"),
        ({"num_ignore": 1}, {"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"num_ignore": 1}, {"thinking_token_budget": 5}, "thinking_token_budget"),
    ],
)
def test_what_cannot_be_done_is_refused(extra, changes, message):
    from inference.vllm_processor import BudgetForcing

    with pytest.raises(ValueError, match=message):
        BudgetForcing.validate_params(params_of(extra, **changes))


def test_other_requests_are_none_of_its_business():
    from inference.vllm_processor import BudgetForcing

    BudgetForcing.validate_params(params_of(None, presence_penalty=0.5))
    BudgetForcing.validate_params(params_of({"kv_transfer_params": {}}, thinking_token_budget=3))


def test_steps_and_drafts_are_refused_when_vllm_starts(folder):  # noqa: F811
    import torch
    from processor_batches import BudgetForcing, vllm_config

    with pytest.raises(UserError, match="begins as a step does"):
        BudgetForcing(vllm_config(folder, 2, VOCAB, "steps"), torch.device("cpu"), False)
    config = vllm_config(folder, 2, VOCAB, "think-tags")
    config.speculative_config = object()
    with pytest.raises(ValueError, match="speculative"):
        BudgetForcing(config, object())


# vLLM itself


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A tiny model that ends thinking now and then, by its delimiter and by its end of turn, and names its profile."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path_factory.mktemp("tiny"), spare_ids=0, tie_word_embeddings=False)  # noqa: F811
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for text in ("</think>", "<|im_end|>"):
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(text)] *= 2.5
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"thinking_profile": "think-tags"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


CONTEXT = 256
QUESTIONS = ["How many legs do 3 spiders have?", "12 + 34 = ?", "Reverse: one, two, three", "Wait"]
BUDGETS = [
    {"max_thinking_tokens": n, "num_ignore": k, "min_thinking_tokens": m, "answer_reserve": 9, "ignore_text": text}
    for n, k, m in [(0, 0, 0), (7, 1, 0), (25, 0, 0), (25, 2, 0), (60, 3, 20), (60, 0, 40), ("auto", 2, 0)]
    for text in ("Wait", TEXT)
]


def loaded(folder, **changes):  # noqa: F811
    from vllm import LLM

    from inference.vllm_engine import quiet

    quiet()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    args = {"dtype": "float32", "max_model_len": CONTEXT, "max_num_seqs": 16, "enforce_eager": True, "block_size": 32,
            "kv_cache_memory_bytes": 1 << 24, "enable_chunked_prefill": False}  # fmt: skip
    return LLM(str(folder), logits_processors=[NAME], **args | changes)


def test_engine_and_processor_agree_at_temperature_0(model_folder):
    config = EngineConfig(backend="vllm", dtype="float32", max_model_len=CONTEXT, max_num_seqs=16)
    engine, tokenizer = load_engine(str(model_folder), config)
    chat = ChatFormat("think-tags", tokenizer)
    cells = {(q, i): chat.prompt_ids(q) for q in QUESTIONS for i in range(len(BUDGETS))}
    decodings = [
        (key, ForcedDecode(prompt, Budget(**BUDGETS[key[1]], max_answer_tokens=9), chat, CONTEXT))
        for key, prompt in cells.items()
    ]
    samples = {key: decoding.sample() for key, decoding in Driver(engine).run(decodings)}
    engine.close()
    assert {s.ended for s in samples.values()} >= {"natural", "budget"}
    assert sum(s.num_ignored for s in samples.values()) > 5 and sum(s.num_suppressed for s in samples.values()) > 5

    llm = loaded(model_folder)
    params = [params_of(BUDGETS[i], temperature=0, max_tokens=CONTEXT) for _, i in cells]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in cells.values()], params, use_tqdm=False)
    llm.llm_engine.engine_core.shutdown()
    for key, output in zip(cells, outputs, strict=True):
        expected = samples[key].token_ids
        assert tuple(output.outputs[0].token_ids[: len(expected)]) == expected, (key, BUDGETS[key[1]])


def test_interrupted_requests_of_a_real_engine(model_folder):
    """A cache for a third of the requests: vLLM interrupts some and begins them again. Thinking is the same."""
    chat = ChatFormat("think-tags", tiny_tokenizer())
    prompts = [{"prompt_token_ids": chat.prompt_ids(q)} for q in QUESTIONS * 3]
    extra = {"max_thinking_tokens": 120, "min_thinking_tokens": 120, "ignore_text": TEXT, "answer_reserve": 9}
    params = [
        params_of(extra | {"num_ignore": 3}, seed=derived_seed(i), max_tokens=150, top_p=0.95)
        for i in range(len(prompts))
    ]
    runs = []
    for num_blocks in (200, 21):
        llm = loaded(model_folder, num_gpu_blocks_override=num_blocks, disable_log_stats=False)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        interrupted = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
        assert (interrupted > 0) == (num_blocks == 21), interrupted
        runs.append([tuple(thinking(list(o.outputs[0].token_ids[:120]))) for o in outputs])
        llm.llm_engine.engine_core.shutdown()
    assert runs[0] == runs[1]
    text = tuple(chat.encode(TEXT))
    assert any(text == ids[i : i + len(text)] for ids in runs[0] for i in range(100))


def post(url: str, path: str, body: dict) -> tuple[int, dict]:
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory):
    """A plain vLLM server with the processor named on its command line; its address."""
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    with vllm_server(model_folder, log, CONTEXT, "--logits-processors", NAME) as url:
        yield url


def test_vllm_serve_forces_by_vllm_xargs(served):
    chat = ChatFormat("think-tags", tiny_tokenizer())
    xargs = {"max_thinking_tokens": 12, "min_thinking_tokens": 12, "answer_reserve": 8, "cue": "\nFinal Answer:"}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "12 + 34 = ?"}], "max_tokens": 40, "n": 3,
            "temperature": 1.0, "return_token_ids": True, "vllm_xargs": xargs}  # fmt: skip
    status, answer = post(served, "/v1/chat/completions", body)
    assert status == 200, answer
    start, close = chat.encode("<think>"), chat.close_ids(forced=True)
    for choice in answer["choices"]:
        ids = choice["token_ids"]
        assert ids[:1] == start, "this template does not open thinking, so the processor does"
        assert ids[13 : 13 + len(close)] in (close, chat.close_ids(True, thinking=chat.encode("\n")))
    assert len({tuple(choice["token_ids"]) for choice in answer["choices"]}) == 3

    status, answer = post(served, "/v1/chat/completions", body | {"vllm_xargs": {"num_ignore": -1}})
    assert status == 400 and "cannot be negative" in json.dumps(answer)
    status, answer = post(served, "/v1/chat/completions", body | {"vllm_xargs": None, "temperature": 0, "n": 1})
    assert status == 200 and answer["choices"][0]["token_ids"][:1] != start, "without a budget nothing is forced"
