"""From bodies of requests to budgets and decodings, and what is refused. No server, no engine."""

import json
import re

import pytest
from family_tokenizers import family_tokenizer
from running_server import CONTEXT, SlowEngine, chat_format

pytest.importorskip("pydantic")
from pydantic import ValidationError  # noqa: E402

from core.chat import ChatFormat  # noqa: E402
from core.config import UserError  # noqa: E402
from inference.api import ApiError, ChatRequest, CompletionRequest, refusal_of  # noqa: E402
from inference.engine import EngineConfig  # noqa: E402
from inference.serve_config import ServeConfig, check  # noqa: E402
from inference.served_model import ServedModel  # noqa: E402

MESSAGES = [{"role": "user", "content": "12 + 34 = ?"}]


def model(profile: str = "s1", **config) -> ServedModel:
    return ServedModel("tiny", chat_format(profile), SlowEngine(), ServeConfig(model="tiny", **config))


def work(served: ServedModel | None = None, **fields):
    return (served or model()).work(ChatRequest(messages=MESSAGES, **fields))


def budget(served: ServedModel | None = None, **fields):
    return work(served, **fields).decodings[0]._budget


def refusal(schema=ChatRequest, **fields) -> ApiError:
    with pytest.raises(ValidationError) as error:
        schema.model_validate({"messages": MESSAGES} | fields if schema is ChatRequest else fields)
    return refusal_of(error.value.errors(), schema)


def test_what_a_request_does_not_say_is_the_servers():
    asked = budget(model(max_thinking_tokens=50, ignore_text="Hm", cue="\nSo:", max_answer_tokens=30))
    assert (asked.max_thinking_tokens, asked.ignore_text, asked.cue) == (50, "Hm", "\nSo:")
    assert (asked.max_answer_tokens, asked.answer_reserve) == (30, 30)
    assert (asked.num_ignore, asked.min_thinking_tokens) == (0, 0)


def test_fields_win_over_effort_and_effort_over_the_server():
    served = model(max_thinking_tokens=50, efforts={"low": {"max_thinking_tokens": 20, "num_ignore": 1}})
    assert budget(served).max_thinking_tokens == 50
    low = budget(served, reasoning_effort="low")
    assert (low.max_thinking_tokens, low.num_ignore) == (20, 1)
    mixed = budget(served, reasoning_effort="low", num_ignore=0, thinking_token_budget=7)
    assert (mixed.max_thinking_tokens, mixed.num_ignore) == (7, 0)
    with pytest.raises(ApiError, match="'high' is unknown; known: low"):
        budget(served, reasoning_effort="high")
    with pytest.raises(ApiError, match="send one"):
        budget(max_thinking_tokens=5, thinking_token_budget=6)


def test_an_answer_without_a_limit_has_a_reserve_that_fits():
    roomy = budget(model(answer_reserve=40))
    assert (roomy.max_thinking_tokens, roomy.answer_reserve, roomy.max_answer_tokens) == ("auto", 40, CONTEXT)
    assert budget(model(answer_reserve=40), max_answer_tokens=90).answer_reserve == 90
    num_close = len(chat_format().close_ids(True))
    small = work(model(answer_reserve=40), max_tokens=num_close + 20)
    assert small.decodings[0]._budget.answer_reserve == 10
    assert small.decodings[0]._room() == 10 and small.cut_by_max_tokens == [True]


def test_the_servers_limit_on_thinking_holds_for_auto_and_refuses_more():
    served = model(max_thinking_limit=30)
    assert budget(served).max_thinking_tokens == 30
    assert budget(served, max_thinking_tokens="auto").max_thinking_tokens == 30
    assert budget(served, max_thinking_tokens=8).max_thinking_tokens == 8
    with pytest.raises(ApiError, match="at most 30"):
        budget(served, max_thinking_tokens=31)


def test_a_plain_model_thinks_only_when_asked():
    served = model("plain")
    assert work(served).decodings[0].phase == "answer" and not work(served).thinks
    for fields in ({"max_thinking_tokens": 9}, {"num_ignore": 1}, {"min_thinking_tokens": 5}):
        assert work(served, **fields).decodings[0].phase == "thinking"
    assert work(served, max_tokens=1).decodings[0]._budget.answer_reserve == 1


