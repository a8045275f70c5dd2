"""What reads the texts for a process reward model: transformers, or vLLM's pooling. See `eval.prm.Backend`."""

import json
import os
from pathlib import Path
from typing import Any

from eval.scorers import ScorerConfig
from inference import checkpoint


class TransformersBackend:
    """One forward pass a batch, padded on the right under a mask."""

    def __init__(self, path: Path, architecture: str, answers: list[int], config: ScorerConfig):
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.answers = answers
        options = {"dtype": _dtype(config)} | config.options
        self.head: Any = None
        if architecture.endswith("ForCausalLM"):
            model = transformers.AutoModelForCausalLM.from_pretrained(path, **options)
        elif architecture.endswith("ForTokenClassification"):
            model = transformers.AutoModelForTokenClassification.from_pretrained(path, **options)
        else:  # no class of transformers' own: the body, and below the head
            model = transformers.AutoModel.from_pretrained(path, **options)
            self.head = _two_layer_head(path, model.dtype)
        self.model = model.eval()
        if "device_map" not in options:
            self.model.to(self.device)
        if self.head is not None:
            self.head.to(self.model.device)

    def logits(self, token_ids: list[list[int]], positions: list[list[int]]) -> list[list[list[float]]]:
        import torch

        longest = max(map(len, token_ids))
        rows = [[*ids, *[0] * (longest - len(ids))] for ids in token_ids]
        mask = [[1] * len(ids) + [0] * (longest - len(ids)) for ids in token_ids]
        kept = sorted({position for row in positions for position in row})
        with torch.inference_mode():
            ids, mask, at = (torch.tensor(x, device=self.model.device) for x in (rows, mask, kept))
            if self.answers:  # a causal model's logits are as wide as its vocabulary
                kept_logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=at).logits[
                    ..., self.answers
                ]
            elif self.head is not None:
                kept_logits = self.head(self.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, at])
            else:
                kept_logits = self.model(input_ids=ids, attention_mask=mask).logits[:, at]
            values = kept_logits.float().cpu().tolist()
        return [[values[i][kept.index(position)] for position in row] for i, row in enumerate(positions)]

    def close(self) -> None:
        import gc

        import torch

        del self.model, self.head
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


class VllmBackend:
    """vLLM's pooling task `token_classify`: logits of all tokens, without activation.

    A causal model is loaded as a classifier whose rows are those of its output layer. On a GPU that the policy uses as
    well, give both their share: engine.options.gpu_memory_utilization and scorer.options.gpu_memory_utilization.
    """

    def __init__(self, path: Path, architecture: str, answers: list[int], config: ScorerConfig):
        from inference.vllm_engine import cpu_defaults, quiet

        quiet()
        from vllm import LLM
        from vllm.config import PoolerConfig
        from vllm.platforms import current_platform

        overrides: dict[str, Any] = {}
        if not architecture.endswith("ForProcessRewardModel"):
            family = architecture.removesuffix("ForTokenClassification").removesuffix("ForCausalLM")
            overrides["architectures"] = [f"{family}ForSequenceClassification"]
        if answers:
            tokenizer = checkpoint.load_tokenizer(path)
            tokens = tokenizer.convert_ids_to_tokens(answers)
            overrides |= {"classifier_from_token": tokens, "method": "no_post_processing", "num_labels": len(tokens)}
        args = {
            "model": str(path),
            "runner": "pooling",
            "pooler_config": PoolerConfig(task="token_classify", tok_pooling_type="ALL"),
            "hf_overrides": overrides,
            "dtype": _dtype(config),
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.batch_size,
            "use_tqdm_on_load": False,
            "disable_log_stats": True,
        }
        if current_platform.is_cpu():
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            args |= cpu_defaults(config)
        self.llm = LLM(**args | config.options)

    def logits(self, token_ids: list[list[int]], positions: list[list[int]]) -> list[list[list[float]]]:
        from vllm import PoolingParams

        prompts = [{"prompt_token_ids": ids} for ids in token_ids]
        outputs = self.llm.encode(
            prompts, PoolingParams(use_activation=False), pooling_task="token_classify", use_tqdm=False
        )
        return [
            [output.outputs.data[position].float().tolist() for position in row]
            for output, row in zip(outputs, positions, strict=True)
        ]

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()


def _dtype(config: ScorerConfig) -> str:
    import torch

    emulated = config.dtype == "auto" and not torch.cuda.is_available() and checkpoint.cpu_emulates_bfloat16()
    return "float32" if emulated else config.dtype


def _two_layer_head(path: Path, dtype: Any):
    """score.0 and score.2 of Qwen2.5-Math-PRM: linear, ReLU, linear, to two classes."""
    import torch
    from safetensors import safe_open

    index = path / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"] if index.is_file() else {}
    weights = {}
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        with safe_open(path / files.get(f"score.{name}", "model.safetensors"), framework="pt") as file:
            weights[name] = file.get_tensor(f"score.{name}").to(dtype)
    width, num_classes = weights["0.weight"].shape[0], weights["2.weight"].shape[0]
    head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, num_classes))
    head.to(dtype).load_state_dict(weights)
    return head.eval()
