"""Fixtures: a running SLURM, and a clone of this repository from which to submit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cluster
import pytest
from debian_packages import install

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("core", "data", "eval", "inference", "train")
FILES = ("launch.sh", "requirements-cpu.lock", "requirements-vllm-cpu.txt")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """The environment of a SLURM of two nodes; it ends with the tests."""
    if os.geteuid():
        pytest.skip("SLURM's daemons need root")
    if cluster.missing_packages():
        install(cluster.missing_packages())
    folder = tmp_path_factory.mktemp("slurm")
    try:
        yield cluster.start(folder)
    finally:
        cluster.stop(folder)


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """launch.sh and the packages, train/stand_in.py and data/stand_in.py, and a .venv that is this Python's."""
    clone = tmp_path_factory.mktemp("clone")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, clone / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, clone)
    for package in ("train", "data"):
        shutil.copy(Path(__file__).parent / "stand_in.py", clone / package)

    venv = clone / ".venv"
    venv.mkdir()
    for name in ("bin", "include", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix) / name)
    version = subprocess.run([venv / "bin/python", "--version"], check=True, capture_output=True, text=True).stdout
    locks = "".join((clone / name).read_text() for name in FILES[1:])
    (venv / "installed").write_text(f"cpu {clone} {version}{locks}")  # as launch.sh writes it
    return clone
