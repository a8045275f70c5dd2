"""Draws what spends more than one sample on an answer: rejection sampling and search, with a row for each answer.

A row has the columns of any sample. What it cost is the whole of it, all tries or all paths; what was said is that of
the accepted try or of the chosen path.
"""

import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from core.chat import ChatFormat
from core.config import UserError
from core.cost import ModelShape
from eval.cells import Cell
from eval.draw import Drawn, Task
from eval.rejection import Outcome, Rejection, RejectionConfig, check_rejection, rejection_label, run_rejections
from eval.samples import Row, decided, flops_of, graded_row
from eval.scorers import Scorer
from eval.search import Search, SearchConfig, check_search, run_searches, search_label, stop_ids_of
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.engine import Driver, Sampling

EXHAUSTED = {"correct": False, "extracted": None, "grader": "rejection sampling: exhausted"}


def pool_cells(
    rejection: RejectionConfig | None,
    searches: Sequence[SearchConfig],
    sampling: Sampling,
    cue: str,
    max_answer_tokens: int,
) -> dict[Cell, SearchConfig | RejectionConfig]:
    """A cell for every limit and every search. Raises UserError for what cannot be drawn, or is asked for twice."""
    cells: dict[Cell, SearchConfig | RejectionConfig] = {}
    if rejection is not None:
        check_rejection(rejection, sampling)
        for limit in rejection.limits:
            budget = Budget(limit, cue=cue, max_answer_tokens=max_answer_tokens)
            label, way = rejection_label(limit), "rejection_sampling"
            cells[Cell(label, budget, way=way, repeats=rejection.repeats)] = rejection
    for search in searches:
        check_search(search, sampling)
        budget = Budget(search.max_thinking_tokens, cue=cue, max_answer_tokens=max_answer_tokens)
        cell = Cell(search_label(search), budget, way=search.method, repeats=search.repeats)
        if cell.label in {other.label for other in cells}:
            raise UserError(f"searches: {cell.label!r} is asked for twice")
        cells[cell] = search
    return cells


@dataclass(frozen=True)
class Pools:
    """What rejection sampling and search draw with. cells: as of `pool_cells`."""

    driver: Driver
    chat: ChatFormat
    cells: dict[Cell, SearchConfig | RejectionConfig]
    sampling: Sampling
    seed: int
    system: str | None
    scorer: Scorer

    def decode(self, task: Task, budget: Budget, seed: int) -> ForcedDecode:
        prompt = self.chat.prompt_ids(task.cell.prompt(task.question.text), self.system)
        return ForcedDecode(
            prompt, budget, self.chat, self.driver.engine.max_model_len, self.sampling, seed,
            question_id=task.question.id, repeat=task.repeat, logprobs=True,
        )  # fmt: skip

    def draw(self, tasks: Iterable[Task]) -> Iterator["DrawnTry | DrawnSearch"]:
        tasks = list(tasks)
        yield from self._draw_rejections([task for task in tasks if task.cell.way == "rejection_sampling"])
        yield from self._draw_searches([task for task in tasks if task.cell.way != "rejection_sampling"])

    def _draw_rejections(self, tasks: Iterable[Task]) -> Iterator["DrawnTry"]:
        """One pool of tries for the limits of a question and repeat."""
        pools: dict[Hashable, list[Task]] = {}
        for task in tasks:
            pools.setdefault((task.benchmark, task.question.id, task.repeat), []).append(task)
        started: dict[Hashable, float] = {}

        def rejections():
            for key, own in pools.items():
                started[key] = time.monotonic()
                limits = [task.cell.budget.max_thinking_tokens for task in own]
                yield Rejection(key, self.cells[own[0].cell], limits, self._tries_of(own[0]))

        for one in run_rejections(self.driver, rejections()):
            seconds = time.monotonic() - started.pop(one.key)
            for task in pools[one.key]:
                yield DrawnTry(task, one.outcomes[task.cell.budget.max_thinking_tokens], seconds)

    def _tries_of(self, task: Task):
        def begin_try(number: int, max_thinking_tokens: int) -> ForcedDecode:
            budget = Budget(max_thinking_tokens, max_answer_tokens=task.cell.budget.max_answer_tokens)
            return self.decode(task, budget, derived_seed(self.seed, task.question.id, task.repeat, "try", number))

        return begin_try

    def _draw_searches(self, tasks: Sequence[Task]) -> Iterator["DrawnSearch"]:
        delimiters = {self.cells[task.cell].step_delimiter for task in tasks}
        stop_ids = {delimiter: stop_ids_of(delimiter, self.chat) for delimiter in sorted(delimiters)}
        by_key = {task.key: task for task in tasks}
        started: dict[Hashable, float] = {}

        def searches():
            for task in tasks:
                started[task.key] = time.monotonic()
                config = self.cells[task.cell]
                seed = derived_seed(self.seed, task.question.id, task.repeat, "search")  # the same for all methods
                yield Search(
                    task.key, task.question, self.decode(task, task.cell.budget, seed), config, seed, self.chat,
                    stop_ids[config.step_delimiter], self.scorer,
                )  # fmt: skip

        for one in run_searches(self.driver, searches()):
            yield DrawnSearch(by_key[one.key], one, time.monotonic() - started.pop(one.key))


