"""Takes the pool down to the questions worth training on, counting every step and keeping every dropped row.

    python -m data.filter configs/demo/filter.yaml traces=outputs/data/demo-traces-1234abcd \\
        'attempts=[outputs/data/demo-attempt-1234abcd]' 'against=[outputs/data/demo-heldout-1234abcd]'

Writes traces.jsonl (what is left; after diversity sampling in drawn order), questions.jsonl (their questions),
funnel.json (per step: in, out, counts per reason and per domain) and dropped/<step>.jsonl.

Attempts are what costs, so the two cheap steps may run first, on their own: `difficulty=false diversity=false`. That
run is then the `questions` of data.attempt and the `traces` of a second call with `contamination=false quality=false`,
whose funnel goes on where the first one ended.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import log
from core.config import UserError, option, run_entry
from core.runs import finished, open_run
from core.types import Trace, read_jsonl, trace_from_row, write_jsonl
from data.decontaminate import RULES, find_contaminated
from data.quality import quality_reason, s1_quality_reason, trace_reason
from data.select import select
from eval.run import load_questions

# What to write down of a dropped row, by question id. "reason" is always there.
Drops = Mapping[str, Mapping[str, Any]]


@dataclass
class FilterConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    traces: str = option(help="finished run of data.distill, or of data.filter to go on from it")

    contamination: bool = option(True, help="drop questions that are also in an evaluation set")
    against: list[str] = option([], help="evaluation sets: finished runs of data.collect, or .jsonl files of questions")
    contamination_rule: str = option("content", help="content, or s1-8gram (s1's rule, which flags contest phrases)")

    quality: bool = option(True, help="drop questions and traces by the rules of data/quality.py")
    quality_rules: str = option("meant", help="meant, or s1 (s1's patterns as published, with their false positives)")
    max_thinking_tokens: int | None = option(None, help="drop longer traces; null keeps every length")

    difficulty: bool = option(True, help="drop questions that a model of `attempts` solves")
    attempts: list[str] = option([], help="finished runs of data.attempt, each covering every question left")

    diversity: bool = option(True, help="draw num_selected traces: domains alike, longer thinking preferred")
    num_selected: int = option(1000, help="traces to keep (s1K: 1,000)")
    seed: int = option(0, help="of the draw")


def main(config: FilterConfig) -> Path:
    check(config)
    inputs = {"traces": config.traces}
    inputs |= {f"against {path}": path for path in (config.against if config.contamination else ())}
    inputs |= {f"attempts {path}": path for path in (config.attempts if config.difficulty else ())}
    with open_run("data", config, inputs) as run:
        if run.is_done:
            return run.path
        funnel = Funnel(run.path, load_traces(config.traces), before=steps_before(config.traces))
        # The paper's order, and what its 59,029 questions (54,116 with traces) became: 51,581 after quality, 24,496
        # after difficulty, 1,000 after diversity. Its decontamination was switched off (PAPER 1.5).
        if config.contamination:
            funnel.step("contamination", contaminated, config)
        if config.quality:
            funnel.step("quality", low_quality, config)
        if config.difficulty:
            funnel.step("difficulty", too_easy, config)
        if config.diversity:
            funnel.draw("diversity", config)
        funnel.write()
        run.finish(**funnel.headline())
    return run.path


def check(config: FilterConfig) -> None:
    """Raises UserError for a config that could only fail later."""
    if config.contamination and not config.against:
        raise UserError("contamination=true needs evaluation sets: against=[run or .jsonl, ...]")
    if config.contamination_rule not in RULES:
        raise UserError(f"contamination_rule {config.contamination_rule!r} is unknown; known: {', '.join(RULES)}")
    if config.quality_rules not in ("meant", "s1"):
        raise UserError(f"quality_rules {config.quality_rules!r} is unknown; known: meant, s1")
    if config.difficulty and not config.attempts:
        raise UserError("difficulty=true needs attempts=[run of data.attempt, ...]")
    if config.diversity and config.num_selected < 1:
        raise UserError(f"num_selected must be at least 1, not {config.num_selected}")


def load_traces(path: str | Path) -> list[Trace]:
    """Traces of a finished run, in its order. Raises UserError for two traces of one question or a missing length."""
    file = finished(path) / "traces.jsonl"
    traces = [trace_from_row(row) for row in read_jsonl(file)]
    if not traces:
        raise UserError(f"{file} holds no traces")
    twice = [id for id, count in Counter(t.question.id for t in traces).items() if count > 1]
    if twice:
        raise UserError(f"{file}: {len(twice):,} questions have more than one trace, the first is {twice[0]}")
    unmeasured = [t.question.id for t in traces if t.num_thinking_tokens is None]
    if unmeasured:
        raise UserError(f"{file}: {len(unmeasured):,} traces lack num_thinking_tokens, the first is {unmeasured[0]}")
    return traces


# The steps: traces and config in, what to drop out


def contaminated(traces: Sequence[Trace], config: FilterConfig) -> Drops:
    against = [question for path in config.against for question in load_questions(path)]
    hits = find_contaminated([t.question for t in traces], against, config.contamination_rule)
    return {
        id: {
            "reason": hit.rule,
            "evidence": hit.evidence,
            "match_id": hit.match.id,
            "match_source": hit.match.source,
            "match_text": hit.match.text,
        }
        for id, hit in hits.items()
    }


def low_quality(traces: Sequence[Trace], config: FilterConfig) -> Drops:
    def reason(trace: Trace) -> str | None:
        if config.quality_rules == "s1":
            return s1_quality_reason(trace) or trace_reason(trace, config.max_thinking_tokens)
        return quality_reason(trace, config.max_thinking_tokens)

    return drops_of((trace.question.id, reason(trace)) for trace in traces)


def too_easy(traces: Sequence[Trace], config: FilterConfig) -> Drops:
    """Raises UserError where an attempts run does not cover every question."""
    ids = [trace.question.id for trace in traces]
    grades: list[tuple[str, dict[str, list[bool | None]]]] = []
    for path in config.attempts:
        by_question: dict[str, list[bool | None]] = defaultdict(list)
        model = Path(path).name
        for row in read_jsonl(finished(path) / "grades.jsonl"):
            by_question[row["question_id"]].append(row["correct"])
            model = row["model"]
        missing = [id for id in ids if id not in by_question]
        if missing:
            raise UserError(
                f"attempts run {path} covers {len(ids) - len(missing):,} of {len(ids):,} questions, "
                f"the first one missing is {missing[0]}; run data.attempt on all of them"
            )
        grades.append((model, by_question))
    return drops_of((id, difficulty_reason([(model, graded[id]) for model, graded in grades])) for id in ids)


def difficulty_reason(grades: Sequence[tuple[str, Sequence[bool | None]]]) -> str | None:
    """grades: per attempts run the model, and whether each of its attempts at the question is correct (None: cannot be
    graded). Too easy is what any model solved once; where no attempt of a model can be graded, its difficulty is
    unknown, and such questions go as well (in s1 without a word, PAPER 7 no. 10)."""
    for model, correct in grades:
        if any(correct):
            return f"solved_by_{model}"
    for model, correct in grades:
        if all(c is None for c in correct):
            return f"not_gradable_{model}"
    return None


def drops_of(reasons: Iterable[tuple[str, str | None]]) -> Drops:
    return {id: {"reason": reason} for id, reason in reasons if reason}


# The record of it


class Funnel:
    """What is left, what each step took, and the files that say so."""

    def __init__(self, path: Path, traces: list[Trace], before: Sequence[dict] = ()):
        self.path, self.traces, self.steps = path, traces, list(before)
        (path / "dropped").mkdir(exist_ok=True)

    def step(self, name: str, find_drops: Callable[..., Drops], config: FilterConfig) -> None:
        started = time.monotonic()
        drops = find_drops(self.traces, config)
        self._close(name, [t for t in self.traces if t.question.id not in drops], drops, started)

    def draw(self, name: str, config: FilterConfig) -> None:
        started = time.monotonic()
        drawn = select(self.traces, config.num_selected, config.seed)
        if len(drawn) < config.num_selected:
            log.say(f"filter {name} | {config.num_selected:,} asked, only {len(drawn):,} are left: all are taken")
        kept = {t.question.id for t in drawn}
        drops = drops_of((t.question.id, None if t.question.id in kept else "not_drawn") for t in self.traces)
        self._close(name, drawn, drops, started)

    def _close(self, name: str, kept: list[Trace], drops: Drops, started: float) -> None:
        write_jsonl(self.path / "dropped" / f"{name}.jsonl", _dropped_rows(self.traces, drops))
        if not kept:
            raise UserError(f"step {name} left nothing of {len(self.traces):,} questions; see {self.path / 'dropped'}")
        domains = {"in": _domains(self.traces), "out": _domains(kept)}
        reasons = Counter(drop["reason"] for drop in drops.values())
        self.steps.append(
            {
                "step": name,
                "in": len(self.traces),
                "out": len(kept),
                "reasons": dict(reasons.most_common()),
                "domains": {d: {"in": n, "out": domains["out"][d]} for d, n in sorted(domains["in"].items())},
            }
        )
        log.say(f"{_line(self.steps[-1])} | {log.duration(time.monotonic() - started)}")
        self.traces = kept

    def write(self) -> None:
        write_jsonl(self.path / "traces.jsonl", self.traces)
        write_jsonl(self.path / "questions.jsonl", (t.question for t in self.traces))
        (self.path / "funnel.json").write_text(json.dumps({"steps": self.steps}, indent=2) + "\n")
        for line in self.table():
            log.say(line)

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
        return {"num_pool": self.steps[0]["in"] if self.steps else len(self.traces), **counts}


def _dropped_rows(traces: Iterable[Trace], drops: Drops) -> Iterator[dict[str, Any]]:
    for question in (t.question for t in traces):
        if question.id in drops:
            origin = {"domain": question.domain, "source": question.source, "text": question.text}
            yield {"question_id": question.id, **drops[question.id], **origin}


def _domains(traces: Iterable[Trace]) -> Counter[str]:
    return Counter(t.question.domain for t in traces)


def _line(step: Mapping[str, Any]) -> str:
    reasons = " ".join(f"{reason} {count:,}" for reason, count in step["reasons"].items())
    return f"filter {step['step']} | {step['in']:,} -> {step['out']:,} | {reasons or 'nothing dropped'}"


def steps_before(path: str | Path) -> list[dict]:
    """The steps an earlier run of data.filter took, if `path` is one."""
    file = Path(path) / "funnel.json"
    return json.loads(file.read_text())["steps"] if file.exists() else []


if __name__ == "__main__":
    run_entry(main, FilterConfig, __doc__)
