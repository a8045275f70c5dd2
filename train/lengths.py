"""Lengths of training rows where the data is not at hand: drawn from a histogram of thinking tokens. Needs no torch."""

import csv
import random
from pathlib import Path

from core.config import UserError

COLUMNS = ["first_token", "last_token", "count"]


def read_histogram(path: str | Path) -> list[tuple[int, int, int]]:
    """(first token, last token, number of rows) of each bin, ends included. Lines that begin with # are comments.

    Raises UserError naming the file and line that are wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"lengths={path} does not exist; configs/train/lengths has those of s1K and s1K-1.1")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    if not lines or lines[0].split(",") != COLUMNS:
        raise UserError(f"{path}: its first line must be {','.join(COLUMNS)}")
    bins = []
    for row in csv.reader(lines[1:]):
        try:
            first, last, count = map(int, row)
        except ValueError:
            raise UserError(f"{path}: {','.join(row)!r} is not three whole numbers") from None
        if not (1 <= first <= last and count >= 0):
            raise UserError(f"{path}: {','.join(row)!r} is no bin of lengths with a count")
        bins.append((first, last, count))
    if not sum(count for _, _, count in bins):
        raise UserError(f"{path} counts no rows")
    return bins


def draw_lengths(
    histogram: list[tuple[int, int, int]], extra_tokens: int, seed: int, num_rows: int | None = None
) -> list[int]:
    """Tokens of each row, in random order: a bin, a length in it at random, and extra_tokens for prompt and answer.

    num_rows: None for as many as the histogram counts, each bin just as often as counted; otherwise bins are drawn.
    """
    rng = random.Random(seed)
    bins = [(first, last) for first, last, count in histogram for _ in range(count)]
    if num_rows is not None and num_rows != len(bins):
        bins = rng.choices(bins, k=num_rows)
    rng.shuffle(bins)
    return [rng.randint(first, last) + extra_tokens for first, last in bins]
