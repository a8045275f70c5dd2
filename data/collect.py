"""Collects questions from the sources a config lists: published datasets, and families that are generated.

    python -m data.collect configs/demo/pool.yaml
    python -m data.collect configs/data/collect-s1-59k.yaml                  # the sixteen datasets of s1, from the hub
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

from core import tables
from core.config import UserError, option, run_entry
from core.log import Progress, say
from core.runs import Run, open_run
from core.tables import Drop, Table
from core.types import Question, question_id, read_jsonl, write_jsonl
from data.sources import SOURCES, Dataset, Source


@dataclass
class SourceRequest:
    """What to take from one source."""

    size: int | None = option(None, help="questions to draw; null takes all, or the dataset's usual sample")
    params: dict[str, Any] = field(default_factory=dict)
    revision: str | None = option(None, help="commit on the hub; null keeps the one in data/sources.py")
    paths: list[str] = option([], help="files or folders below root, instead of the folder of its name")
    expected: int | None = option(None, help="questions to expect; null keeps the number in data/sources.py")


@dataclass
class CollectConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    seed: int = option(help="of generated questions, samples and the order of choices; evaluation takes another one")
    sources: dict[str, SourceRequest] = option(
        help="source: {size, params, revision, paths, expected}, in order of precedence (data/sources.py lists them)"
    )
    root: str | None = option(None, help="folder of local files; null reads datasets from the hub")
    skip: list[str] = option([], help="sources to go on without")
    allow_count_mismatch: bool = option(False, help="go on where a dataset gives another number than expected")


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


def main(config: CollectConfig) -> Path:
    requests = requests_of(config)
    local = find_local_files(config, requests)
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


def requests_of(config: CollectConfig) -> dict[str, SourceRequest]:
    """What is left after `skip`. Raises UserError for an unknown source, option or combination."""
    unknown = sorted({*config.sources, *config.skip} - set(SOURCES))
    if unknown:
        raise UserError(f"sources: {unknown[0]!r} is unknown; known: {', '.join(SOURCES)}")
    requests = {key: request for key, request in config.sources.items() if key not in config.skip}
    for key, request in requests.items():
        if isinstance(SOURCES[key], Source):
            if request.size is None:
                raise UserError(f"sources.{key}: its questions are generated, so it needs size=<how many>")
            continue
        wrong = sorted(set(request.params) - set(SOURCES[key].params))
        if wrong:
            raise UserError(f"{key}: no parameter {wrong[0]!r}; known: {', '.join(SOURCES[key].params) or 'none'}")
        for name, value in request.params.items():
            kind = type(SOURCES[key].params[name] or "")  # null stands for a path
            if value is not None and type(value) is not kind:
                raise UserError(f"{key}: params.{name} is {value!r}, not of type {kind.__name__}")
        if request.paths and config.root is None:
            raise UserError(f"{key}: paths are below root; set root=<folder>")
    if not requests:
        raise UserError("sources: nothing is left to collect")
    return requests


# --- where the rows are


@dataclass
class LocalFiles:
    """Of one dataset, relative to root: files to read, by name, with their subset; what leads out of root; files of
    other splits."""

    files: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    other_splits: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Opened:
    """A dataset ready to be read. left_out: what lies beside its tables and is not read, by place."""

    tables: list[Table]
    params: dict[str, Any]
    left_out: dict[str, Drop]


def find_local_files(config: CollectConfig, requests: dict[str, SourceRequest]) -> dict[str, LocalFiles]:
    """The files of every dataset below root. Raises UserError naming all datasets that have none."""
    if config.root is None:
        return {}
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"root {config.root} is not a folder")
    found, missing = {}, {}
    for key, request in requests.items():
        dataset = SOURCES[key]
        if isinstance(dataset, Source):
            continue
        try:
            files, refused = tables.local_files(root, request.paths or [key])
        except FileNotFoundError as error:
            missing[key] = f"no {error}"
            continue
        local = found[key] = LocalFiles(refused=[str(path.relative_to(root)) for path in refused])
        for name in (path.relative_to(root) for path in files):
            if request.paths or dataset.reads(name):
                local.files[str(name)] = dataset.subset_of(name)
            else:
                local.other_splits.append(str(name))
        if not local.files and not local.refused:
            missing[key] = f"no {', '.join(tables.READABLE)} file of its splits"
        elif dataset.excluded and dataset.excluded not in local.files.values():
            missing[key] = f"no {dataset.excluded} beside it, whose questions are left out for evaluation"
    if missing:
        what = "; ".join(f"{key} ({why})" for key, why in missing.items())
        raise UserError(f"not found below root {config.root}: {what}; put them there, or skip=[{', '.join(missing)}]")
    return found


def open_datasets(
    config: CollectConfig, requests: dict[str, SourceRequest], local: dict[str, LocalFiles], run: Run
) -> dict[str, Opened]:
    """All datasets asked for. Raises UserError, after all were tried, naming those that cannot be reached."""
    opened, unreachable = {}, []
    for key, request in requests.items():
        dataset = SOURCES[key]
        if isinstance(dataset, Source):
            continue
        if key in local:
            opened[key] = open_local(dataset, request, local[key], config)
            run.record.setdefault("sources", {})[key] = {"root": config.root, "files": list(local[key].files)}
            continue
        if dataset.hub_id is None:
            raise UserError(f"{key} is on no hub: {dataset.access}")
        revision = request.revision or dataset.revision
        commit = revision if dataset.addresses else tables.hub_revision(dataset.hub_id, revision)
        try:
            opened[key] = open_on_hub(dataset, request, commit, config.seed)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 gated, offline, moved: the libraries raise a dozen types
            unreachable.append(key)
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            say(f"{key} ({dataset.hub_id}) cannot be reached: {why}. To get it: {dataset.access}")
            continue
        pinned = revision is not None
        note = {"hub_id": dataset.hub_id, "revision": commit, "pinned": pinned}
        run.record.setdefault("sources", {})[key] = note
        if not pinned:
            say(f"{key}: no revision is set, so the newest is read: {commit or 'its commit is not known'}")
    if unreachable:
        keys = ", ".join(unreachable)
        raise UserError(f"cannot be reached: {keys}; get access as said above, or go on without: skip=[{keys}]")
    run.save()
    return opened


def open_local(dataset: Dataset, request: SourceRequest, local: LocalFiles, config: CollectConfig) -> Opened:
    root = Path(config.root)
    found = [tables.local_table(root / file, root, subset) for file, subset in local.files.items()]
    excluded = [table for table in found if table.subset == dataset.excluded]
    left_out = {place: Drop("outside_root", "leads out of root, or nowhere; not read") for place in local.refused}
    left_out |= {place: Drop("other_split") for place in local.other_splits}
    return Opened(found, params_of(dataset, request, excluded, config.seed), left_out)


def open_on_hub(dataset: Dataset, request: SourceRequest, commit: str | None, seed: int) -> Opened:
    found = list(dataset.hub_tables(commit))
    excluded = list(dataset.hub_tables(commit, dataset.excluded)) if dataset.excluded else []
    return Opened(found, params_of(dataset, request, excluded, seed), {})


def params_of(dataset: Dataset, request: SourceRequest, excluded: list[Table], seed: int) -> dict[str, Any]:
    """Options of the adapter, with the questions that it keeps and leaves out."""
    params = {**dataset.params, **request.params, "seed": seed}
    if "keep" in params:
        params["keep"] = _texts(read_jsonl(params["keep"]), "problem") if params["keep"] else set()
    params["excluded"] = _texts((row for table in excluded for row in table.rows()), "Question")
    return params


def _texts(rows: Iterable[Any], column: str) -> set[str]:
    return {row[column] for row in rows if isinstance(row, dict) and isinstance(row.get(column), str)}


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
            known = source.expected if request.size is None else None
            entry["got"] = tally.num_questions + (tally.dropped["duplicate"] if source.count_duplicates else 0)
            entry["expected"] = known if request.expected is None else request.expected
            entry |= {"paper": source.published, "note": source.note, "licence": source.licence}
        counts.append(entry)
    return counts


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
