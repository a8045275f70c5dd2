"""Where questions come from: one entry per source, and how to turn it into questions."""

import importlib.util
import itertools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.config import UserError
from core.types import AnswerType, Question


@dataclass(frozen=True)
class Source:
    """One source of questions with checkable answers.

    read: (source, seed, size, params) -> questions; deterministic, the same on every machine.
    params: what the reader passes on; a config may override any of them.
    keep: metadata a solver needs (inputs of the task, never its result).
    """

    id: str
    domain: str
    answer_type: AnswerType
    read: Callable[["Source", int, int, Mapping[str, Any]], Iterator[Question]]
    params: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    def questions(self, seed: int, size: int, params: Mapping[str, Any] | None = None) -> Iterator[Question]:
        """At most `size` questions. Raises UserError for a parameter the source does not have."""
        return itertools.islice(self.read(self, seed, size, {**self.params, **(params or {})}), size)


# reasoning_gym seeds item i with seed + i, so neighbouring seeds would share nearly all their questions
SEED_STRIDE = 1_000_003


def read_reasoning_gym(source: Source, seed: int, size: int, params: Mapping[str, Any]) -> Iterator[Question]:
    if "pycosat" not in sys.modules and importlib.util.find_spec("pycosat") is None:
        # imported by its zebra puzzles, which are not used here; it has no wheels, and a bare machine has no compiler
        sys.modules.setdefault("pycosat", types.ModuleType("pycosat"))
    import reasoning_gym

    family = source.domain
    try:
        dataset = reasoning_gym.create_dataset(family, seed=seed * SEED_STRIDE, size=size, **params)
    except (AssertionError, TypeError) as error:
        raise UserError(f"{source.id}: {error or f'parameters {dict(params)} are out of range'}") from None
    for item in dataset:
        kept = {key: item["metadata"][key] for key in source.keep}
        yield Question.of(item["question"].strip(), item["answer"], source.answer_type, source.id, family, **kept)


def _family(name: str, answer_type: AnswerType, keep: tuple[str, ...], **params: Any) -> Source:
    return Source(f"reasoning_gym/{name}", name, answer_type, read_reasoning_gym, params, keep)


# Sizes of the numbers are chosen so that one step is within reach of a small model and the whole is not.
# Families that depend on today's date (time_intervals, calendar_arithmetic) are left out: they change from day to day.
_FAMILIES = (
    _family("chain_sum", "integer", ("expression",), min_terms=5, max_terms=7, min_digits=1, max_digits=1),
    _family(
        "basic_arithmetic", "integer", ("expression",), min_terms=4, max_terms=4, min_digits=1, max_digits=1,
        operators=("+",), allow_parentheses=False, allow_negation=False,
    ),
    _family("leg_counting", "integer", ("animals",), min_animals=3, max_animals=3, max_instances=4),
    _family("word_sequence_reversal", "open", ("words",), min_words=5, max_words=5),
    _family("spell_backward", "open", ("word",), min_word_len=5, max_word_len=6),
    _family("count_bits", "integer", ("number",), min_n=64, max_n=511),
    _family("gcd", "integer", ("numbers",), min_value=4, max_value=60),
    _family("lcm", "integer", ("numbers",), min_value=4, max_value=20),
    _family("products", "integer", ("expression",), min_digits=2, max_digits=2),
    _family("simple_equations", "integer", ("equation", "variable"), min_terms=2, max_terms=2, max_value=12),
    _family("number_filtering", "open", ("original_numbers", "filter_value", "operation"),
            min_numbers=4, max_numbers=4, min_value=10, max_value=99, max_decimals=0),
    _family("prime_factorization", "open", ("number",), min_value=30, max_value=400),
)  # fmt: skip

SOURCES: dict[str, Source] = {source.id: source for source in _FAMILIES}
