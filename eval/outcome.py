"""What comes of samples.jsonl: verdicts of the judge, scores, tables, the harness's files; also of an old one."""

import json
from collections.abc import Sequence
from typing import Any

from core.config import UserError
from core.journal import Journal
from core.log import say
from core.runs import Run
from core.types import read_jsonl, write_jsonl
from eval import judge
from eval.config import EvalConfig
from eval.harness import write_harness_results
from eval.parallel_scores import overall, parallel_of, question_by_question
from eval.samples import Row, key_of, regraded
from eval.score_tables import print_cells, print_measures, print_parallel
from eval.scores import measures_of, scores_of
from eval.work import Work


def conclude(config: EvalConfig, run: Run, work: Work, sampled: dict[str, Any]) -> dict[str, Any]:
    """Puts the rows into the grid's order, writes and prints the scores. Returns the headline.

    sampled: what it took, as far as that is known.
    """
    rows = _in_order(Journal.read(run.path / "samples.jsonl"), [task.key for task in work.tasks()])
    write_jsonl(run.path / "samples.jsonl", rows)
    names = list(work.by_benchmark())
    scores = scores_of(rows, names, work.cells)
    parallel = parallel_of(rows, work.by_benchmark(), work.cells, config.ks)
    measured = measures_of(rows, names, work.cells)
    _say_unanswered(config.name, rows)
    write_jsonl(run.path / "parallel.jsonl", (question_by_question(entry) for entry in parallel))
    parallel = [overall(entry) for entry in parallel]
    entries = {"cells": scores, "parallel": parallel, "measures": measured, **sampled}
    (run.path / "scores.json").write_text(json.dumps(entries, indent=2) + "\n")
    write_harness_results(run.path, work.by_benchmark())
    print_cells(config.name, scores)
    print_parallel(config.name, parallel)
    print_measures(config.name, measured)
    accuracy: dict[str, dict[str, float]] = {}
    for score in scores:
        accuracy.setdefault(score["benchmark"], {})[score["cell"]] = score["accuracy"]
    return {"accuracy": accuracy, **sampled}


def settle_by_judge(config: EvalConfig, run: Run, work: Work) -> dict[str, Any]:
    """Puts verdicts into the rows that rules left open, and lists them in judged.jsonl. Returns what it took."""
    questions = work.questions()
    rows = {"/".join(map(str, key_of(row))): row for row in Journal.read(run.path / "samples.jsonl")}
    pairs = {key: (questions[row["benchmark"], row["question_id"]], row) for key, row in rows.items()}
    settled, spent = judge.settle(config.judge, pairs, run, config.num_shards)
    kept = ("benchmark", "cell", "question_id", "repeat", "response", "extracted", "correct", "grader")
    write_jsonl(run.path / "judged.jsonl", ({key: rows[name][key] for key in kept} for name in settled))
    write_jsonl(run.path / "samples.jsonl", rows.values())
    return spent


def regrade(config: EvalConfig, run: Run, work: Work) -> None:
    """Grades the samples of a finished run again, without an engine. What they were graded before is kept beside them
    (samples.before.jsonl), and the record says who graded when."""
    questions = work.questions()
    file = run.path / "samples.jsonl"
    before = list(read_jsonl(file))
    write_jsonl(run.path / "samples.before.jsonl", before)
    write_jsonl(file, (regraded(row, questions[row["benchmark"], row["question_id"]]) for row in before))
    spent = {"judge": settle_by_judge(config, run, work)} if config.judge else {}
    after = list(read_jsonl(file))
    changed = sum(old["correct"] != new["correct"] for old, new in zip(before, after, strict=True))
    say(f"regraded {len(after):,} samples, {changed:,} otherwise than before")
    graders = sorted({row["grader"] for row in after})
    run.record.setdefault("regraded", []).append({"graders": graders, "num_changed": changed})
    scores = json.loads((run.path / "scores.json").read_text())
    kept = {key: value for key, value in scores.items() if key.endswith("_tokens") or key == "chat_model"}
    run.finish(**conclude(config, run, work, kept | spent))


def _in_order(rows: list[Row], places: Sequence[Any]) -> list[Row]:
    if len(rows) != len(places):
        raise UserError(
            f"samples.jsonl holds {len(rows):,} rows for {len(places):,} samples; move it away and run again"
        )
    position = {key: i for i, key in enumerate(places)}
    return sorted(rows, key=lambda row: position[key_of(row)])


def _say_unanswered(name: str, rows: Sequence[Row]) -> None:
    """Counts the samples that ended without an answer, such as those of a question too long for the context."""
    unanswered = [row for row in rows if row["error"] is not None]
    if unanswered:
        first, num_questions = unanswered[0], len({(row["benchmark"], row["question_id"]) for row in unanswered})
        say(f"{name}: {len(unanswered)} samples of {num_questions} question{'s' * (num_questions > 1)} have no answer, "
            f"the first ({', '.join(key_of(first)[:3])}): {first['error']}")  # fmt: skip
