"""Statistics of the samples of any finished eval run, a table a benchmark and cell.

    python -m eval.sample_stats run=outputs/eval/s1-32b-1234abcd
    python -m eval.sample_stats run=... "cells=['max=512', 'max=auto']" tokenizer=<folder> json=true > stats.json

They are those of the released compute_sample_stats.py: steps and their tokens, lengths, correctness by length, how many
samples are over a limit or have no answer. Limits are the cell's own and the run's context, not read off a path name; a
step is a line of thinking, or what "N steps left" opens; "without an answer" looks at the answer part alone, where the
released script would also find "Answer:" in thinking. Prints them, and writes nothing.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from statistics import quantiles as percentiles
from typing import Any

from core.config import UserError, option, run_entry
from core.log import say
from core.runs import finished
from core.types import read_jsonl
from eval.samples import Row

PERCENTILES = (5, 25, 50, 75, 95)
NUM_BINS = 4  # accuracy by length: quarters of the samples
STEPS_LEFT = re.compile(r"(?:^|<\|im_start\|>)\s*\d+ steps left\n", re.MULTILINE)


@dataclass
class StatsConfig:
    run: str = option(help="folder of a finished run of eval.run or eval.import_samples")
    cells: list[str] = option([], help="labels of the cells to show; none: all")
    tokenizer: str | None = option(
        None, help="local folder or hub id, to read steps off token ids; null: the run's model, where it is a folder"
    )
    max_model_len: int | None = option(None, help="context in tokens; null: the run's own")
    json: bool = option(False, help="print one JSON list instead of tables")


@dataclass(frozen=True)
class Limits:
    """What a sample may not exceed; None: no limit. thinking: tokens. steps: as asked for. context: all tokens."""

    thinking: int | None = None
    steps: int | None = None
    context: int | None = None


@dataclass(frozen=True)
class Texts:
    """How to read rows. thinking: the text of a row's thinking. count: tokens of a text. None without a tokenizer."""

    thinking: Callable[[Row], str | None]
    count: Callable[[str], int] | None


def steps_of(thinking: str) -> list[str]:
    """Steps of a thinking text: what follows each "N steps left" (step-conditional), otherwise its lines that are not
    blank. (The released script counts blank lines as steps, too.)"""
    if STEPS_LEFT.search(thinking):
        return [step.strip() for step in STEPS_LEFT.split(thinking)[1:]]
    return [line for line in thinking.splitlines() if line.strip()]


def sample_stats(rows: Sequence[Row], limits: Limits, texts: Texts) -> dict[str, Any]:
    """Statistics of one cell. Means over samples; None for what the rows do not hold (lengths without a tokenizer)."""
    thoughts = [texts.thinking(row) for row in rows]
    steps = [None if thought is None else steps_of(thought) for thought in thoughts]
    step_tokens = [texts.count(step) for own in steps for step in own or []] if texts.count else []
    thinking = [row["num_thinking_tokens"] for row in rows]
    totals = [total_tokens(row) for row in rows]
    return {
        "num_samples": len(rows),
        "mean_steps": _mean([None if own is None else len(own) for own in steps]),
        "mean_step_tokens": fmean(step_tokens) if step_tokens else None,
        "mean_thinking_tokens": _mean(thinking),
        "thinking_tokens": quantiles(thinking),
        "mean_answer_tokens": _mean([row["num_answer_tokens"] for row in rows]),
        "mean_total_tokens": _mean(totals),
        **correctness_by_length(rows),
        "num_over_thinking_limit": _over(thinking, limits.thinking),
        "num_over_step_limit": _over([None if own is None else len(own) for own in steps], limits.steps),
        "num_over_context": sum(
            row["ended"] == "context" or _exceeds(row, limits.context) for row in rows
        ),
        "num_without_answer": sum(not is_answered(row["response"]) for row in rows),
        "num_without_thinking": sum(
            row["num_thinking_tokens"] == 0 or thought == "" for row, thought in zip(rows, thoughts, strict=True)
        ),
        "limits": {"thinking": limits.thinking, "steps": limits.steps, "context": limits.context},
    }  # fmt: skip


