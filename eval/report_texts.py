"""The texts of a report: what was asked, and what each sample thought and answered, by the origin of its tokens; in
compressed chunks.

A chunk holds the samples of a few questions, which begin alike: JSON, deflated, inflated by the browser when one of
them is opened. Chunks go in until the report is as large as it may be; what is left out is counted.
"""

import base64
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from core.config import UserError
from core.runs import digest_of
from core.types import read_jsonl
from eval.samples import Row
from eval.whole_run import WholeRun

CHUNK_CHARS = 100_000  # inflated in a few milliseconds, and long enough to deflate well
MIN_SHARED = 100  # characters; shorter ones are found by deflating itself
NOT_FACTS = ("benchmark", "cell", "question_id", "repeat", "domain", "segments", "response", "thinking", "paths")

Decode = Callable[[Sequence[int]], str]
Piece = tuple[str, str, str]  # phase, source, text


def question_texts(runs: Sequence[WholeRun]) -> dict[tuple[str, str], tuple[str, str | None]]:
    """(text, reference) by benchmark and id, as far as they are at hand: what the runs wrote for
    lm-evaluation-harness, the questions.jsonl of an import, or the questions a run was given."""
    texts: dict[tuple[str, str], tuple[str, str | None]] = {}
    for run in runs:
        benchmarks = dict.fromkeys(cell.benchmark for cell in run.cells)
        for benchmark in benchmarks:
            missing = {row["question_id"] for c in run.cells if c.benchmark == benchmark for row in c.rows}
            for file in sorted(run.path.glob(f"harness/*/samples_{benchmark}_*.jsonl")):
                missing -= {id for name, id in texts if name == benchmark}
                if not missing:
                    break
                for row in read_jsonl(file):
                    texts[benchmark, row["doc"]["id"]] = row["doc"]["problem"], row["doc"]["answer"]
        for question in _questions_beside(run):
            for benchmark in benchmarks:
                texts.setdefault((benchmark, question["id"]), (question["text"], question["answer"]))
    return texts


def _questions_beside(run: WholeRun) -> Iterator[Row]:
    """Those of an import, or of the file or run of data.collect that the run read, where it is still what it was."""
    given = run.config.get("questions")
    if (run.path / "questions.jsonl").exists():
        file = run.path / "questions.jsonl"
    elif given is None or not Path(given).exists() or digest_of(given) != run.record["inputs"].get("questions"):
        return
    else:
        file = Path(given) if Path(given).is_file() else Path(given) / "questions.jsonl"
    for row in read_jsonl(file):
        yield row.get("question", row)


def pieces_of(segments: Iterable[Row], decode: Decode) -> list[Piece]:
    """Neighbours of one phase and source are one piece. Their texts, joined, are the text of all ids: a character
    whose bytes are on both sides of a border is in the later piece."""
    origins: list[tuple[str, str]] = []
    borders: list[int] = []  # where each piece begins in the text of all ids
    ids: list[int] = []
    whole = ""
    for origin, own in groupby(segments, key=lambda segment: (segment["phase"], segment["source"])):
        ids += [id for segment in own for id in segment["token_ids"]]
        before, whole = whole, decode(ids)
        origins.append(origin)
        borders.append(len(before if whole.startswith(before) else os.path.commonprefix([before, whole])))
    for i in range(len(borders) - 2, -1, -1):
        borders[i] = min(borders[i], borders[i + 1])
    ends = [*borders[1:], len(whole)]
    return [(*origin, whole[start:end]) for origin, start, end in zip(origins, borders, ends, strict=True)]


def sample_texts(row: Row, decode: Decode | None) -> Row:
    """What the viewer shows of a row of samples.jsonl: {"pieces", "facts", "paths"}; paths are those of a search, the
    chosen one among them. The source is "unknown" where nothing says which tokens were sampled."""
    texts: Row = {
        "pieces": _pieces(row, decode),
        "facts": {key: _finite(value) for key, value in row.items() if key not in NOT_FACTS and value is not None},
    }
    if "paths" in row:
        texts["paths"] = [sample_texts(path, decode) for path in row["paths"]]
    return texts


