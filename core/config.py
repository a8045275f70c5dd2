"""Configs: a dataclass beside the code that uses it, then YAML files left to right, then key=value.

Every entry is called as `python -m package.module [config.yaml ...] [key=value ...]`, and `--help` lists its keys.
Unknown keys fail with a suggestion. OmegaConf does the typing and the merging; it also reads 1e-5 as a number,
which plain YAML does not. A schema may name one field that takes free text, as the question of inference.ask.
"""

import copy
import dataclasses
import difflib
import errno
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

T = TypeVar("T")
SECONDS_TO_RANK_0 = 10.0  # torchrun looks after its processes ten times a second


class UserError(Exception):
    """Something the user can mend. Shown as one line, exit status 2; the text names the file, row or key."""


def option(
    default: Any = dataclasses.MISSING, help: str = "", affects_result: bool = True, free_text: bool = False, **kwargs
) -> Any:
    """A config field with its help text. Without a default the key is required; a list, dict or dataclass is copied.

    affects_result: False for what only says how fast or for how much money the work may be done: it does not name the
        run folder (core/runs.py), so an interrupted run goes on under another value.
    free_text: an argument that is neither a YAML file nor key=value is this field's, letter by letter.
    """
    if default is dataclasses.MISSING:
        default = "???"  # OmegaConf's mark of a mandatory value
    if isinstance(default, (list, dict)):
        kwargs["default_factory"] = lambda: type(default)(default)
    elif dataclasses.is_dataclass(default) and isinstance(default, type):
        kwargs["default_factory"] = default
    elif dataclasses.is_dataclass(default):
        kwargs["default_factory"] = lambda: copy.deepcopy(default)
    else:
        kwargs["default"] = default
    metadata = {"help": help, "affects_result": affects_result, "free_text": free_text}
    return dataclasses.field(metadata=metadata, **kwargs)


def load(schema: type[T], args: list[str]) -> T:
    """Builds `schema` from YAML files and key=value pairs, files first in the order given, then pairs.

    Raises UserError for a missing file, an unknown key (with the nearest known one), a value of the wrong type,
    or a required key without a value.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = _defaults(schema)
    args, text = _without_free_text(schema, args)
    files = [a for a in args if a.endswith((".yaml", ".yml")) and "=" not in a]
    pairs = [a for a in args if "=" in a]
    for arg in args:
        if arg not in files and arg not in pairs:
            raise UserError(f"cannot read argument {arg!r}: expected a .yaml file, key=value, or --help")
    try:
        for file in files:
            config = _merge(schema, config, _read(file), where=file)
        for pair in pairs:
            config = _merge(schema, config, OmegaConf.from_dotlist([pair]), where=f"argument {pair!r}")
        built = _to_object(config)
        return dataclasses.replace(built, **text) if text else built
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from None


def _without_free_text(schema: type, args: list[str]) -> tuple[list[str], dict[str, str]]:
    """(the arguments that are none, {field: text}). "x=5, what is x*x?" is text too: its blank says that no key was
    meant, unless there is such a key. Raises UserError for several texts."""
    name = next((f.name for f in dataclasses.fields(schema) if f.metadata.get("free_text")), None)
    if name is None:
        return args, {}
    keys = {f.name for f in dataclasses.fields(schema)}
    texts = [a for a in args if not _is_pair(a, keys) and not a.startswith("-") and not a.endswith((".yaml", ".yml"))]
    if len(texts) > 1:
        raise UserError(f'several texts ({", ".join(map(repr, texts[:4]))}); put the {name} into quotes: "..."')
    return [a for a in args if a not in texts], {name: texts[0]} if texts else {}


def _is_pair(arg: str, keys: set[str]) -> bool:
    pair = re.match(r"([A-Za-z_]\w*)[\w.-]*=", arg)
    return pair is not None and (pair[1] in keys or not re.search(r"\s", arg))


def build(schema: type[T], layers: Sequence[str | Mapping[str, Any]], where: str) -> T:
    """Builds `schema` from YAML files and plain values, the later over the earlier, as strictly as `load`.

    where: what the plain values are, for messages.
    """
    from omegaconf import OmegaConf

    config = _defaults(schema)
    for layer in layers:
        if isinstance(layer, str):
            config = _merge(schema, config, _read(layer), where=layer)
        else:
            config = _merge(schema, config, OmegaConf.create(dict(layer)), where)
    try:
        return _to_object(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _defaults(schema: type):
    """Of the schema's fields: a copy, which is quicker than to read the fields once more."""
    return copy.deepcopy(_defaults_once(schema))


