"""Takes the pool down to the questions worth training on, counting every step and keeping every dropped row.

    python -m data.filter configs/demo/filter.yaml traces=outputs/data/demo-traces-1234abcd \\
        'attempts=[outputs/data/demo-attempt-1234abcd]' 'against=[outputs/data/demo-heldout-1234abcd]'
    python -m data.filter configs/data/s1k-offline.yaml root=<folder of upstream rows>

Writes traces.jsonl (what is left; after a selection in drawn order), questions.jsonl (their questions), s1k.parquet and
s1k.jsonl (the same in the published schema; s1k-1.1.* with second_traces), funnel.json (per step: in, out, counts per
reason and per domain), dropped/<step>.jsonl, datacard.md, funnel.png and domains.png (and .pdf).

The earlier steps run first, each in a run folder of its own, where their results are not given and their keys are
(`collect:`, `distill:`, `attempt:`, `classify:`), as in the second command. dry_run=true says what each would take, as
far as its input is there; distill.dry_run=true collects, says what the traces would cost and ends there.

Attempts are what costs, so the two cheap steps may run first, on their own: `difficulty=false selection=all`. That
run is then the `questions` of data.attempt and the `traces` of a second call with `contamination=false quality=false`,
whose funnel goes on where the first one ended.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import log
from core.config import UserError, option, run_entry
from core.runs import Run, open_run, run_path
from core.types import Question, Trace, numbered_lines, write_jsonl
from data import datacard, earlier, figures
from data.decontaminate import RULES, find_contaminated, near_duplicates_within
from data.earlier import Known
from data.export import publish, write_tables
from data.funnel import Drops, Funnel, drops_of, steps_before
from data.quality import quality_reason, s1_quality_reason, trace_reason
from data.rows import Ledger, file_of
from data.select import METHODS, is_aime, is_gpqa, is_math, longest_first, random_traces, select
from eval.grading import grade

SETTINGS_OF_SELECTION = {
    "diversity": ("num_selected", "seed", "diversity_method", "prefer_long", "trusted"),
    "random": ("num_selected", "seed"),
    "longest": ("num_selected",),
    "all": (),
}
TRUSTED_MATH_TOKENS = 5600  # a MATH question is trusted if its thinking is longer (released data/filter.ipynb)


@dataclass
class FilterConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    traces: str | None = option(
        None, help="finished run of data.distill, or of data.filter to go on from it, or .jsonl"
    )
    pool: str | None = option(None, help="finished run of data.collect, or .jsonl: what has no trace is counted too")
    second_traces: str | None = option(None, help="run of data.distill with a second teacher: writes s1K-1.1's schema")

    contamination: bool = option(True, help="drop questions that are also in an evaluation set")
    against: list[str] = option([], help="evaluation sets: finished runs, files, or hf://datasets/<repo>/<file>")
    missing_sets: str = option("error", help="an evaluation set that cannot be read: error, or skip (the card says so)")
    contamination_rule: str = option("content", help="content, or s1-8gram (s1's rule, which flags contest phrases)")
    near_duplicates: bool = option(False, help="with contamination: of near-duplicates inside the pool keep one")

    missing: str = option("trace", help="with pool, drop what lacks its: trace, or any (s1: trace, a grade, a domain)")

    quality: bool = option(True, help="drop questions and traces by the rules of data/quality.py")
    quality_rules: str = option("meant", help="meant, or s1 (s1's patterns as published, with their false positives)")
    max_thinking_tokens: int | None = option(None, help="drop longer traces; null keeps every length")

    difficulty: bool = option(True, help="drop questions that a model of `attempts` solves")
    attempts: list[str] = option([], help="finished runs of data.attempt")
    unattempted: str = option("error", help="a question that a run of `attempts` lacks: error, or drop")
    ungraded: str = option("drop", help="a question whose attempts cannot be graded: drop, or keep")

    correct_only: bool = option(False, help="keep only traces whose attempt is graded right")
    domains: str | None = option(None, help="finished run of data.classify: its domains replace those of the questions")

    selection: str = option("diversity", help="diversity, random, longest, or all (no selection)")
    num_selected: int = option(1000, help="traces to select (s1K: 1,000)")
    seed: int = option(0, help="of the selection")
    diversity_method: str = option("uniform", help="uniform (paper), or benchmark (s1's code: GPQA- and AIME-shaped)")
    prefer_long: bool = option(True, help="within a domain prefer long thinking; false draws uniformly")
    trusted: bool = option(False, help="begin with trusted questions (s1's code: 393; paper: 384)")

    pictures: bool = option(True, help="draw funnel.png and domains.png")
    dry_run: bool = option(
        False, help="say what would be read and dropped by which rules, and run no step", affects_result=False
    )
    push: str | None = option(None, help="hub dataset to publish to, with the data card", affects_result=False)

    root: str | None = option(None, help="folder of upstream rows, for data.collect")
    unpack: dict[str, Any] = option({}, help="keys of inference.unpack, run first where model= of a later step is open")
    collect: dict[str, Any] = option({}, help="keys of data.collect, run first where pool= is not given")
    distill: dict[str, Any] = option({}, help="keys of data.distill, run first where traces= is not given")
    attempt: dict[str, dict[str, Any]] = option(
        {}, help="by model name the keys of data.attempt, run first where attempts= is not given"
    )
    classify: dict[str, Any] = option({}, help="keys of data.classify, run first where domains= is not given")


@dataclass(frozen=True)
class Step:
    """One step of the funnel. settings: the keys that decide what it drops. paper, notebook: the questions s1 had left
    after it, in its text and in its code."""

    name: str
    is_on: Callable[[FilterConfig], bool]
    find_drops: Callable[[Sequence[Question], Known], Drops]
    settings: tuple[str, ...] = ()
    paper: int | None = None
    notebook: int | None = None


def main(config: FilterConfig) -> Path | None:
    check(config)
    try:
        given = earlier.run(config)
    except earlier.OnlyEstimated as step:
        log.say(f"{step} was only estimated (dry_run=true), so nothing is filtered")
        return None
    if config.dry_run:
        for line in plan(config, given):
            log.say(line)
        return None
    inputs = {"traces": given.traces, "pool": given.pool, "second traces": given.second_traces}
    inputs |= {"domains": given.domains}
    inputs |= {f"against {path}": path for path in (given.against if given.contamination else ())}
    inputs |= {f"attempts {path}": path for path in (given.attempts if given.difficulty else ())}
    with open_run("data", config, inputs) as run:
        if not run.is_done:
            run_filter(run, config, given)
    if config.push:
        publish(run.path, config.push)
    return run.path


def check(config: FilterConfig) -> None:
    """Raises UserError for a config that could only fail later."""
    choices = {
        "contamination_rule": RULES,
        "missing_sets": ("error", "skip"),
        "missing": ("trace", "any"),
        "quality_rules": ("meant", "s1"),
        "unattempted": ("error", "drop"),
        "ungraded": ("drop", "keep"),
        "selection": SETTINGS_OF_SELECTION,
        "diversity_method": METHODS,
    }
    for key, known in choices.items():
        if getattr(config, key) not in known:
            raise UserError(f"{key} {getattr(config, key)!r} is unknown; known: {', '.join(known)}")
    if not config.traces and not config.distill:
        raise UserError(
            "give traces=<finished run of data.distill>, or the keys of the steps before (collect, distill)"
        )
    if config.contamination and not config.against:
        raise UserError("contamination=true needs evaluation sets: against=[run or file, ...]")
    if config.difficulty and not config.attempts and not config.attempt:
        raise UserError("difficulty=true needs attempts=[run of data.attempt, ...]")
    if config.missing == "any" and not config.pool and not config.collect:
        raise UserError("missing=any needs pool=<run of data.collect>")
    if config.pool and config.traces and steps_before(config.traces):
        raise UserError(f"{config.traces} is a run of data.filter: its funnel began with the pool, so leave out pool=")
    if config.num_selected < 1:
        raise UserError(f"num_selected must be at least 1, not {config.num_selected}")
    earlier.run(config, dry=True)


def plan(config: FilterConfig, given: FilterConfig) -> Iterator[str]:
    """What is read, then the steps. config, given: as of run_filter. Raises UserError for an input that cannot be."""
    inputs = [("pool", given.pool, "questions.jsonl"), ("traces", given.traces, "traces.jsonl")]
    inputs += [("second_traces", given.second_traces, "traces.jsonl"), ("domains", given.domains, "domains.jsonl")]
    inputs += [("attempts", path, "grades.jsonl") for path in given.attempts if given.difficulty]
    for key, path, name in inputs:
        if path and path != earlier.LATER:
            yield f"{key}: {sum(1 for _ in numbered_lines(file_of(path, name))):,} rows of {path}"
    if given.contamination:
        here = [path for path in given.against if not path.startswith(earlier.HUB)]
        questions, unreachable = earlier.evaluation_sets(replace(given, against=here))
        if here:
            yield f"against: {len(questions):,} questions, evaluation sets here: {len(here) - len(unreachable)}"
        yield from (f"against: {path}, not looked for" for path in given.against if path not in here)
    steps = [(step.name, step.settings) for step in STEPS if step.is_on(given)]
    if given.selection != "all":
        steps.append((given.selection, SETTINGS_OF_SELECTION[given.selection]))
    for name, settings in steps:
        yield f"step {name}: {', '.join(f'{key}={getattr(given, key)}' for key in settings) or 'no settings'}"
    yield f"{len(steps)} steps -> {run_path('data', config)}; nothing was filtered (dry_run)"


def run_filter(run: Run, config: FilterConfig, given: FilterConfig) -> None:
    """config: as the user gave it. given: with the runs of the earlier steps filled in."""
    ledger = Ledger()
    known = Known(given, ledger)
    funnel = Funnel(run.path, known.questions, before=steps_before(given.traces))
    for step in STEPS:
        if step.is_on(given):
            funnel.step(step.name, lambda questions, step=step: step.find_drops(questions, known))
    if given.selection != "all":
        funnel.draw(given.selection, lambda questions: selected(questions, known))
    traces = [known.traces[q.id] for q in funnel.questions]

    write_jsonl(run.path / "traces.jsonl", traces)
    write_jsonl(run.path / "questions.jsonl", funnel.questions)
    write_jsonl(run.path / "dropped" / "unreadable.jsonl", ledger.rows)
    funnel.write(ledger.counts())
    write_tables(run.path, traces, known.second_traces)
    if given.pictures:
        figures.save(run.path, funnel.steps, traces)
    published = {step.name: (step.paper, step.notebook) for step in STEPS} | {"diversity": (1000, 1000)}
    card = datacard.text(run.record, config, known, funnel.steps, published, ledger.counts(), traces)
    (run.path / "datacard.md").write_text(card, encoding="utf-8")
    for line in funnel.table():
        log.say(line)
    run.finish(**funnel.headline(), num_selected=len(traces), num_unreadable=len(ledger.rows))


# The steps: questions and what is known about them in, what to drop out


def contaminated(questions: Sequence[Question], known: Known) -> Drops:
    config = known.config
    hits = find_contaminated(questions, known.against, config.contamination_rule)
    if config.near_duplicates:
        hits = hits | near_duplicates_within([q for q in questions if q.id not in hits])
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


def incomplete(questions: Sequence[Question], known: Known) -> Drops:
    """What the paper calls API errors. s1 dropped what lacked anything: coding questions, which had no reference
    solution to grade against, went here without a word (released data/filter.ipynb); that is missing=any."""
    config = known.config

    def reason(question: Question) -> str | None:
        if question.id not in known.traces:
            return known.no_trace.get(question.id, "no_trace")
        if config.missing == "trace":
            return None
        if config.difficulty and (unknown := not_graded(grades_of(question, known))):
            return unknown
        return not_classified(question, known)

    return drops_of((q.id, reason(q)) for q in questions)


def low_quality(questions: Sequence[Question], known: Known) -> Drops:
    limit = known.config.max_thinking_tokens

    def reason(trace: Trace) -> str | None:
        if known.config.quality_rules == "s1":
            return s1_quality_reason(trace) or trace_reason(trace, limit)
        return quality_reason(trace, limit)

    return drops_of((q.id, reason(known.traces[q.id])) for q in questions)


def too_easy(questions: Sequence[Question], known: Known) -> Drops:
    """Raises UserError where an attempts run does not cover every question, unless unattempted=drop."""
    config = known.config
    for path, _, attempts in known.attempts if config.unattempted == "error" else ():
        missing = [q.id for q in questions if q.id not in attempts]
        if missing:
            raise UserError(
                f"attempts run {path} covers {len(questions) - len(missing):,} of {len(questions):,} questions, "
                f"the first one missing is {missing[0]}; run data.attempt on all of them, or set unattempted=drop"
            )
    return drops_of((q.id, difficulty_reason(grades_of(q, known), config.ungraded)) for q in questions)


# per model that attempted: whether each of its attempts is correct (None: cannot be graded); empty: it did not try
Grades = Sequence[tuple[str, Sequence[bool | None]]]


def grades_of(question: Question, known: Known) -> Grades:
    return [(model, attempts.get(question.id, ())) for _, model, attempts in known.attempts]


def difficulty_reason(grades: Grades, ungraded: str = "drop") -> str | None:
    """Too easy is what any model solved once. Where a model did not try, or none of its attempts can be graded, the
    difficulty is unknown: such questions go as well, in s1 without a word (released data/filter.ipynb).

    ungraded: keep takes what cannot be graded for hard.
    """
    for model, correct in grades:
        if any(correct):
            return f"solved_by_{model}"
    unknown = not_graded(grades)
    return None if unknown and unknown != "not_attempted" and ungraded == "keep" else unknown


def not_graded(grades: Grades) -> str | None:
    if not all(correct for _, correct in grades):
        return "not_attempted"
    for model, correct in grades:
        if all(c is None for c in correct):
            return f"not_gradable_{model}"
    return None


def wrong(questions: Sequence[Question], known: Known) -> Drops:
    reasons = {True: None, False: "wrong_answer", None: "not_gradable"}
    return drops_of((q.id, reasons[grade(known.traces[q.id].attempt, q).correct]) for q in questions)


def unclassified(questions: Sequence[Question], known: Known) -> Drops:
    return drops_of((q.id, not_classified(q, known)) for q in questions)


def not_classified(question: Question, known: Known) -> str | None:
    return None if known.classified is None or question.id in known.classified else "not_classified"


# In the paper's order. Text and notebook count 59,029 questions before the first step and 1,000 after the last one, the
# selection; 384 of these (notebook: 393) are trusted.
STEPS = (
    Step(  # not run for the published sets, although the paper says so (released code, commit e6c18d8)
        "contamination", lambda c: c.contamination, contaminated,
        ("contamination_rule", "near_duplicates", "missing_sets"),
    ),
    Step("traces", lambda c: c.pool is not None, incomplete, ("missing",), paper=54_116, notebook=54_116),
    Step(
        "quality", lambda c: c.quality, low_quality, ("quality_rules", "max_thinking_tokens"),
        paper=51_581, notebook=51_607,
    ),
    Step(
        "difficulty", lambda c: c.difficulty, too_easy, ("unattempted", "ungraded"), paper=24_496, notebook=24_517,
    ),
    Step("correctness", lambda c: c.correct_only, wrong),  # no step of s1: 46% of its traces are graded wrong
    Step("domains", lambda c: c.domains is not None, unclassified),
)  # fmt: skip


# The selection


def selected(questions: Sequence[Question], known: Known) -> list[Question]:
    config = known.config
    traces = [known.traces[q.id] for q in questions]
    if config.selection == "random":
        drawn = random_traces(traces, config.num_selected, config.seed)
    elif config.selection == "longest":
        drawn = longest_first(traces)[: config.num_selected]
    else:
        trusted = {t.question.id for t in traces if is_trusted(t)} if config.trusted else set()
        if config.trusted:
            log.say(f"filter {config.selection} | {len(trusted):,} questions are trusted")
        if len(trusted) > config.num_selected:
            raise UserError(f"{len(trusted):,} questions are trusted, more than num_selected={config.num_selected:,}")
        drawn = select(
            traces, config.num_selected, config.seed, trusted, config.diversity_method, config.prefer_long
        )  # fmt: skip
    if len(drawn) < config.num_selected:
        log.say(
            f"filter {config.selection} | {config.num_selected:,} asked, only {len(drawn):,} are left: all are taken"
        )
    return [t.question for t in drawn]


def is_trusted(trace: Trace) -> bool:
    """The notebook's preselection: right, and from GPQA or AIME, or from MATH with long thinking."""
    source = trace.question.source
    chosen = is_gpqa(source) or is_aime(source) or (is_math(source) and trace.num_thinking_tokens > TRUSTED_MATH_TOKENS)
    return chosen and bool(grade(trace.attempt, trace.question).correct)


if __name__ == "__main__":
    run_entry(main, FilterConfig, __doc__)
