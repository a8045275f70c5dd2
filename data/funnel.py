"""The funnel: what is left, what each step took and why, and the files that say so."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import log
from core.config import UserError
from core.types import Question, write_jsonl

# What to write down of a dropped question, by its id. "reason" is always there.
Drops = Mapping[str, Mapping[str, Any]]


class Funnel:
    """before: the steps that an earlier run took."""

    def __init__(self, folder: Path, questions: Sequence[Question], before: Sequence[dict] = ()):
        self.folder, self.questions, self.steps = folder, list(questions), list(before)
        (folder / "dropped").mkdir(exist_ok=True)

    def step(self, name: str, find_drops: Callable[[Sequence[Question]], Drops]) -> None:
        """Takes away what `find_drops` names."""
        started = time.monotonic()
        drops = find_drops(self.questions)
        self._close(name, [q for q in self.questions if q.id not in drops], drops, started)

    def draw(self, name: str, draw: Callable[[Sequence[Question]], Sequence[Question]]) -> None:
        """Keeps what `draw` returns, in its order."""
        started = time.monotonic()
        drawn = draw(self.questions)
        kept = {q.id for q in drawn}
        drops = drops_of((q.id, None if q.id in kept else "not_drawn") for q in self.questions)
        self._close(name, list(drawn), drops, started)

    def _close(self, name: str, kept: list[Question], drops: Drops, started: float) -> None:
        write_jsonl(self.folder / "dropped" / f"{name}.jsonl", _dropped_rows(self.questions, drops))
        if not kept:
            raise UserError(
                f"step {name} left nothing of {len(self.questions):,} questions; see {self.folder / 'dropped'}"
            )
        domains = {"in": _domains(self.questions), "out": _domains(kept)}
        reasons = Counter(drop["reason"] for drop in drops.values())
        self.steps.append(
            {
                "step": name,
                "in": len(self.questions),
                "out": len(kept),
                "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
                "domains": {d: {"in": n, "out": domains["out"][d]} for d, n in sorted(domains["in"].items())},
            }
        )
        log.say(f"{_line(self.steps[-1])} | {log.duration(time.monotonic() - started)}")
        self.questions = kept

    def write(self, unreadable: Mapping[str, Mapping[str, int]]) -> None:
        """funnel.json. unreadable: file -> reason -> rows that never were questions (data/rows.py)."""
        content = {"unreadable": unreadable, "steps": self.steps}
        (self.folder / "funnel.json").write_text(json.dumps(content, indent=2) + "\n")

    def table(self) -> list[str]:
        """The funnel by domain: a row a domain, a column a step."""
        if not self.steps:
            return []
        first = self.steps[0]["domains"]
        width = max(len(domain) for domain in (*first, "domain"))
        rows = [("domain", "pool", *(step["step"] for step in self.steps))]
        for domain, counts in first.items():
            left = (step["domains"].get(domain, {"out": 0})["out"] for step in self.steps)
            rows.append((domain, f"{counts['in']:,}", *(f"{n:,}" for n in left)))
        rows.append(("all", f"{self.steps[0]['in']:,}", *(f"{step['out']:,}" for step in self.steps)))
        return ["  ".join([row[0].ljust(width), *(cell.rjust(13) for cell in row[1:])]) for row in rows]

    def headline(self) -> dict[str, int]:
        counts = {f"num_after_{step['step']}": step["out"] for step in self.steps}
        return {"num_pool": self.steps[0]["in"] if self.steps else len(self.questions), **counts}


def drops_of(reasons: Iterable[tuple[str, str | None]]) -> Drops:
    return {id: {"reason": reason} for id, reason in reasons if reason}


def _dropped_rows(questions: Iterable[Question], drops: Drops) -> Iterator[dict[str, Any]]:
    for question in questions:
        if question.id in drops:
            origin = {"domain": question.domain, "source": question.source, "text": question.text}
            yield {"question_id": question.id, **drops[question.id], **origin}


def _domains(questions: Iterable[Question]) -> Counter[str]:
    return Counter(q.domain for q in questions)


def _line(step: Mapping[str, Any]) -> str:
    reasons = " ".join(f"{reason} {count:,}" for reason, count in step["reasons"].items())
    return f"filter {step['step']} | {step['in']:,} -> {step['out']:,} | {reasons or 'nothing dropped'}"


def steps_before(path: str | Path) -> list[dict]:
    """The steps an earlier run of data.filter took, if `path` is one."""
    file = Path(path) / "funnel.json"
    return json.loads(file.read_text())["steps"] if file.exists() else []
