"""What a run has to do: the questions of its benchmarks, the cells each is asked in, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.config import UserError
from core.shards import in_shard
from core.types import Question
from eval import chat_model
from eval.benchmark_rows import Benchmark
from eval.benchmarks import input_files, load_benchmark
from eval.cells import Cell, cells_of
from eval.config import EvalConfig
from eval.draw import Task, load_questions, tasks_of
from eval.draw_pools import pool_cells


@dataclass(frozen=True)
class Part:
    """A benchmark's questions, each sampled `repeats` times in each cell."""

    benchmark: str
    questions: list[Question]
    repeats: int


@dataclass(frozen=True)
class Work:
    """pools: the cells that spend more than one sample on an answer (eval/draw_pools.py).
    inputs: the files or hub revisions that it all comes from."""

    parts: list[Part]
    cells: list[Cell]
    pools: dict[Cell, Any]
    inputs: dict[str, str]

    def tasks(self) -> list[Task]:
        """Every sample there is to be, in the order of samples.jsonl."""
        return [task for p in self.parts for task in tasks_of(p.questions, self.cells, p.repeats, p.benchmark)]

    def questions(self) -> dict[tuple[str, str], Question]:
        """By benchmark and id."""
        return {(part.benchmark, question.id): question for part in self.parts for question in part.questions}

    def by_benchmark(self) -> dict[str, list[Question]]:
        return {part.benchmark: part.questions for part in self.parts}

    def of_shard(self, shard: int, num_shards: int) -> "Work":
        parts = [
            replace(part, questions=[q for q in part.questions if in_shard(q.id, shard, num_shards)])
            for part in self.parts
        ]
        return replace(self, parts=parts)


def work_of(config: EvalConfig) -> Work:
    """Reads the questions. Raises UserError for what is wrong in them, or in the grid."""
    cells, pools = grid_of(config)
    parts, inputs = _parts_of(config)
    check_parts(config, [(part.benchmark, part.repeats) for part in parts], cells)
    return Work(parts, cells, pools, inputs)


def check_parts(config: EvalConfig, parts: Sequence[tuple[str, int]], cells: Sequence[Cell]) -> None:
    """parts: (benchmark, repeats). Raises UserError for a benchmark named twice, and for what an endpoint cannot do."""
    if len({benchmark for benchmark, _ in parts}) < len(parts):
        raise UserError("benchmarks: one is named twice")
    if config.chat_model:
        repeats = max(repeats for _, repeats in parts)
        chat_model.check(config.chat_model, repeats, cells, with_key=not config.dry_run)


def grid_of(config: EvalConfig) -> tuple[list[Cell], dict[Cell, Any]]:
    """(all cells, those of them that are pools). Raises UserError for what is wrong in the grid."""
    grid = cells_of(config.cells, config.profile, config.cue, config.max_answer_tokens, config.budget_per_round)
    pools = pool_cells(config.rejection, config.searches, config.sampling, config.cue, config.max_answer_tokens)
    cells = [*grid, *pools] or ([chat_model.CELL] if config.chat_model else [])
    if not cells:
        raise UserError("cells is empty: name at least one thinking budget, e.g. cells=[{max_thinking_tokens: [auto]}]")
    return cells, pools


def repeats_of(config: EvalConfig, benchmark: Benchmark) -> int:
    """Samples of a question in a cell: greedy ones would all be the same."""
    varies = chat_model.varies(config.chat_model) if config.chat_model else config.sampling.temperature > 0
    return config.repeats or (benchmark.repeats if varies else 1)


def _parts_of(config: EvalConfig) -> tuple[list[Part], dict[str, str]]:
    """(what to evaluate on, the files or hub revisions it comes from)."""
    inputs = {"model": config.model} if config.model else {}
    if config.scorer is not None and config.scorer.model is not None:
        inputs["scorer"] = config.scorer.model
    if config.questions is not None:
        questions = load_questions(config.questions, config.limit)
        return [Part("questions", questions, config.repeats or 1)], inputs | {"questions": config.questions}
    parts = []
    for name in config.benchmarks:
        benchmark, questions = load_benchmark(name, config.root, config.limit, config.seed)
        parts.append(Part(benchmark.name, questions, repeats_of(config, benchmark)))
        inputs |= input_files(name, config.root)
    return parts, inputs
