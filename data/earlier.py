"""The steps before data.filter: runs those that its config describes, and reads what all of them found."""

import dataclasses
import importlib
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.config import UserError, build
from core.log import say
from core.runs import run_path
from core.types import Question
from data.decontaminate import read_evaluation_set
from data.rows import BadRow, Ledger, domain_of, drop_of, file_of, grade_of, question_of, trace_of

# config key of data.filter: the entry it belongs to, and that entry's config
ENTRIES = {
    "unpack": ("inference.unpack", "UnpackConfig"),
    "collect": ("data.collect", "CollectConfig"),
    "distill": ("data.distill", "DistillConfig"),
    "attempt": ("data.attempt", "AttemptConfig"),
    "classify": ("data.classify", "ClassifyConfig"),
}
LATER = "(the step before)"  # stands for a path that no run has made yet


class OnlyEstimated(Exception):
    """A step was asked what it would cost (dry_run=true), and did nothing."""


def run(config: Any, dry: bool = False) -> Any:
    """`config` (a FilterConfig) with the results of the earlier steps filled in.

    Each step that has keys and whose result is not given runs through its own entry, into its own run folder, so what
    is finished is not made again. Its keys may begin with a file, config=<its own YAML>; name and inputs are known.
    dry: only builds their configs. Under config.dry_run the steps say what they would do. Raises UserError for a key a
    step does not have, OnlyEstimated after an estimate.
    """

    def step(key: str, keys: Mapping[str, Any], name: str, **known: Any) -> str:
        module, schema = ENTRIES[key]
        entry = importlib.import_module(module)
        known = {"name": f"{config.name}-{name}"} | {k: value for k, value in known.items() if value is not None}
        files = [keys["config"]] if "config" in keys else []
        own = {k: value for k, value in keys.items() if k != "config"}
        step_config = build(getattr(entry, schema), [known, *files, own], where=name)
        if dry:
            return LATER
        if config.dry_run:
            if not any(LATER in str(value) for value in known.values()):
                return _planned(name, module, step_config)
            told = " ".join([*files, *(f"{key}={value}" for key, value in own.items())])
            say(f"{name}: {module} {told}, which says more once the step before is done")
            return LATER
        path = entry.main(step_config)
        if path is None:
            raise OnlyEstimated(name)
        return str(path)

    model = f"{step('unpack', config.unpack, 'unpack')}/model" if config.unpack else None
    pool, traces, attempts, domains = config.pool, config.traces, list(config.attempts), config.domains
    if not pool and config.collect:
        pool = step("collect", config.collect, "collect", root=config.root)
    if not traces and config.distill:
        traces = step("distill", config.distill, "distill", questions=pool, model=model)
    if not attempts and config.difficulty:
        for name, keys in config.attempt.items():
            known = {"questions": pool, "model": model, "model_name": name}
            attempts.append(step("attempt", keys, f"attempt-{name}", **known))
    if not domains and config.classify:
        domains = step("classify", config.classify, "classify", questions=pool)
    return dataclasses.replace(config, pool=pool, traces=traces, attempts=attempts, domains=domains)


def _planned(name: str, module: str, config: Any) -> str:
    """The step's run, if it is finished; else it says what it would do."""
    path = run_path(module.split(".")[0], config)
    if (path / "DONE").exists():
        say(f"{name}: done, {path}")
        return str(path)
    say(f"{name}: {module}")
    importlib.import_module(module).main(dataclasses.replace(config, dry_run=True))
    return LATER


