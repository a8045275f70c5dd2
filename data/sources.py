"""Where questions come from: one entry per source, generated (reasoning_gym) or published (the sixteen of s1).

What is known of a published dataset is its row in `DATASETS`; how one of its rows becomes a question is its adapter in
data/adapters.py.
"""

import importlib.util
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import tables
from core.config import UserError
from core.types import AnswerType, Question
from data import adapters
from data.adapters import Adapter


@dataclass(frozen=True)
class Source:
    """One generated source of questions with checkable answers.

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
    licence: str = "Apache-2.0"  # reasoning_gym's own
    hub_id: None = None

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


@dataclass(frozen=True)
class Dataset:
    """One published dataset.

    key: its name in configs, and its folder below `root`. hub_id, configs, splits: where it is on the hub.
    adapt: upstream row -> Question.
    revision: the commit read by default, as public listings of the repository show it; None where it is not known here
        (then the newest is read, and the run record says which that was).
    licence: as the hub states it. access: what to do where it cannot be reached.
    hub_id None: there are local files alone.
    expected: number of questions the whole dataset gives here, or None where only reading it can tell.
    published: number in the paper's table of sources. note: why the two differ.
    count_duplicates: `expected` counts questions that other sources have as well.
    params: options of the adapter; a config may override any of them.
    sample: how many are drawn from it by default. strata: what the draw balances (data/collect.py).
    addresses: JSON Lines files by subset, for repositories that are a script; "{revision}" is filled in.
    excluded: subset whose questions are left out.
    """

    key: str
    hub_id: str | None
    adapt: Adapter
    licence: str
    published: int | None
    expected: int | None
    splits: tuple[str, ...] = ("train",)
    configs: tuple[str, ...] = ()
    revision: str | None = None
    note: str = ""
    access: str = "check the connection, or download it elsewhere and set root=<folder>"
    count_duplicates: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    sample: int | None = None
    strata: Callable[[Question], tuple[Any, ...]] = lambda question: ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    excluded: str | None = None

    def subset_of(self, file: Path) -> str:
        """The subset that a local file (relative to root) holds: a config it or one of its folders is named after, else
        the file's own name up to the first dot."""
        names = [tables.stem(file), *(p.name for p in file.parents)]
        known = {config.lower().replace("-", "_"): config for config in (*self.configs, *self.addresses)}
        if self.excluded:
            known[self.excluded] = self.excluded
        return next((known[n] for n in (m.lower().replace("-", "_") for m in names) if n in known), names[0])

    def reads(self, file: Path) -> bool:
        """Whether a file (relative to root) in this dataset's folder belongs to its splits. (MATH's test split is
        MATH500.)"""
        names = [*file.parts[1:-1], tables.stem(file)]
        found = {SPLITS[word] for word in SPLITS for name in names if _has_word(name, word)}
        return not found or bool(found & set(self.splits))

    def hub_tables(self, revision: str | None, subset: str | None = None) -> Iterator[tables.Table]:
        """All tables of the hub, or those of one config. Raises whatever reading raises where one cannot be reached."""
        if self.addresses:
            for name, address in self.addresses.items():
                yield tables.address_table(name, address.format(revision=revision or "main"))
            return
        for config in (subset,) if subset else self.configs or (None,):
            for split in self.splits:
                yield tables.hub_table(self.hub_id, config, split, revision)


# Words in file names, and the split that the hub takes them for
SPLITS = {
    "few_shot": "few_shot", "train": "train", "test": "test",
    "validation": "validation", "valid": "validation", "val": "val", "dev": "validation",
}  # fmt: skip


def _has_word(name: str, word: str) -> bool:
    return re.search(rf"(?<![a-z]){word}(?![a-z])", name.lower()) is not None


_AGIEVAL_FILES = {
    "sat_en": "sat-en", "sat_math": "sat-math", "lsat_ar": "lsat-ar", "lsat_lr": "lsat-lr", "lsat_rc": "lsat-rc",
    "logiqa": "logiqa-en", "aqua_rat": "aqua-rat", "math_agieval": "math",
}  # fmt: skip

