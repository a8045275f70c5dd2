"""Traces as training rows: where they are read from, their ids and labels, and what each device gets of them."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.chat import IGNORE_LABEL, ChatFormat
from core.config import UserError
from core.published import is_published, trace_from_published
from core.runs import finished
from core.types import Trace, read_jsonl, trace_from_row
from train.steps import Layout, place


def load_traces(path: str | Path, revision: str | None = None, teacher: str | None = None) -> list[Trace]:
    """Traces of a finished data.filter or data.distill run, of a .jsonl or .parquet file, or of a dataset of the hub.

    A file holds traces of ours, or rows of a published table (core/published.py). revision: of the dataset.
    teacher: of a table with two. Raises UserError naming what is missing.
    """
    traces = []
    for number, row in enumerate(_rows(str(path), revision), 1):
        try:
            traces.append(trace_from_published(row, teacher) if is_published(row) else trace_from_row(row))
        except (KeyError, TypeError):
            raise UserError(
                f"{path}, row {number}: no trace (it has {', '.join(row)}); give traces of data.distill or data.filter"
            ) from None
    if not traces:
        raise UserError(f"{path} holds no traces")
    return traces


def _rows(path: str, revision: str | None) -> Iterator[dict[str, Any]]:
    if path.endswith(".parquet"):
        return _parquet_rows(Path(path))
    if path.endswith(".jsonl"):
        return read_jsonl(path)
    if not Path(path).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return _hub_rows(path, revision)
    file = finished(path) / "traces.jsonl"
    if not file.exists():
        raise UserError(f"{path} is a run without traces (no traces.jsonl); give one of data.distill or data.filter")
    return read_jsonl(file)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    columns = [name for name in file.schema_arrow.names if name != "metadata"]  # large, and not needed to train
    for batch in file.iter_batches(batch_size=1000, columns=columns):
        yield from batch.to_pylist()


def _hub_rows(name: str, revision: str | None) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(name, split="train", revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is no path here, and the hub says: {str(error).splitlines()[0]}") from None
    return iter(dataset.remove_columns([c for c in dataset.column_names if c == "metadata"]))


def tokenize(
    traces: Sequence[Trace], chat: ChatFormat, max_length: int, system: str | None = None, truncate: bool = False
) -> list[dict[str, Any]]:
    """[{"question_id", "input_ids", "labels"}] in the order given; ids and labels [num_tokens].

    truncate: cut longer traces on the right. Otherwise raises UserError naming their question ids: a trace without its
    answer teaches the wrong thing. Raises it too where cutting leaves nothing to learn.
    """
    rows = []
    too_long = []
    for trace in traces:
        input_ids, labels = chat.training_ids(trace, system)
        if len(input_ids) > max_length:
            too_long.append(f"{trace.question.id} ({len(input_ids)})")
        if truncate and labels[1:max_length].count(IGNORE_LABEL) == len(labels[1:max_length]):
            raise UserError(f"max_length={max_length} cuts question {trace.question.id} off before its thinking begins")
        rows.append(
            {"question_id": trace.question.id, "input_ids": input_ids[:max_length], "labels": labels[:max_length]}
        )
    if too_long and not truncate:
        shown = ", ".join(too_long[:5]) + (", ..." if len(too_long) > 5 else "")
        raise UserError(
            f"{len(too_long)} of {len(traces)} traces are longer than max_length={max_length} tokens: {shown}; "
            "raise max_length, filter them out (data.filter max_trace_tokens), or cut them with truncate=true"
        )
    return rows


def check_context(rows: Sequence[dict[str, Any]], context: int | None, model: str | Path) -> None:
    """Raises UserError where rows of `tokenize` are longer than what the model was made for. None: not known."""
    over = [row for row in rows if context is not None and len(row["input_ids"]) > context]
    if over:
        longest = max(over, key=lambda row: len(row["input_ids"]))
        raise UserError(
            f"{len(over)} of {len(rows)} traces are longer than the context of {model}, {context} tokens; the longest "
            f"is that of question {longest['question_id']} ({len(longest['input_ids'])}); filter them out (data.filter "
            f"max_trace_tokens), or cut them with max_length={context} truncate=true"
        )


def num_labels(row: dict[str, Any]) -> int:
    """Tokens of a row that are predicted and count in the loss."""
    return sum(label != IGNORE_LABEL for label in row["labels"][1:])


class FlatBatches:
    """What each device computes in each forward pass: tensors of its slice of a flattened row.

    Item (step x accumulation + pass) x num_devices + rank; `indices` in their order is what a sequential loader walks
    through, with consecutive items going to consecutive ranks. Called with one such item, it is a collator.

    loss_weighting: "example", the mean over the step's examples of each one's mean over its tokens (the published
    objective: transformers 4.46, one example a rank, ranks averaged), or "token", the mean over all tokens of the step.
    Either way the weights of a step's tokens add up to one, so the loss is their weighted sum, on any layout.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        steps: Sequence[Sequence[int]],
        cost: Sequence[float],
        layout: Layout,
        loss_weighting: str = "example",
    ):
        if loss_weighting not in ("example", "token"):
            raise UserError(f"loss_weighting is example or token, not {loss_weighting!r}")
        self.rows, self.steps, self.cost, self.layout = rows, steps, cost, layout
        self.loss_weighting = loss_weighting
        self.passes = [place(step, cost, layout) for step in steps]
        self._num_labels = [num_labels(row) for row in rows]

    @property
    def indices(self) -> range:
        return range(len(self.steps) * self.layout.accumulation * self.layout.num_devices)

    def token_weights(self, step: int) -> dict[int, float]:
        """Of each row of a step: what one of its tokens counts. A row that comes twice in a step counts twice."""
        rows = self.steps[step]
        if self.loss_weighting == "example":
            return {row: 1 / (self._num_labels[row] * len(rows)) for row in rows}
        total = sum(self._num_labels[row] for row in rows)
        return dict.fromkeys(rows, 1 / total)

    def __call__(self, items: Sequence[dict[str, int]]) -> dict[str, Any]:
        (item,) = items
        number, rank = divmod(item["index"], self.layout.num_devices)
        step, number = divmod(number, self.layout.accumulation)
        group, part = divmod(rank, self.layout.sequence_parallel)
        weights = self.token_weights(step)
        rows = self.passes[step][number][group]
        return flatten([self.rows[row] for row in rows], [weights[row] for row in rows], part, self.layout)


