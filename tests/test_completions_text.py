"""Token ids by way of text: stops found as the text comes, lengths kept, first tokens asked apart."""

import asyncio
import copy

import pytest
from tiny_tokenizer import tiny_tokenizer

from inference.completions_client import ServerFailed
from inference.completions_text import TextCompletions, _split
from inference.engine import Delta, Request


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
    [answer] = tiny_tokenizer().encode(" answer")
    client = Saying([("", None), (" answer", "length")], [(" answer", None), (" answer", "length")])
    deltas = said(client, Request((7,), 3, frozenset({2})))
    assert deltas == [Delta((answer,)), Delta((answer,)), Delta((answer,), "length")]
    assert [fields["max_tokens"] for fields in client.asked] == [3, 2]
    assert client.asked[1]["prompt"] == client.asked[0]["prompt"] + " answer"


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
