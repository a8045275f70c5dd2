"""The trained model as a folder that transformers and vLLM load: whole, in one dtype, beside the base's tokenizer.

    model.safetensors, or model-00001-of-00014.safetensors ... and their index; tied weights once
    config.json                          the base's, with RoPE said in the old words and in the new
    tokenizer, generation_config.json    the base's files as they are: transformers 5 would rewrite tokenizer_class

Tensors are gathered and written one shard after the other, so that rank 0 holds one shard (5 GB) in memory, not the
model. The folder gets its name last, once the tensors on disk are those that the config asks for.
"""

import contextlib
import gc
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.config import UserError
from core.log import say
from core.types import Question

DTYPES = ("bfloat16", "float16", "float32")
# what a folder holds beside weights and config.json, where it holds it
COPIED = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
)


def save_model(
    trainer, tokenizer, base: Path, folder: Path, dtype: str, max_shard_size: str = "5GB", profile: str | None = None
) -> None:
    """Writes the trained model to `folder`, which appears whole or not at all. Collective: every rank calls it.

    trainer: of one process, DDP, FSDP2 or ZeRO-3; its model may be a peft model, which is merged into the weights of
        `base` as they are on disk (so also where training saw them quantized).
    base: local folder the training started from.
    profile: written into config.json as `thinking_profile`, so that others need not guess (inference/checkpoint.py).

    Raises UserError on every rank where a weight is not finite, RuntimeError where tensors are missing.
    """
    import torch

    if dtype not in DTYPES:
        raise UserError(f"export_dtype={dtype!r} is unknown; use {', '.join(DTYPES)}")
    is_main, device = trainer.is_world_process_zero(), trainer.accelerator.device
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    with _outside_deepspeed():
        expected, rope = _described_by(base)
        if hasattr(model, "peft_config"):
            parts = {name: part for name, part in _tensors_of(model).items() if part.requires_grad}
            trained = {name: _whole(part, torch.float32, device) for name, part in parts.items()}
            weights = _tensors_of(_merge(base, model, trained, dtype)) if is_main else None
        else:
            weights = _tensors_of(model)
        if weights is not None and weights.keys() != expected.keys():
            raise RuntimeError(f"the trained model and {base} differ in {_some(weights.keys() ^ expected.keys())}")
        partial = folder.with_name(folder.name + ".partial")
        with _new_folder(partial) if is_main else contextlib.nullcontext():
            if weights is not None:
                _write_weights(weights, expected, partial if is_main else None, dtype, max_shard_size, device)
            if is_main:
                config = json.loads((base / "config.json").read_text(encoding="utf-8"))
                config = exported_config(config, rope, dtype) | ({"thinking_profile": profile} if profile else {})
                (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
                copy_tokenizer(base, partial, tokenizer.chat_template)
                _check_weights(partial, expected)
                for file in partial.iterdir():  # safetensors makes its files readable to nobody else
                    shutil.copymode(partial / "config.json", file)
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
    trainer.accelerator.wait_for_everyone()


def exported_config(base: Mapping[str, Any], rope: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The base's config.json for weights in `dtype`, for old readers and new.

    rope: as transformers 5 understands it, {"rope_theta", "rope_type", ...}. Readers of its version 4 know only
        rope_theta and rope_scaling at the top, and take 10,000 in silence where there is none.
    """
    config = {**base, "dtype": dtype, "torch_dtype": dtype, "use_cache": True}
    if rope:
        config["rope_parameters"] = dict(rope)
    if "rope_theta" in rope:  # else it differs from layer to layer, which version 4 had no common words for
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    return config


def copy_tokenizer(base: Path, folder: Path, chat_template: str | None) -> None:
    """The base's tokenizer and generation files, byte for byte. chat_template: written where those have none."""
    for file in sorted({file for pattern in COPIED for file in base.glob(pattern) if file.is_file()}):
        shutil.copyfile(file, folder / file.name)  # the hub's cache holds links
    settings = folder / "tokenizer_config.json"
    inside = settings.exists() and json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    if chat_template and not inside and not (folder / "chat_template.jinja").exists():
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")


def smoke(folder: Path, profile: str, question: Question | str, max_tokens: int) -> str:
    """Loads an exported folder and answers `question` in at most `max_tokens` of thinking, then as many of answer.

    Called on one rank, with the memory of the trainer freed. Returns the answer and says it.
    Raises UserError where the model does not load, computes no finite numbers or has nothing to say.
    """
    from inference import checkpoint
    from inference.budget import Budget, ForcedDecode
    from inference.engine import Driver, EngineConfig, load_engine

    chat = ChatFormat(profile, checkpoint.load_tokenizer(folder))
    budget = Budget(max_tokens, max_answer_tokens=max_tokens)
    prompt_ids = chat.prompt_ids(question)
    context = len(prompt_ids) + 2 * max_tokens + len(chat.close_ids(forced=True, cue=budget.cue))
    decoding = ForcedDecode(prompt_ids, budget, chat, context)
    gc.collect()  # a trainer refers to itself: its memory is free only now
    with _outside_deepspeed():
        engine, _ = load_engine(
            str(folder), EngineConfig(backend="transformers", max_model_len=context, max_num_seqs=1)
        )
    is_finite: list[bool] = []
    engine.model.register_forward_hook(lambda *call: is_finite.append(bool(call[-1].logits.isfinite().all())))
    try:
        for _ in Driver(engine).run([("smoke", decoding)]):
            pass
    finally:
        engine.close()
    sample = decoding.sample()
    if sample.error:
        raise UserError(f"smoke: {folder}: {sample.error}")
    if not all(is_finite):
        raise UserError(f"smoke: {folder} computes no finite numbers; look at loss and gradient in metrics.jsonl")
    sampled = sample.ids("thinking", "sampled") + sample.ids("answer", "sampled")
    if not chat.answer_text(sampled).strip():
        raise UserError(f"smoke: {folder} has nothing to say; is profile={profile} what it was taught?")
    answer = chat.answer_text(sample.ids("answer")).strip()
    asked = question if isinstance(question, str) else question.text
    thinking = f"thinking ({sample.ended}): {_one_line(chat.decode(sample.ids('thinking')))}"
    say(f"smoke | {_one_line(asked)} | {thinking} | answer: {_one_line(answer)}")
    return answer


def check_push(repo: str) -> None:
    """Whether `push` could work, before anything is trained: a repository id, a login, a hub that answers.

    Raises UserError otherwise. Nothing is made or changed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    with _refusals_in_one_line(repo):
        validate_repo_id(repo)
        HfApi().whoami()


def push(folder: Path, repo: str, card: str) -> str:
    """Uploads an exported folder and its card in one commit. Returns the address.

    A new repository is made private: whether it may be public is a question of the licences on the card.
    The token is that of the environment or of `hf auth login`. Raises UserError where the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(file for file in folder.iterdir() if file.is_file())
    operations = [CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=without_secrets(card).encode())]
    operations += [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file)) for file in files]
    with _refusals_in_one_line(repo):
        api = HfApi()
        url = str(api.create_repo(repo, private=True, exist_ok=True))
        api.create_commit(repo, operations, commit_message=f"Add {folder.parent.name}")
    say(f"published {len(files)} files: {url}")
    return url


