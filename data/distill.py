"""Gives every question a worked solution from a teacher: reasoning and an answer.

    python -m data.distill configs/demo/distill.yaml questions=outputs/data/demo-pool-1234abcd model=<folder or hub id>
    python -m data.distill configs/data/distill-deepseek-r1.yaml questions=... model=... max_cost=20 dry_run=true
    python -m data.distill configs/data/distill-deepseek-r1.yaml questions=... model=... max_cost=20
    python -m data.distill configs/data/distill-deepseek-r1.yaml ... max_cost=30 'retry=[api_error, max_cost]'
    python -m data.distill configs/data/distill-deepseek-r1.yaml ... num_shards=8 shard=0     (to 7, then merge=true)

Teachers: solver derives the steps from the numbers of a demo question (data/solver.py); source takes the published
solution; engine is a local model; openai is any OpenAI-compatible endpoint (data/teachers.py, core/endpoint.py).

Writes traces.jsonl, and dropped.jsonl with a reason a row: no_solution, refusal, empty_thinking, empty_answer,
truncated, api_error (with the last status), malformed, max_cost (not asked, the money was spent), engine_error,
wrong_answer (graded against the reference, where correct_only asks for it), too_long, duplicate (of an earlier id).

Paid answers are journalled in outputs/answers/<teacher>/ before anything else is done with them. What was paid once is
asked again by no run of the same teacher (core/ledger.py says what holds after a kill). retry=[reason, ...] asks again
what was dropped for these reasons, also after the run has finished.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from core import endpoint
from core.config import UserError, option, run_entry
from core.endpoint import ApiConfig, RequestConfig
from core.ledger import AnswerStore, Ledger, Prices, Usage
from core.log import Progress, say
from core.runs import Run, finished, open_run, read_record, run_path
from core.shards import check_shards, in_shard, share_of
from core.types import Question, Trace, question_id, read_jsonl, write_jsonl
from data import teachers
from data.solver import solve
from data.teachers import Answer, LocalConfig
from eval.draw import load_questions
from eval.grading import grade
from inference import checkpoint

TEACHERS = ("solver", "source", "engine", "openai")
# What another request may change
RETRIED = ("api_error", "max_cost", "malformed", "truncated", "refusal", "empty_thinking", "empty_answer")
# s1's traces averaged 3.6K tokens of thinking (the table of sources); the rest is the answer
EXPECTED_OUTPUT_TOKENS = 4000


@dataclass
class DistillConfig:
    name: str = option(help="run name; the folder is outputs/data/<name>-<digest>")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    teacher: str = option("solver", help="who writes the traces: solver, source, engine, openai")
    label: str | None = option(None, help="the teacher's name in the traces; null: the model's, or solver, source")
    model: str = option(help="local folder or hub id of the model to be trained; its tokenizer counts thinking tokens")
    limit: int | None = option(None, help="only the first so many questions; a later run takes their answers over")
    max_thinking_tokens: int | None = option(None, help="longer traces are dropped as too_long; null keeps all")
    correct_only: bool | None = option(None, help="drop wrong answers; null: only of the solver (s1 kept them)")
    check_share: float = option(0.0, help="solver: share of traces that check their last step after Wait")
    seed: int = option(0, help="solver: of the traces that check themselves; engine: of the sampling")

    local: LocalConfig = option(LocalConfig, help="engine: the teacher's model")
    api: ApiConfig = option(ApiConfig, help="openai: what is asked")

    shard: int = option(0, help="which part of the questions, of num_shards")
    num_shards: int = option(1, help="parts; question id modulo their number")
    merge: bool = option(False, help="join the finished shards into one run")

    # What follows decides nothing about a result: a run goes on under other values, in the same folder.
    requests: RequestConfig = option(RequestConfig, help="openai: how it is asked", affects_result=False)
    prices: Prices = option(Prices, help="openai: for the ledger and max_cost", affects_result=False)
    max_cost: float | None = option(
        None, help="openai: never spend more on this run; a shard has its share of it", affects_result=False
    )
    retry: list[str] = option([], help="openai: drop reasons whose questions are asked again", affects_result=False)
    dry_run: bool = option(
        False, help="openai: say what would be asked and what it would cost, and send nothing", affects_result=False
    )
    expected_output_tokens: int = option(
        EXPECTED_OUTPUT_TOKENS, help="dry_run: of an answer, until some are known", affects_result=False
    )


def main(config: DistillConfig) -> Path | None:
    check(config)
    if config.merge:
        return merge(config)
    if config.dry_run:
        estimate(config, run_path("data", config).name)
        return None
    inputs = {"questions": config.questions}
    if config.retry:
        reopen_run(config, inputs)
    with open_run("data", config, inputs) as run:
        if run.is_done:
            return run.path
        questions, duplicates = own_questions(config)
        answer_to, spending = ask_teacher(config, questions, run)
        count_tokens = token_counter(config)
        traces, dropped = [], []
        with Progress("distill: traces", len(questions), "questions") as progress:
            for done, question in enumerate(questions, 1):
                answer = answer_to(question)
                trace = trace_of(question, answer, config, count_tokens)
                reason = answer.drop or drop_reason(trace, config.max_thinking_tokens, is_correct_only(config))
                if reason is None:
                    traces.append(trace)
                else:
                    dropped.append(dropped_row(question, reason, trace, answer))
                progress.update(done, f"{len(dropped)} dropped")
        dropped += [dropped_row(question, "duplicate") for question in duplicates]
        finish(config, run, traces, dropped, spending)
    return run.path


def check(config: DistillConfig) -> None:
    """Raises UserError for a config that could only fail later, or that holds a key."""
    if config.teacher not in TEACHERS:
        raise UserError(f"teacher {config.teacher!r} is unknown; known: {', '.join(TEACHERS)}")
    check_shards(config)
    if config.merge and (config.retry or config.dry_run):
        raise UserError("merge=true joins finished shards: give neither retry nor dry_run")
    if config.teacher == "engine" and not config.local.model:
        raise UserError("teacher=engine needs local.model=<folder or hub id of the teacher>")
    if config.teacher != "openai":
        if config.retry or config.max_cost is not None:
            raise UserError("retry and max_cost are for teacher=openai")
        return
    endpoint.check(config)
    unknown = sorted(set(config.retry) - set(RETRIED))
    if unknown:
        raise UserError(f"retry: {unknown[0]!r} is not asked again; known: {', '.join(RETRIED)}")


def is_correct_only(config: DistillConfig) -> bool:
    return config.teacher == "solver" if config.correct_only is None else config.correct_only


def token_counter(config: DistillConfig) -> Callable[[str], int]:
    tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(config.model))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def own_questions(config: DistillConfig) -> tuple[list[Question], list[Question]]:
    """(the questions of this shard, later rows with an id that was there before)."""
    questions: dict[str, Question] = {}
    duplicates = []
    for question in load_questions(config.questions, config.limit):
        if not in_shard(question.id, config.shard, config.num_shards):
            continue
        if question.id in questions:
            duplicates.append(question)
        else:
            questions[question.id] = question
    return list(questions.values()), duplicates


# Answers


def ask_teacher(
    config: DistillConfig, questions: Sequence[Question], run: Run
) -> tuple[Callable[[Question], Answer], dict[str, Any]]:
    """(question -> answer, what it took)."""
    if config.teacher == "solver":
        return lambda question: solver_answer(question, config), {}
    if config.teacher == "source":
        return teachers.source_answer, {}
    if config.teacher == "engine":
        answers = teachers.engine_answers(questions, config.local, config.seed, run)
        return lambda question: answers[question.id], {}
    return ask_endpoint(config, questions, run)


def solver_answer(question: Question, config: DistillConfig) -> Answer:
    solution = solve(question, config.check_share, config.seed)
    if solution is None:
        return Answer(drop="no_solution")
    thinking, answer = solution
    # the words of the forced cue (inference/budget.py), so that a forced close looks like the close of a trace
    return Answer(thinking, f"Final Answer: {answer}")


def ask_endpoint(
    config: DistillConfig, questions: Sequence[Question], run: Run
) -> tuple[Callable[[Question], Answer], dict[str, Any]]:
    store = open_store(config, run.path.name)
    run.record["asked_with"] = {
        "requests": asdict(config.requests), "prices": asdict(config.prices), "max_cost": config.max_cost,
    }  # fmt: skip
    try:
        if config.retry and run.record.get("retrying") != config.retry:  # else it goes on after a kill
            reopen_questions(config, store, questions)
            run.record["retrying"] = config.retry
            run.save()
        todo = unanswered(store, questions)
        with Progress("distill", len(questions), "questions", len(questions) - len(todo)) as progress:
            if todo:
                texts = {question_id(question.text): question.text for question in todo}
                max_cost = share_of(config.max_cost, config.num_shards)
                endpoint.ask_all(texts, config.api, config.requests, store, max_cost, progress)
    finally:
        spending = store.ledger.summary()
        run.record["spending"] = spending
        store.close()
    spending["num_taken_over"] = sum(store.is_taken_over(question_id(q.text)) for q in questions)
    return lambda question: stored_answer(config, store, question) or Answer(drop="max_cost"), spending


def open_store(config: DistillConfig, writer: str, write: bool = True) -> AnswerStore:
    ledger = Ledger(config.prices, config.requests.idempotent)
    return AnswerStore(endpoint.teacher_folder(config.api), writer, ledger, write)


def stored_answer(config: DistillConfig, store: AnswerStore, question: Question) -> Answer | None:
    row = store.outcome(question_id(question.text))
    return row and teachers.answer_of_row(row, config.api.thinking_tags)


def unanswered(store: AnswerStore, questions: Iterable[Question]) -> list[Question]:
    """One question of each text that has to be asked."""
    keys = {question_id(question.text): question for question in questions}
    return [question for key, question in keys.items() if store.outcome(key) is None]


def reopen_questions(config: DistillConfig, store: AnswerStore, questions: Iterable[Question]) -> None:
    for question in questions if config.retry else ():
        answer = stored_answer(config, store, question)
        if answer is not None and answer.drop in config.retry:
            store.record("reopened", question_id(question.text))


def reopen_run(config: DistillConfig, inputs: Mapping[str, str]) -> None:
    """Takes DONE from a finished run that dropped something for a reason to retry."""
    if not (run_path("data", config) / "DONE").exists():
        return
    with open_run("data", config, inputs) as run:
        if any(row["reason"] in config.retry for row in read_jsonl(run.path / "dropped.jsonl")):
            (run.path / "DONE").unlink()
            run.record["status"] = "reopened"
            run.save()


def estimate(config: DistillConfig, writer: str) -> None:
    """Says what a run would ask and cost. Sends nothing and writes nothing."""
    questions, _ = own_questions(config)
    if config.teacher == "engine":
        say(f"dry run: {len(questions):,} questions to {config.local.model}, on this machine")
        return
    if config.teacher != "openai":
        say(f"dry run: {len(questions):,} questions for teacher={config.teacher}, which asks nobody and costs nothing")
        return
    store = open_store(config, writer, write=False)
    reopen_questions(config, store, questions)
    todo = unanswered(store, questions)
    lengths = [length for q in questions if (length := known_output_tokens(store, q)) is not None]
    mean = sum(lengths) / len(lengths) if lengths else config.expected_output_tokens
    count_tokens = token_counter(config)
    num_input = sum(count_tokens(f"{config.api.system or ''}{q.text}") for q in todo)
    expected = Usage(num_input, 0, round(mean * len(todo)))
    worst = sum((endpoint.worst_usage(q.text, config.api, config.requests) for q in todo), Usage())
    basis = f"the mean of {len(lengths):,} answers" if lengths else "expected_output_tokens"
    say(f"dry run: {len(questions):,} questions, {len(questions) - len(todo):,} decided before: {len(todo):,} requests")
    say(f"dry run: expected {config.prices.described(expected)}; {mean:,.0f} tokens an answer ({basis})")
    say(f"dry run: at most {config.prices.described(worst)}; no request sent twice")
    limit = share_of(config.max_cost, config.num_shards)
    if limit is not None and todo:
        left = limit - config.prices.cost(store.ledger.committed)
        each = config.prices.cost(expected) / len(todo)
        enough = f"enough for about {min(len(todo), int(max(0.0, left) / each)):,} of them" if each else "all are free"
        say(f"dry run: {left:,.2f} left of max_cost {limit:,.2f}, {enough}; asking stops before it is exceeded")


def known_output_tokens(store: AnswerStore, question: Question) -> int | None:
    row = store.outcome(question_id(question.text)) or {}
    return row["usage"]["output_tokens"] if row.get("usage") else None


# Outcomes


def trace_of(
    question: Question, answer: Answer, config: DistillConfig, count_tokens: Callable[[str], int]
) -> Trace | None:
    """The answer as a trace; None where the teacher said nothing."""
    if not answer.thinking and not answer.attempt:
        return None
    names = {"engine": Path(config.local.model or "").name, "openai": config.api.model}
    label = config.label or names.get(config.teacher, config.teacher)
    return Trace(question, answer.thinking, answer.attempt, label, count_tokens(answer.thinking))


def drop_reason(trace: Trace, max_thinking_tokens: int | None, correct_only: bool = True) -> str | None:
    if correct_only and not grade(trace.attempt, trace.question).correct:
        return "wrong_answer"
    if max_thinking_tokens is not None and trace.num_thinking_tokens > max_thinking_tokens:
        return "too_long"
    return None


def dropped_row(question: Question, reason: str, trace: Trace | None = None, answer: Answer | None = None) -> dict:
    """A row of dropped.jsonl: what is known of the failure, and of the trace where there is one."""
    row = {"reason": reason, "domain": question.domain}
    row |= {name: value for name in ("status", "error") if (value := getattr(answer, name, None)) is not None}
    return row | (asdict(trace) if trace else {"question": asdict(question)})


def finish(
    config: DistillConfig, run: Run, traces: list, dropped: list[dict[str, Any]], spending: Mapping[str, Any]
) -> None:
    """Writes what became of every question, in their order."""
    place = places(config)
    dropped.sort(key=lambda row: place[row["question"]["id"]])
    write_jsonl(run.path / "traces.jsonl", traces)
    write_jsonl(run.path / "dropped.jsonl", dropped)
    reasons = dict(Counter(row["reason"] for row in dropped))
    num_questions = len(traces) + len(dropped)
    say(f"{num_questions:,} questions -> {len(traces):,} traces; dropped: {reasons or 'none'}")
    for reason, error in {row["reason"]: row["error"] for row in reversed(dropped) if "error" in row}.items():
        say(f"{reason}, for instance: {' '.join(error.split())}")
    if spending:
        say("spent: " + ", ".join(f"{name} {value}" for name, value in spending.items()))
    run.record.pop("retrying", None)
    extra = {"spending": dict(spending)} if spending else {}
    run.finish(num_questions=num_questions, num_traces=len(traces), dropped=reasons, **extra)


def places(config: DistillConfig) -> dict[str, int]:
    """{question id: where it stands}; the first place of an id that is there twice."""
    questions = load_questions(config.questions, config.limit)
    return {question.id: number for number, question in reversed(list(enumerate(questions)))}


def merge(config: DistillConfig) -> Path:
    """Joins the finished shards into the run that one process would have made."""
    shards = [run_path("data", replace(config, merge=False, shard=i)) for i in range(config.num_shards)]
    unfinished = [str(i) for i, path in enumerate(shards) if not (path / "DONE").exists()]
    if unfinished:
        raise UserError(f"{len(unfinished)} of {len(shards)} shards are not finished: shard={', '.join(unfinished)}")
    inputs = {"questions": config.questions, **{f"shard {i}": path for i, path in enumerate(shards)}}
    with open_run("data", replace(config, shard=0), inputs) as run:
        if run.is_done:
            return run.path
        place = places(config)
        traces = sorted(rows_of(shards, "traces.jsonl"), key=lambda row: place[row["question"]["id"]])
        spent = [read_record(path)["headline"].get("spending", {}) for path in shards]
        finish(config, run, traces, list(rows_of(shards, "dropped.jsonl")), added_up(spent))
    return run.path


def rows_of(runs: Iterable[Path], name: str) -> Iterator[dict[str, Any]]:
    for path in runs:
        yield from read_jsonl(finished(path) / name)


def added_up(spent: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """None where one of the parts is unknown."""
    values = {name: [part[name] for part in spent] for name in spent[0]}
    return {name: None if None in parts else sum(parts) for name, parts in values.items()}


if __name__ == "__main__":
    run_entry(main, DistillConfig, __doc__)