# In the order in which s1 read them: of exact duplicates the first one is kept (released collect_data.py).
DATASETS = (
    Dataset(
        "MATH", "simplescaling/openaimath", adapters.math_dataset, "Apache-2.0 (MATH itself: MIT)",
        published=11_999, expected=11_999,
    ),
    Dataset(
        "OlympicArena", "GAIR/OlympicArena", adapters.olympic_arena, "CC-BY-NC-SA-4.0",
        published=4_250, expected=4_250, splits=("test", "val"),
        configs=("Math", "Physics", "Chemistry", "Biology", "Geography", "Astronomy", "CS"),
        revision="844eeccc791f94d460d10cee4aa3a8e2dba344d9",
    ),
    Dataset(
        "TheoremQA", "TIGER-Lab/TheoremQA", adapters.theorem_qa, "MIT", published=747, expected=747, splits=("test",),
    ),
    Dataset(
        "NuminaMATH", "AI-MO/NuminaMath-CoT", adapters.numina_math, "Apache-2.0", published=30_660, expected=None,
        revision="78193828787c02a8eb8a8582166f3f0b42644797", params={"keep": None},
        note="aops_forum alone; s1 added questions of other sources by hand: params.keep=<.jsonl with a field problem>",
    ),
    Dataset(
        "OmniMath", "KbsdJames/Omni-MATH", adapters.omni_math, "Apache-2.0", published=4_238, expected=4_238,
        splits=("test",), revision="0000b6bc8be4aa61655413073c3645ae4b3b30e8",
    ),
    Dataset(
        "SciEval", "OpenDFM/SciEval", adapters.sci_eval, "none stated", published=227, expected=250,
        splits=("test", "validation"), revision="370117e4ee95dd8553f6a053ee00a4932429fe5f", sample=250,
        strata=lambda q: (q.source, str(q.metadata["upstream"].get("topic"))),
        note="s1 drew 250 too, some of them twice",
    ),
    Dataset(
        "OlympiadBench", "Hothan/OlympiadBench", adapters.olympiad_bench, "Apache-2.0", published=896, expected=None,
        configs=("OE_TO_maths_en_COMP", "OE_TO_physics_en_COMP", "TP_TO_maths_en_COMP", "TP_TO_physics_en_COMP"),
        revision="3b426ee1d587c71b495146dde9f3e995ee7ac59f", params={"context": True},
        note="1,438 rows in the four configs; why the paper has 896 is not known",
    ),
    Dataset(
        "JEEBench", "daman1209arora/jeebench", adapters.jee_bench, "MIT", published=515, expected=515,
        splits=("test",), revision="d070d1113ce365df05903763a2017ec2d0d56118",
    ),
    Dataset(
        "AGIEval", "baber/agieval", adapters.agi_eval, "MIT (exam texts: their publishers)", published=2_385,
        expected=None, splits=("test", "few_shot"),
        addresses={
            subset: "https://raw.githubusercontent.com/ruixiangcui/AGIEval/{revision}/data/v1/" + f"{name}.jsonl"
            for subset, name in _AGIEVAL_FILES.items()
        },  # what the script of the hub repository downloads
        note="the test rows, 2,340 and those of level 5 that MATH lacks; s1 had a few few-shot rows as well",
    ),
    Dataset("s1-prob", "simplescaling/s1-prob", adapters.s1_prob, "Apache-2.0", published=182, expected=182),
    Dataset(
        "GPQA", "Idavidrein/gpqa", adapters.gpqa, "CC-BY-4.0", published=348, expected=348,
        configs=("gpqa_extended",), excluded="gpqa_diamond",
        access="accept its terms on its hub page, then log in with `hf auth login`",
    ),
    Dataset(
        "xword", "0xharib/xword1", adapters.xword, "CC-BY-4.0", published=999, expected=1_000, sample=1_000,
        note="s1 drew 1,000 too, one of them twice",
    ),
    Dataset(
        "USACO", "codegenning/usacobench_formatted", adapters.usaco, "none stated", published=519, expected=519,
        splits=("test",), params={"max_test_chars": adapters.MAX_TEST_CHARS},
    ),
    Dataset("s1-teasers", "simplescaling/s1-teasers", adapters.s1_teasers, "Apache-2.0", published=23, expected=23),
    Dataset(
        "LiveCodeBench", "livecodebench/code_generation_lite", adapters.live_code_bench, "CC (version not stated)",
        published=151, expected=151, splits=("test",), revision="0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
        params={"max_test_chars": adapters.MAX_TEST_CHARS},
        addresses={  # releases 1 to 3, each of which adds a file
            name: "hf://datasets/livecodebench/code_generation_lite@{revision}/" + f"{name}.jsonl"
            for name in ("test", "test2", "test3")
        },
    ),
    Dataset(
        "AIME", "qq8933/AIME_1983_2024", adapters.aime, "MIT (problems: MAA)", published=890, expected=860,
        count_duplicates=True, params={"max_year": 2021},
        note="the text says 1983-2021, the table counts 2022 as well: params.max_year=2022",
    ),
)  # fmt: skip

OWN = Dataset(
    "own", None, adapters.own, "your own", published=None, expected=None,
    access="set root=<folder> and put your files into <folder>/own",
)  # fmt: skip

SOURCES: dict[str, Source | Dataset] = {s.id: s for s in _FAMILIES} | {d.key: d for d in (*DATASETS, OWN)}