class Known:
    """What the runs before know about the questions.

    questions: of the pool, or of the traces where no pool is given, in the order of that file. They carry the domain
    that data.classify gave them. traces: by question id, as the next three. no_trace: why there is none.
    attempts: (run, model, question id -> whether each attempt is correct). classified: ids, or None without such a run.
    second_traces: the other teacher's, or None. against: the questions of the evaluation sets; unreachable_sets: those
    that could not be read, under missing_sets=skip.
    """

    def __init__(self, config: Any, ledger: Ledger):
        self.config = config
        pool = _pool(config, ledger)
        domains = _domains(config, ledger)
        self.against, self.unreachable_sets = evaluation_sets(config)
        traces_file = file_of(config.traces, "traces.jsonl")
        traces = list(ledger.read(traces_file, _in_pool(trace_of, pool, lambda t: t.question.id), _id_of_trace))
        if not traces:
            raise UserError(f"{traces_file} holds no traces that can be used")
        questions = [_in_domain(q, domains) for q in (pool.values() if pool else (t.question for t in traces))]
        by_id = {q.id: q for q in questions}
        self.questions = questions
        self.traces = {t.question.id: dataclasses.replace(t, question=by_id[t.question.id]) for t in traces}
        self.classified = None if domains is None else domains.keys()
        self.no_trace = _no_trace(config, ledger)
        self.attempts = [_attempts(path, ledger) for path in (config.attempts if config.difficulty else ())]
        self.second_traces = None
        if config.second_traces:
            second = ledger.read(file_of(config.second_traces, "traces.jsonl"), trace_of, _id_of_trace)
            self.second_traces = {t.question.id: t for t in second}


def evaluation_sets(config: Any) -> tuple[list[Question], list[str]]:
    """(their questions, the sets that cannot be read, under missing_sets=skip)."""
    questions, unreachable = [], []
    for path in config.against if config.contamination else ():
        try:
            questions += read_evaluation_set(downloaded(path))
        except UserError as error:
            if config.missing_sets == "error":
                raise UserError(f"against: {error}; missing_sets=skip goes on without it") from None
            say(f"NOT CHECKED against {path}: {error}")
            unreachable.append(path)
    return questions, unreachable


HUB = "hf://datasets/"


def downloaded(path: str) -> str:
    """The local copy of hf://datasets/<owner>/<name>[@<revision>]/<file>; another path is returned as it is."""
    match = re.fullmatch(HUB + r"([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", path)
    if match is None:
        return path
    from huggingface_hub import hf_hub_download

    repo, revision, file = match.groups()
    try:
        return hf_hub_download(repo, file, repo_type="dataset", revision=revision)
    except (OSError, ValueError) as error:  # gated, offline, moved
        raise UserError(f"{path}: {str(error).splitlines()[0][:200]}") from None


def _id_of_trace(trace) -> str:
    return trace.question.id


def _pool(config: Any, ledger: Ledger) -> dict[str, Question] | None:
    if not config.pool:
        return None
    file = file_of(config.pool, "questions.jsonl")
    pool = {q.id: q for q in ledger.read(file, question_of, lambda question: question.id)}
    if not pool:
        raise UserError(f"{file} holds no questions that can be used")
    return pool


def _in_pool(parse, pool: Mapping[str, Question] | None, id_of):
    def parse_and_check(row):
        item = parse(row)
        if pool is not None and id_of(item) not in pool:
            raise BadRow("not_in_pool", id_of(item))
        return item

    return parse_and_check


def _domains(config: Any, ledger: Ledger) -> dict[str, str] | None:
    if not config.domains:
        return None
    return dict(ledger.read(file_of(config.domains, "domains.jsonl"), domain_of, lambda pair: pair[0]))


def _in_domain(question: Question, domains: Mapping[str, str] | None) -> Question:
    domain = (domains or {}).get(question.id, question.domain)
    return question if domain == question.domain else dataclasses.replace(question, domain=domain)


def _no_trace(config: Any, ledger: Ledger) -> dict[str, str]:
    """Question id -> the last reason for which data.distill dropped it."""
    file = Path(config.traces) / "dropped.jsonl"
    return dict(ledger.read(file, drop_of)) if config.pool and file.is_file() else {}


def _attempts(path: str, ledger: Ledger) -> tuple[str, str, dict[str, list[bool | None]]]:
    by_question: dict[str, list[bool | None]] = defaultdict(list)
    model = Path(path).name
    for id, name, correct in ledger.read(file_of(path, "grades.jsonl"), grade_of):
        by_question[id].append(correct)
        model = name
    return path, model, dict(by_question)
