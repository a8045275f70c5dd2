"""A running server as an engine: what it is asked, what comes back, how it may fail. Against a scripted server; that of
vLLM is driven in test_serve_front.py."""

import hashlib
import re
import time
from functools import cache, partial

import pytest
from text_server import KEY
from text_server import text_server as text_server_of
from tiny_model import weightless_model
from tiny_tokenizer import tiny_tokenizer

from core.chat import ChatFormat
from core.config import UserError
from inference.budget import Budget, ForcedDecode
from inference.checkpoint import load_tokenizer
from inference.engine import Driver, EngineConfig, Request, Sampling, load_engine
from inference.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.slow
CONTEXT = 200
FREE = Request((7, 8, 9), 6, frozenset())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    weightless_model(folder, vocab_size=len(tiny_tokenizer()) + 2)
    return folder


@pytest.fixture(scope="module")
def text_server(folder):
    """As it is loaded, by the kind of the model, the tokenizer is another one."""
    return partial(text_server_of, script, tokenizer=load_tokenizer(folder))


@cache
def stable_ids() -> list[int]:
    """Ids whose text is encoded as themselves, whatever stands beside it in another piece."""
    tokenizer = tiny_tokenizer()
    return [tokenizer.encode(letter)[0] for letter in "bcjkqxz.:;?"]


def script(text: str, seed: int | None) -> int:
    """Letters, and now and then an end: of thinking, or of the turn."""
    tokenizer = tiny_tokenizer()
    number = int.from_bytes(hashlib.blake2b(f"{text}|{seed}".encode(), digest_size=4).digest(), "little")
    answer = tokenizer.encode("answer")
    for i, id in enumerate(answer):  # the end of thinking, mostly
        if text.endswith("<|im_start|>" + tokenizer.decode(answer[:i])) and number % 5:
            return id
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


@pytest.mark.parametrize("retokenize", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 0.9)], ids=["temperature 0", "temperature 1"])
def test_forced_decoding_over_http_equals_that_without(folder, text_server, retokenize, sampling):
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

    with text_server(with_ids=not retokenize) as server:
        engine = load(folder, server, retokenize=retokenize, max_num_seqs=4)
        got, expected = samples(engine), samples(reference)
        engine.close()
    if retokenize and sampling.temperature == 0:
        assert all(isinstance(body["prompt"], str) and "stop_token_ids" not in body for body in server.bodies)
    assert got == expected
    assert {sample.ended for sample in got.values()} >= {"natural", "budget"}
    assert sum(sample.num_ignored for sample in got.values()) > 3


def test_what_is_asked_for(folder, text_server):
    with text_server(with_ids=True, models=[{"id": "tiny", "owned_by": "vllm"}]) as server:
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


def test_sglang_is_not_told_to_ignore_its_stops(folder, text_server):
    with text_server(with_ids=True, models=[{"id": "tiny", "owned_by": "sglang"}]) as server:
        engine = load(folder, server)
        run(engine, {0: Request((7, 8), 9, frozenset({300}))})
        run(engine, {0: Request((7, 8), 1, frozenset())})
        engine.close()
    assert [body["ignore_eos"] for body in server.bodies[-2:]] == [False, True]


def test_a_server_without_ids_needs_retokenize(folder, text_server):
    with text_server() as server:
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
def test_a_request_that_fails_says_why_and_no_key(folder, text_server, monkeypatch, retokenize, fault, said):
    monkeypatch.setenv("FRONT_KEY", KEY)
    with text_server(with_ids=not retokenize, wants_key=True) as server:
        engine = load(folder, server, retokenize=retokenize, api_key_env="FRONT_KEY")
        server.fault = fault
        error = error_of(engine)
        server.fault = None
        assert run(engine, {0: FREE})[0][-1].finish_reason != "error", "the next one works"
        engine.close()
    assert KEY not in error
    assert re.search(said, error), error


def test_a_server_that_has_gone_fails_each_request(folder, text_server):
    with text_server(with_ids=True) as server:
        engine = load(folder, server)
    assert "connection lost" in error_of(engine), "on the connection that was kept"
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
def test_what_cannot_work_is_said_in_one_line_at_the_start(folder, text_server, how, changes, said):
    with text_server(with_ids=True, **how) as server, pytest.raises(UserError, match=said) as error:
        load(folder, server, **changes)
    assert "\n" not in str(error.value)


def test_an_address_that_is_wrong(folder, text_server):
    with text_server() as server:
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


def test_cancelling_hangs_up(folder, text_server):
    with text_server(with_ids=True) as server:
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


def test_fingerprints_are_equal_only_where_somebody_vouches(folder, text_server):
    with text_server(with_ids=True) as server:
        engines = [load(folder, server, revision=revision) for revision in (None, None, "v1", "v1", "v2")]
        prints = [engine.fingerprint for engine in engines]
        for engine in engines:
            engine.close()
    assert prints[2] == prints[3] and len(set(prints)) == 4
