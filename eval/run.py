"""Evaluates a model on benchmarks under a grid of thinking budgets and other ways to spend tokens, and grades it.

    python -m eval.run configs/demo/eval-tuned.yaml model=outputs/train/demo-1234abcd/model questions=outputs/data/...
    python -m eval.run configs/eval/s1-32b.yaml model=simplescaling/s1-32B "benchmarks=[aime24, math500]"
    python -m eval.run configs/eval/s1-32b.yaml model=... "benchmarks=[aime24]" root=<folder of benchmark files>
    python -m eval.run ... regrade=true                   # the same command: grades again, without an engine
    ARRAY=0-7 ./launch.sh --slurm eval.run ...            # eight shards; then num_shards=8 merge=true joins them

Cells of one grid share their trajectories (inference/continuations.py), so a curve costs little more than its longest
point. Writes samples.jsonl (a row a sample: appended as they finish, in the grid's order at the end), scores.json (an
entry a benchmark and cell, with intervals) and, for other tools, lm-evaluation-harness's results files.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.config import UserError, option, run_entry
from core.cost import ModelShape
from core.journal import Journal
from core.log import Progress, say
from core.runs import Run, open_run
from core.shards import check_shards, in_shard, merge
from core.types import Question, read_jsonl, write_jsonl
from eval import chat_model, judge
from eval.benchmarks import input_files, load_benchmark
from eval.cells import Cell, Cells, cells_of
from eval.chat_model import ChatModelConfig, draw_replies
from eval.draw import draw, load_questions, tasks_of
from eval.draw_pools import Pools, pool_cells
from eval.harness import write_harness_results
from eval.judge import JudgeConfig
from eval.parallel_scores import overall, parallel_of, question_by_question, with_scores
from eval.rejection import RejectionConfig
from eval.samples import Row, graded_beside, graded_row, key_of, regraded
from eval.score_tables import print_cells, print_measures, print_parallel
from eval.scorers import Scorer, ScorerConfig, check_scorer, load_scorer
from eval.scores import measures_of, scores_of
from eval.search import SearchConfig
from inference import checkpoint
from inference.engine import EngineConfig, Sampling, open_driver


@dataclass
class EvalConfig:
    name: str = option(help="run name; the folder is outputs/eval/<name>-<digest>")
    model: str | None = option(None, help="local folder or hub id")
    chat_model: ChatModelConfig | None = option(
        None,
        help="instead: a chat endpoint, evaluated by its answers alone: "
        f"{{{', '.join(f.name for f in fields(ChatModelConfig))}}}",
    )
    benchmarks: list[str] = option([], help="names of configs/benchmarks, or YAML files of your own")
    root: str | None = option(None, help="folder of local benchmark files; null reads them from the hub")
    questions: str | None = option(None, help="instead: a finished run of data.collect, or a .jsonl file of questions")
    profile: str = option("s1", help="delimiters: s1, think-tags, steps, plain")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    cells: list[Cells] = option([], help="blocks of the grid; each is the product of its lists (eval/cells.py)")
    rejection: RejectionConfig | None = option(
        None, help=f"rejection sampling: {{{', '.join(f.name for f in fields(RejectionConfig))}}}"
    )
    searches: list[SearchConfig] = option(
        [], help=f"search over thinking, each {{{', '.join(f.name for f in fields(SearchConfig))}}}"
    )
    scorer: ScorerConfig | None = option(
        None,
        help="scores samples for best-of-N and the weighted vote, and steers searches (null: mean_logprob there): "
        f"{{{', '.join(f.name for f in fields(ScorerConfig))}}}",
    )
    ks: list[int] = option([], help="k of the parallel methods; empty: powers of two up to the repeats")
    max_answer_tokens: int = option(512, help="answer limit, reserved in the context")
    cue: str = option("\nFinal Answer:", help="written after a forced close")
    budget_per_round: bool = option(False, help="a fresh budget after each ignored end, as the released evaluator")
    repeats: int | None = option(None, help="samples per question and cell; null: the benchmark's, 1 at temperature 0")
    sampling: Sampling = option(Sampling, help="temperature 0 is greedy")
    seed: int = option(0, help="of the sampling, and of the order of choices")
    limit: int | None = option(None, help="only the first so many questions of each benchmark")
    judge: JudgeConfig | None = option(
        None, help=f"endpoint that judges what rules cannot: {{{', '.join(f.name for f in fields(JudgeConfig))}}}"
    )
    shard: int = option(0, help="evaluate only the questions of this shard")
    num_shards: int = option(1, help="how many there are")
    merge: bool = option(False, help="join the finished shards into one run")
    regrade: bool = option(False, help="grade the samples of this finished run again", affects_result=False)
    engine: EngineConfig = option(EngineConfig, help="how to load the model")


@dataclass(frozen=True)
class Part:
    """What is evaluated: a benchmark's questions, each sampled `repeats` times in each cell."""

    benchmark: str
    questions: list[Question]
    repeats: int