@dataclass(frozen=True)
class DrawnTry:
    """What one limit came to. seconds: until all limits of the pool were served."""

    task: Task
    outcome: Outcome
    seconds: float

    def row(self, chat: ChatFormat, shape: ModelShape | None) -> Row:
        outcome, sample = self.outcome, self.outcome.sample
        is_exhausted = outcome.number is None
        row = graded_row(Drawn(self.task, sample, self.seconds), chat, shape)
        row |= {
            "num_thinking_tokens": outcome.num_thinking_tokens,
            "accepted_thinking_tokens": self.task.cell.limit if is_exhausted else sample.num_thinking_tokens,
            "num_tries": outcome.num_tries,
            "exhausted": is_exhausted,
            "num_prompt_tokens": outcome.num_tries * sample.num_prompt_tokens,
            "num_cached_tokens": None,
        }
        row["num_sampled_tokens"] = row["num_thinking_tokens"] + row["num_answer_tokens"]
        return row | {"flops": flops_of(row, shape)} | (EXHAUSTED if is_exhausted else {})


@dataclass(frozen=True)
class DrawnSearch:
    task: Task
    search: Search
    seconds: float

    def row(self, chat: ChatFormat, shape: ModelShape | None) -> Row:
        """paths: a leaf each, in the order in which they ended. chosen: which of them speaks."""
        search, task = self.search, self.task
        leaves = [graded_row(Drawn(task, leaf.sample, self.seconds), chat) for leaf in search.leaves]
        scores = [leaf.score for leaf in search.leaves]
        row = leaves[0] | {
            "paths": [
                {name: leaf[name] for name in PATH_COLUMNS} | {"score": score}
                for leaf, score in zip(leaves, scores, strict=True)
            ],
            "select": search.config.select,
            "num_thinking_tokens": search.cost["thinking"],
            "num_answer_tokens": search.cost["answer"],
            "num_sampled_tokens": search.cost["thinking"] + search.cost["answer"],
            "num_forced_tokens": sum(leaf["num_forced_tokens"] for leaf in leaves),
            "num_prompt_tokens": search.config.n * leaves[0]["num_prompt_tokens"],
            "num_cached_tokens": search.cost["cached"],
            "num_scorer_tokens": search.cost["scorer"],
        }
        failed = [leaf for leaf in leaves if leaf["ended"] == "error"]
        why = {name: failed[0][name] for name in ("ended", "error")} if failed else {}
        return decided(row | {"flops": flops_of(row, shape)}, task.question) | why


PATH_COLUMNS = ("segments", "ended", "answer_finish", "repetition", "error", "mean_logprob", "response",
                "num_thinking_tokens", "num_answer_tokens", "correct", "extracted", "grader")  # fmt: skip
