"""The card of a trained model: where it comes from, how it was trained, how to use it, from what the run recorded."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.chat import PROFILES
from core.config import to_yaml


def text(config: Any, record: Mapping[str, Any]) -> str:
    """The card as Markdown. config: train.sft.SftConfig. record: run.json of its finished run."""
    parts = [
        _front_matter(config),
        f"# {config.name}",
        _summary(config, record["headline"]),
        "## Use",
        _use(config.profile),
        "## Training",
        _training(config, record["headline"]),
        "## Licence",
        f"The weights derive from {_named(config.model)} and the traces of {_named(config.data)}: the licences of both "
        "apply, and the terms of the teacher that wrote the traces. This card grants nothing beyond them.",
        "## How it was made",
        _origin(config, record),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Any) -> str:
    """What the hub reads. The licence is that of model and data, hence `other`."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "license: other", "language: [en]",
             "tags: [reasoning, test-time-scaling, budget-forcing]"]  # fmt: skip
    if _is_hub_id(config.model):
        lines.append(f"base_model: {config.model}")
    if _is_hub_id(config.data):
        lines.append(f"datasets: [{config.data}]")
    return "\n".join(["---", *lines, "---"])


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _named(name: str) -> str:
    return f"`{name}`" if _is_hub_id(name) else f"`{Path(name).name}` (a local path)"


def _summary(config: Any, headline: Mapping[str, Any]) -> str:
    how = f"LoRA of rank {config.lora_rank}, merged into the weights" if config.lora_rank else "all weights"
    revision = f", revision {config.revision}" if config.revision else ""
    return (
        f"{_named(config.model)}{revision}, fine-tuned ({how}) on {headline['num_traces']:,} questions with thinking "
        f"and answer from {_named(config.data)}. How long it thinks is controlled by budget forcing "
        "([arXiv 2501.19393](https://arxiv.org/abs/2501.19393))."
    )


def _use(profile: str) -> str:
    p = PROFILES[profile]
    if not p.ends:
        return "With its chat template, as any instruct model: it was taught no thinking phase of its own."
    command = (
        "./launch.sh eval.run configs/demo/eval-tuned.yaml model=<this repository> questions=my.jsonl \\\n"
        f'    profile={profile} "cells=[{{max_thinking_tokens: [512, 2048, auto], num_ignore: [0, 1, 2]}}]" \\\n'
        "    engine.max_model_len=8192"
    )
    return "\n\n".join([
        f"After the chat template's assistant header the model is given `{p.start}`; it thinks, and ends thinking with "
        f"`{p.ends[0]}`. Budget forcing acts there:",
        f"- to think less: after `max_thinking_tokens` append `{p.ends[0]}` and `Final Answer:`, and let it answer;\n"
        f"- to think more: where it writes `{p.ends[0]}`, put `Wait` instead, `num_ignore` times.",
        "With the code it was trained with, over a grid of budgets:",
        f"```\n{command}\n```",
    ])  # fmt: skip


def _training(config: Any, headline: Mapping[str, Any]) -> str:
    rows = [
        ("steps", f"{headline['num_steps']:,} of {config.batch_size} questions, {config.num_epochs} epochs"),
        ("tokens", f"{headline['num_tokens']:,}"),
        ("final loss", f"{headline['loss']:g}, mean of the last epoch"),
        ("optimizer", f"AdamW 0.9/0.95, weight decay {config.weight_decay:g}"),
        ("learning rate", f"{config.learning_rate:g}, warm-up over {config.warmup:.0%} of the steps, cosine to 0"),
        ("loss", f"on thinking and answer, weighted by {config.loss_weighting}"),
        ("longest question", f"{config.max_length:,} tokens, longer ones {'cut' if config.truncate else 'refused'}"),
        ("control", config.control and f"conditional on {config.control}"),
        ("quantized in training", config.quantize),
        ("seed", config.seed),
        ("saved as", config.export_dtype),
        ("options that override these", ", ".join(f"{key}={value}" for key, value in config.trainer.items()) or None),
    ]
    return _table(row for row in rows if row[1] is not None)


def _origin(config: Any, record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    gpus = record["hardware"]["gpus"]
    hardware = gpus and f"{len(gpus)} x {gpus[0]} on the first node" or record["hardware"]["cpu"]
    return "\n\n".join([
        f"Commit {record['commit'][:10]}{' with uncommitted changes' * record['dirty']}; {hardware}; {versions}.",
        f"```\n{shlex.join(record['command'])}\n```",
        f"```yaml\n{to_yaml(config).rstrip()}\n```",
    ])  # fmt: skip


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