def main(config: EvalConfig) -> Path:
    check(config)
    grid = cells_of(config.cells, config.profile, config.cue, config.max_answer_tokens, config.budget_per_round)
    pools = pool_cells(config.rejection, config.searches, config.sampling, config.cue, config.max_answer_tokens)
    cells = [*grid, *pools] or ([chat_model.CELL] if config.chat_model else [])
    if not cells:
        raise UserError("cells is empty: name at least one thinking budget, e.g. cells=[{max_thinking_tokens: [auto]}]")
    parts, inputs = parts_of(config)
    if config.chat_model:
        chat_model.check(config.chat_model, max(part.repeats for part in parts), cells)
    if config.merge:
        ids = list(dict.fromkeys(q.id for part in parts for q in part.questions))
        files = ["samples.jsonl", *(["judged.jsonl"] if config.judge else [])]
        return merge("eval", config, inputs, ids, files, lambda run: conclude(config, run, parts, cells))
    parts = [
        Part(p.benchmark, [q for q in p.questions if in_shard(q.id, config.shard, config.num_shards)], p.repeats)
        for p in parts
    ]
    with open_run("eval", config, inputs) as run:
        if run.is_done:
            if config.regrade:
                regrade(config, run, parts, cells)
            return run.path
        if config.regrade:
            raise UserError(f"regrade=true: {run.path} is not finished; run the command without it first")
        if config.chat_model:
            sampled = sample_replies(config, run, parts, cells)
        else:
            scorer = load_scorer(config.scorer or ScorerConfig(), run)
            sampled = sample(config, run, parts, cells, pools, scorer)
            if config.scorer:
                score_samples(config, run, parts, scorer)
            scorer.close()
            if scorer.reads_text:
                sampled["scorer_tokens"] = scorer.num_read
        if config.judge:
            sampled["judge"] = settle_by_judge(config, run, parts)
        run.finish(**conclude(config, run, parts, cells, sampled))
    return run.path


def check(config: EvalConfig) -> None:
    """Raises UserError for a config that could only fail later."""
    check_shards(config)
    if (config.model is None) == (config.chat_model is None):
        raise UserError("name what to evaluate: model=<folder or hub id>, or chat_model={api: ...} (one of the two)")
    if bool(config.benchmarks) == (config.questions is not None):
        raise UserError("name what to evaluate on: benchmarks=[...], or questions=... (one of the two)")
    if config.scorer is not None:
        check_scorer(config.scorer)
    if min(config.ks, default=1) < 1:
        raise UserError(f"ks={config.ks}: k counts samples, from 1")
    if config.repeats is not None and config.repeats < 1:
        raise UserError(f"repeats must be at least 1, not {config.repeats}; null takes each benchmark's own")


def parts_of(config: EvalConfig) -> tuple[list[Part], dict[str, str]]:
    """(what to evaluate on, the files or hub revisions it comes from)."""
    inputs = {"model": config.model} if config.model else {}
    varies = chat_model.varies(config.chat_model) if config.chat_model else config.sampling.temperature > 0
    if config.questions is not None:
        questions = load_questions(config.questions, config.limit)
        return [Part("questions", questions, config.repeats or 1)], inputs | {"questions": config.questions}
    parts = []
    for name in config.benchmarks:
        benchmark, questions = load_benchmark(name, config.root, config.limit, config.seed)
        default = benchmark.repeats if varies else 1  # greedy samples are all the same
        parts.append(Part(benchmark.name, questions, config.repeats or default))
        inputs |= input_files(name, config.root)
    if len({part.benchmark for part in parts}) < len(parts):
        raise UserError("benchmarks: one is named twice")
    return parts, inputs


