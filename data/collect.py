"""Collects questions from the sources a config lists: published datasets, and families that are generated.

    python -m data.collect configs/demo/pool.yaml
    python -m data.collect configs/data/collect-s1-59k.yaml                  # the sixteen datasets of s1, from the hub
    python -m data.collect configs/data/collect-s1-59k.yaml dry_run=true     # where they are and how many; reads none
    python -m data.collect configs/data/collect-s1-59k.yaml 'skip=[GPQA]'
    python -m data.collect configs/data/collect-offline.yaml root=<folder>   # local files, no network

Writes questions.jsonl, dropped.jsonl (a line for every row that became no question: dataset, file, row, reason) and
counts.json (per source: rows read, dropped by reason, questions, expected number). Rows = questions + dropped.
The same config over the same files gives the same bytes on every machine.

A dataset is read from the hub at its revision (data/sources.py), or, with root=<folder>, from local parquet, JSON,
JSONL or CSV files (.gz too) of the same schema: those in root/<key>, or at the `paths` of its entry. The exact number
of questions is known for most; another one is an error unless allow_count_mismatch=true.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from core.config import UserError, run_entry
from core.log import Progress, say
from core.runs import open_run, run_path
from core.tables import Drop
from core.types import Question, question_id, write_jsonl
from data.collect_config import CollectConfig, SourceRequest, requests_of
from data.sources import SOURCES, Dataset, Source
from data.upstream import LocalFiles, Opened, find_local_files, open_datasets, place_of


@dataclass
class Tally:
    """What became of the rows of one source. examples: the first row of each kind that is broken."""

    num_rows: int = 0
    num_questions: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A row on its way: a question or the reason why it is none. number: of the row, from 1; None: the whole file."""

    outcome: Question | Drop
    place: str
    number: int | None


