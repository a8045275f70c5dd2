"""Continuing token ids by a server that knows text alone. Not exact: what comes back is encoded again, and the model
may have sampled other ids for the same text."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from core.config import UserError
from inference.completions_client import CompletionsClient, ServerFailed
from inference.engine import Delta, Request
from inference.stream import longest_beginning


class TextCompletions:
    """Stops are looked for here, in the text as it comes, and end the request by hanging up: few servers say which
    stop string ended an answer. A stop of the server's own is the end of turn.

    Raises UserError for a tokenizer that cannot encode a text piece by piece.
    """

    def __init__(self, tokenizer: Any, client: CompletionsClient):
        self._tokenizer, self._client = tokenizer, client
        if self._decode([*self._encode("a"), *self._encode("b")]) != "ab":
            raise UserError("engine.retokenize: the tokenizer of model= puts a space before each piece of a text")
        if tokenizer.eos_token_id is None:
            raise UserError("engine.retokenize: the tokenizer of model= names no end-of-turn token")
        # where the tokenizer puts it before a text by itself, a server does so too
        self._bos = tokenizer.bos_token if tokenizer.encode("")[:1] == [tokenizer.bos_token_id] else ""

    async def deltas(self, request: Request) -> AsyncIterator[Delta]:
        """Raises ServerFailed."""
        delta = Delta()
        while delta.finish_reason is None:
            ids: tuple[int, ...] = ()
            async with aclosing(self._part(request)) as deltas:
                async for delta in deltas:
                    ids += delta.token_ids
                    yield delta
            request = replace(
                request,
                prefix=request.prefix + ids,
                max_tokens=request.max_tokens - len(ids),
                min_tokens=max(0, request.min_tokens - len(ids)),
            )

    async def probe(self) -> None:
        """Raises ServerFailed."""
        said = await self._client.first_choice({"prompt": "1 2 3", "max_tokens": 1, "temperature": 0.0})
        self._text_of(said)

    async def _part(self, request: Request) -> AsyncIterator[Delta]:
        """What one call of the server brings; without a finish_reason in the end where more has to be asked: its tokens
        were encoded as fewer, or only min_tokens were asked. The API has no such field, so those come apart, with the
        stops suppressed."""
        suppressed = sorted(request.stop_token_ids) if request.min_tokens else []
        asked = min(request.min_tokens, request.max_tokens) if suppressed else request.max_tokens
        stops = {} if suppressed else {self._decode([id]): id for id in sorted(request.stop_token_ids)}
        bias = {"logit_bias": {str(id): -100 for id in suppressed}} if suppressed else {}
        left, held = asked, ""
        async with aclosing(self._client.choices({**self._fields(request, asked), **bias})) as choices:
            async for choice in choices:
                reason = choice.get("finish_reason")
                text, stop, held = _split(held + self._text_of(choice), stops, is_last=reason is not None)
                if stop is None and reason == "stop":
                    if suppressed:
                        raise ServerFailed("the server ended the answer, although logit_bias suppressed the end")
                    stop = self._tokenizer.eos_token_id
                ids = tuple(self._encode(text))
                if stop is not None and len(ids) < left:
                    yield Delta((*ids, stop), "stop")
                elif len(ids) >= left:
                    yield Delta(ids[:left], "length" if asked == request.max_tokens else None)
                elif reason in (None, "length"):
                    if ids:
                        yield Delta(ids)
                    left -= len(ids)
                    if reason == "length" and left == asked:
                        raise ServerFailed("the answer has no text; does the server leave special tokens out of it?")
                    continue
                else:
                    raise ServerFailed(f"the server ended the answer: {reason}")
                if reason is None:
                    return  # hangs up

    def _fields(self, request: Request, max_tokens: int) -> dict[str, Any]:
        sampling = request.sampling
        fields = {
            "prompt": self._decode(request.prefix).removeprefix(self._bos),
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature > 0:  # not in OpenAI's API: top_k, min_p; llama.cpp has defaults of its own
            fields |= {"top_p": sampling.top_p, "top_k": sampling.top_k or -1, "min_p": sampling.min_p}
        if request.seed is not None:
            fields["seed"] = request.seed
        return fields

    def _text_of(self, choice: dict[str, Any]) -> str:
        text = choice.get("text")
        if not isinstance(text, str):
            raise self._client.malformed(f"text is {text!r}")
        return text

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _decode(self, ids: Any) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _split(text: str, stops: Mapping[str, int], is_last: bool) -> tuple[str, int | None, str]:
    """(what is certain, the stop that follows it, what may still become a stop)."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    if found:
        at, stop = min(found)
        return text[:at], stops[stop], ""
    num_held = longest_beginning(text, tuple(stops)) if stops and not is_last else 0
    return text[: len(text) - num_held], None, text[len(text) - num_held :]
