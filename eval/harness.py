"""The formats of lm-evaluation-harness: our runs written as its results, and its sample logs read.

The harness keeps one results file for each of its runs, which has one set of generation settings, and a file of samples
for each of its tasks. So here every cell of the grid is a run, and every benchmark a task:

    <run>/harness/<cell>/results_<date>.json               what its tables, and the tools around it, read
    <run>/harness/<cell>/samples_<benchmark>_<date>.jsonl   a line a question, its repeats together

Files are as version 0.4.13 writes them (lm_eval/result_schema.py, lm_eval/loggers/evaluation_tracker.py). Read are also
those of the evaluator that s1 released (a fork of October 2024): responses with their thinking, `extracted_answers`,
and with 64 samples a question `exact_matches`.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from core.config import UserError
from core.types import Question, numbered_lines, read_jsonl, write_jsonl
from eval.samples import Row
from inference.budget import Budget

FORMAT_VERSION = "0.4.13"
METRIC = "exact_match"
LENGTHS = {"thinking_tokens": "num_thinking_tokens", "answer_tokens": "num_answer_tokens"}
BUDGET_KEYS = (*(f.name for f in fields(Budget)), "control", "asked")


# Writing


def write_harness_results(run_path: Path, questions: Mapping[str, Sequence[Question]]) -> list[Path]:
    """Writes an eval run, whose samples.jsonl and scores.json are complete, as results of the harness. Returns the
    results files, one a cell; what was written there before is replaced.

    questions: of each benchmark. Answers alone are written, and question texts without the chat template.
    """
    from omegaconf import OmegaConf

    record = json.loads((run_path / "run.json").read_text())
    config = OmegaConf.to_container(OmegaConf.load(run_path / "config.yaml"))
    rows: dict[str, dict[str, list[Row]]] = {}
    for row in read_jsonl(run_path / "samples.jsonl"):
        rows.setdefault(row["cell"], {}).setdefault(row["benchmark"], []).append(row)
    scores = {score["cell"]: score for score in json.loads((run_path / "scores.json").read_text())["cells"]}
    date = datetime.fromisoformat(record["started"]).replace(tzinfo=None).isoformat().replace(":", "-")
    files = []
    folders = folder_names(list(rows))
    for cell, by_task in rows.items():
        settings = generation_settings(config, scores.get(cell, {}))
        samples = {task: task_samples(own, questions[task], settings) for task, own in by_task.items()}
        folder = run_path / "harness" / folders[cell]
        folder.mkdir(parents=True, exist_ok=True)
        for task, lines in samples.items():
            write_jsonl(folder / f"samples_{task}_{date}.jsonl", lines)
        files.append(folder / f"results_{date}.json")
        results = results_of(record, config, settings, samples, {task: len(questions[task]) for task in by_task})
        files[-1].write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def folder_names(cells: Sequence[str]) -> dict[str, str]:
    """{label of a cell: name of its folder}, which has no character that shells or file systems mind."""
    names: dict[str, str] = {}
    for cell in cells:
        name = re.sub(r"[^\w.=-]+", "_", cell)
        same = sum(re.sub(r"[^\w.=-]+", "_", other) == name for other in names)  # text='!' and text='?'
        names[cell] = f"{name}.{same + 1}" if same else name
    return names


def generation_settings(config: Row, score: Row) -> Row:
    """What the harness calls gen_kwargs: the sampling, and the budget of a cell as scores.json has it."""
    sampling = config.get("sampling") or {}
    temperature = sampling.get("temperature", 0.0)
    budget = {key: score[key] for key in BUDGET_KEYS if key in score}
    limit = score.get("max_answer_tokens", config.get("max_answer_tokens"))
    return {"until": [], "do_sample": temperature > 0, "temperature": temperature, "max_gen_toks": limit, **budget}


def task_samples(rows: Sequence[Row], questions: Sequence[Question], settings: Row) -> list[Row]:
    """The lines of one samples file, in the order of the questions; a question without a sample has none.

    exact_match is the share of right repeats among those that could be graded, None where none could.
    """
    by_question: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["repeat"]):
        by_question.setdefault(row["question_id"], []).append(row)
    lines = []
    for doc_id, question in enumerate(questions):
        own = by_question.get(question.id)
        if own is None:
            continue
        doc = {"id": question.id, "problem": question.text, "answer": question.answer, "domain": question.domain}
        target = question.answer or ""
        responses = [row["response"] for row in own]
        lines.append({
            "doc_id": doc_id,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": question.text, "arg_1": settings}},
            "resps": [responses],
            "filtered_resps": responses if len(responses) == 1 else [responses],
            "filter": "none",
            "metrics": [METRIC, *LENGTHS],
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(question.text),
            "target_hash": _hash(target),
            METRIC: _mean(row["correct"] for row in own),
            **{name: _mean(row[key] for row in own) for name, key in LENGTHS.items()},
        })  # fmt: skip
    return lines


def results_of(
    record: Row, config: Row, settings: Row, samples: Mapping[str, Sequence[Row]], num_docs: Mapping[str, int]
) -> Row:
    """The results file of one cell. record, config: run.json and config.yaml of the run.

    Standard errors are those of the mean over questions, whose repeats are one value: question-clustered.
    """
    metrics = (METRIC, *LENGTHS)
    names = sorted(samples)
    model = str(config.get("model") or (config.get("chat_model") or {}).get("api", {}).get("model"))
    system = config.get("system")
    version = {"version": 1.0}
    metric_list = [{"metric": name, "aggregation": "mean", "higher_is_better": name == METRIC} for name in metrics]
    return {
        "results": {name: _task_metrics(name, samples[name], metrics) for name in names},
        "group_subtasks": {name: [] for name in names},
        "configs": {
            name: {
                "task": name,
                "output_type": "generate_until",
                "metric_list": metric_list,
                "generation_kwargs": settings,
                "repeats": max(len(line["resps"][0]) for line in samples[name]),
                "num_fewshot": 0,
                "metadata": version,
            }
            for name in names
        },
        "versions": {name: version["version"] for name in names},
        "n-shot": {name: 0 for name in names},
        "higher_is_better": {name: {METRIC: True, **{length: None for length in LENGTHS}} for name in names},
        "n-samples": {name: {"original": num_docs[name], "effective": len(samples[name])} for name in names},
        "config": {
            "model": "s1",
            "model_args": {"pretrained": model, "profile": config.get("profile"), **(config.get("engine") or {})},
            "batch_size": None,
            "batch_sizes": [],
            "device": None,
            "use_cache": None,
            "limit": config.get("limit"),
            "bootstrap_iters": 0,
            "gen_kwargs": settings,
            **{f"{name}_seed": config.get("seed") for name in ("random", "numpy", "torch", "fewshot")},
        },
        "git_hash": record["commit"],
        "date": datetime.fromisoformat(record["started"]).timestamp(),
        "pretty_env_info": json.dumps({**record["versions"], **record["hardware"]}),
        "transformers_version": record["versions"].get("transformers"),
        "lm_eval_version": FORMAT_VERSION,
        "upper_git_hash": None,
        "task_hashes": {
            name: _hash("".join(x["doc_hash"] + x["prompt_hash"] + x["target_hash"] for x in samples[name]))
            for name in names
        },
        "model_source": "s1",
        "model_name": model,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", model),
        "system_instruction": system,
        "system_instruction_sha": system and _hash(system),
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": str(record["seconds"]),
    }


def _task_metrics(name: str, lines: Sequence[Row], metrics: Sequence[str]) -> Row:
    found: Row = {"name": name, "alias": name, "sample_len": len(lines)}
    for metric in metrics:
        values = [line[metric] for line in lines if line[metric] is not None]
        if values:
            error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else "N/A"
            found |= {f"{metric},none": fmean(values), f"{metric}_stderr,none": error}
    return found


def _mean(values: Any) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Reading


@dataclass(frozen=True)
class LoggedSample:
    """One line of a samples file: a document and the responses to it.

    prompt, settings: what the model was given, and the generation settings. correct: the log's own verdict on each
    response; None where it has none (of several responses the harness judges the first alone).
    """

    doc_id: int
    doc: Row
    target: str
    prompt: str
    settings: Row
    responses: tuple[str, ...]
    correct: tuple[bool | None, ...]


def read_log(path: Path) -> list[LoggedSample]:
    """The samples of one task. Where the harness applied several filters, each document is there once for each: the
    first counts. Raises UserError naming the line that is broken, or that is no log of generated text."""
    samples: dict[int, LoggedSample] = {}
    first_filter = None
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:  # also what is not UTF-8
            raise UserError(f"{where}: not JSON ({error}); cut the line off, or get the file again") from None
        first_filter = first_filter or (row.get("filter", "none") if isinstance(row, dict) else None)
        if isinstance(row, dict) and row.get("filter", "none") != first_filter:
            continue
        sample = _logged_sample(row, where)
        if sample.doc_id in samples:
            raise UserError(f"{where}: document {sample.doc_id} is there twice; give each file one evaluation")
        samples[sample.doc_id] = sample
    if not samples:
        raise UserError(f"{path} holds no samples")
    return list(samples.values())


def _logged_sample(row: Any, where: str) -> LoggedSample:
    try:
        arguments = row["arguments"]  # a list of pairs until 2024
        prompt, settings = arguments[0] if isinstance(arguments, list) else arguments["gen_args_0"].values()
        responses = row["resps"][0]
        doc_id, doc, target = row["doc_id"], row["doc"], row["target"]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise UserError(f"{where}: no sample of lm-evaluation-harness (--log_samples writes them)") from None
    if not responses or not all(isinstance(response, str) for response in responses):
        raise UserError(f"{where}: holds log-likelihoods, not generated text; import a generate_until task")
    correct = _verdicts(row, len(responses))
    return LoggedSample(doc_id, doc, str(target), prompt, settings or {}, tuple(responses), correct)


def _verdicts(row: Row, num_responses: int) -> tuple[bool | None, ...]:
    several = row.get("exact_matches")
    if isinstance(several, list) and len(several) == num_responses:
        return tuple(bool(value) for value in several)
    names = [METRIC, *row.get("metrics", []), "acc"]
    value = next((row[name] for name in names if row.get(name) in (0, 1)), None)
    return (None if value is None else bool(value), *[None] * (num_responses - 1))


def results_beside(samples_file: Path) -> Row | None:
    """The results file of the same evaluation, where it lies beside the samples."""
    date = samples_file.stem.rpartition("_")[2]
    path = samples_file.with_name(f"results_{date}.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def task_of(samples_file: Path) -> str:
    """samples_<task>_<date>.jsonl -> task. Raises UserError for another name."""
    match = re.fullmatch(r"samples_(.+)_[^_]+", samples_file.stem)
    if match is None:
        raise UserError(f"{samples_file}: samples of the harness are called samples_<task>_<date>.jsonl")
    return match[1]


def budget_of(settings: Mapping[str, Any]) -> Row:
    """The budget that generation settings name, in our words; max_thinking_tokens is None where they name none.

    Of the released evaluator: any setting with "thinking" in its name forced a budget, the limit was max_gen_toks where
    max_tokens_thinking was missing, and each ignored end got a fresh one (vllm_causallms.py).
    """
    ours = {key: settings[key] for key in BUDGET_KEYS if key in settings and key != "max_answer_tokens"}
    if ours:
        return {"max_thinking_tokens": "auto", **ours}
    if not any("thinking" in key for key in settings) and "rejection_sample" not in settings:
        return {"max_thinking_tokens": None}
    limit = settings.get("max_tokens_thinking", settings.get("max_gen_toks", "auto"))
    budget: Row = {"max_thinking_tokens": limit if limit == "auto" else int(limit)}
    if settings.get("min_tokens_thinking"):
        budget["min_thinking_tokens"] = int(settings["min_tokens_thinking"])
    if settings.get("thinking_n_ignore"):
        text = settings.get("thinking_n_ignore_str") or ""
        budget |= {"num_ignore": int(settings["thinking_n_ignore"]), "ignore_text": text, "budget_per_round": True}
    return budget