def main(config: CollectConfig) -> Path | None:
    requests = requests_of(config)
    local = find_local_files(config, requests)
    if config.dry_run:
        for line in plan(config, requests, local):
            say(line)
        return None
    inputs = {name: Path(config.root) / name for found in local.values() for name in found.files}
    inputs |= {f"keep {path}": path for r in requests.values() if (path := r.params.get("keep"))}
    with open_run("data", config, inputs) as run:
        if run.is_done:
            return run.path
        opened = open_datasets(config, requests, local, run)
        pool = Pool()
        write_jsonl(run.path / "dropped.jsonl", collect(config, requests, opened, pool))
        questions = list(pool.questions.values())
        write_jsonl(run.path / "questions.jsonl", map(vars, questions))  # rows as they are, no deep copies
        counts = counts_of(requests, pool)
        (run.path / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
        _say_table(counts)
        for domain, count in sorted(Counter(q.domain for q in questions).items()):
            say(f"{count:>7,} {domain}")
        num_duplicates = sum(tally.dropped["duplicate"] for tally in pool.tallies.values())
        say(f"{len(questions):>7,} questions; {num_duplicates:,} exact duplicates dropped")
        check_counts(counts, config.allow_count_mismatch)
        num_rows = sum(tally.num_rows for tally in pool.tallies.values())
        run.finish(num_rows=num_rows, num_questions=len(questions), num_duplicates=num_duplicates)
    return run.path


def plan(config: CollectConfig, requests: dict[str, SourceRequest], local: dict[str, LocalFiles]) -> Iterator[str]:
    """A line a source, then the sum. Raises UserError for parameters that a family does not take."""
    total, paper, unknown = 0, 0, []
    for key, request in requests.items():
        source = SOURCES[key]
        if isinstance(source, Source):
            next(source.questions(config.seed, 1, request.params), None)
            total += request.size
            yield f"{key}: {request.size:,} questions, generated"
            continue
        expected = expected_of(source, request)
        number = request.size if expected is None else expected
        if number is None:
            unknown.append(key)
        total += number or 0
        paper += source.published or 0
        words = "their number is not known before" if number is None else f"{number:,} questions expected"
        words += f" (paper: {source.published:,})" if source.published else ""
        yield f"{key}: {place_of(source, request, local.get(key), config)}; {words}"
    more = f" and those of {', '.join(unknown)}" if unknown else ""
    published = f" (paper: {paper:,})" if paper else ""
    yield (
        f"{len(requests)} sources, seed {config.seed}: {total:,} questions expected{more}{published} -> "
        f"{run_path('data', config)}; nothing was collected (dry_run)"
    )


# --- rows into questions


@dataclass
class Pool:
    """The questions so far, by id, and what became of the rows of each source."""

    questions: dict[str, Question] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def add(
        self,
        key: str,
        items: Iterable[Item],
        progress: Progress,
        draw: Callable[[list[Question]], list[Question]] = list,
    ) -> Iterator[dict[str, Any]]:
        """Takes in the rows of one source and yields what dropped.jsonl says of those that are not in the pool then:
        rows without a question, texts that were there before, and what `draw` leaves of the new ones."""
        tally = self.tallies[key] = Tally()
        new: dict[str, Item] = {}
        for item in items:
            tally.num_rows += 1
            progress.update(progress.done + 1, key)
            if isinstance(item.outcome, Drop):
                yield _dropped(key, item, item.outcome, tally)
            elif item.outcome.id in self.questions or item.outcome.id in new:
                yield _dropped(key, item, Drop("duplicate"), tally)
            else:
                new[item.outcome.id] = item
        kept = {q.id for q in draw([item.outcome for item in new.values()])}
        for id, item in new.items():
            if id in kept:
                self.questions[id] = item.outcome
            else:
                yield _dropped(key, item, Drop("not_sampled"), tally)
        tally.num_questions = len(kept)
        assert tally.num_rows == tally.num_questions + tally.dropped.total()


def collect(
    config: CollectConfig, requests: dict[str, SourceRequest], opened: dict[str, Opened], pool: Pool
) -> Iterator[dict[str, Any]]:
    """Fills the pool, source by source, and yields the rows of dropped.jsonl."""
    total = sum(request.size for key, request in requests.items() if key not in opened)
    total += sum(table.num_rows for found in opened.values() for table in found.tables)
    with Progress("collect", total, "rows") as progress:
        for key, request in requests.items():
            source = SOURCES[key]
            if isinstance(source, Source):
                yield from pool.add(key, family_items(source, request, config.seed), progress)
            else:
                size = source.sample if request.size is None else request.size
                draw = partial(sample, size=size, seed=config.seed, strata=source.strata)
                yield from pool.add(key, dataset_items(source, opened[key]), progress, draw)
            _say_tally(key, pool.tallies[key])


def family_items(source: Source, request: SourceRequest, seed: int) -> Iterator[Item]:
    for number, question in enumerate(source.questions(seed, request.size, request.params), 1):
        yield Item(question, source.id, number)


def dataset_items(dataset: Dataset, opened: Opened) -> Iterator[Item]:
    for place, drop in opened.left_out.items():
        yield Item(drop, place, None)
    for table in opened.tables:
        for number, row in enumerate(table.rows(), 1):
            yield Item(adapted(dataset, row, table.subset, opened.params), table.place, number)


def adapted(dataset: Dataset, row: Any, subset: str, params: dict[str, Any]) -> Question | Drop:
    if isinstance(row, Drop):
        return row
    if not isinstance(row, dict):
        return Drop("wrong_type", f"the row is {type(row).__name__}, not an object")
    try:
        question = dataset.adapt(row, subset, params)
    except Drop as drop:
        return drop
    question.metadata["dataset"] = dataset.key
    return question


def sample(
    questions: list[Question],
    size: int | None,
    seed: int,
    strata: Callable[[Question], tuple[Any, ...]] = lambda question: (),
) -> list[Question]:
    """At most `size` questions (null: all), drawn by the seed and their ids alone: the order of rows does not matter.

    Every question has its place in an order by the hash of seed and id. With strata (task, topic) the tasks take turns,
    the first of each, then the second of each, and within a task its topics do.
    """
    if size is None or len(questions) <= size:
        return questions
    order = sorted(questions, key=lambda q: question_id(f"{seed}/{q.id}"))
    for level in range(len(strata(order[0])), 0, -1):
        order = _in_turns(order, lambda q, level=level: strata(q)[:level])
    return order[:size]


def _in_turns(questions: list[Question], stratum: Callable[[Question], Any]) -> list[Question]:
    """First the first question of every stratum, then the second of every stratum, and so on."""
    seen: Counter[Any] = Counter()
    turns = []
    for question in questions:
        turns.append(seen[stratum(question)])
        seen[stratum(question)] += 1
    return [question for _, question in sorted(zip(turns, questions, strict=True), key=lambda pair: pair[0])]


# --- what is said and checked


def _dropped(key: str, item: Item, drop: Drop, tally: Tally) -> dict[str, Any]:
    tally.dropped[drop.reason] += 1
    row = {"dataset": key, "file": item.place, "row": item.number, "reason": drop.reason}
    if drop.detail:
        where = item.place if item.number is None else f"{item.place}, row {item.number}"
        tally.examples.setdefault(drop.reason, f"{where}: {drop.detail}")
        row["detail"] = drop.detail
    if isinstance(item.outcome, Question):
        row["question_id"] = item.outcome.id
    return row


def _say_tally(key: str, tally: Tally) -> None:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in tally.dropped.most_common())
    counts = f"{tally.num_rows:,} rows -> {tally.num_questions:,} questions"
    say(f"collect {key} | {counts} | {reasons or 'nothing dropped'}")
    for reason, example in tally.examples.items():
        say(f"{key}: {tally.dropped[reason]:,} dropped as {reason}; the first is {example}")