def without_secrets(text: str) -> str:
    """The text with tokens of the hub blotted out."""
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", "hf_***", text)


@contextlib.contextmanager
def _refusals_in_one_line(repo: str) -> Iterator[None]:
    import httpx2

    try:
        yield
    except (OSError, ValueError, httpx2.HTTPError) as error:
        reason = without_secrets((str(error).splitlines() or [type(error).__name__])[0])
        raise UserError(f"push={repo}: {reason} (log in with `hf auth login`, or set HF_TOKEN)") from None


# Gathering


def _described_by(base: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(name -> tensor without data, RoPE) of the model that the base's config describes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        tensors = _tensors_of(AutoModelForCausalLM.from_config(config))
    return tensors, getattr(config, "rope_parameters", None) or {}


def _tensors_of(model) -> dict[str, Any]:
    """What state_dict would save, as the tensors themselves: parts of them where they are sharded, tied ones once.

    state_dict, unlike parameters(), brings FSDP2 back from the whole weights of the last forward pass to its parts.
    """
    from accelerate.utils.fsdp_utils import fsdp2_canonicalize_names

    known, tensors = set(), {}
    for name, tensor in fsdp2_canonicalize_names(model.state_dict(keep_vars=True)).items():
        if id(tensor) not in known:
            known.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _whole(tensor, dtype, device):
    """The tensor of which this rank may hold a part, in `dtype`, on `device`. Collective."""
    from torch.distributed.tensor import DTensor

    dtype = dtype if tensor.is_floating_point() else tensor.dtype
    if hasattr(tensor, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().to(device, dtype, copy=True)
    tensor = tensor.detach().to(device, dtype)  # offloaded parts too: the ranks talk over the device
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _merge(base: Path, model, trained: Mapping[str, Any], dtype: str):
    """The base, freshly loaded in `dtype`, with what was trained of the peft model `model` merged into its weights."""
    import copy

    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    name = model.active_adapter
    adapted = get_peft_model(fresh, copy.deepcopy(model.peft_config[name]), adapter_name=name)
    wanted = {name for name, tensor in adapted.named_parameters() if tensor.requires_grad}
    if wanted != trained.keys():
        raise RuntimeError(f"the adapter and {base} differ in {_some(wanted ^ trained.keys())}")
    adapted.load_state_dict(trained, strict=False)  # the base's own weights are there already
    return adapted.merge_and_unload()


@contextlib.contextmanager
def _outside_deepspeed() -> Iterator[None]:
    """While a ZeRO-3 config is alive, transformers splits every model it makes over the ranks; ours are whole."""
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held


# Writing


def _write_weights(weights: Mapping[str, Any], expected: Mapping[str, Any], folder: Path | None, dtype: str,
                   max_shard_size: str, device) -> None:  # fmt: skip
    """Gathers shard after shard, and writes it where `folder` is given. Collective."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    target = getattr(torch, dtype)
    plan = split_torch_state_dict_into_shards(
        {name: tensor.to(target) if tensor.is_floating_point() else tensor for name, tensor in expected.items()},
        max_shard_size=max_shard_size,
    )
    for filename, names in plan.filename_to_tensors.items():
        shard = {}
        for name in names:
            tensor = _whole(weights[name], target, device)
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(f"the trained model is broken: {name} holds NaN or infinity; nothing was exported")
            if folder is not None:
                shard[name] = tensor.cpu().contiguous()
        if folder is not None:
            save_file(shard, folder / filename, metadata={"format": "pt"})
    if folder is not None and plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """An empty folder, removed again where the work in it fails: half a model would keep a full disk full."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_weights(folder: Path, expected: Mapping[str, Any]) -> None:
    """Raises RuntimeError unless the files hold exactly the expected tensors: saving must not fail in silence."""
    from safetensors import safe_open

    shapes = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    wrong = dict(shapes.items() ^ {name: tuple(tensor.shape) for name, tensor in expected.items()}.items())
    if wrong:
        raise RuntimeError(f"{folder}: the files and the model differ in {_some(wrong)}")


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{len(names)} tensors: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _one_line(text: str, longest: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else text[:longest] + "..."
