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
        # a server puts it before a text by itself, as the tokenizer does
        self._bos = tokenizer.bos_token if tokenizer.encode("") else ""

    async def deltas(self, request: Request) -> AsyncIterator[Delta]:
        """Raises ServerFailed."""
        if request.min_tokens and request.stop_token_ids:
            ids = await self._first_ids(request)
            request = replace(
                request, prefix=request.prefix + ids, max_tokens=request.max_tokens - len(ids), min_tokens=0
            )
            yield Delta(ids, None if request.max_tokens else "length")
        if request.max_tokens:
            async with aclosing(self._part(request, {})) as deltas:
                async for delta in deltas:
                    yield delta

    async def probe(self) -> None:
        """Raises ServerFailed."""
        said = await self._client.first_choice({"prompt": "1 2 3", "max_tokens": 1, "temperature": 0.0})
        self._text_of(said)

    async def _first_ids(self, request: Request) -> tuple[int, ...]:
        """The first min_tokens ids. The API has no such limit, so they are asked apart, with the stops suppressed."""
        first = replace(
            request, max_tokens=min(request.min_tokens, request.max_tokens), min_tokens=0, stop_token_ids=frozenset()
        )
        ids: tuple[int, ...] = ()
        bias = {str(id): -100 for id in sorted(request.stop_token_ids)}
        async with aclosing(self._part(first, {"logit_bias": bias})) as deltas:
            async for delta in deltas:
                if delta.finish_reason == "stop":
                    raise ServerFailed("the server ended before min_tokens, although logit_bias suppressed the end")
                ids += delta.token_ids
        return ids

    async def _part(self, request: Request, more: Mapping[str, Any]) -> AsyncIterator[Delta]:
        stops = {self._decode([id]): id for id in sorted(request.stop_token_ids)}
        room, held = request.max_tokens, ""
        async with aclosing(self._client.choices({**self._fields(request), **more})) as choices:
            async for choice in choices:
                reason = choice.get("finish_reason")
                text, stop, held = _split(held + self._text_of(choice), stops, is_last=reason is not None)
                if stop is None and reason == "stop":
                    stop = self._tokenizer.eos_token_id
                ids = tuple(self._encode(text))
                if stop is not None and len(ids) < room:
                    yield Delta((*ids, stop), "stop")
                elif len(ids) >= room:
                    yield Delta(ids[:room], "length")
                elif reason == "length":
                    if len(ids) == 0 and room == request.max_tokens:
                        raise ServerFailed("the answer has no text; does the server leave special tokens out of it?")
                    yield Delta(ids, "length")
                else:
                    if ids:
                        yield Delta(ids)
                    room -= len(ids)
                    continue
                if reason is None:
                    return  # hangs up

    def _fields(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        fields = {
            "prompt": self._decode(request.prefix).removeprefix(self._bos),
            "max_tokens": request.max_tokens,
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
