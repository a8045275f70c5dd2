"""Traces as training rows: ids, labels and batches without surprises."""

from collections.abc import Sequence
from typing import Any

from core.chat import IGNORE_LABEL, ChatFormat
from core.config import UserError
from core.types import Trace


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
