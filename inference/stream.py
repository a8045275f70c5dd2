"""A forced decoding whose text can be read while it runs: what ask shows and serve sends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers.decoders import DecodeStream

from core.types import Phase, TokenSource
from inference.budget import ForcedDecode
from inference.engine import Delta


@dataclass(frozen=True)
class Piece:
    """Text that has come since the last piece, of one origin. token_ids: those that completed it."""

    phase: Phase
    source: TokenSource
    text: str
    token_ids: tuple[int, ...]


class StreamedDecode(ForcedDecode):
    """Takes what ForcedDecode takes, and `stop`: strings that end the answer, and are not part of it.

    Thinking is the text between the delimiters, as it was written. The answer is what graders read: a forced cue
    belongs to it, the delimiter before it and special tokens do not (`ChatFormat.answer_text`). Pieces hold whole
    characters, and nothing that may still become a stop string.

    stop: looked for in the sampled answer alone, not in thinking. matched_stop: the one that ended it.
    raw: delimiters and special tokens too, everything as the model saw it.
    """

    def __init__(self, *args: Any, stop: Sequence[str] = (), raw: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.matched_stop: str | None = None
        self._stop, self._raw = tuple(stop), raw
        self._readers = {"thinking": _Reader(self._chat, skip=False), "answer": _Reader(self._chat, skip=not raw)}
        self._num_read = 0, 0  # whole segments, and ids of the next one
        self._held = ""  # may become a stop string
        self._texts: dict[str, list[str]] = {"thinking": [], "answer": []}
        self._pieces: list[Piece] = []
        self._read()

    def advance(self, delta: Delta) -> None:
        super().advance(delta)
        self._read()

    def cancel(self) -> None:
        super().cancel()
        self._read()

    def take(self) -> list[Piece]:
        """The pieces that have come since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def text(self, phase: Phase) -> str:
        """All so far, taken or not."""
        return "".join(self._texts[phase])

    def _read(self) -> None:
        for phase, source, ids in self._unread():
            if phase == "answer" and not self._readers["thinking"].is_flushed:
                self._emit("thinking", "sampled", self._readers["thinking"].flush(), ())
                if not self._raw:
                    ids = self._chat.after_delimiter(ids)  # the first segment of an answer closes thinking
            self._emit(phase, source, self._readers[phase].read(ids), ids)
            if self.matched_stop is not None:
                self._end_at_stop()
                return
        if self.is_done:
            for phase, reader in self._readers.items():
                self._emit(phase, "sampled", reader.flush(), ())
            self._put("answer", "sampled", self._held, ())
            self._held = ""

    def _unread(self) -> Iterator[tuple[Phase, TokenSource, tuple[int, ...]]]:
        """What was not read yet: of finished segments, then of the request in flight, which will become the next."""
        first, offset = self._num_read
        for segment in self._segments[first:]:
            yield segment.phase, segment.source, segment.token_ids[offset:]
            offset = 0
        in_flight = () if self.is_probing else tuple(self._received[offset:])  # a probe may become a delimiter
        self._num_read = len(self._segments), offset + len(in_flight)
        if in_flight:
            yield self.phase, "sampled", in_flight

    def _emit(self, phase: Phase, source: TokenSource, text: str, ids: tuple[int, ...]) -> None:
        """Passes text on, except what is, or may become, a stop string."""
        if phase == "answer" and source == "sampled" and self._stop:
            text, self._held = self._held + text, ""
            found = [(text.find(stop), stop) for stop in self._stop if stop in text]
            if found:
                at, self.matched_stop = min(found)
                text = text[:at]
            else:
                safe = len(text) - longest_beginning(text, self._stop)
                text, self._held = text[:safe], text[safe:]
        self._put(phase, source, text, ids)

    def _put(self, phase: Phase, source: TokenSource, text: str, ids: tuple[int, ...]) -> None:
        if text:
            self._texts[phase].append(text)
        if text or ids:
            self._pieces.append(Piece(phase, source, text, ids))

    def _end_at_stop(self) -> None:
        received, self._received = self._received, []
        self._keep(received, "sampled")
        self._answer_finish, self._done = "stop", True


class _Reader:
    """Ids to text, as they come. skip: leave special tokens out."""

    def __init__(self, chat: Any, skip: bool):
        self._tokenizer, self._skip = chat.tokenizer, skip
        self._stream = DecodeStream(skip_special_tokens=skip)
        self._ids: list[int] = []
        self._text: list[str] = []
        self.is_flushed = False

    def read(self, ids: Sequence[int]) -> str:
        """The characters that `ids` complete."""
        self._ids += ids
        text = "".join(map(self._step, ids))
        self._text.append(text)
        return text

    def flush(self) -> str:
        """What an unfinished character at the end is read as. Once; then nothing more comes."""
        if self.is_flushed:
            return ""
        self.is_flushed = True
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False)
        text = "".join(self._text)
        return whole[len(text) :] if whole.startswith(text) else ""

    def _step(self, id: int) -> str:
        backend = self._tokenizer.backend_tokenizer
        try:
            return self._stream.step(backend, id) or ""
        except Exception as error:  # its class is no narrower
            if "Invalid prefix" not in str(error):
                raise
        # of a tokenizer that falls back to bytes: some that are no character, and the stream cannot go on from them
        self._stream = DecodeStream(skip_special_tokens=self._skip)
        return "\ufffd" + (self._stream.step(backend, id) or "")


def longest_beginning(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` with which one of `stops` begins."""
    longest = min(len(text), max(map(len, stops)) - 1)
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