def _pieces(row: Row, decode: Decode | None) -> list[Piece]:
    if row["segments"] and decode is not None:
        return pieces_of(row["segments"], decode)
    source = "sampled" if not row["segments"] and row.get("num_forced_tokens") == 0 else "unknown"
    both = ("thinking", row.get("thinking")), ("answer", row.get("response"))
    return [(phase, source, text) for phase, text in both if text]


def _finite(value: Any) -> Any:
    """JSON as browsers read it has no infinity and no nan; they are shown as words."""
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def decoder_of(tokenizer: Any) -> Decode:
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def check_tokenizer(where: str, row: Row, tokenizer: Any) -> None:
    """Raises UserError where it does not make the recorded answer of a row out of the row's ids."""
    ids = [id for segment in row["segments"] if segment["phase"] == "answer" for id in segment["token_ids"]]
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if row["response"].strip() not in text:
        raise UserError(
            f"{where}: the tokenizer at hand is not the run's, it reads {text[:40]!r} where the run "
            f"recorded {row['response'][:40]!r}; name the right one with tokenizer=<folder>"
        )


@dataclass(frozen=True)
class Chunk:
    """Texts of consecutive samples (or questions), from number `first` on. data: base64 of the deflated JSON list."""

    group: str
    first: int
    count: int
    data: str


@dataclass
class Packer:
    """Packs texts, one after the other, into chunks. A chunk has one group.

    Cells of one grid share their trajectories, over distances beyond what deflating sees. So where the first piece of a
    sample is the beginning of an earlier sample's in the chunk, its text is two numbers instead: its length (in UTF-16
    units, as a browser counts) and how many samples back that one is.
    """

    chunks: list[Chunk] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)
    _begins: list[str] = field(default_factory=list)
    _group: str = ""
    _num_chars: int = 0
    _num_added: int = 0

    def add(self, group: str, texts: Row) -> None:
        if self._num_chars >= CHUNK_CHARS or group != self._group:
            self.close()
        self._group = group
        # ASCII: surrogates survive
        self._open.append(json.dumps(self._shortened(texts), separators=(",", ":"), allow_nan=False))
        self._num_chars += len(self._open[-1])
        self._num_added += 1

    def _shortened(self, texts: Row) -> Row:
        first, *others = texts.get("pieces") or [("", "", "")]
        phase, source, text = first
        begins, self._begins = self._begins, [*self._begins, text]
        back = next((i for i, begin in enumerate(reversed(begins), 1) if begin.startswith(text)), None)
        if back is None or len(text) < MIN_SHARED:
            return texts
        length = len(text.encode("utf-16-le", "surrogatepass")) // 2
        return {**texts, "pieces": [(phase, source, length, back), *others]}

    def close(self) -> None:
        if self._open:
            data = base64.b64encode(zlib.compress(f"[{','.join(self._open)}]".encode("ascii"))).decode("ascii")
            first = self._num_added - len(self._open)
            self.chunks.append(Chunk(self._group, first, len(self._open), data))
            self._open, self._begins, self._num_chars = [], [], 0


def that_fit(chunks: Sequence[Chunk], num_bytes: int) -> tuple[list[Chunk], list[Chunk]]:
    """(kept, left out). Groups take turns, so that none is left out for coming last; what is too large for the rest of
    the space is passed over."""
    groups: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.group, []).append(chunk)
    kept: list[Chunk] = []
    left_out: list[Chunk] = []
    for turn in zip_longest(*groups.values()):
        for chunk in turn:
            if chunk is not None:
                fits = len(chunk.data) <= num_bytes
                (kept if fits else left_out).append(chunk)
                num_bytes -= len(chunk.data) if fits else 0
    return kept, left_out