def counts_of(requests: dict[str, SourceRequest], pool: Pool) -> list[dict[str, Any]]:
    """One entry a source, as in counts.json. expected: null where it is not known, or where a size was asked for."""
    counts = []
    for key, tally in pool.tallies.items():
        source, request = SOURCES[key], requests[key]
        entry = {"source": key, "rows": tally.num_rows, "dropped": dict(tally.dropped.most_common())}
        entry["questions"] = tally.num_questions
        if isinstance(source, Dataset):
            entry["got"] = tally.num_questions + (tally.dropped["duplicate"] if source.count_duplicates else 0)
            entry["expected"] = expected_of(source, request)
            entry |= {"paper": source.published, "note": source.note, "licence": source.licence}
        counts.append(entry)
    return counts


def expected_of(source: Dataset, request: SourceRequest) -> int | None:
    known = source.expected if request.size is None else None
    return known if request.expected is None else request.expected


def _say_table(counts: list[dict[str, Any]]) -> None:
    datasets = [entry for entry in counts if "expected" in entry]
    if not datasets:
        return
    say(f"{'source':<14}{'rows':>9}{'got':>8}{'expected':>10}{'paper':>8}  why")
    for entry in datasets:
        expected = "not known" if entry["expected"] is None else f"{entry['expected']:,}"
        paper = "" if entry["paper"] is None else f"{entry['paper']:,}"
        numbers = f"{entry['rows']:>9,}{entry['got']:>8,}{expected:>10}{paper:>8}"
        say(f"{entry['source']:<14}{numbers}  {_why(entry)}")


def _why(entry: dict[str, Any]) -> str:
    if _as_expected(entry):
        return entry["note"]
    few = entry["got"] < entry["expected"]
    return f"{'FEWER: part of it' if few else 'MORE: more than it'}, or another version. {entry['note']}"


def _as_expected(entry: dict[str, Any]) -> bool:
    return entry.get("expected") is None or entry["got"] == entry["expected"]


def check_counts(counts: list[dict[str, Any]], allowed: bool) -> None:
    """Raises UserError where a source gave another number of questions than expected and that is not allowed."""
    wrong = [f"{e['source']} {e['got']:,} instead of {e['expected']:,}" for e in counts if not _as_expected(e)]
    if wrong and not allowed:
        raise UserError(f"number of questions: {', '.join(wrong)} (table above); allow_count_mismatch=true takes them")


if __name__ == "__main__":
    run_entry(main, CollectConfig, __doc__)
