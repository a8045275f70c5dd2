"""Asks a model a question under a thinking budget, and shows the thinking as it comes.

    python -m inference.ask model=<folder or hub id> "How many r in raspberry"
    python -m inference.ask model=... "How many r in raspberry" num_ignore=1               # one Wait
    python -m inference.ask model=... "..." max_thinking_tokens=64 compare=true            # beside the same without
    python -m inference.ask model=... "..." max_thinking_tokens=2000 min_thinking_tokens=2000 "ignore_text=\\nWait!\\n"
    python -m inference.ask model=... prompts=questions.txt output=json save=answers.jsonl # many at once; resumes

What the model samples, what is forced upon it and the answer are told apart: by colour on a terminal, by marks
elsewhere ([[Wait]] was forced). prompts= takes a .txt file (a question a line), a .jsonl file (rows with `question`,
`text` or `messages`) or a .json file (one chat: its messages, a system message among them). output=json prints an
object a sample on stdout, everything else on stderr. Ctrl-C keeps what was said; a second one ends at once.

engine.backend=auto is vLLM on a GPU where it is installed, and transformers everywhere else: on a CPU vLLM starts in
20 to 80 seconds, transformers in 3, and a single question runs as fast. For hundreds of questions: engine.backend=vllm.
"""

import dataclasses
import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.config import UserError, option, run_entry
from core.journal import Journal
from core.log import Progress, duration, say
from core.types import question_id
from inference import checkpoint
from inference.answering import Answering
from inference.ask_view import View, view_of
from inference.budget import Budget, derived_seed
from inference.engine import Driver, EngineConfig, Sampling, load_engine
from inference.prompts import Prompt, prompt_of, read_prompts

FORCING = ("max_thinking_tokens", "min_thinking_tokens", "num_ignore", "ignore_text", "cue", "budget_per_round")


@dataclass
class AskConfig:
    question: str | None = option(None, help="the question; or plain text, without question=", free_text=True)
    model: str = option(help="local folder or hub id")
    prompts: str | None = option(None, help="instead of a question: a .txt, .jsonl or .json file of them")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    profile: str | None = option(None, help="delimiters: s1, think-tags, plain, steps; null finds out")
    max_thinking_tokens: Any = option("auto", help="budget; auto: what the context leaves; null (plain): no thinking")
    min_thinking_tokens: int = option(0, help="ends of thinking are replaced by ignore_text while it is shorter")
    num_ignore: int = option(0, help="how many ends of thinking to replace by ignore_text")
    ignore_text: str = option("Wait", help="what the model reads instead of its end of thinking")
    cue: str = option("\nFinal Answer:", help="written after a forced close")
    max_answer_tokens: int = option(512, help="answer limit, reserved in the context")
    budget_per_round: bool = option(False, help="a fresh budget after each ignored end, as s1's released evaluator")
    sampling: Sampling = option(Sampling, help="temperature 0 is greedy")
    seed: int = option(0, help="of the sampling")
    n: int = option(1, help="samples a question; needs a temperature")
    compare: bool = option(False, help="also without forcing; side by side on a terminal")
    output: str = option("text", help="text, or json: an object a sample on stdout")
    save: str | None = option(None, help="append finished samples to this .jsonl file, and ask none twice")
    four_bit: bool = option(False, help="4-bit weights (bitsandbytes, NF4), on NVIDIA GPUs")
    engine: EngineConfig = option(EngineConfig, help="how to load the model; a smaller context of the model wins")


def main(config: AskConfig) -> None:
    """Raises SystemExit: 130 after Ctrl-C, 1 where the engine failed on a sample."""
    budgets = budgets_of(config)
    prompts = prompts_of(config)
    path = checkpoint.resolve(config.model, config.engine.revision, weights=False)
    tokenizer = checkpoint.load_tokenizer(path)
    chat = ChatFormat(config.profile or checkpoint.profile_of(config.model, path, tokenizer), tokenizer)
    engine_config = engine_config_of(config, path)
    asked = all_of(config, prompts, budgets, chat, engine_config.max_model_len)
    with _journal(config.save) as journal:
        known = {row["key"]: row for row in (journal.rows if journal else [])}
        for one in asked:
            one.recall(known.get(one.key))
        view = view_of(config.output, asked, title_of(config, chat, engine_config))
        todo = [one for one in asked if one.row is None]
        if todo:
            started = time.monotonic()
            say(f"loading {config.model} ({engine_config.backend})")
            engine, _ = load_engine(config.model, engine_config)
            say(f"loaded in {duration(time.monotonic() - started)}")
        else:
            engine = None
        try:
            interrupted = run(engine, asked, view, journal)
        finally:
            if engine is not None:
                engine.close()
    if interrupted:
        raise SystemExit(130)
    if any(one.row["error"] for one in asked):
        raise SystemExit(1)
