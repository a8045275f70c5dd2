"""The law of the vLLM processor, through vLLM's own sampler: at temperature 1 a sampled end of thinking becomes "Wait"
and nothing else changes; at temperature 0 it follows inference.budget token for token. Both interfaces."""

import random
from itertools import product

import numpy as np
import pytest
from tiny_model import weightless_model
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from inference.budget import Budget, ForcedDecode
from inference.engine import Driver
from inference.scripted_engine import ScriptedEngine

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow

NUM_DRAWS = 20_000
LONG = "Wait, let me check."
VOCAB = 400  # some ids more than the tokenizer has
FILTERS = [
    {},
    {"temperature": 0.6},
    {"top_p": 0.7},
    {"top_k": 4},
    {"min_p": 0.2},
    {"temperature": 1.3, "top_k": 6, "top_p": 0.8, "min_p": 0.05},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    weightless_model(folder)
    return folder


def params_of(extra_args, seed=None, **changes):
    from vllm import SamplingParams

    changes = {"max_tokens": 3000, "temperature": 1.0} | changes
    return SamplingParams(seed=seed, extra_args=extra_args, **changes)


def batches():
    from processor_batches import V1Batch, V2Batch

    return {"V1": V1Batch, "V2": V2Batch}


def distribution(chat) -> np.ndarray:
    """A row of logits: the end of thinking is likely, Wait and an end of turn are possible, padding is not nothing."""
    logits = np.full(VOCAB, -30.0)
    wait, end, turn_end = chat.encode("Wait")[0], chat.ends[0][0], chat.tokenizer.eos_token_id
    for token, p in ((end, 0.34), (wait, 0.11), (turn_end, 0.05), (50, 0.21), (60, 0.13), (70, 0.09), (80, 0.07)):
        logits[token] = np.log(p)
    return logits


def filtered(logits, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0) -> np.ndarray:
    """What the sampler draws from, worked out once more: temperature, min-p, top-k, top-p."""
    p = np.exp(logits / temperature - np.max(logits / temperature))
    p /= p.sum()
    p = np.where(p < min_p * p.max(), 0, p)
    order = np.argsort(-p)
    p[order[top_k or len(p) :]] = 0
    p /= p.sum()
    beyond = np.cumsum(p[order]) - p[order] >= top_p  # what comes before already makes up top_p
    p[order[beyond]] = 0
    return p / p.sum()


def expected_pairs(chat, logits, ignore_ids, filters) -> dict:
    """P(first, second token) while ends are ignored: the end's probability goes to the ignore text, whole."""
    ends = sorted(chat.stop_token_ids)
    p = filtered(logits, **filters)
    masked = logits.copy()
    masked[ends] = -np.inf
    no_end = filtered(masked, **filters)  # what follows an ignore text of one token
    moved = p.copy()
    moved[ends] = 0
    end = p[ends].sum()
    then = moved.copy()
    then[ignore_ids[0]] += end  # the second token may be a (second) end as well
    pairs = {(a, b): moved[a] * then[b] for a in np.flatnonzero(moved) for b in np.flatnonzero(then)}
    after = {ignore_ids[1]: 1.0} if len(ignore_ids) > 1 else dict(enumerate(no_end))
    for b, probability in after.items():
        if probability:
            pairs[ignore_ids[0], b] = pairs.get((ignore_ids[0], b), 0) + end * probability
    return pairs


def p_value(outputs, expected: dict) -> float:
    """Chi-square of the first two tokens, cells that expect fewer than 5 draws put together."""
    from scipy.stats import chisquare

    counts = dict.fromkeys(expected, 0)
    for a, b, *_ in outputs:
        counts[a, b] = counts.get((a, b), 0) + 1
    if any(pair not in expected for pair in counts):
        return 0.0  # drawn, and cannot be
    total = len(outputs)
    large = [pair for pair in expected if expected[pair] * total >= 5]
    observed, wanted = [counts[pair] for pair in large], [expected[pair] * total for pair in large]
    rest = total - sum(wanted)
    if rest > 1e-6 * total:
        observed, wanted = [*observed, total - sum(observed)], [*wanted, rest]
    return chisquare(observed, wanted, sum_check=False).pvalue if len(wanted) > 1 else float(observed == wanted)


def drawn(folder, interface, chat, extra_args, filters, processor_class=None, num_tokens=2):
    import torch
    from processor_batches import BudgetForcing, vllm_config

    config = vllm_config(folder, NUM_DRAWS, VOCAB, chat.name, max_model_len=512 if interface == "V2" else 4096)
    params = [params_of(extra_args, seed=i, max_tokens=400, **filters) for i in range(NUM_DRAWS)]
    batch = batches()[interface](config, params, chat.prompt_ids("?"), processor_class or BudgetForcing)
    logits = torch.tensor(distribution(chat), dtype=torch.float32).expand(NUM_DRAWS, VOCAB)
    torch.manual_seed(0)
    for _ in range(num_tokens):
        batch.sample(logits)
    return batch.outputs


FORCED = {"num_ignore": 2, "answer_reserve": 8}


@pytest.mark.parametrize("interface, text", [("V1", "Wait"), ("V1", LONG), ("V2", LONG)])
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_a_sampled_end_becomes_the_ignore_text_and_nothing_else_changes(folder, interface, text, filters):
    chat = ChatFormat("think-tags", tiny_tokenizer())
    ignore_ids = chat.encode(text)
    expected = expected_pairs(chat, distribution(chat), ignore_ids, filters)
    assert sum(expected.values()) == pytest.approx(1)
    outputs = drawn(folder, interface, chat, FORCED | {"ignore_text": text}, filters)
    assert p_value(outputs, expected) > 1e-3


def naive_processor(name):
    """What is often written instead. Both ignore every end."""
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessor

    chat = ChatFormat("think-tags", tiny_tokenizer())
    ends, wait = torch.tensor(sorted(chat.stop_token_ids)), chat.encode("Wait")[0]

    class Naive(LogitsProcessor):
        def __init__(self, *_):
            pass

        def is_argmax_invariant(self):
            return False

        def update_state(self, batch_update):
            pass

        def apply(self, logits):
            if name == "mass moved":
                both = torch.cat((logits[:, ends], logits[:, wait, None]), dim=1).logsumexp(dim=1)
                logits[:, ends] = -torch.inf
                logits[:, wait] = both
            else:
                likely = torch.isin(logits.argmax(dim=1), ends)
                logits[likely] = -torch.inf
                logits[likely, wait] = 0
                logits[:, ends] = -torch.inf
            return logits

    return Naive


@pytest.mark.parametrize("name", ["mass moved", "most likely"])
def test_the_usual_ways_are_rejected_by_the_same_test(folder, name):
    """Moving the end's probability to Wait is right for one token without truncation, and wrong under top-p."""
    chat = ChatFormat("think-tags", tiny_tokenizer())
    values = {}
    for filters in ({}, {"top_p": 0.7}, {"top_k": 4}):
        outputs = drawn(folder, "V1", chat, FORCED, filters, naive_processor(name), num_tokens=1)
        firsts: dict = {}
        for (a, _), probability in expected_pairs(chat, distribution(chat), chat.encode("Wait"), filters).items():
            firsts[a, 0] = firsts.get((a, 0), 0) + probability
        values[str(filters)] = p_value([(*o, 0) for o in outputs], firsts)
    assert values["{'top_p': 0.7}"] < 1e-6 and values["{'top_k': 4}"] < 1e-6
    assert (values["{}"] > 1e-3) == (name == "mass moved")


# the rules, token for token, against inference.budget


def random_script(seed: int, chat: ChatFormat):
    """A model that ends thinking now and then in every way it can; a delimiter that it begins, it finishes."""
    words = [*chat.encode("So 3 * 8 = 24.\n"), *chat.encode("Wait"), *chat.encode("\n")]

    def script(prefix, _):
        rng = random.Random(f"{seed} {prefix}")
        for end in chat.ends:
            for num in range(1, len(end)):
                if prefix[-num:] == end[:num]:
                    return end[num]
        return rng.choice(sorted(chat.stop_token_ids)) if rng.random() < 0.12 else rng.choice(words)

    return script


def reference(chat, budget, script, prompt, max_model_len, filler) -> tuple[int, ...]:
    engine = ScriptedEngine(script, max_model_len, chat.num_token_ids, filler=filler)
    forced = ForcedDecode(prompt, budget, chat, max_model_len)
    list(Driver(engine).run([(0, forced)]))
    sample = forced.sample()
    assert sample.error is None
    return sample.token_ids, sample


def greedy_logits(script, prefixes, filler):
    import torch

    logits = torch.zeros(len(prefixes), VOCAB)
    logits[:, filler] = 1.0  # what is taken where an end is masked
    for row, prefix in enumerate(prefixes):
        logits[row, script(tuple(prefix), None)] = 2.0
    logits[:, -1] = 3.0  # an id without text, which is never sampled while thinking
    return logits


CASES = list(product(("think-tags", "s1", "plain"), range(12), ("Wait", "\nWait!\n")))


@pytest.mark.parametrize("interface", ["V1", "V2"])
def test_greedy_it_follows_the_state_machine_token_for_token(folder, interface):
    from processor_batches import vllm_config

    seen = set()
    for profile, seed, text in CASES:
        rng = random.Random(f"{profile} {seed} {text}")
        chat = ChatFormat(profile, tiny_tokenizer())
        script, filler = random_script(seed, chat), chat.encode("a")[0]
        options = {
            "max_thinking_tokens": rng.choice(["auto", 0, 1, 2, 7, 20, 60]),
            "min_thinking_tokens": rng.choice([0, 0, 5, 30]),
            "num_ignore": rng.choice([0, 1, 3]),
            "ignore_text": text,
            "cue": rng.choice(["\nFinal Answer:", "So"]),
            "answer_reserve": rng.choice([4, 9]),
        }
        prompt = chat.prompt_ids("How many legs?")
        if rng.random() < 0.3 and profile != "plain":  # the template has not opened thinking
            prompt = prompt[: -len(chat.encode(chat.profile.start))]
        opened = tuple(chat.prompt_ids("How many legs?"))
        context = len(opened) + rng.choice([40, 90, 200])
        budget = Budget(**options, max_answer_tokens=1000)
        expected, sample = reference(chat, budget, script, opened, context, filler)
        expected = opened[len(prompt) :] + expected
        seen |= {sample.ended, f"ignored {min(sample.num_ignored, 2)}", f"suppressed {min(sample.num_suppressed, 1)}"}

        config = vllm_config(folder, 3, VOCAB, profile, context)
        batch = batches()[interface](config, [params_of(options, temperature=0, max_tokens=1000)], prompt)
        while len(batch.outputs[0]) < len(expected):
            prefix = [*prompt, *batch.outputs[0]]
            logits = greedy_logits(script, [prefix], filler)
            if len(batch.outputs[0]) >= len(expected) - len(sample.ids("answer", "sampled")):
                logits[:, -1] = 0  # vLLM's own business in the answer
            batch.sample(logits)
        assert tuple(batch.outputs[0]) == expected, (profile, seed, options)
    assert seen == {"natural", "budget", "context", *(f"ignored {i}" for i in range(3)), "suppressed 0", "suppressed 1"}
