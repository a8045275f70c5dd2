"""Fills samples.jsonl: draws from an engine or a chat endpoint what is not there yet, grades and scores it."""

from collections import Counter
from itertools import chain
from typing import Any

from core.chat import ChatFormat
from core.config import UserError
from core.cost import ModelShape
from core.journal import Journal
from core.log import Progress
from core.runs import Run
from core.types import write_jsonl
from eval.chat_model import draw_replies
from eval.config import EvalConfig
from eval.draw import draw
from eval.draw_pools import Pools
from eval.parallel_scores import with_scores
from eval.samples import graded_beside, graded_row, key_of
from eval.scorers import Scorer, ScorerConfig, load_scorer
from eval.work import Work
from inference import checkpoint
from inference.engine import open_driver


def sample(config: EvalConfig, run: Run, work: Work) -> dict[str, Any]:
    """Samples from the engine, then scores them. Returns what both did in this sitting."""
    scorer = load_scorer(config.scorer or ScorerConfig(), run)
    try:
        sampled = _draw(config, run, work, scorer)
        if config.scorer:
            _score(config, run, work, scorer)
        return sampled | ({"scorer_tokens": scorer.num_read} if scorer.reads_text else {})
    finally:
        scorer.close()


def _draw(config: EvalConfig, run: Run, work: Work, scorer: Scorer) -> dict[str, Any]:
    """Draws and grades what the journal of an earlier sitting lacks. Returns what the engine did in this sitting.

    Raises UserError where samples failed in the engine: they are no wrong answers, and the same command draws them.
    """
    journal = run.journal("samples.jsonl", can_redo=True)
    done = {key_of(row) for row in journal.rows}
    correct = Counter(row["correct"] for row in journal.rows)
    tasks = work.tasks()
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
        alone = [task for task in todo if task.cell not in work.pools]
        pooled = [task for task in todo if task.cell in work.pools]
        drawn = draw(driver, chat, alone, config.sampling, config.seed, config.system, config.scorer is not None)
        drawn_pools = Pools(driver, chat, work.pools, config.sampling, config.seed, config.system, scorer).draw(pooled)
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
        scorer.close()  # before the engine: two of vLLM in one process share what the first to go takes down
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


def _score(config: EvalConfig, run: Run, work: Work, scorer: Scorer) -> None:
    """Puts scores into the rows of single samples. The engine is closed by now; a text scored before is not again."""
    rows = Journal.read(run.path / "samples.jsonl")
    chat = None
    if scorer.reads_text:
        tokenizer = checkpoint.load_tokenizer(checkpoint.resolve(config.model, config.engine.revision, weights=False))
        chat = ChatFormat(config.profile, tokenizer)
    scored = with_scores(rows, work.questions(), scorer, chat, config.scorer.step_delimiter)
    write_jsonl(run.path / "samples.jsonl", scored)


def shape_of(model: str) -> ModelShape | None:
    """For FLOPs; None for a model whose sizes tell nothing of them (experts), or are not at hand."""
    try:
        return ModelShape.of(model)
    except UserError:
        return None


def sample_replies(config: EvalConfig, run: Run, work: Work) -> dict[str, Any]:
    """As `sample`, from the chat endpoint. Returns what was spent on it over all sittings.

    Raises UserError where requests failed for good: they are no wrong answers, and the same command asks them again.
    """
    journal = run.journal("samples.jsonl", can_redo=True)
    done = {key_of(row) for row in journal.rows}
    rows, spent = draw_replies(config.chat_model, work.tasks(), run, config.num_shards)
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
