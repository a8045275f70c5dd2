"""What ask is told: its keys, and what follows from them."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from core.config import UserError, option
from inference import checkpoint
from inference.budget import Budget, thinking_limit
from inference.engine import EngineConfig, Sampling

FORCING = ("max_thinking_tokens", "min_thinking_tokens", "num_ignore")


@dataclass
class AskConfig:
    question: str | None = option(None, help="the question; or as it is, without question=", free_text=True)
    model: str = option(help="local folder or hub id")
    prompts: str | None = option(None, help="instead: a .txt, .jsonl or .json file of them")
    system: str | None = option(None, help="system message; null keeps the chat template's own default")
    profile: str | None = option(None, help="delimiters: s1, think-tags, plain, steps; null: found from the model")
    max_thinking_tokens: Any = option(None, help="a number, or null: what the context leaves (plain: no thinking)")
    min_thinking_tokens: int = option(0, help="ends of thinking are replaced while it is shorter")
    num_ignore: int = option(0, help="how many ends of thinking to replace")
    ignore_text: str = option("Wait", help="what replaces an end of thinking")
    cue: str = option("\nFinal Answer:", help="written after a forced close")
    max_answer_tokens: int = option(512, help="answer limit, reserved in the context")
    budget_per_round: bool = option(False, help="a fresh budget after each ignored end, as s1's released evaluator")
    sampling: Sampling = option(Sampling, help="temperature 0 is greedy")
    seed: int = option(0, help="of the sampling")
    n: int = option(1, help="samples a question; more than one needs a temperature")
    compare: bool = option(False, help="also without forcing, beside it on a terminal")
    output: str = option("text", help="text, or json: an object a sample on stdout")
    save: str | None = option(None, help="append finished samples to this .jsonl file, and ask none of them again")
    four_bit: bool = option(False, help="4-bit weights (bitsandbytes, NF4); needs an NVIDIA GPU")
    engine: EngineConfig = option(EngineConfig, help="how to load the model, whose context may be shorter")


def check(config: AskConfig) -> None:
    """Raises UserError for a config that could only fail later."""
    if (config.question is None) == (config.prompts is None):
        raise UserError('ask something: a question in quotes ("..."), or a file of them (prompts=...), one of the two')
    if config.output not in ("text", "json"):
        raise UserError(f"output={config.output!r} is unknown; use text or json")
    sampling = config.sampling
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise UserError(f"sampling.temperature={sampling.temperature}: expected a number from 0")
    if not (0 < sampling.top_p <= 1 and 0 <= sampling.min_p <= 1 and sampling.top_k >= 0):
        raise UserError("sampling: expected 0 < top_p <= 1, 0 <= min_p <= 1 and top_k >= 0")
    if config.n < 1 or (config.n > 1 and sampling.temperature == 0):
        raise UserError(f"n={config.n}: expected 1, or more with a temperature (at 0 all samples are the same)")
    if config.compare and all(getattr(config, key) == getattr(AskConfig, key) for key in FORCING):
        raise UserError(f"compare=true: nothing is forced; give {', '.join(f'{key}=...' for key in FORCING)}")
    if config.save and not Path(config.save).absolute().parent.is_dir():
        raise UserError(f"save={config.save}: there is no such folder")
    if config.four_bit and config.engine.backend not in ("auto", "transformers"):
        raise UserError(f"four_bit=true loads through transformers; leave out engine.backend={config.engine.backend}")


def budgets_of(config: AskConfig, profile: str) -> dict[str, Budget]:
    """{label: budget}: one without a label, or the two to compare. Raises UserError for impossible values."""
    values = {f.name: getattr(config, f.name) for f in fields(Budget) if hasattr(config, f.name)}
    is_forced = bool(config.min_thinking_tokens or config.num_ignore)
    values["max_thinking_tokens"] = thinking_limit(config.max_thinking_tokens, profile, is_forced)
    try:
        budget = Budget(**values)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not config.compare:
        return {"": budget}
    limit = thinking_limit(None, profile, is_forced=False)
    free = Budget(limit, cue=budget.cue, max_answer_tokens=budget.max_answer_tokens)
    forced = [f"{key}={getattr(config, key)}" for key in FORCING if getattr(config, key) != getattr(AskConfig, key)]
    return {"without forcing": free, " ".join(forced): budget}


def engine_config_of(config: AskConfig, path: Path) -> EngineConfig:
    """With the backend chosen (a running server is named by engine.base_url), no more context than the model has, and
    weights in 4 bits where they are asked for."""
    engine = config.engine
    max_model_len = checkpoint.context_within(path, engine.max_model_len)
    backend, options = engine.backend, engine.options
    if config.four_bit:
        backend, options = "transformers", four_bit_options() | options
    elif backend == "auto" and not engine.base_url:
        backend = "vllm" if checkpoint.has_vllm() and has_cuda() else "transformers"
    return replace(engine, backend=backend, max_model_len=max_model_len, options=options)


def four_bit_options() -> dict[str, Any]:
    """For from_pretrained. Raises UserError where there is no NVIDIA GPU."""
    if not has_cuda():
        raise UserError("four_bit=true needs an NVIDIA GPU, and torch sees none; leave it out")
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16"
    )
    return {"quantization_config": quantization, "device_map": {"": 0}}


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