def sample(
    config: EvalConfig,
    run: Run,
    parts: Sequence[Part],
    cells: Sequence[Cell],
    pools: dict[Cell, Any],
    scorer: Scorer,
) -> dict[str, Any]:
    """Draws and grades what the journal of an earlier sitting lacks. Returns what the engine did in this sitting.

    Raises UserError where samples failed in the engine: they are no wrong answers, and the same command draws them.
    """
    journal = run.journal("samples.jsonl", can_redo=True)
    done = {key_of(row) for row in journal.rows}
    correct = Counter(row["correct"] for row in journal.rows)
    tasks = [task for part in parts for task in tasks_of(part.questions, cells, part.repeats, part.benchmark)]
    todo = [task for task in tasks if task.key not in done]
    if not todo:
        return {}
    failed = []
    with (
        open_driver(config.model, config.engine, writer=run.path.name) as (driver, tokenizer),
        Progress(f"eval {config.name}", len(tasks), "samples", len(tasks) - len(todo)) as progress,
    ):
        chat = ChatFormat(config.profile, tokenizer)
        shape = shape_of(config.model)
        alone = [task for task in todo if task.cell not in pools]
        pooled = [task for task in todo if task.cell in pools]
        drawn = draw(driver, chat, alone, config.sampling, config.seed, config.system, config.scorer is not None)
        drawn_pools = Pools(driver, chat, pools, config.sampling, config.seed, config.system, scorer).draw(pooled)
        for row in chain(
            graded_beside(drawn, lambda one: graded_row(one, chat, shape)),
            graded_beside(drawn_pools, lambda one: one.row(chat, shape)),
        ):
            if row["ended"] == "error":
                failed.append(row)
                continue
            journal.append(row)
            correct[row["correct"]] += 1
            tokens, graded = sum(driver.num_sampled.values()), correct[True] + correct[False]
            share = f"{100 * correct[True] / graded:.1f}% right" if graded else "none graded"
            progress.update(correct.total(), f"{tokens:,} tokens sampled | {share} so far")
    if failed:
        where = ", ".join(key_of(failed[0])[:3])
        raise UserError(
            f"{len(failed)} samples failed in the engine, the first ({where}) with: {failed[0]['error']}; "
            "the others are kept, and the same command draws these again"
        )
    return {
        "sampled_tokens": dict(driver.num_sampled),
        "prompt_tokens": driver.num_prompt,
        "cached_tokens": driver.num_cached,
    }


def sample_replies(config: EvalConfig, run: Run, parts: Sequence[Part], cells: Sequence[Cell]) -> dict[str, Any]:
    """As `sample`, from the chat endpoint. Returns what was spent on it over all sittings.

    Raises UserError where requests failed for good: they are no wrong answers, and the same command asks them again.
    """
    journal = run.journal("samples.jsonl", can_redo=True)
    done = {key_of(row) for row in journal.rows}
    tasks = [task for part in parts for task in tasks_of(part.questions, cells, part.repeats, part.benchmark)]
    rows, spent = draw_replies(config.chat_model, tasks, run, config.num_shards)
    failed = []
    for row in rows:
        if row["ended"] == "error":
            failed.append(row)
        elif key_of(row) not in done:
            journal.append(row)
    if failed:
        where = ", ".join(key_of(failed[0])[:3])
        raise UserError(
            f"{len(failed)} requests failed, the first ({where}) with: {failed[0]['error']}; paid answers are kept, "
            "and the same command asks these again"
        )
    return {"chat_model": spent}


def shape_of(model: str) -> ModelShape | None:
    """For FLOPs; None for a model whose sizes tell nothing of them (experts), or are not at hand."""
    try:
        return ModelShape.of(model)
    except UserError:
        return None


