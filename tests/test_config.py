"""Configs are strict, typed, and their errors show the way out."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from core.config import UserError, load, option, run_entry


@dataclass
class Inner:
    size: int = option(4, help="of the thing")


@dataclass
class Config:
    name: str = option(help="run name")
    rate: float = option(0.5, help="a number")
    inner: Inner = option(Inner, help="nested")
    maybe: Inner | None = option(None, help="nested, or nothing")
    extra: dict = option({}, help="passed on")


def test_files_left_to_right_then_pairs(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\nrate: 1e-5\ninner: {size: 5}\n")
    (tmp_path / "b.yaml").write_text("name: b\nextra: {deep: {x: 1}}\n")
    config = load(Config, [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "inner.size=7", "extra.y=[1,2]"])
    assert config == Config(name="b", rate=1e-5, inner=Inner(7), extra={"deep": {"x": 1}, "y": [1, 2]})
    assert isinstance(config.rate, float), "plain YAML would read 1e-5 as text"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nme=x"], "unknown key 'nme'; did you mean 'name'"),
        (["name=x", "inner.sise=2"], "did you mean 'inner.size'"),
        (["name=x", "maybe.sise=2"], "did you mean 'maybe.size'"),
        ([], "required: name=..."),
        (["name=x", "rate=fast"], "rate"),
        (["missing.yaml"], "missing.yaml does not exist"),
        (["name=x", "--nmae"], "expected a .yaml file, key=value"),
    ],
)
def test_wrong_input_is_one_clear_line(args, message):
    with pytest.raises(UserError) as error:
        load(Config, args)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("name: [\n")
    with pytest.raises(UserError, match="a.yaml: not valid YAML"):
        load(Config, [str(tmp_path / "a.yaml")])


def test_an_entry_prints_its_result_on_stdout_and_errors_on_stderr(capsys):
    run_entry(lambda config: f"outputs/{config.name}", Config, "Doc.", ["name=x"])
    assert capsys.readouterr() == ("outputs/x\n", "")

    def full_disk(config):
        raise OSError(28, "No space left on device", "outputs/x/samples.jsonl")

    def users_mistake(config):
        raise UserError("that file is no good")

    def full_disk_as_torch_says_it(config):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    cases = (
        (users_mistake, "error: that file is no good\n"),
        (full_disk, "no space left on the disk for outputs/x/samples.jsonl"),
        (full_disk_as_torch_says_it, "finished work is kept"),
    )
    for main, text in cases:
        with pytest.raises(SystemExit) as stop:
            run_entry(main, Config, "Doc.", ["name=x"])
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and out == "" and text in err and err.count("\n") == 1


def test_help_names_every_key(capsys):
    run_entry(lambda config: None, Config, "What it does.", ["--help"])
    out = capsys.readouterr().out
    assert all(word in out for word in ("What it does.", "name", "(required)", "rate", "[0.5]", "inner.size=4"))


@pytest.mark.slow
def test_help_whose_reader_has_seen_enough():
    """`--help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from core.config import run_entry; from test_config import Config; run_entry(print, Config, 'x' * 99999)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
