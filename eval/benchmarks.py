"""Benchmarks: questions with known answers, read as their authors publish them.

A benchmark is a YAML file, configs/benchmarks/<name>.yaml or one of your own, with the keys of `Benchmark`: where its
rows are (on the hub at a revision, or in a file below `root`), and which columns hold the question and the answer.

    benchmark, questions = load_benchmark("aime24", root="downloads", limit=None, seed=0)

The rows themselves are turned into questions by eval/benchmark_rows.py.
"""

import difflib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

from core import tables
from core.config import UserError, build
from core.types import AnswerType, Question
from eval.benchmark_rows import READINGS, TEST_FORMATS, BadRow, Benchmark, question_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "benchmarks"
DUPLICATES = ("error", "first")


def find_benchmark(name: str) -> tuple[Benchmark, Path]:
    """(benchmark, its YAML file). name: that of a file in configs/benchmarks, or the path of a YAML file.

    Raises UserError for an unknown name, and for what is wrong in the file.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in CONFIGS.glob("*.yaml"))
        near = difflib.get_close_matches(path.stem, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
        raise UserError(f"benchmark {name!r}: {hint} Or give the path of a .yaml file of your own")
    benchmark = build(Benchmark, [str(path)], where=str(path))
    for key, known in (
        ("answer_from", READINGS),
        ("answer_type", get_args(AnswerType)),
        ("tests", (None, *TEST_FORMATS)),
        ("duplicates", DUPLICATES),
    ):
        value = getattr(benchmark, key)
        if value not in known:
            raise UserError(f"{path}: {key}={value!r} is unknown; known are {', '.join(map(str, known))}")
    if bool(benchmark.choices) != (benchmark.answer_type == "letter"):
        raise UserError(f"{path}: answer_type=letter needs choices, and choices need answer_type=letter")
    if bool(benchmark.tests) != (benchmark.answer_type == "code"):
        raise UserError(f"{path}: answer_type=code needs tests, and tests need answer_type=code")
    if benchmark.repeats < 1 or "{question}" not in benchmark.prompt:
        raise UserError(f"{path}: repeats is at least 1, and prompt holds {{question}}")
    return benchmark, path


def load_benchmark(
    name: str, root: str | Path | None = None, limit: int | None = None, seed: int = 0
) -> tuple[Benchmark, list[Question]]:
    """The benchmark and its questions, in the order of its rows.

    root: folder of local files; None reads the hub (or, of a YAML file without hub_id, files beside it).
    limit: only the first so many questions. seed: of the order of the options, where they are shuffled.

    Raises UserError naming the file and the row that cannot be read, or the number of questions that was not expected.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: at least one question, or null for all")
    benchmark, path = find_benchmark(name)
    table = _table(benchmark, path, root)
    questions: dict[str, Question] = {}
    for number, question in _questions(benchmark, path, table, seed):
        first = questions.setdefault(question.id, question)
        if first is not question and benchmark.duplicates == "error":
            raise UserError(
                f"{table.place}, row {number}: the same question as row {first.metadata['row']}; remove one of them, "
                f"or set `duplicates: first` in {path}"
            )
        if len(questions) == limit:
            break
    if limit is None and benchmark.expected not in (None, len(questions)):
        raise UserError(
            f"{table.place}: {len(questions)} questions, and {benchmark.name} has {benchmark.expected}; set limit to "
            f"read a part, or `expected` in {path}"
        )
    if not questions:
        raise UserError(f"{table.place} holds no questions of {benchmark.name}")
    return benchmark, list(questions.values())


def input_files(name: str, root: str | Path | None = None) -> dict[str, str]:
    """What a run on this benchmark reads, to be recorded: its YAML file, and the local file or "hub_id@commit"."""
    benchmark, path = find_benchmark(name)
    file = _local_file(benchmark, path, root)
    read = str(file) if file else f"{benchmark.name}:{benchmark.hub_id}@{_commit(benchmark.hub_id, benchmark.revision)}"
    return {f"{benchmark.name}.yaml": str(path), benchmark.name: read}


def _questions(benchmark: Benchmark, path: Path, table: tables.Table, seed: int) -> Iterator[tuple[int, Question]]:
    """(row number, from 1, and question) of the rows that `only` asks for."""
    for number, row in enumerate(tables.whole_rows(table), 1):
        if all(text in str(row[column]) for column, text in benchmark.only.items() if column in row):
            try:
                question = question_of(benchmark, row, seed)
            except BadRow as error:
                raise UserError(f"{table.place}, row {number}: {error} ({path} says what is read)") from None
            yield number, replace(question, metadata={"row": number, **question.metadata})


def _table(benchmark: Benchmark, path: Path, root: str | Path | None) -> tables.Table:
    file = _local_file(benchmark, path, root)
    if file:
        return tables.file_table(file)
    commit = _commit(benchmark.hub_id, benchmark.revision)
    try:
        if benchmark.address:
            return tables.address_table(benchmark.name, benchmark.address.format(revision=commit or "main"))
        return tables.hub_table(benchmark.hub_id, benchmark.config, benchmark.split, commit)
    except Exception as error:  # noqa: BLE001 `datasets` and the hub's client raise what they like
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"benchmark {benchmark.name}: {benchmark.hub_id} cannot be read ({reason}); log in with `hf auth login` if "
            "it is gated, or download it elsewhere and set root=<folder>"
        ) from None


def _local_file(benchmark: Benchmark, path: Path, root: str | Path | None) -> Path | None:
    """The file to read, or None for the hub."""
    if root is None and benchmark.hub_id:
        return None
    folder = Path(root or path.parent)
    file = next((folder / f for f in benchmark.files if (folder / f).is_file()), None)
    if file is None:
        looked_for = ", ".join(benchmark.files) or "none, since `files` is empty"
        otherwise = f", or leave root out to read {benchmark.hub_id}" if benchmark.hub_id else ""
        raise UserError(
            f"benchmark {benchmark.name}: {folder} holds none of its files (looked for {looked_for}); put one there, "
            f"or name yours under `files` in a copy of {path}{otherwise}"
        )
    return file


@cache
def _commit(hub_id: str, revision: str | None) -> str | None:
    """One answer a process, so that what is recorded is what is read."""
    return revision or tables.hub_revision(hub_id, None)  # None: offline, and what is in the cache is read
