"""Every recipe and overlay loads, keeps the paper's numbers, and an overlay changes only how fast it goes."""

import math
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from core.config import load
from train.sft import SftConfig
from train.steps import Layout, place, visits

CONFIGS = Path(__file__).parent.parent / "configs/train"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
OVERLAYS = sorted((CONFIGS / "parallel").glob("*.yaml"))
ADAPTERS = {"lora", "qlora"}  # overlays that train something else

PAPER = {  # its appendix on training, and the released sft.sh
    "num_epochs": 5,
    "batch_size": 16,
    "learning_rate": 1e-5,
    "warmup": 0.05,
    "weight_decay": 1e-4,
    "loss_weighting": "example",
    "max_length": 32768,
    "truncate": False,
    "seed": 42,
    "profile": "s1",
    "system": None,
    "control": None,
    "data_teacher": None,
    "lora_rank": None,
    "quantize": None,
    "trainer": {},
}
S1_1 = {"data": "simplescaling/s1K-1.1", "data_teacher": "deepseek"}
DIFFERENT = {  # from s1-32b: Qwen2.5-32B-Instruct on simplescaling/s1K
    "s1-32b": {},
    "s1.1-32b": S1_1,
    "s1.1-14b": S1_1 | {"model": "Qwen/Qwen2.5-14B-Instruct"},
    "s1.1-7b": S1_1 | {"model": "Qwen/Qwen2.5-7B-Instruct"},
    "s1.1-3b": S1_1 | {"model": "Qwen/Qwen2.5-3B-Instruct"},
    "s1.1-1.5b": S1_1 | {"model": "Qwen/Qwen2.5-1.5B-Instruct"},
    "ablation-random": {"data": "simplescaling/data_ablation_random1K"},
    "ablation-diverse": {"data": "simplescaling/data_ablation_diverse1K"},
    "ablation-longest": {"data": "simplescaling/data_ablation_longest1K"},
    "ablation-full59k": {"data": "simplescaling/data_ablation_full59K"},
    "ablation-length-4096": {"max_length": 4096, "truncate": True},
    "ablation-length-32768": {},
    "token-conditional": {"control": "tokens"},
    "step-conditional": {"control": "steps", "profile": "steps"},
}


def test_every_recipe_is_checked():
    assert {path.stem for path in RECIPES} == DIFFERENT.keys()
    assert {path.stem for path in OVERLAYS} == {"fsdp2", "zero3", "zero3-offload", "single", "ddp", "lora", "qlora"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_the_papers_numbers(path):
    config = load(SftConfig, [str(path)])
    s1_32b = {"model": "Qwen/Qwen2.5-32B-Instruct", "data": "simplescaling/s1K"}
    expected = PAPER | s1_32b | DIFFERENT[path.stem] | {"name": path.stem}
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_changes_how_a_recipe_runs_and_not_what_it_learns(overlay):
    assert_changes_only_how(overlay, CONFIGS / "s1-32b.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_any_overlay_goes_on_any_recipe(overlay):
    for recipe in RECIPES:
        assert_changes_only_how(overlay, recipe)


def assert_changes_only_how(overlay: Path, recipe: Path) -> None:
    plain, laid_over = load(SftConfig, [str(recipe)]), load(SftConfig, [str(recipe), str(overlay)])
    changed = {key for key, value in asdict(laid_over).items() if value != getattr(plain, key)}
    decides_result = {f.name for f in fields(SftConfig) if f.metadata["affects_result"]}
    if overlay.stem in ADAPTERS:
        assert changed & decides_result <= {"learning_rate", "lora_rank", "lora_alpha", "lora_dropout", "quantize"}
        assert laid_over.lora_rank and (laid_over.quantize == "nf4") == (overlay.stem == "qlora")
    else:
        assert not changed & decides_result
        assert laid_over.backend == overlay.stem.removesuffix("-offload")
        assert laid_over.offload_optimizer == overlay.stem.endswith("-offload")


def test_the_steps_are_the_published_ones():
    """For every recipe: test_a_recipe_has_the_papers_numbers holds batch, epochs and seed."""
    config = load(SftConfig, [str(CONFIGS / "s1-32b.yaml")])
    steps = visits(1000, config.batch_size, config.num_epochs, config.seed)
    assert (len(steps), sum(map(len, steps))) == (315, 5040)
    assert math.ceil(config.warmup * len(steps)) == 16
    assert math.ceil(58_986 / config.batch_size) * config.num_epochs == 18_435  # as ablation-full59k.yaml says
    for epoch in range(5):
        seen = [row for step in steps[63 * epoch : 63 * (epoch + 1)] for row in step]
        assert set(seen) == set(range(1000)) and seen[1000:] == seen[:8], "whole, and filled up from its own beginning"
    for layout in (Layout(16, 1), Layout(16, 4), Layout(8, 4, 2)):
        for step in (steps[0], steps[62], steps[-1]):
            placed = place(step, [1.0] * 1000, layout)
            assert sorted(row for micro_batch in placed for group in micro_batch for row in group) == sorted(step)
