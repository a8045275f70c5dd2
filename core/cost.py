"""What a model costs by arithmetic: its parameters, the FLOPs of an example or a sample. Needs no torch, no weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import UserError

# Dense bfloat16 FLOP/s by what the driver calls the card (makers' data sheets, without sparsity). Longer names first:
# the first that occurs in the name counts.
PEAK_FLOPS = {
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a card by its name ("NVIDIA H100 80GB HBM3"); None for one not in the table."""
    return next((flops for name, flops in PEAK_FLOPS.items() if name.lower() in device_name.lower()), None)


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a dense decoder with gated MLPs (Llama, Qwen2, Qwen3 and their kin).

    tied: the head uses the embedding's weights. vectors: parameters of one layer outside matrices (norms, biases).
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    vectors: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str) -> "ModelShape":
        """Of a config.json. where: for messages. Raises UserError for a model of another kind."""
        config = config.get("text_config", config)
        kind = config.get("model_type")
        needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        missing = [key for key in needed if not isinstance(config.get(key), int)]
        if missing or any("experts" in key for key in config):
            reason = f"its config has no {', '.join(missing)}" if missing else "it has experts"
            raise UserError(f"{where}: model_type {kind!r} is no dense decoder of the Llama or Qwen kind: {reason}")
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or hidden // heads
        vectors = 2 * hidden  # the two norms
        if kind == "qwen2" or config.get("attention_bias"):
            vectors += (heads + 2 * kv_heads) * head_dim
        if kind == "llama" and config.get("attention_bias"):
            vectors += hidden  # also of the output projection
        if config.get("mlp_bias"):
            vectors += 2 * config["intermediate_size"] + hidden
        if kind == "qwen3":
            vectors += 2 * head_dim  # norms of queries and keys
        return cls(
            num_layers=config["num_hidden_layers"],
            hidden_size=hidden,
            intermediate_size=config["intermediate_size"],
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            vectors=vectors,
        )

    @classmethod
    def of(cls, model: str) -> "ModelShape":
        """Of a model folder, a run folder that holds one, or a Qwen2.5 hub id (by the table below: no download)."""
        if model in QWEN25:
            return QWEN25[model]
        folder = Path(model).expanduser()
        file = next((p for p in (folder / "config.json", folder / "model" / "config.json") if p.is_file()), None)
        if file is None:
            raise UserError(
                f"model={model}: no folder with a config.json, and none of the models whose sizes are known "
                f"({', '.join(QWEN25)})"
            )
        try:
            return cls.from_config(json.loads(file.read_text(encoding="utf-8")), str(file))
        except ValueError as error:
            raise UserError(f"{file}: not valid JSON ({error})") from None

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer that are in matrices."""
        width, kv_width = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        return self.hidden_size * (2 * width + 2 * kv_width + 3 * self.intermediate_size)

    @property
    def layer_parameters(self) -> int:
        return self.layer_matrices + self.vectors

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding alone; the head has as many where it is not tied."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.num_layers * self.layer_parameters + embeddings + self.hidden_size

    @property
    def num_matmul_parameters(self) -> int:
        """Those each token is multiplied with: the layers' matrices and the head, not the embedding."""
        return self.num_layers * self.layer_matrices + self.embedding_parameters

    def flops(self, num_tokens: int) -> float:
        """Forward and backward of one causal example: 2 FLOPs a parameter and token forward, 4 backward; attention
        likewise over the half of the matrix that is not masked. Recomputation is not counted (the convention of MFU).
        """
        return 3 * self.forward_flops(num_tokens)

    def forward_flops(self, num_tokens: int) -> float:
        """Forward alone: so many tokens of one sequence read or sampled, each once (its keys and values are kept)."""
        attention = self.num_layers * self.num_attention_heads * self.head_dim
        return 2.0 * num_tokens * (self.num_matmul_parameters + attention * num_tokens)


def _qwen25(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int, tied: bool):
    config = {
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }
    return ModelShape.from_config(config, "Qwen2.5")


# From the config.json of each on the hub, so that a plan needs no download. Qwen2.5 report (arXiv 2412.15115), Table 1.
QWEN25 = {
    f"Qwen/Qwen2.5-{size}-Instruct": shape
    for size, shape in {
        "0.5B": _qwen25(24, 896, 4864, 14, 2, 151936, True),
        "1.5B": _qwen25(28, 1536, 8960, 12, 2, 151936, True),
        "3B": _qwen25(36, 2048, 11008, 16, 2, 151936, True),
        "7B": _qwen25(28, 3584, 18944, 28, 4, 152064, False),
        "14B": _qwen25(48, 5120, 13824, 40, 8, 152064, False),
        "32B": _qwen25(64, 5120, 27648, 40, 8, 152064, False),
        "72B": _qwen25(80, 8192, 29568, 64, 8, 152064, False),
    }.items()
}
