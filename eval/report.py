"""One HTML file to look into a finished eval run, or to set several side by side.

    python -m eval.report run=outputs/eval/s1-32b-1234abcd
    python -m eval.report "runs=[outputs/eval/a-1234abcd, outputs/eval/b-5678abcd]" title="Two seeds"
    python -m eval.report run=... tokenizer=<folder>      # where the run's model is not at hand
    python -m eval.report run=... wandb=offline           # the curves, too

Writes report.html: accuracies with intervals, curves, what each Wait flipped, a table of questions, three right answers
as examples, and every sample with sampled and forced tokens told apart. The file holds all it needs, and says what it
left out.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from core.config import UserError, option, run_entry
from core.log import say
from core.runs import open_run
from core.tracking import check_wandb, close_wandb, open_wandb
from core.types import read_jsonl
from eval.compare import named_runs
from eval.report_data import Asked, columns, report_data, sample_entry
from eval.report_texts import Chunk, Decode, Packer, check_tokenizer, decoder_of, question_texts, sample_texts, that_fit
from eval.sample_stats import tokenizer_of
from eval.samples import Row
from eval.whole_run import WholeRun, read_run

PAGE = Path(__file__).parent / "report_page"
UPLOT = PAGE / "uplot-1.6.32"  # draws the curves: 51 kB, MIT, no dependencies; its NOTE says whence and why
SCRIPTS = ("page.js", "curves.js", "questions.js", "trace.js")
QUESTIONS = "questions"  # the group of the chunks with the questions' own texts


@dataclass
class ReportConfig:
    run: str | None = option(None, help="finished run of eval.run or eval.import_samples")
    runs: list[str] = option([], help="instead: several of them, side by side")
    name: str = option("report", help="run name; the folder is outputs/report/<name>-<digest>")
    title: str | None = option(None, help="of the page; null: the names of the runs")
    tokenizer: str | None = option(
        None, help="local folder or hub id, to read token ids; null: of each run's model, where that is a folder"
    )
    max_megabytes: float = option(30, help="size of the file; texts beyond it are left out, and counted")
    num_resamples: int = option(10_000, help="of the bootstraps")
    seed: int = option(0, help="of the bootstraps")
    wandb: str = option("off", help="the curves in wandb, too: off, offline or online")


def check(config: ReportConfig) -> list[str]:
    """The runs to show. Raises UserError for a config that could only fail later."""
    if (config.run is None) == (not config.runs):
        raise UserError("name what to look at: run=<finished eval run>, or runs=[...] (one of the two)")
    if config.max_megabytes < 1:
        raise UserError(f"max_megabytes={config.max_megabytes}: at least 1, for the page itself")
    check_wandb(config.wandb)
    return [config.run] if config.run else config.runs


# Samples and their texts


@dataclass(frozen=True)
class Texts:
    """columns: the table of samples. chunks: their texts and those of the questions. notes: what cannot be shown."""

    columns: Row
    chunks: list[Chunk]
    notes: list[str]


def pack_texts(runs: Sequence[WholeRun], data: Row, asked: Asked, tokenizer: str | None) -> Texts:
    """Reads every sample once more, one at a time: in memory are the compressed texts alone."""
    keys = list(zip(_values(data["questions"]["benchmark"]), _values(data["questions"]["id"]), strict=True))
    packer, notes = Packer(), []
    for key in keys:
        text, answer = asked.get(key, (None, None))
        packer.add(QUESTIONS, {"text": text, "answer": answer})
    packer.close()
    num_unknown = sum(key not in asked for key in keys)
    if num_unknown:
        notes.append(
            f"The texts of {num_unknown:,} of {len(keys):,} questions: they are not in the run, nor where it read them."
        )
    order = {key: i for i, key in enumerate(keys)}
    cells = {(cell["run"], cell["benchmark"], cell["cell"]): i for i, cell in enumerate(data["cells"])}
    samples, sample_packer = [], Packer()
    for run in runs:
        decode = _decode_of(run, tokenizer)
        if decode is None and any(row["segments"] for row in _rows(run)):
            notes.append(
                f"Thinking of {run.name}: its tokenizer is not at hand (tokenizer=<folder>); answers are here."
            )
        for row in _rows(run):
            benchmark = row.get("benchmark", "questions")
            cell, question = cells[run.name, benchmark, row["cell"]], order[benchmark, row["question_id"]]
            samples.append(sample_entry(cell, question, row))
            sample_packer.add(f"{run.name} {benchmark}", sample_texts(row, decode))
    sample_packer.close()
    return Texts(columns(samples), packer.chunks + sample_packer.chunks, notes)


def _rows(run: WholeRun) -> Iterator[Row]:
    return read_jsonl(run.path / "samples.jsonl")


def _decode_of(run: WholeRun, tokenizer: str | None) -> Decode | None:
    first = next((row for row in _rows(run) if row["segments"] and row["response"].strip()), None)
    if first is None:
        return None
    loaded = tokenizer_of(tokenizer, run.config)
    if loaded is None:
        return None
    check_tokenizer(str(run.path), first, loaded)
    return decoder_of(loaded)


def _values(column: Any) -> list[Any]:
    return [column["words"][i] for i in column["of"]] if isinstance(column, dict) else column


# The page


def page(title: str, data: Row, texts: Texts, max_bytes: int) -> str:
    """The whole file. What is too large for it is left out, and named in its notes."""
    scripts = [(UPLOT / "uPlot.iife.min.js").read_text(encoding="utf-8"), _joined(SCRIPTS)]
    styles = (UPLOT / "uPlot.min.css").read_text(encoding="utf-8") + _joined(["page.css"])
    licence = "\n".join(("uPlot 1.6.32", (UPLOT / "LICENSE").read_text(encoding="utf-8")))
    shown = {**data, "title": title, "samples": texts.columns, "notes": texts.notes, "chunks": []}
    template = (PAGE / "page.html").read_text(encoding="utf-8")
    room = max_bytes - sum(map(len, (*scripts, styles, licence, template, _json(shown)))) - 5000  # notes, and the like
    room -= 100 * len(texts.chunks)  # their tags, and what the data say of each
    kept, left_out = that_fit(texts.chunks, room)
    shown["chunks"] = [{"group": c.group == QUESTIONS, "first": c.first, "count": c.count} for c in kept]
    shown["notes"] = texts.notes + left_out_notes(texts, left_out, max_bytes)
    for note in shown["notes"]:
        say(f"left out | {note}")
    return Template(template).substitute(
        title=html.escape(title),
        hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
        style=styles,
        licence=html.escape(licence),
        data=_json(shown),
        library=scripts[0],
        script=scripts[1],
        texts="\n".join(f'<script type="text/plain" id="texts-{i}">{c.data}</script>' for i, c in enumerate(kept)),
    )


def left_out_notes(texts: Texts, left_out: Sequence[Chunk], max_bytes: int) -> list[str]:
    notes = []
    for is_question, what in ((True, "questions"), (False, "samples")):
        own = [chunk for chunk in texts.chunks if (chunk.group == QUESTIONS) == is_question]
        missing = sum(chunk.count for chunk in left_out if (chunk.group == QUESTIONS) == is_question)
        if missing:
            total = sum(chunk.count for chunk in own)
            notes.append(f"The texts of {missing:,} of {total:,} {what}, which would make this file larger than "
                         f"{max_bytes / 1e6:g} MB (max_megabytes).")  # fmt: skip
    return notes


def _joined(names: Sequence[str]) -> str:
    return "\n".join((PAGE / name).read_text(encoding="utf-8") for name in names)


def _json(value: Any) -> str:
    """ASCII JSON that no HTML parser can take for markup."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _sha256(script: str) -> str:
    """As a content security policy names a script that may run: no other one will."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def log_curves(run: Any, curves: Sequence[Row]) -> None:
    """To a run of wandb: each curve as a metric over its own axis, mean tokens, with both ends of its intervals."""
    for curve in curves:
        name = f"{curve['benchmark']}/{curve['name']} by {curve['axis']} tokens"
        run.define_metric(f"{name}/tokens", hidden=True)
        run.define_metric(f"{name}/*", step_metric=f"{name}/tokens")
        for point in curve["points"]:
            own = {key: point[key] for key in ("accuracy", "low", "high")}
            run.log({f"{name}/{key}": value for key, value in {"tokens": point["x"], **own}.items()})


def main(config: ReportConfig) -> Path:
    paths = named_runs(check(config))
    runs = [read_run(path, name) for name, path in paths.items()]
    with open_run("report", config, {f"run {name}": path for name, path in paths.items()}) as run:
        if run.is_done:
            return run.path
        wandb_run = open_wandb(config, run.path) if config.wandb != "off" else None
        asked = question_texts(runs)
        data = report_data(runs, asked, config.num_resamples, config.seed)
        texts = pack_texts(runs, data, asked, config.tokenizer)
        text = page(config.title or ", ".join(paths), data, texts, int(config.max_megabytes * 1e6))
        (run.path / "report.html").write_text(text, encoding="utf-8")
        if wandb_run is not None:
            log_curves(wandb_run, data["curves"])
            close_wandb(wandb_run)
        num_samples = len(texts.columns.get("repeat", []))
        say(f"{run.path / 'report.html'} | {len(text) / 1e6:.1f} MB | {num_samples:,} samples")
        run.finish(runs=list(paths.values()), num_samples=num_samples, megabytes=round(len(text) / 1e6, 2))
    return run.path


if __name__ == "__main__":
    run_entry(main, ReportConfig, __doc__)
