"""The packages import in one direction, and an entry module imports nothing heavy until it runs."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "core": {"core"},
    "inference": {"core", "inference"},
    "eval": {"core", "inference", "eval"},
    "data": {"core", "inference", "eval", "data"},  # difficulty is an evaluation of two models
    "train": {"core", "inference", "train"},
}
HEAVY = {
    "torch",
    "vllm",
    "transformers",
    "trl",
    "datasets",
    "matplotlib",
    "reasoning_gym",
    "openai",
    "httpx2",
    "fastapi",
    "uvicorn",
    "pydantic",
}
MODULES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


ENTRIES = [name_of(path) for path in MODULES if "\n    run_entry(main, " in path.read_text(encoding="utf-8")]


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All within it, in functions too; without the expressions, which are most of what ast.walk would visit."""
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        for inner in getattr(node, block, []):
            yield inner
            yield from statements(inner)


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, in functions too."""
    packages = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    ours = imported_packages(path) & MAY_IMPORT.keys()
    assert ours <= MAY_IMPORT[name_of(path).split(".")[0]]


@pytest.mark.slow  # no torch, but half a second
def test_importing_an_entry_imports_nothing_heavy():
    code = f"""
import importlib, sys
for name in {ENTRIES}:
    importlib.import_module(name)
    heavy = {HEAVY} & sys.modules.keys()
    if heavy:
        sys.exit(f"{{name}} imports {{sorted(heavy)}}")
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_help_is_quick(entry):
    before = os.times()
    result = subprocess.run([sys.executable, "-m", entry, "--help"], cwd=ROOT, capture_output=True, text=True)
    after = os.times()
    assert result.returncode == 0, result.stderr
    assert f"python -m {entry}" in result.stdout and "keys:" in result.stdout
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 1.5  # of the processor, so that a busy machine does not matter; about 0.3 alone