def flatten(rows: Sequence[dict[str, Any]], weights: Sequence[float], part: int, layout: Layout) -> dict[str, Any]:
    """Rows laid end to end, and of that the slice of one device of the sequence-parallel group.

    Returns input_ids, shift_labels (the next token's label, none across examples), position_ids (from 0 in each
    example) and weights, all [1, tokens of the slice]; cu_seq_lens_q [num_examples + 1] of the whole row, and
    max_length_q. The row is padded, by an example without labels, to a multiple of the group's size.
    """
    import torch

    size = layout.sequence_parallel
    lengths = [len(row["input_ids"]) for row in rows]
    padding = -sum(lengths) % size
    if padding:
        rows = [*rows, {"input_ids": [0] * padding, "labels": [IGNORE_LABEL] * padding}]
        weights, lengths = [*weights, 0.0], [*lengths, padding]
    width = sum(lengths) // size

    def slice_of(values: Iterable[Sequence[Any]], dtype: torch.dtype) -> torch.Tensor:
        flat = list(itertools.chain.from_iterable(values))
        return torch.tensor(flat[part * width : (part + 1) * width], dtype=dtype).unsqueeze(0)

    starts = list(itertools.accumulate(lengths, initial=0))
    return {
        "input_ids": slice_of((row["input_ids"] for row in rows), torch.long),
        "shift_labels": slice_of(([*row["labels"][1:], IGNORE_LABEL] for row in rows), torch.long),
        "position_ids": slice_of((range(n) for n in lengths), torch.long),
        "weights": slice_of(([w] * n for w, n in zip(weights, lengths, strict=True)), torch.float32),
        "cu_seq_lens_q": torch.tensor(starts, dtype=torch.int32),
        "max_length_q": max(lengths),
    }
