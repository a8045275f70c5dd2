"""Traces as training rows: where they are read from, ids, labels and batches without surprises."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.chat import IGNORE_LABEL, ChatFormat
from core.config import UserError
from core.published import is_published, trace_from_published
from core.runs import finished
from core.types import Trace, read_jsonl, trace_from_row


def load_traces(path: str | Path, revision: str | None = None, teacher: str | None = None) -> list[Trace]:
    """Traces of a finished data.filter or data.distill run, of a .jsonl or .parquet file, or of a dataset of the hub.

    A file holds traces of ours, or rows of a published table (core/published.py). revision: of the dataset.
    teacher: of a table with two. Raises UserError naming what is missing.
    """
    traces = [
        trace_from_published(row, teacher) if is_published(row) else trace_from_row(row)
        for row in _rows(str(path), revision)
    ]
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
    return read_jsonl(finished(path) / "traces.jsonl")


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
    traces: Sequence[Trace], chat: ChatFormat, max_length: int, system: str | None = None
) -> list[dict[str, Any]]:
    """[{"input_ids", "labels"}] in the order given, both [num_tokens].

    Raises UserError naming the question ids of traces longer than max_length: TRL would cut them on the right, and a
    trace without its answer teaches the wrong thing (PAPER 7, fault 17).
    """
    rows = []
    too_long = []
    for trace in traces:
        input_ids, labels = chat.training_ids(trace, system)
        if len(input_ids) > max_length:
            too_long.append(f"{trace.question.id} ({len(input_ids)})")
        rows.append({"input_ids": input_ids, "labels": labels})
    if too_long:
        shown = ", ".join(too_long[:5]) + (", ..." if len(too_long) > 5 else "")
        raise UserError(
            f"{len(too_long)} of {len(traces)} traces are longer than max_length={max_length} tokens: {shown}; "
            "raise max_length, or filter them out (data.filter max_trace_tokens)"
        )
    return rows


def pad_right(rows: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """Batch tensors [rows, longest]: input_ids, labels, position_ids. No attention mask.

    Under causal attention no real token sees the padding to its right, and padding has no label; without a mask
    torch's fused attention takes its fast path (half the step time on a CPU).
    """
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    labels = torch.full((len(rows), longest), IGNORE_LABEL)
    for i, row in enumerate(rows):
        input_ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
    position_ids = torch.arange(longest).expand(len(rows), longest)
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