def test_a_chat_whose_template_closes_thinking_is_answered_at_once():
    tokenizer = family_tokenizer("Qwen3")
    engine = SlowEngine()
    engine.num_token_ids = len(tokenizer)
    config = ServeConfig(model="tiny", max_thinking_tokens=9, max_answer_tokens=50)  # defaults of the server
    served = ServedModel("tiny", ChatFormat("think-tags", tokenizer), engine, config)
    question = "<|im_start|>user\n12 + 34 = ?<|im_end|>\n<|im_start|>assistant\n"
    for switch, end, phase in [(False, "<think>\n\n</think>\n\n", "answer"), (True, "<think>", "thinking")]:
        asked = work(served, chat_template_kwargs={"enable_thinking": switch}, max_answer_tokens=20)
        [decoding] = asked.decodings
        assert tokenizer.decode(decoding._ids) == question + end
        assert (decoding.phase, asked.thinks, decoding._budget.max_answer_tokens) == (phase, switch, 20)
    for field, value in {"num_ignore": 1, "max_thinking_tokens": 5, "reasoning_effort": "low"}.items():
        with pytest.raises(ApiError, match=f"{field}: chat_template_kwargs switch thinking off"):
            work(served, chat_template_kwargs={"enable_thinking": False}, **{field: value})
    for name in ("enable_thinkin", "messages", "chat_template", "bos_token", "content", "tokenize", "x" * 500):
        with pytest.raises(ApiError, match="reads no .*; it reads enable_thinking") as error:
            work(served, chat_template_kwargs={name: "x"})
        assert error.value.param == "chat_template_kwargs" and len(error.value.message) < 250
    with pytest.raises(ApiError, match="it reads nothing of that kind"):
        work(chat_template_kwargs={"enable_thinking": False})


def test_a_refusal_says_what_to_do_instead():
    for field, value, way_out in [
        ("min_tokens", 5, "min_thinking_tokens .*; leave it out, or send 0"),
        ("response_format", {"type": "json_object"}, 'in the messages; leave it out, or send {"type": "text"}'),
        ("logprobs", True, "leave it out, or send false"),
    ]:
        with pytest.raises(ApiError) as error:
            work(**{field: value})
        assert re.fullmatch(f"{field} is not supported here; .*{way_out}", error.value.message)
    assert refusal(enable_thinking=False).message.endswith("send it inside chat_template_kwargs")


def test_samples_have_seeds_of_their_own():
    seeds = [d._seed for d in work(n=3, seed=5).decodings]
    assert len(set(seeds)) == 3 and seeds == [d._seed for d in work(n=3, seed=5).decodings]
    assert work().decodings[0]._seed != work().decodings[0]._seed, "without a seed, at random"


def test_sampling_is_the_servers_where_nothing_is_said():
    sampling = work(temperature=0.5, top_k=10**12).decodings[0]._sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 1.0, SlowEngine().num_token_ids)
    assert work(top_k=-1).decodings[0]._sampling.top_k == 0


def test_messages_reach_the_template_as_text():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    [decoding] = model().work(ChatRequest(messages=messages)).decodings
    plain = [("system", "Be brief."), ("user", "Hi"), ("assistant", ""), ("tool", "3")]
    assert decoding._ids == chat_format().chat_ids([{"role": role, "content": text} for role, text in plain])


@pytest.mark.parametrize("fields", [{"logprobs": 0}, {"echo": True}, {"best_of": 2}, {"suffix": "x"}], ids=str)
def test_of_a_completion_too_what_cannot_be_done_is_refused(fields):
    with pytest.raises(ApiError) as error:
        model().work(CompletionRequest(prompt="a", **fields))
    assert error.value.param in fields


def test_prompts_and_samples_are_limited_together():
    served = model(max_n=4)
    assert len(served.work(CompletionRequest(prompt=["a", "b"], n=2)).decodings) == 4
    with pytest.raises(ApiError, match="at most 4"):
        served.work(CompletionRequest(prompt=["a", "b", "c"], n=2))


def test_an_error_names_the_field_and_quotes_nothing():
    assert refusal(temperature=float("nan")).param == "temperature"
    assert refusal(messages=[{"role": "user", "content": 5}]).param == "messages[0].content"
    assert refusal(messages=[{"role": "pirate", "content": "x"}]).param == "messages[0].role"
    assert refusal(max_tokens="5").param == refusal(max_tokens=True).param == "max_tokens"
    assert refusal(stream_options={"include_usag": True}).message.endswith("did you mean 'include_usage'?")
    secret = refusal(stop={"secret": 1}, **{"s" * 10_000: 1})
    assert "secret" not in json.dumps(secret.body) and len(secret.message) < 200
    million = refusal(CompletionRequest, prompt=[0.5] * 1_000_000)
    assert million.param == "prompt"


def test_a_config_that_could_only_fail_later_is_refused():
    for config, says in [
        (ServeConfig(model="x", host="0.0.0.0"), "api_keys_env"),
        (ServeConfig(model="x", efforts={"low": {"max_thinking": 5}}), "efforts.low: unknown key"),
        (ServeConfig(model="x", efforts={"low": {"max_thinking_tokens": -5}}), "efforts.low: max_thinking_tokens"),
        (ServeConfig(model="x", max_thinking_tokens="much"), "max_thinking_tokens"),
        (ServeConfig(model="x", max_queue=0, engine=EngineConfig(max_num_seqs=4)), "max_n"),
    ]:
        with pytest.raises(UserError, match=says):
            check(config)
    check(ServeConfig(model="x", host="0.0.0.0", insecure=True))
