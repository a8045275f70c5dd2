"""Collects questions with checkable answers from the sources a config lists.

    python -m data.collect configs/demo/pool.yaml
    python -m data.collect configs/demo/pool.yaml seed=7 name=demo-pool-7

Writes questions.jsonl. The same config gives the same questions on every machine.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import UserError, option, run_entry
from core.log import Progress, say
from core.runs import open_run
from core.types import Question, write_jsonl
from data.sources import SOURCES


@dataclass
class SourceRequest:
    """What to take from one source."""

    size: int = option(help="questions to draw, before duplicates are dropped")
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class CollectConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    seed: int = option(help="of the sources that generate their questions; evaluation takes another one")
    sources: dict[str, SourceRequest] = option(
        help="source id: {size: ..., params: {...}} (data/sources.py lists them)"
    )


def main(config: CollectConfig) -> Path:
    unknown = sorted(set(config.sources) - set(SOURCES))
    if unknown:
        raise UserError(f"sources: {unknown[0]!r} is unknown; known: {', '.join(SOURCES)}")
    with open_run("data", config) as run:
        if run.is_done:
            return run.path
        questions, num_duplicates = without_duplicates(read_sources(config))
        write_jsonl(run.path / "questions.jsonl", questions)
        for domain, count in sorted(Counter(q.domain for q in questions).items()):
            say(f"{count:>7,} {domain}")
        say(f"{len(questions):>7,} questions; {num_duplicates} exact duplicates dropped")
        run.finish(num_questions=len(questions), num_duplicates=num_duplicates)
    return run.path


def read_sources(config: CollectConfig) -> Iterator[Question]:
    with Progress("collect", sum(r.size for r in config.sources.values()), "questions") as progress:
        done = 0
        for source_id, request in config.sources.items():
            for question in SOURCES[source_id].questions(config.seed, request.size, request.params):
                done += 1
                progress.update(done, source_id)
                yield question


def without_duplicates(questions: Iterator[Question]) -> tuple[list[Question], int]:
    """(the first question of each id, number of later ones with the same text)."""
    questions = list(questions)
    first: dict[str, Question] = {}
    for question in questions:
        first.setdefault(question.id, question)
    return list(first.values()), len(questions) - len(first)


if __name__ == "__main__":
    run_entry(main, CollectConfig, __doc__)
