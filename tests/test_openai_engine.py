"""A running server as an engine: what it is asked, what comes back, how it may fail. Against a scripted server; that of
vLLM is driven in test_serve_front.py."""

import asyncio
import copy
import hashlib
import re
import time
from functools import cache

import pytest
from text_server import KEY, text_server
from tiny_model import weightless_model
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from core.config import UserError
from inference.budget import Budget, ForcedDecode
from inference.completions_client import ServerFailed
from inference.completions_text import TextCompletions, _split
from inference.engine import Delta, Driver, EngineConfig, Request, Sampling, load_engine
from inference.scripted_engine import ScriptedEngine

CONTEXT = 200
FREE = Request((7, 8, 9), 6, frozenset())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    weightless_model(folder, vocab_size=len(tiny_tokenizer()) + 2)
    return folder


@cache
def stable_ids() -> list[int]:
    """Ids whose text is encoded as themselves, whatever stands beside it in another piece."""
    tokenizer = tiny_tokenizer()
    letters = [tokenizer.encode(letter)[0] for letter in "bcjkqxz.:;?"]
    return letters + tokenizer.encode("answer", add_special_tokens=False)


def script(text: str, seed: int | None) -> int:
    """Letters, and now and then an end: of thinking, or of the turn."""
    tokenizer = tiny_tokenizer()
    number = int.from_bytes(hashlib.blake2b(f"{text}|{seed}".encode(), digest_size=4).digest(), "little")
    if text.endswith("<|im_start|>") and number % 3:
        return stable_ids()[-1]
    if number % 9 == 0:
        return tokenizer.convert_tokens_to_ids(("<|im_start|>", "<|im_end|>")[number % 2])
    return stable_ids()[number % len(stable_ids())]


def load(folder, server, **changes):
    return load_engine(str(folder), EngineConfig(base_url=server.url, max_model_len=CONTEXT, **changes))[0]


def run(engine, requests: dict) -> dict:
    """{key: its Deltas}."""
    for key, request in requests.items():
        engine.submit(key, request)
    got: dict = {key: [] for key in requests}
    deadline = time.monotonic() + 10
    while not all(deltas and deltas[-1].finish_reason for deltas in got.values()):
        assert time.monotonic() < deadline, got
        for key, delta in engine.step():
            got[key].append(delta)
    return got


def error_of(engine, request: Request = FREE) -> str:
    *_, last = run(engine, {0: request})[0]
    assert last.finish_reason == "error"
    return last.error


BUDGETS = [
    Budget(30, num_ignore=2, max_answer_tokens=9),
    Budget(12, cue="", max_answer_tokens=3),
    Budget(0, max_answer_tokens=5),
    Budget(25, min_thinking_tokens=25, ignore_text="", max_answer_tokens=6),
    Budget("auto", num_ignore=5, ignore_text="b", max_answer_tokens=20),
]


@pytest.mark.slow
@pytest.mark.parametrize("retokenize", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 0.9)], ids=["temperature 0", "temperature 1"])
def test_forced_decoding_over_http_equals_that_without(folder, retokenize, sampling):
    """Both ways give the ids that an engine of this process gives; with text, where each id is its text's encoding."""
    tokenizer = tiny_tokenizer()
    chat = ChatFormat("s1", tokenizer)
    reference = ScriptedEngine(lambda prefix, seed: script(tokenizer.decode(prefix), seed), CONTEXT)

    def samples(engine):
        prompts = {q: chat.prompt_ids(q) for q in ("b", "c?", "x;")}
        decodings = [
            ((q, i), ForcedDecode(prompts[q], budget, chat, CONTEXT, sampling, 5))
            for q in prompts
            for i, budget in enumerate(BUDGETS)
        ]
        return {key: decoding.sample() for key, decoding in Driver(engine).run(decodings)}

    with text_server(script, with_ids=not retokenize) as server:
        engine = load(folder, server, retokenize=retokenize, max_num_seqs=4)
        got, expected = samples(engine), samples(reference)
        engine.close()
    if retokenize and sampling.temperature == 0:
        assert all(isinstance(body["prompt"], str) and "stop_token_ids" not in body for body in server.bodies)
    assert got == expected
    assert {sample.ended for sample in got.values()} >= {"natural", "budget"}
    assert sum(sample.num_ignored for sample in got.values()) > 3