def is_answered(response: str) -> bool:
    """Does the answer part hold a box, or words after its last "Answer:"? (The released script's rule, but it took the
    cue of a forced close, "Final Answer:", for an answer.)"""
    _, marked, answer = response.rpartition("Answer:")
    return "\\boxed" in response or bool(marked and answer.strip())


def total_tokens(row: Row) -> int | None:
    """Prompt, thinking and answer with all delimiters: what was in the context at the end."""
    parts = [row["num_prompt_tokens"], row["num_sampled_tokens"], row.get("num_forced_tokens") or 0]
    return None if None in parts else sum(parts)


def quantiles(values: Sequence[int | None]) -> dict[str, float] | None:
    """{"min", "p5", ..., "max"}, linear between neighbours."""
    if not values or None in values:
        return None
    cuts = percentiles(values, n=100, method="inclusive") if len(values) > 1 else [values[0]] * 99
    return {"min": min(values), **{f"p{p}": cuts[p - 1] for p in PERCENTILES}, "max": max(values)}


def correctness_by_length(rows: Sequence[Row]) -> dict[str, Any]:
    """Over graded samples of known length: mean thinking of right and wrong ones, and accuracy (percent) in quarters
    from the shortest to the longest thinking, each with its range. Ties are kept in the order of the rows."""
    graded = [r for r in rows if r["correct"] is not None and r["num_thinking_tokens"] is not None]
    graded = sorted(graded, key=lambda row: row["num_thinking_tokens"])
    lengths = [row["num_thinking_tokens"] for row in graded]
    num_bins = NUM_BINS if len(set(lengths)) > 1 else 1
    bins = []
    for i in range(num_bins):
        own = graded[len(graded) * i // num_bins : len(graded) * (i + 1) // num_bins]
        if own:
            accuracy = 100 * fmean(row["correct"] for row in own)
            shortest, longest = own[0]["num_thinking_tokens"], own[-1]["num_thinking_tokens"]
            bins.append({"from": shortest, "to": longest, "num_samples": len(own), "accuracy": accuracy})
    return {
        "mean_thinking_tokens_right": _mean([r["num_thinking_tokens"] for r in graded if r["correct"]]),
        "mean_thinking_tokens_wrong": _mean([r["num_thinking_tokens"] for r in graded if not r["correct"]]),
        "accuracy_by_length": bins,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    return None if not values or None in values else fmean(values)


def _over(values: Sequence[int | None], limit: int | None) -> int | None:
    """How many are over the limit; None without a limit, or where a value is not known."""
    return None if limit is None or None in values else sum(value > limit for value in values)


def _exceeds(row: Row, context: int | None) -> bool:
    total = total_tokens(row)
    return context is not None and total is not None and total > context


# The entry


def main(config: StatsConfig) -> None:
    path = finished(config.run)
    scores = {(s["benchmark"], s["cell"]): s for s in json.loads((path / "scores.json").read_text())["cells"]}
    unknown = sorted(set(config.cells) - {cell for _, cell in scores})
    if unknown:
        raise UserError(f"run {path} has no cell {unknown[0]!r}; it has {', '.join(sorted({c for _, c in scores}))}")
    groups: dict[tuple[str, str], list[Row]] = {key: [] for key in scores}
    for row in read_jsonl(path / "samples.jsonl"):
        groups.setdefault((row["benchmark"], row["cell"]), []).append(row)
    settings = settings_of(path)
    texts = texts_of(config.tokenizer, settings)
    context = config.max_model_len or settings.get("max_model_len") or settings.get("engine", {}).get("max_model_len")
    stats = []
    for (benchmark, cell), rows in groups.items():
        if rows and (not config.cells or cell in config.cells):
            limits = limits_of(scores.get((benchmark, cell), {}), context)
            stats.append({"benchmark": benchmark, "cell": cell, **sample_stats(rows, limits, texts)})
    print(json.dumps(stats, indent=2, ensure_ascii=False) if config.json else "\n\n".join(map(table_of, stats)))


def settings_of(path: Path) -> Row:
    """config.yaml of a run."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))


def limits_of(score: Row, context: int | None) -> Limits:
    """The limits of a cell, as scores.json has it: what was forced, or else what the question asked for."""
    forced, asked = score.get("max_thinking_tokens"), score.get("asked")
    thinking = forced if isinstance(forced, int) else asked if score.get("control") == "tokens" else None
    return Limits(thinking, asked if score.get("control") == "steps" else None, context)


def texts_of(tokenizer: str | None, settings: Row) -> Texts:
    """settings: config.yaml of the run, which names its tokenizer, or its model."""
    loaded = tokenizer_of(tokenizer, settings)
    if loaded is None:
        say("no tokenizer at hand, so steps and their tokens are known only in part; give tokenizer=<folder>")

    def thinking(row: Row) -> str | None:
        if "thinking" in row or not row["segments"]:
            return row.get("thinking", "")
        if loaded is None:
            return None
        ids = [id for segment in row["segments"] if segment["phase"] == "thinking" for id in segment["token_ids"]]
        return loaded.decode(ids)

    return Texts(thinking, loaded and (lambda text: len(loaded.encode(text, add_special_tokens=False))))


def tokenizer_of(named: str | None, settings: Row) -> Any:
    """The tokenizer that is named, else that of the run's config.yaml, else its model's; None where none is at hand."""
    from inference import checkpoint

    named = named or settings.get("tokenizer")
    if named is None and Path(str(settings.get("model"))).is_dir():
        named = settings["model"]
    if named is None:
        return None
    is_alone = (Path(named) / "tokenizer_config.json").is_file()  # a folder with a tokenizer and no model will do
    return checkpoint.load_tokenizer(named if is_alone else checkpoint.resolve(named, weights=False))


def table_of(stats: dict[str, Any]) -> str:
    lengths, limits = stats["thinking_tokens"] or {}, stats["limits"]
    means = {name: "-" if stats[name] is None else f"{stats[name]:,.1f}" for name in stats if name.startswith("mean_")}
    lines = [
        f"{stats['benchmark']} {stats['cell']}: {stats['num_samples']:,} samples; means:",
        f"  steps            {means['mean_steps']}, of {means['mean_step_tokens']} tokens",
        f"  thinking tokens  {means['mean_thinking_tokens']}"
        f" (right {means['mean_thinking_tokens_right']}, wrong {means['mean_thinking_tokens_wrong']})",
        f"  answer tokens    {means['mean_answer_tokens']}",
        f"  all tokens       {means['mean_total_tokens']}, prompt included",
    ]
    if lengths:
        lines.append("  thinking tokens: " + ", ".join(f"{name} {value:,.0f}" for name, value in lengths.items()))
    for b in stats["accuracy_by_length"]:
        lines.append(f"    {b['from']:,} to {b['to']:,}: {b['accuracy']:.1f}% of {b['num_samples']:,} right")
    counts = [("over the thinking limit", "num_over_thinking_limit", limits["thinking"]),
              ("over the steps asked for", "num_over_step_limit", limits["steps"]),
              ("over the context", "num_over_context", limits["context"]),
              ("without an answer", "num_without_answer", None),
              ("without thinking", "num_without_thinking", None)]  # fmt: skip
    for words, key, limit in counts:
        if stats[key] is not None:
            lines.append(f"  {words:<26} {stats[key]:,}" + (f" (limit {limit:,})" if limit is not None else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    run_entry(main, StatsConfig, __doc__)
