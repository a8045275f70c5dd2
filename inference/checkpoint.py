"""Where a model lies: a local folder, or a hub id fetched at a pinned revision."""

import errno
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from core.chat import ChatFormat, detect_profile
from core.config import UserError

WEIGHTS = ["*.safetensors", "*.gguf", "*.onnx"]


def resolve(model: str, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder of `model`: a folder with a config.json is itself, anything else is a hub id.

    weights: False fetches config and tokenizer alone.

    Raises UserError (one line, with the way out) for what `local_folder` refuses, and for a hub that cannot be reached,
    lacks the model or the revision, or asks for a login.
    """
    return local_folder(model) or _from_hub(model, revision, weights)


def local_folder(model: str) -> Path | None:
    """The folder that `model` is; None for a hub id, which is not looked up. Raises UserError for a folder that is no
    model, and a path that does not exist."""
    path = Path(model).expanduser()
    if path.is_dir():
        inside = path / "model"
        if not (path / "config.json").is_file() and (inside / "config.json").is_file():
            return inside  # a run directory of train.sft or inference.unpack
        if not (path / "config.json").is_file():
            raise UserError(f"model={model}: this folder has no config.json, so it is no transformers model")
        return path
    if _looks_like_path(model):
        raise UserError(f"model={model} does not exist; give a folder with a config.json, or a hub id as owner/name")
    return None


def _looks_like_path(model: str) -> bool:
    """owner/name, or an old name without owner, is a hub id; everything else was meant as a path."""
    return model.startswith(("/", ".", "~")) or model.endswith("/") or model.count("/") > 1 or "\\" in model


def _from_hub(model: str, revision: str | None, weights: bool) -> Path:
    from huggingface_hub import errors, snapshot_download

    at = f"{model} at revision {revision}" if revision else model
    local = "or pass model=<local folder>"
    try:
        # weights in one format only: repositories often hold the same weights twice
        ignored = ["*.bin", "*.pth", "original/*", *(() if weights else WEIGHTS)]
        return Path(snapshot_download(model, revision=revision, ignore_patterns=ignored))
    except errors.GatedRepoError:
        reason = f"access must be granted on its page first; then run `hf auth login`, {local}"
    except errors.RevisionNotFoundError:
        reason = f"the hub has the model but not this revision; correct engine.revision, {local}"
    except errors.RepositoryNotFoundError:
        reason = f"the hub has no such model, or it is private (`hf auth login`); check the id, {local}"
    except errors.HFValidationError:
        reason = "it is neither a folder nor a hub id; pass model=<local folder> or an id as owner/name"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:  # told by whoever writes
            raise
        reason = f"the hub cannot be reached and the model is not in its cache; check the network, {local}"
    raise UserError(f"model {at}: {reason}")


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a model folder. Raises UserError where the folder has none."""
    _before_torch()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no usable tokenizer in this folder ({str(error).splitlines()[0][:200]})") from None


def load_chat(model: str, path: str | Path, profile: str | None = None) -> ChatFormat:
    """The chat format of a model, and its tokenizer with it. profile: None finds it; the others as for `profile_of`.

    Raises UserError where the folder has no tokenizer, or the profile does not fit it.
    """
    tokenizer = load_tokenizer(path)
    return ChatFormat(profile or profile_of(model, path, tokenizer), tokenizer)


def profile_of(model: str, path: str | Path, tokenizer: Any) -> str:
    """The chat profile to use with a model: what train.sft wrote into its config.json, else what fits the tokenizer.

    model: as the user named it. path: its local folder.
    """
    return _config_of(path).get("thinking_profile") or detect_profile(tokenizer, model)


def _before_torch() -> None:
    """Settings torch reads when it is first imported, which transformers does. What the caller has set stays."""
    # OpenMP threads that wait burn their core for milliseconds; beside any other process that halves the speed.
    # 10,000 spins (some 30 us) cover the wait within a layer, then the thread sleeps.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def check_weights(path: Path) -> None:
    """Raises UserError where a model folder has no weights, or a file of them is missing or cut short. Loads none."""
    from safetensors import SafetensorError, safe_open

    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif any(path.glob("*.bin")):
        return  # an old format, without a header to go by
    else:
        names = ["model.safetensors"]
    for name in names:
        try:
            with safe_open(path / name, framework="numpy"):
                pass
        except FileNotFoundError:
            raise UserError(f"{path / name} is missing: the model has no weights; copy them here again") from None
        except SafetensorError as error:
            raise UserError(f"{path / name} is damaged ({error}); copy it here again") from None


def _config_of(path: str | Path) -> dict[str, Any]:
    return json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))


def _text_config_of(path: str | Path) -> dict[str, Any]:
    """Of the language model in it, where it sees pictures too."""
    config = _config_of(path)
    return config.get("text_config", config)


def context_of(path: str | Path) -> int | None:
    """Tokens that the model was made for; None where its config does not say, or scales RoPE: the backend knows its
    reach."""
    config = _text_config_of(path)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return None if "factor" in rope else config.get("max_position_embeddings")


def vocab_size_of(path: str | Path) -> int | None:
    """Rows of the model's embedding, padding included; None where its config does not say."""
    return _text_config_of(path).get("vocab_size")


def context_within(path: str | Path, most: int) -> int:
    """Tokens to load a model for: those it was made for, at most `most`."""
    return min(most, context_of(path) or most)


def architecture_of(path: str | Path) -> str:
    """The model class that wrote the folder; empty where its config does not say."""
    return next(iter(_config_of(path).get("architectures") or []), "")


def check_context(path: str | Path, max_model_len: int) -> None:
    """Raises UserError where more context is asked than the model was made for."""
    longest = context_of(path)
    if longest and max_model_len > longest:
        raise UserError(f"engine.max_model_len={max_model_len} exceeds the context of {path}, which is {longest}")


def cpu_emulates_bfloat16() -> bool:
    """Whether this CPU lacks bfloat16 arithmetic. Products then run some three times slower than in float32."""
    import torch

    features = torch.cpu.get_capabilities()
    return not any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def has_vllm() -> bool:
    """Installed, without importing it (that takes seconds)."""
    return importlib.util.find_spec("vllm") is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether loading failed for want of memory, on the device or on the host, or for the KV cache."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    signs = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "available memory",
        "kv cache",
        "free memory",
    )
    return any(sign in text for sign in signs)