def test_what_is_asked_for(folder):
    with text_server(script, with_ids=True, models=[{"id": "tiny", "owned_by": "vllm"}]) as server:
        engine = load(folder, server, options={"stream_interval": 4})
        request = Request((7, 8), 9, frozenset({300, 5}), 2, Sampling(0.7, 0.9, 40, 0.05), 11)
        run(engine, {0: request, 1: Request((7,), 2, frozenset())})
        engine.close()
    asked, plain = sorted(server.bodies[-2:], key=lambda body: -body["max_tokens"])
    ours = {"prompt": [7, 8], "max_tokens": 9, "stop_token_ids": [5, 300], "min_tokens": 2, "temperature": 0.7,
            "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 11, "stream_interval": 4}  # fmt: skip
    assert asked.items() >= (ours | {"repetition_penalty": 1.0}).items()
    assert asked["ignore_eos"] is True and asked["return_token_ids"] is True and asked["skip_special_tokens"] is False
    size = len(tiny_tokenizer())
    assert asked["logit_bias"] == {str(size): -100, str(size + 1): -100}, "ids without text"
    assert "seed" not in plain and plain["top_k"] == -1


def test_sglang_is_not_told_to_ignore_its_stops(folder):
    with text_server(script, with_ids=True, models=[{"id": "tiny", "owned_by": "sglang"}]) as server:
        engine = load(folder, server)
        run(engine, {0: Request((7, 8), 9, frozenset({300}))})
        run(engine, {0: Request((7, 8), 1, frozenset())})
        engine.close()
    assert [body["ignore_eos"] for body in server.bodies[-2:]] == [False, True]


def test_a_server_without_ids_needs_retokenize(folder):
    with text_server(script) as server:
        with pytest.raises(UserError, match="returns no token ids .*engine.retokenize=true"):
            load(folder, server)
        engine = load(folder, server, retokenize=True)
        assert engine.retokenizes
        with pytest.raises(UserError, match="no log-probabilities"):
            engine.submit(0, Request((7,), 1, frozenset(), logprobs=True))
        engine.close()


@pytest.mark.parametrize("retokenize", [False, True])
@pytest.mark.parametrize(
    "fault, said",
    [
        (401, "HTTP 401"), (404, "HTTP 404"), (400, "HTTP 400: status 400"), (500, "HTTP 500"),
        ("die", "connection lost"), ("end", "the stream ended before the answer did"),
        (b"{", "malformed chunk: {"), (b'{"choices": [7]}', "malformed chunk"), (b"[]", "malformed chunk"),
        (b'{"choices": [{"text": 3, "token_ids": "x"}]}', "malformed chunk"),
        (b'{"error": {"message": "engine died, ' + KEY.encode() + b'"}}', "engine died, \\[key\\]"),
    ],
)  # fmt: skip
def test_a_request_that_fails_says_why_and_no_key(folder, monkeypatch, retokenize, fault, said):
    monkeypatch.setenv("FRONT_KEY", KEY)
    with text_server(script, with_ids=not retokenize, wants_key=True) as server:
        engine = load(folder, server, retokenize=retokenize, api_key_env="FRONT_KEY")
        server.fault = fault
        error = error_of(engine)
        server.fault = None
        assert run(engine, {0: FREE})[0][-1].finish_reason != "error", "the next one works"
        engine.close()
    assert KEY not in error
    assert re.search(said, error), error


def test_a_server_that_has_gone_fails_each_request(folder):
    with text_server(script, with_ids=True) as server:
        engine = load(folder, server)
    assert "no connection" in error_of(engine)
    engine.close()


@pytest.mark.parametrize(
    "how, changes, said",
    [
        ({"wants_key": True}, {}, "HTTP 401.*engine.api_key_env"),
        ({"models": []}, {}, "served_model_name=None"),
        ({"models": [{"id": "a"}, {"id": "b"}]}, {}, "the server's models are: a, b"),
        ({}, {"served_model_name": "other"}, "served_model_name=other: the server's models are: tiny"),
        ({"models": [{"id": "tiny", "max_model_len": 128}]}, {}, "max_model_len=200 exceeds the context there.* 128"),
        ({}, {"dtype": "float32"}, "engine.dtype is decided where the server was started"),
        ({}, {"options": {"seed": 3, "prompt": "x"}}, "engine.options: 'prompt' is not passed on"),
        ({}, {"backend": "vllm"}, "engine.base_url is for engine.backend=openai"),
        ({}, {"api_key_env": "sk-my-key"}, "takes the name of an environment variable"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_in_one_line_at_the_start(folder, how, changes, said):
    with text_server(script, with_ids=True, **how) as server, pytest.raises(UserError, match=said) as error:
        load(folder, server, **changes)
    assert "\n" not in str(error.value)


def test_an_address_that_is_wrong(folder, monkeypatch):
    with text_server(script) as server:
        for url, said in {
            server.url.removesuffix("/v1"): "HTTP 404.*usually ends in /v1",
            "http://127.0.0.1:9/v1": "engine.base_url=http://127.0.0.1:9/v1: no connection",
            "http://me:secret@host/v1": "engine.base_url holds credentials",
            "host:8000": "no http",
        }.items():
            with pytest.raises(UserError, match=said) as error:
                load_engine(str(folder), EngineConfig(backend="openai", base_url=url))
            assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="engine.backend=openai needs engine.base_url"):
        load_engine(str(folder), EngineConfig(backend="openai"))


def test_cancelling_hangs_up(folder):
    with text_server(script, with_ids=True) as server:
        engine = load(folder, server, max_num_seqs=1)
        server.fault = "hang"
        for key in "ab":  # one is asked, one waits
            engine.submit(key, FREE)
        while not engine.step():
            pass
        engine.cancel("b")
        engine.cancel("a")
        assert engine.step() == []
        server.fault = None
        assert run(engine, {"a": FREE})["a"][-1].finish_reason == "length", "place and key are free again"
        engine.submit("c", FREE)
        engine.close()  # with one in flight


def test_fingerprints_are_equal_only_where_somebody_vouches(folder):
    with text_server(script, with_ids=True) as server:
        engines = [load(folder, server, revision=revision) for revision in (None, None, "v1", "v1", "v2")]
        prints = [engine.fingerprint for engine in engines]
        for engine in engines:
            engine.close()
    assert prints[2] == prints[3] and len(set(prints)) == 4


@pytest.mark.parametrize(
    "text, is_last, expected",
    [
        ("abc", False, ("abc", None, "")),
        ("abc<|im", False, ("abc", None, "<|im")),
        ("abc<|im", True, ("abc<|im", None, "")),
        ("a<|im_end|>b<x>", False, ("a", 2, "")),
        ("a<x><|im_end|>", False, ("a", 7, "")),
        ("<|<|im_end|", False, ("<|", None, "<|im_end|")),
    ],
)
def test_a_stop_is_found_in_text_as_it_comes(text, is_last, expected):
    assert _split(text, {"<|im_end|>": 2, "<x>": 7}, is_last) == expected


class Saying:
    """Stands in for a CompletionsClient: a list of (text, finish_reason) for each call."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def choices(self, fields):
        self.asked.append(fields)
        for text, reason in self.answers.pop(0):
            yield {"text": text, "finish_reason": reason}


def said(client, request: Request, tokenizer=None) -> list[Delta]:
    async def collect():
        return [delta async for delta in TextCompletions(tokenizer or tiny_tokenizer(), client).deltas(request)]

    return asyncio.run(collect())


def test_a_text_that_is_fewer_ids_than_the_server_sampled_is_gone_on_with():
    answer = tiny_tokenizer().encode("answer")[0]
    client = Saying([("", None), ("answer", "length")], [("answer", None), ("answer", "length")])
    deltas = said(client, Request((7,), 3, frozenset({2})))
    assert deltas == [Delta((answer,)), Delta((answer,)), Delta((answer,), "length")]
    assert [fields["max_tokens"] for fields in client.asked] == [3, 2]
    assert client.asked[1]["prompt"] == client.asked[0]["prompt"] + "answer"


def test_a_text_that_is_more_ids_than_the_server_sampled_is_cut():
    deltas = said(Saying([("bcj", None), ("kqx", "length")]), Request((7,), 4, frozenset({2})))
    assert [len(delta.token_ids) for delta in deltas] == [3, 1] and deltas[-1].finish_reason == "length"


def test_the_first_tokens_are_asked_apart_where_no_stop_may_come():
    client = Saying([("b", "length")], [("c", None), ("", "stop")])
    deltas = said(client, Request((7,), 9, frozenset({2, 1}), min_tokens=1))
    assert [delta.finish_reason for delta in deltas] == [None, None, "stop"] and deltas[-1].token_ids == (2,)
    assert [fields["max_tokens"] for fields in client.asked] == [1, 8]
    assert client.asked[0]["logit_bias"] == {"1": -100, "2": -100} and "logit_bias" not in client.asked[1]
    with pytest.raises(ServerFailed, match="although logit_bias"):
        said(Saying([("", "stop")]), Request((7,), 9, frozenset({2}), min_tokens=1))


def test_a_start_of_text_that_the_server_writes_itself_is_not_sent():
    from tokenizers.processors import TemplateProcessing

    tokenizer, client = copy.deepcopy(tiny_tokenizer()), Saying([("b", "length")], [("b", "length")])
    said(client, Request((0, 7), 1, frozenset({2})), tokenizer)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|endoftext|> $A", None, [("<|endoftext|>", 0)])
    said(client, Request((0, 7), 1, frozenset({2})), tokenizer)
    assert client.asked[0]["prompt"] == "<|endoftext|>" + client.asked[1]["prompt"]


def test_an_answer_whose_tokens_have_no_text_is_an_error():
    with pytest.raises(ServerFailed, match="the answer has no text"):
        said(Saying([("", None), ("", "length")]), Request((7,), 2, frozenset({2})))
