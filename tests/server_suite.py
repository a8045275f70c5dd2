"""What every server has to do, seen through the real OpenAI client; for any backend.

A test file takes these tests over with `from server_suite import *` and gives a fixture `served`.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest

from core.chat import ChatFormat
from inference.budget import Budget
from inference.engine import Driver, Engine
from inference.stream import StreamedDecode

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many legs do 3 spiders have?"}]
BUDGETS = [
    {"max_thinking_tokens": 12},
    {"max_thinking_tokens": 0},
    {"max_thinking_tokens": 40, "num_ignore": 2},
    {"max_thinking_tokens": 30, "min_thinking_tokens": 30, "ignore_text": "\nWait!\n", "cue": "\nAnswer:"},
]
ANSWER = {"max_answer_tokens": 24}


@dataclass
class Served:
    """A running server. url: without /v1. chat: the format it uses. reference: the same decoding without a server."""

    url: str
    model: str
    chat: ChatFormat
    context: int
    reference: Callable[[StreamedDecode], StreamedDecode]
    key: str = "none"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    def ask(self, messages: Sequence[Any] = MESSAGES, extra: dict | None = None, **options):
        """A whole answer. extra: fields that OpenAI does not have."""
        return self.client.chat.completions.create(
            model=self.model, messages=list(messages), extra_body=extra or {}, **options
        )

    def asked_directly(self, budget: Budget, messages=MESSAGES, stop=(), max_model_len=None) -> StreamedDecode:
        prompt = self.chat.chat_ids(list(messages))
        limit = max_model_len or self.context
        return self.reference(StreamedDecode(prompt, budget, self.chat, limit, stop=stop))

    def num_running(self) -> float:
        text = httpx2.get(f"{self.url}/metrics", headers={"authorization": f"Bearer {self.key}"}).text
        return float(re.search(r"^budget_forcing_running (\S+)", text, re.M).group(1))


def reference_on(engine: Engine) -> Callable[[StreamedDecode], StreamedDecode]:
    """Decodes on an engine of this process, as the evaluator does."""

    def run(decoding: StreamedDecode) -> StreamedDecode:
        [(_, decoding)] = Driver(engine).run([("reference", decoding)])
        return decoding

    return run


@dataclass
class Streamed:
    """What a stream brought, put together again, by choice."""

    reasoning: dict[int, str]
    content: dict[int, str]
    ends: dict[int, Any]
    usage: Any = None
    num_chunks: int = 0


def read_stream(stream) -> Streamed:
    got = Streamed({}, {}, {})
    for chunk in stream:
        got.num_chunks += 1
        got.usage = chunk.usage or got.usage
        for choice in chunk.choices:
            reasoning = getattr(choice.delta, "reasoning_content", None) or ""
            got.reasoning[choice.index] = got.reasoning.get(choice.index, "") + reasoning
            got.content[choice.index] = got.content.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                assert choice.index not in got.ends
                got.ends[choice.index] = choice
    return got


def refused(served: Served, status: type[openai.APIStatusError] = openai.BadRequestError, **options) -> dict[str, Any]:
    with pytest.raises(status) as error:
        served.ask(**options)
    return error.value.body


@pytest.mark.parametrize("fields", BUDGETS, ids=str)
def test_a_whole_answer_is_what_the_same_decoding_gives_without_a_server(served, fields):
    answer = served.ask(extra=fields | ANSWER)
    expected = served.asked_directly(Budget(**fields, **ANSWER))
    sample, [choice] = expected.sample(), answer.choices
    assert choice.message.content == expected.text("answer") == served.chat.answer_text(sample.ids("answer"))
    assert choice.message.reasoning_content == expected.text("thinking")
    assert choice.finish_reason == sample.answer_finish
    assert choice.thinking == {
        "ended": sample.ended,
        "num_ignored": sample.num_ignored,
        "num_suppressed": sample.num_suppressed,
        "num_forced_tokens": sum(len(s.token_ids) for s in sample.segments if s.source == "forced"),
    }
    assert answer.usage.prompt_tokens == sample.num_prompt_tokens
    assert answer.usage.completion_tokens == len(sample.token_ids)
    assert answer.usage.completion_tokens_details.reasoning_tokens == sample.num_thinking_tokens
    assert answer.model == served.model and answer.object == "chat.completion"


@pytest.mark.parametrize("fields", BUDGETS, ids=str)
def test_a_streamed_answer_equals_the_whole_one(served, fields):
    whole = served.ask(extra=fields | ANSWER)
    got = read_stream(served.ask(extra=fields | ANSWER, stream=True, stream_options={"include_usage": True}))
    [choice] = whole.choices
    assert got.content == {0: choice.message.content} and got.reasoning == {0: choice.message.reasoning_content}
    assert got.ends[0].finish_reason == choice.finish_reason and got.ends[0].thinking == choice.thinking
    assert got.usage == whole.usage
    assert got.num_chunks > 4


def test_a_stream_is_what_openai_describes(served):
    budget = {"max_thinking_tokens": 5, "min_thinking_tokens": 5, **ANSWER}  # so that there is a cue to send
    body = {"model": served.model, "messages": MESSAGES, **budget, "stream": True}
    headers = {"authorization": f"Bearer {served.key}"}
    response = httpx2.post(f"{served.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last, end = response.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    kinds = [next(iter(chunk["choices"][0]["delta"]), "end") for chunk in chunks[1:]]
    assert kinds[0] == "reasoning_content" and kinds[-2:] == ["content", "end"]
    assert kinds == sorted(kinds, key=["reasoning_content", "content", "end"].index)


def test_n_samples_with_a_seed(served):
    extra, options = {"max_thinking_tokens": 20, **ANSWER}, {"n": 3, "seed": 7, "temperature": 1.0}
    first, again = (served.ask(extra=extra, **options) for _ in range(2))
    texts = [(c.message.reasoning_content, c.message.content) for c in first.choices]
    assert [c.index for c in first.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert [(c.message.reasoning_content, c.message.content) for c in again.choices] == texts
    got = read_stream(served.ask(extra=extra, stream=True, **options))
    assert [(got.reasoning[i], got.content[i]) for i in range(3)] == texts
    other = served.ask(extra=extra, **options | {"seed": 8})
    assert (other.choices[0].message.reasoning_content, other.choices[0].message.content) != texts[0]
    alone = served.ask(extra=extra, **options | {"n": 1})
    assert (alone.choices[0].message.reasoning_content, alone.choices[0].message.content) == texts[0]


def test_a_stop_text_ends_the_answer_and_is_not_in_it(served):
    fields = {"max_thinking_tokens": 12} | ANSWER
    for number in range(50):  # until an answer is long enough to be cut
        messages = [{"role": "user", "content": f"Question {number}"}]
        text = served.ask(messages, extra=fields).choices[0].message.content
        sampled = text.removeprefix("\nFinal Answer:")
        if len(sampled) > 8:
            break
    stop = sampled[4:7]
    assert len(stop) == 3
    expected = text[: len(text) - len(sampled)] + sampled[: sampled.index(stop)]
    answer = served.ask(messages, extra=fields, stop=[stop, "never written at all"])
    assert answer.choices[0].message.content == expected and answer.choices[0].finish_reason == "stop"
    assert read_stream(served.ask(messages, extra=fields, stop=stop, stream=True)).content[0] == expected


def test_max_tokens_hold_for_all_that_is_written(served):
    for most in (40, 20):
        answer = served.ask(max_completion_tokens=most)
        assert answer.usage.completion_tokens <= most
        thinking = answer.choices[0].thinking
        assert thinking["ended"] in ("max_tokens", "natural")
    assert "max_tokens=2 is too small" in refused(served, max_tokens=2)["message"]


def test_reasoning_effort_means_a_budget_and_fields_win_over_it(served):
    none = served.ask(extra=ANSWER, reasoning_effort="none").choices[0]
    assert none.message.reasoning_content == "" and none.thinking["ended"] == "budget"
    some = served.ask(extra=ANSWER | {"max_thinking_tokens": 6}, reasoning_effort="none").choices[0]
    assert some.message.reasoning_content == served.asked_directly(Budget(6, **ANSWER)).text("thinking")
    assert "known: none, minimal, low" in refused(served, reasoning_effort="utmost")["message"]


def test_tools_go_to_the_template_or_are_refused(served):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    if served.chat.takes_tools:
        answer = served.ask(tools=tools, extra={"max_thinking_tokens": 3} | ANSWER)
        assert answer.usage.prompt_tokens == len(served.chat.chat_ids(MESSAGES, tools))
        without = served.ask(tools=tools, tool_choice="none", extra={"max_thinking_tokens": 3} | ANSWER)
        assert without.usage.prompt_tokens == len(served.chat.chat_ids(MESSAGES)) < answer.usage.prompt_tokens
    else:
        assert refused(served, tools=tools)["param"] == "tools"
    assert refused(served, tools=tools, tool_choice="required")["param"] == "tool_choice"


def test_a_wrong_key_is_refused(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="guessed", max_retries=0)
    if served.key == "none":  # a server of this machine alone asks for none
        client.models.list()
        return
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model=served.model, messages=MESSAGES)


def test_an_unknown_model_is_not_found(served):
    with pytest.raises(openai.NotFoundError, match=f"this server has '{served.model}'"):
        served.client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert served.model in [model.id for model in served.client.models.list()]


def test_too_long_a_prompt_is_refused(served):
    for times in (served.context, 200 * served.context):
        error = refused(served, messages=[{"role": "user", "content": "spider " * times}])
        assert error["code"] == "context_length_exceeded" and str(served.context) in error["message"]


@pytest.mark.parametrize(
    "param, options",
    [
        ("logprobs", {"logprobs": True}),
        ("logit_bias", {"logit_bias": {"5": 1}}),
        ("min_tokens", {"extra": {"min_tokens": 5}}),
        ("chat_template_kwargs", {"extra": {"chat_template_kwargs": {"enable_thinking": False}}}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("presence_penalty", {"presence_penalty": 0.5}),
        ("max_thinking_token", {"extra": {"max_thinking_token": 5}}),
        ("n", {"n": 1000}),
        ("num_ignore", {"extra": {"num_ignore": 10**9}}),
        ("max_thinking_tokens", {"extra": {"max_thinking_tokens": -1}}),
        ("temperature", {"temperature": 3}),
        ("temperature", {"temperature": 1e-30}),
        ("stop", {"stop": [""]}),
        ("messages", {"messages": []}),
        (
            "messages[0].content[1]",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}],
                    }
                ]
            },
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(served, param, options):
    error = refused(served, **options)
    assert error["param"] == param and param.split("[")[0] in error["message"]


def test_what_changes_nothing_is_accepted(served):
    """As clients send it that write every field, and the last answer back."""
    fields = {"max_thinking_tokens": 10**9, **ANSWER, "repetition_penalty": 1.0, "min_p": 0.0, "top_k": -1}
    before = served.ask(extra=fields).choices[0].message.model_dump(exclude={"reasoning_content"})
    parts = [{"type": "text", "text": "How many"}, {"type": "text", "text": " legs?"}]
    answer = served.ask(
        [*MESSAGES, before, {"role": "user", "content": parts}], extra={"max_thinking_tokens": 5} | ANSWER,
        logprobs=False, frequency_penalty=0, response_format={"type": "text"}, user="me", top_p=1.0, store=False,
    )  # fmt: skip
    texts = [
        *MESSAGES,
        {"role": "assistant", "content": before["content"]},
        {"role": "user", "content": "How many legs?"},
    ]
    assert answer.usage.prompt_tokens == len(served.chat.chat_ids(texts))


def test_a_cancelled_stream_leaves_the_engine(served):
    extra = {"min_thinking_tokens": served.context, "max_thinking_tokens": served.context}
    for _ in range(3):
        stream = served.ask(extra=extra, stream=True, n=2)
        for chunk, _ in zip(stream, range(6), strict=False):
            assert chunk.choices
        stream.close()
    deadline = time.monotonic() + 20
    while served.num_running() > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.num_running() == 0


def test_a_plain_completion_continues_a_text_or_ids(served):
    tokenizer = served.chat.tokenizer
    prompts = ["How many legs", "12 + 34"]
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    complete = served.client.completions.create
    by_text = complete(model=served.model, prompt=prompts, extra_body={"return_token_ids": True}, max_tokens=9)
    by_ids = complete(model=served.model, prompt=ids, max_tokens=9)
    assert [c.text for c in by_text.choices] == [c.text for c in by_ids.choices]
    for choice, prompt in zip(by_text.choices, ids, strict=True):
        plain = ChatFormat("plain", tokenizer)
        budget = Budget(None, cue="", max_answer_tokens=9)
        expected = served.reference(StreamedDecode(prompt, budget, plain, served.context))
        assert choice.text == expected.text("answer") and choice.token_ids == list(expected.sample().token_ids)
    streamed = complete(model=served.model, prompt=prompts[0], max_tokens=9, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == by_text.choices[0].text


def test_a_completion_ends_by_length_alone_where_that_is_asked(served):
    answer = served.client.completions.create(
        model=served.model, prompt="How many", max_tokens=60, extra_body={"ignore_eos": True}
    )
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 60)


def test_a_forced_completion_gives_all_that_was_written(served):
    prompt = served.chat.chat_ids(MESSAGES)
    extra = {"max_thinking_tokens": 10, "return_token_ids": True, **ANSWER}
    answer = served.client.completions.create(model=served.model, prompt=prompt, extra_body=extra)
    expected = served.reference(StreamedDecode(prompt, Budget(10, **ANSWER), served.chat, served.context)).sample()
    [choice] = answer.choices
    assert choice.token_ids == list(expected.token_ids) and choice.thinking["ended"] == expected.ended
    assert choice.text == served.chat.decode(expected.token_ids)
    streamed = list(served.client.completions.create(model=served.model, prompt=prompt, extra_body=extra, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text
    assert [id for chunk in streamed for id in getattr(chunk.choices[0], "token_ids", None) or ()] == choice.token_ids