def score_samples(config: EvalConfig, run: Run, parts: Sequence[Part], scorer: Scorer) -> None:
    """Puts scores into the rows of single samples. The engine is closed by now; a text scored before is not again."""
    questions = {(part.benchmark, q.id): q for part in parts for q in part.questions}
    rows = Journal.read(run.path / "samples.jsonl")
    chat = None
    if scorer.reads_text:
        tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(config.model, config.engine.revision, weights=False))
        chat = ChatFormat(config.profile, tokenizer)
    write_jsonl(run.path / "samples.jsonl", with_scores(rows, questions, scorer, chat, config.scorer.step_delimiter))


def settle_by_judge(config: EvalConfig, run: Run, parts: Sequence[Part]) -> dict[str, Any]:
    """Puts verdicts into the rows that rules left open, and lists them in judged.jsonl. Returns what it took."""
    questions = {(part.benchmark, q.id): q for part in parts for q in part.questions}
    rows = {"/".join(map(str, key_of(row))): row for row in Journal.read(run.path / "samples.jsonl")}
    pairs = {key: (questions[row["benchmark"], row["question_id"]], row) for key, row in rows.items()}
    settled, spent = judge.settle(config.judge, pairs, run, config.num_shards)
    kept = ("benchmark", "cell", "question_id", "repeat", "response", "extracted", "correct", "grader")
    write_jsonl(run.path / "judged.jsonl", ({key: rows[name][key] for key in kept} for name in settled))
    write_jsonl(run.path / "samples.jsonl", rows.values())
    return spent


def conclude(
    config: EvalConfig, run: Run, parts: Sequence[Part], cells: Sequence[Cell], sampled: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Puts the rows into the grid's order, writes and prints the scores. Returns the headline."""
    places = [task.key for part in parts for task in tasks_of(part.questions, cells, part.repeats, part.benchmark)]
    rows = _in_order(Journal.read(run.path / "samples.jsonl"), places)
    write_jsonl(run.path / "samples.jsonl", rows)
    names = [part.benchmark for part in parts]
    scores = scores_of(rows, names, cells)
    parallel = parallel_of(rows, {part.benchmark: part.questions for part in parts}, cells, config.ks)
    measured = measures_of(rows, names, cells)
    _say_unanswered(config.name, rows)
    write_jsonl(run.path / "parallel.jsonl", (question_by_question(entry) for entry in parallel))
    parallel = [overall(entry) for entry in parallel]
    entries = {"cells": scores, "parallel": parallel, "measures": measured, **(sampled or {})}
    (run.path / "scores.json").write_text(json.dumps(entries, indent=2) + "\n")
    write_harness_results(run.path, {part.benchmark: part.questions for part in parts})
    print_cells(config.name, scores)
    print_parallel(config.name, parallel)
    print_measures(config.name, measured)
    accuracy: dict[str, dict[str, float]] = {}
    for score in scores:
        accuracy.setdefault(score["benchmark"], {})[score["cell"]] = score["accuracy"]
    return {"accuracy": accuracy, **(sampled or {})}


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


def regrade(config: EvalConfig, run: Run, parts: Sequence[Part], cells: Sequence[Cell]) -> None:
    """Grades the samples of a finished run again, without an engine. What they were graded before is kept beside them
    (samples.before.jsonl), and the record says who graded when."""
    questions = {(part.benchmark, q.id): q for part in parts for q in part.questions}
    file = run.path / "samples.jsonl"
    before = list(read_jsonl(file))
    write_jsonl(run.path / "samples.before.jsonl", before)
    write_jsonl(file, (regraded(row, questions[row["benchmark"], row["question_id"]]) for row in before))
    spent = {"judge": settle_by_judge(config, run, parts)} if config.judge else {}
    after = list(read_jsonl(file))
    changed = sum(old["correct"] != new["correct"] for old, new in zip(before, after, strict=True))
    say(f"regraded {len(after):,} samples, {changed:,} otherwise than before")
    graders = sorted({row["grader"] for row in after})
    run.record.setdefault("regraded", []).append({"graders": graders, "num_changed": changed})
    scores = json.loads((run.path / "scores.json").read_text())
    kept = {key: value for key, value in scores.items() if key.endswith("_tokens") or key == "chat_model"}
    run.finish(**conclude(config, run, parts, cells, kept | spent))


if __name__ == "__main__":
    run_entry(main, EvalConfig, __doc__)
