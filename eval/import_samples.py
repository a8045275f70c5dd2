"""Old evaluations as finished runs: s1's published samples_*.jsonl, and lm-evaluation-harness's logs of generated text.

    python -m eval.import_samples name=s1-32b profile=s1 tokenizer=Qwen/Qwen2.5-32B-Instruct \\
        "samples=[results/forcing1k/.../samples_aime24_nofigures_2025-01-21T08-02-01.123456.jsonl]"
    python -m eval.sample_stats run=outputs/eval/s1-32b-1234abcd
    python -m eval.compare ...                            # with each other, or with runs of eval.run

Every answer is graded again, by our grader and from the answer part alone; the log's own verdict stays in the row
(`original_correct`), and how often the two agree is printed. Thinking that nothing closed has no answer.

The folder is that of an eval run, with a file more: questions.jsonl. Benchmarks and questions have the names and ids of
eval.run, so runs can be paired; a file's generation settings say which cell it is. With regrade=true the same command
grades an import again, after the grader has changed.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from core.chat import PROFILES
from core.conditional import CLASS_PROMPTS, UNITS
from core.config import UserError, option, run_entry
from core.log import Progress, say
from core.runs import Run, open_run
from core.types import AnswerType, Question, question_id, read_jsonl, write_jsonl
from eval.benchmark_rows import BadRow, reference_of, with_options
from eval.cells import Cell, Cells, cells_of
from eval.grading import grade
from eval.harness import LoggedSample, budget_of, read_log, results_beside, task_of
from eval.parallel_scores import overall, parallel_of, question_by_question
from eval.sample_stats import tokenizer_of
from eval.samples import Row, graded_beside, regraded, verdict
from eval.score_tables import print_cells, print_parallel
from eval.scores import scores_of

QUESTION_COLUMNS = ("problem", "question", "Question", "Problem", "prompt")
OPTION_COLUMNS = ("choice1", "choice2", "choice3", "choice4")
# By a word of the task's name; the first that fits
ANSWER_TYPES = {
    "gpqa": "letter", "mmlu": "letter",
    "aime": "integer", "amc": "integer", "gsm": "integer",
    "math": "latex", "minerva": "latex", "hmmt": "latex",
}  # fmt: skip
# Tasks of the released evaluator that are ours by another name (configs/benchmarks)
BENCHMARKS = {
    "aime24_nofigures": "aime24",
    "aime25_nofigures": "aime25",
    "openai_math": "math500",
    "gpqa_diamond_openai": "gpqa_diamond",
}
CUE = "Final Answer:"


@dataclass
class ImportConfig:
    name: str = option(help="run name; the folder is outputs/eval/<name>-<digest>")
    samples: list[str] = option(help="samples_<task>_<date>.jsonl files; each is one benchmark and cell")
    profile: str = option("s1", help="delimiters in the responses: s1, think-tags, steps, plain (all is the answer)")
    tokenizer: str | None = option(None, help="local folder or hub id; counts tokens, which are unknown without it")
    answer_type: str | None = option(None, help="integer, letter, latex, open; null: by the name of the task")
    max_model_len: int | None = option(None, help="context it was evaluated with, for eval.sample_stats")
    limit: int | None = option(None, help="only the first so many documents of each file")
    regrade: bool = option(False, help="grade a finished import again", affects_result=False)


@dataclass(frozen=True)
class Parts:
    """A response taken apart at the delimiters. answer: None where thinking was not closed. is_forced: closed by a cut,
    which the cue after the delimiter shows."""

    thinking: str
    answer: str | None
    is_forced: bool = False


@dataclass(frozen=True)
class Log:
    """One samples file. questions: one a sample. model: as the results file beside it names it."""

    path: Path
    benchmark: str
    cell: Cell
    samples: list[LoggedSample]
    questions: list[Question]
    model: str | None


@dataclass(frozen=True)
class Response:
    """One response of a log. number: which of its sample. repeat: which to its question, over all documents."""

    log: Log
    sample: LoggedSample
    question: Question
    number: int
    repeat: int


def main(config: ImportConfig) -> Path:
    if config.profile not in PROFILES:
        raise UserError(f"profile {config.profile!r} is unknown; known profiles: {', '.join(PROFILES)}")
    logs = [read(Path(path), config) for path in config.samples]
    if not logs:
        raise UserError("samples is empty: name at least one samples_<task>_<date>.jsonl file")
    seen: dict[tuple[str, str], Path] = {}
    for log in logs:
        first = seen.setdefault((log.benchmark, log.cell.label), log.path)
        if first is not log.path:
            raise UserError(f"{first} and {log.path} are both {log.benchmark} {log.cell.label}; import them separately")
    inputs = {f"{log.benchmark} {log.cell.label}": str(log.path) for log in logs}
    with open_run("eval", config, inputs) as run:
        if run.is_done and not config.regrade:
            return run.path
        questions = {(log.benchmark, q.id): q for log in logs for q in log.questions}
        if run.is_done:
            before = read_jsonl(run.path / "samples.jsonl")
            rows = [regraded(row, questions[row["benchmark"], row["question_id"]]) for row in before]
            write_jsonl(run.path / "samples.jsonl", rows)
        else:
            rows = graded(logs, config, run)
        write_jsonl(run.path / "questions.jsonl", {q.id: q for q in questions.values()}.values())
        scores = [score for log in logs for score in scores_of(rows, [log.benchmark], [log.cell])]
        votes = [vote for log in logs for vote in parallel_of(rows, {log.benchmark: log.questions}, [log.cell])]
        entries = {"cells": scores, "parallel": [overall(vote) for vote in votes], "measures": []}
        (run.path / "scores.json").write_text(json.dumps(entries, indent=2) + "\n")
        write_jsonl(run.path / "parallel.jsonl", map(question_by_question, votes))
        warn_of_missing_delimiters(rows, config.profile)
        print_cells(config.name, scores)
        print_parallel(config.name, entries["parallel"])
        accuracy = {f"{score['benchmark']} {score['cell']}": score["accuracy"] for score in scores}
        models = sorted({log.model for log in logs if log.model})
        run.finish(accuracy=accuracy, agreement=print_agreement(rows), models=models)
    return run.path


def graded(logs: Sequence[Log], config: ImportConfig, run: Run) -> list[Row]:
    """The rows of all responses; those that an earlier sitting has graded come from its journal."""
    journal = run.journal("samples.jsonl")
    rows = list(journal.rows)
    responses = [response for log in logs for response in responses_of(log)]
    count = token_counter(config.tokenizer)
    with Progress(f"import {config.name}", len(responses), "samples", len(rows)) as progress:
        todo = responses[len(rows) :]
        for row in graded_beside(todo, lambda response: row_of(response, config.profile, count)):
            journal.append(row)
            rows.append(row)
            progress.update(len(rows))
    return rows


def read(path: Path, config: ImportConfig) -> Log:
    """Raises UserError for a broken line, an unknown answer type, or a document without question or answer."""
    task = task_of(path).removesuffix("_agg64")  # 64 samples of the same questions
    benchmark = BENCHMARKS.get(task, task)
    samples = read_log(path)[: config.limit]
    results = results_beside(path) or {}
    answer_type = config.answer_type or next((t for word, t in ANSWER_TYPES.items() if word in task), None)
    if answer_type not in get_args(AnswerType):
        raise UserError(
            f"{path}: task {task!r} does not say what its answers are; set answer_type to integer, letter, latex "
            "or open"
        )
    cell = cell_of(samples[0], results.get("config", {}).get("model_args"), config.profile)
    questions = [question_of(sample, answer_type, benchmark, path) for sample in samples]
    return Log(path, benchmark, cell, samples, questions, results.get("model_name"))


def question_of(sample: LoggedSample, answer_type: str, benchmark: str, path: Path) -> Question:
    """The document as a Question with the id it has in eval.run: of the text that the benchmark's authors wrote, and
    for multiple choice of its options in alphabetical order (eval/benchmark_rows.py)."""
    doc = sample.doc
    text = next((doc[c] for c in QUESTION_COLUMNS if isinstance(doc.get(c), str)), sample.prompt).strip()
    try:
        answer = reference_of(sample.target, "hashes" if "####" in sample.target else "field")
    except BadRow as error:
        raise UserError(f"{path}, document {sample.doc_id}: {error}") from None
    id = question_id(text)
    options = [str(doc[column]).strip() for column in OPTION_COLUMNS if column in doc]
    if options:
        id, text = question_id(with_options(text, sorted(options))), with_options(text, options)
    domain = next((doc[c] for c in ("subject", "High-level domain") if isinstance(doc.get(c), str)), benchmark)
    return Question(id, text, answer, answer_type, benchmark, domain)


def cell_of(sample: LoggedSample, model_args: Any, profile: str) -> Cell:
    """From the generation settings and, of our own model in the harness, its arguments; and from what the prompt asks
    for (conditional control)."""
    budget = budget_of({**(model_args if isinstance(model_args, dict) else {}), **sample.settings})
    control, asked = control_of(sample.prompt)
    if control == "steps" and profile != "steps":
        raise UserError(f"the prompts ask for at most {asked[0]} steps; import this log with profile=steps")
    block = Cells(
        [budget["max_thinking_tokens"]], [budget.get("min_thinking_tokens", 0)], [budget.get("num_ignore", 0)],
        [budget.get("ignore_text", "Wait")], control, asked,
    )  # fmt: skip
    limit = int(sample.settings.get("max_gen_toks") or 1)
    (cell,) = cells_of([block], profile, f"\n{CUE}", limit, bool(budget.get("budget_per_round")))
    return cell


def control_of(prompt: str) -> tuple[str, list[int]]:
    """(control, [what was asked for]) of a prompt, as core/conditional.py writes it."""
    if match := re.search(rf"Think for up to (\d+) ({'|'.join(UNITS)})\.", prompt):
        return match[2], [int(match[1])]
    return next((length for length, text in CLASS_PROMPTS.items() if text in prompt), "none"), []


def split_response(text: str, profile: str) -> Parts:
    """Thinking and answer of a response. Without its closing delimiter all of it is thinking that was cut off, also
    where the opening one is missing (templates write that one themselves)."""
    known = PROFILES[profile]
    if not known.ends:
        return Parts("", text)
    before, closed, after = text.partition(known.ends[0])
    thinking = before.removeprefix(known.start).strip("\n")
    if not closed:
        return Parts(thinking, None)
    answer = re.sub(r"^(?:\s|\\n)+", "", after)  # some logs hold the two characters of an escaped newline
    return Parts(thinking, answer, answer.startswith(CUE))


def responses_of(log: Log) -> Iterator[Response]:
    drawn: Counter[str] = Counter()
    for sample, question in zip(log.samples, log.questions, strict=True):
        for number in range(len(sample.responses)):
            yield Response(log, sample, question, number, drawn[question.id])
            drawn[question.id] += 1


def row_of(response: Response, profile: str, count: Callable[[str], int | None]) -> Row:
    """A row of samples.jsonl (eval/samples.py). Texts stand in place of token ids; what a log does not say is None."""
    log, sample, question = response.log, response.sample, response.question
    parts = split_response(sample.responses[response.number], profile)
    answer = parts.answer or ""
    num_thinking, num_answer = count(parts.thinking), count(answer.removeprefix(CUE) if parts.is_forced else answer)
    is_known = num_thinking is not None and num_answer is not None
    return {
        "benchmark": log.benchmark, "cell": log.cell.label, "question_id": question.id, "repeat": response.repeat,
        "segments": [], "ended": "context" if parts.answer is None else "budget" if parts.is_forced else "natural",
        "answer_finish": None, "num_ignored": None, "num_suppressed": None, "repetition": False, "error": None,
        "num_prompt_tokens": count(sample.prompt), "num_cached_tokens": None, "mean_logprob": None,
        "domain": question.domain, "response": answer, "thinking": parts.thinking,
        "num_thinking_tokens": num_thinking, "num_answer_tokens": num_answer,
        "num_steps": parts.thinking.count(" steps left\n") if profile == "steps" else None,
        "num_sampled_tokens": num_thinking + num_answer if is_known else None, "num_forced_tokens": None,
        "seconds": None, "flops": None, **verdict(grade(answer, question)),
        "original_correct": sample.correct[response.number],
    }  # fmt: skip


def token_counter(tokenizer: str | None) -> Callable[[str], int | None]:
    if tokenizer is None:
        return lambda text: None
    loaded = tokenizer_of(tokenizer, {})
    return lambda text: len(loaded.encode(text, add_special_tokens=False))


def warn_of_missing_delimiters(rows: Sequence[Row], profile: str) -> None:
    cut = sum(row["ended"] == "context" for row in rows)
    if cut:
        say(
            f"{cut:,} of {len(rows):,} responses hold no {PROFILES[profile].ends[0]!r}: their thinking was cut off and "
            "there is no answer (where responses are answers alone, import with profile=plain)"
        )


def print_agreement(rows: Sequence[Row]) -> dict[str, Any]:
    """Of what both the log and our grader decided: how often they agree. Returns the counts."""
    both = [row for row in rows if row["correct"] is not None and row["original_correct"] is not None]
    ours = [row for row in both if row["correct"] and not row["original_correct"]]
    theirs = [row for row in both if row["original_correct"] and not row["correct"]]
    counts = {"num_both": len(both), "num_right_here_alone": len(ours), "num_right_there_alone": len(theirs)}
    if both:
        agreed = len(both) - len(ours) - len(theirs)
        say(f"graders agree on {agreed:,} of {len(both):,} ({100 * agreed / len(both):.1f}%)")
    for word, found in (("right here, wrong in the log", ours), ("wrong here, right in the log", theirs)):
        if found:
            shown = ", ".join(f"{row['benchmark']}/{row['question_id']}" for row in found[:5])
            say(f"  {len(found):,} {word}: {shown}{', ...' if len(found) > 5 else ''}")
    return counts


if __name__ == "__main__":
    run_entry(main, ImportConfig, __doc__)