@functools.cache
def _defaults_once(schema: type):
    from omegaconf import OmegaConf

    return OmegaConf.structured(schema)


def _read(file: str):
    from omegaconf import OmegaConf
    from yaml import YAMLError

    if not Path(file).is_file():
        raise UserError(f"config file {file} does not exist")
    try:
        return OmegaConf.load(file)
    except YAMLError as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None


def _to_object(config) -> Any:
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"required: {', '.join(f'{key}=...' for key in missing)} (see --help)")
    return OmegaConf.to_object(config)


def _merge(schema: type, config, layer, where: str):
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    try:
        return OmegaConf.unsafe_merge(config, layer)  # neither is used again; `merge` would copy both, twice as slow
    except ConfigKeyError as error:
        key = str(error.full_key)
        known = list(_field_names(schema))
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        raise UserError(f"{where}: unknown key {key!r}; {hint}") from None
    except (OmegaConfBaseException, ValueError) as error:
        key = getattr(error, "full_key", None)
        raise UserError(f"{where}: {key + ': ' if key else ''}{str(error).splitlines()[0]}") from None


def _field_names(schema: type, prefix: str = ""):
    for f in dataclasses.fields(schema):
        yield prefix + f.name
        for inner in filter(dataclasses.is_dataclass, (f.type, *get_args(f.type))):  # also of `Inner | None`
            yield from _field_names(inner, f"{prefix}{f.name}.")


def help_text(schema: type, doc: str) -> str:
    """The module's docstring, then one line a key: name, default, what it does."""
    lines = [doc.strip(), "", "keys:"]
    width = max(22, *(len(f.name) for f in dataclasses.fields(schema)))
    for f in dataclasses.fields(schema):
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        else:
            default = f.default
        if default == "???":
            shown = "(required)"
        elif dataclasses.is_dataclass(default):
            shown = ", ".join(f"{f.name}.{k}={v!r}" for k, v in dataclasses.asdict(default).items())
        else:
            shown = f"[{default!r}]"
        lines.append(f"  {f.name:<{width}} {f.metadata.get('help', '')} {shown}")
    return "\n".join(lines)


def to_yaml(config: Any) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(dataclasses.asdict(config))


def run_entry(main: Callable[[T], Any], schema: type[T], doc: str, args: list[str] | None = None) -> None:
    """Runs an entry module: parses the arguments, calls `main(config)`, prints the path it returns on stdout.

    Everything else an entry says goes to stderr, so a shell can write `pool=$(python -m data.collect ...)`.
    Errors a user can mend end with one line and status 2; anything else is a defect and keeps its traceback.
    """
    args = sys.argv[1:] if args is None else args
    if any(a in ("-h", "--help") for a in args):
        _print(help_text(schema, doc))
        return
    try:
        result = main(load(schema, args))
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; the same command resumes", status=130)
    except Exception as error:
        if not is_disk_full(error):
            raise
        where = f" for {error.filename}" if getattr(error, "filename", None) else ""
        _fail(f"no space left on the disk{where}; free some and run the same command again: finished work is kept")
    else:
        if result is not None:
            _print(str(result))


def _print(text: str) -> None:
    """On stdout, whose reader (`| head`) may have seen enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Python flushes once more when it ends, and would complain then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_disk_full(error: BaseException) -> bool:
    """Or the quota used up. torch and safetensors report that as errors of their own, by its words alone, or by a file
    that is not as long as what was written to it."""
    words = ("No space left", "Disk quota exceeded", "failed writing file", "unexpected pos")
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(word in str(error) for word in words)


def _fail(message: str, status: int = 2) -> None:
    """Of the processes that torchrun starts, the first speaks for all: what is wrong with the input is found by each,
    and torchrun ends the others when the first has ended. Who still lives then fails for a reason of its own."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SECONDS_TO_RANK_0)
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(status)
