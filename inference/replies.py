"""What clients get: OpenAI's answers and chunks, with the reasoning, and why thinking ended.

A chunk is a prepared text around one JSON string: sixty-four streams write hundreds of them a second beside the engine.
"""

import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

from core.types import Sample
from inference.api import ApiError, shutting_down
from inference.served_model import Body, Work
from inference.stream import Piece
from inference.worker import Event

DONE = b"data: [DONE]\n\n"


class Reply:
    """The answer to one request, whole or in chunks. body: the request. work: what was asked of the engine."""

    prefix: str  # of ids
    kind: str  # the `object` of a whole answer
    chunk_kind: str

    def __init__(self, model: str, body: Body, work: Work, retokenized: bool = False):
        self._work = work
        self._with_ids = body.return_token_ids
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self.samples: dict[int, Sample] = {}
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._extra = {"retokenized": True} if retokenized else {}
        start = json.dumps(self._head | self._extra | {"object": self.chunk_kind})
        self._before = "data: " + start[:-1] + ', "choices": [{"index": '
        self._after = ', "finish_reason": null}]' + (', "usage": null' if self._with_usage else "") + "}\n\n"

    # streamed

    def opening(self) -> bytes:
        """What is sent before anything is known."""
        return b""

    def chunks(self, events: Iterable[Event]) -> bytes:
        """Server-sent events. Pieces of one decoding and phase that came together make one.

        Raises ApiError where a sample ended by an error.
        """
        parts: list[str] = []
        texts: dict[tuple[int, str], tuple[list[str], list[int]]] = {}
        for index, event in events:
            if isinstance(event, Piece):
                pieces, ids = texts.setdefault((index, event.phase), ([], []))
                pieces.append(event.text)
                ids += event.token_ids
            else:
                parts += [self._chunk(*key, *texts.pop(key)) for key in list(texts) if key[0] == index]
                parts.append(self._finish(index, event))
        parts += [self._chunk(*key, *rest) for key, rest in texts.items()]
        return "".join(parts).encode()

    def closing(self) -> bytes:
        if not self._with_usage:
            return DONE
        last = self._head | self._extra | {"object": self.chunk_kind, "choices": [], "usage": self.usage()}
        return _event(last) + DONE

    def _chunk(self, index: int, phase: str, pieces: list[str], ids: list[int]) -> str:
        text = "".join(pieces)
        if not text and not self._with_ids:
            return ""
        more = f', "token_ids": {ids}' if self._with_ids else ""
        return f"{self._before}{index}{self._delta(phase, json.dumps(text))}{more}{self._after}"

    def _finish(self, index: int, sample: Sample) -> str:
        self.take(index, sample)
        choice = {"index": index, **self._nothing(), **self._end(index)}
        usage = {"usage": None} if self._with_usage else {}
        last = self._head | self._extra | {"object": self.chunk_kind, "choices": [choice]} | usage
        return _event(last).decode()

    # whole

    def take(self, index: int, event: Piece | Sample) -> None:
        """Texts are with the decodings. Raises ApiError where a sample ended by an error."""
        if isinstance(event, Piece):
            return
        if event.ended == "error":
            raise ApiError(f"the engine failed at this request: {event.error}", status=500)
        if event.ended == "cancelled":
            raise shutting_down()
        self.samples[index] = event

    @property
    def is_whole(self) -> bool:
        return len(self.samples) == len(self._work.decodings)

    def whole(self) -> dict[str, Any]:
        choices = []
        for index, sample in sorted(self.samples.items()):
            ids = {"token_ids": list(sample.token_ids)} if self._with_ids else {}
            choices.append({"index": index, **self._content(index), **ids, **self._end(index)})
        return self._head | self._extra | {"object": self.kind, "choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        num_prompt = self._work.num_prompt_tokens
        num_written = sum(len(sample.token_ids) for sample in self.samples.values())
        num_thinking = sum(sample.num_thinking_tokens for sample in self.samples.values())
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_written,
            "total_tokens": num_prompt + num_written,
            "completion_tokens_details": {"reasoning_tokens": num_thinking},
        }

    def summary(self) -> str:
        """Sizes, for a log."""
        usage = self.usage()
        num_thinking = usage["completion_tokens_details"]["reasoning_tokens"]
        ended = ", ".join(sorted({str(self._work.ended(index)) for index in self.samples}))
        state = f"thinking ended: {ended}" if self.is_whole else "cancelled"
        return (
            f"{usage['prompt_tokens']} prompt, {num_thinking} thinking, {usage['completion_tokens']} written in all, "
            f"{state}"
        )

    def _end(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        end: dict[str, Any] = {"logprobs": None, "finish_reason": sample.answer_finish}
        if self._work.thinks:
            forced = [s for s in sample.segments if s.source == "forced"]
            end["thinking"] = {
                "ended": self._work.ended(index),
                "num_ignored": sample.num_ignored,
                "num_suppressed": sample.num_suppressed,
                "num_forced_tokens": sum(len(segment.token_ids) for segment in forced),
            }
        return end

    def _text(self, index: int, phase: str) -> str:
        return self._work.decodings[index].text(phase)

    def _delta(self, phase: str, text: str) -> str:
        """What follows the index of a choice. text: as JSON."""
        raise NotImplementedError

    def _nothing(self) -> dict[str, Any]:
        """What a choice has where nothing new is said."""
        raise NotImplementedError

    def _content(self, index: int) -> dict[str, Any]:
        raise NotImplementedError


class ChatReply(Reply):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self) -> bytes:
        role = ', "delta": {"role": "assistant", "content": ""}'
        indices = range(len(self._work.decodings))
        return "".join(f"{self._before}{i}{role}{self._after}" for i in indices).encode()

    def _delta(self, phase: str, text: str) -> str:
        key = "reasoning_content" if phase == "thinking" else "content"
        return f', "delta": {{"{key}": {text}}}, "logprobs": null'

    def _nothing(self) -> dict[str, Any]:
        return {"delta": {}}

    def _content(self, index: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._text(index, "answer"), "refusal": None}
        if self._work.thinks:
            message["reasoning_content"] = self._text(index, "thinking")
        return {"message": message}


class CompletionReply(Reply):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def _delta(self, phase: str, text: str) -> str:
        return f', "text": {text}, "logprobs": null'

    def _nothing(self) -> dict[str, Any]:
        return {"text": ""}

    def _content(self, index: int) -> dict[str, Any]:
        return {"text": self._text(index, "thinking") + self._text(index, "answer")}


def error_chunk(error: ApiError) -> bytes:
    """What ends a stream that cannot go on."""
    return _event(error.body) + DONE


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()
