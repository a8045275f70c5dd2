"""A tiny random model for tests, and the plainest way to decode with it. Importing this needs no torch."""

import json
from pathlib import Path

from tiny_tokenizer import tiny_tokenizer


def weightless_model(folder: Path, **changes) -> None:
    """Writes what is looked at before a model is loaded: the config of a tiny Qwen2, and its tokenizer. No torch."""
    config = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 392,
        "max_position_embeddings": 512,
        **changes,
    }
    tiny_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))


def tiny_model(folder: Path, seed: int = 0, spare_ids: int = 8, kind: str = "llama", **changes) -> Path:
    """Writes a random two-layer fp32 model with its tokenizer. head_dim 32 is the smallest vLLM's CPU build takes.

    spare_ids: the vocabulary is so much larger than the tokenizer, as Qwen2.5's is. kind: llama or qwen2.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(kind, **{
        "vocab_size": len(tokenizer) + spare_ids,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.6,  # spreads the logits, so that rounding does not decide a greedy choice
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    })  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def decode_naively(model, request, num_token_ids: int) -> tuple[int, ...]:
    """What a greedy request must give: one full forward pass a token, no cache, no batch."""
    import torch

    new: list[int] = []
    while len(new) < request.max_tokens:
        with torch.no_grad():
            logits = model(torch.tensor([[*request.prefix, *new]])).logits[0, -1, :num_token_ids].clone()
        if len(new) < request.min_tokens:
            logits[list(request.stop_token_ids)] = -torch.inf
        new.append(int(logits.argmax()))
        if new[-1] in request.stop_token_ids:
            break
    return tuple(new)
