"""Each element of the paper has a config, which has exactly its cells; README's table of them says what they take."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import pytest
from scripted_eval import script
from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.config import load
from core.types import Question, read_jsonl, write_jsonl
from eval.benchmarks import find_benchmark
from eval.config import EvalConfig, check
from eval.paper import load_paper, select
from eval.plan import Plan, lines_of, plan_of
from eval.run import main
from inference.scripted_engine import ScriptedEngine
from train.plan import PlanConfig, make_plan, read

ROOT = Path(__file__).parent.parent
DEMO = json.loads((ROOT / "results/demo/summary.json").read_text(encoding="utf-8"))
AIME24, AIME25, MATH, GPQA = ("aime24", 30), ("aime25", 30), ("math500", 500), ("gpqa_diamond", 198)
THREE, FOUR = [AIME24, MATH, GPQA], [AIME24, AIME25, MATH, GPQA]
BUDGETS = [f"max={n}" for n in (500, 1000, 2000, 4000, 8000, 16000, "auto")]
WAITS = [f"max=auto ignore={n}" for n in (1, 2, 4, 6)]
TEXTS = [f"max=auto ignore=2 text={text!r}" for text in ("", "Alternatively", "Hmm")]


@dataclass(frozen=True)
class Evaluation:
    """elements: of the paper. args: after configs/eval/. published: element, series and (or "") setting in
    results/paper; README shows the accuracies there, the highest where a benchmark has several, or the Performance.
    commands: of the released eval/commands.sh, counted from 1, and the cell that each is. note: what is not alike."""

    elements: str
    args: str
    cells: list[str]
    benchmarks: list[tuple[str, int]]
    published: tuple[str, str, str]
    model: str = "simplescaling/s1-32B"
    repeats: int = 1
    temperature: float = 0
    commands: dict[int, str] = field(default_factory=dict)
    note: str = ""

    @property
    def line(self) -> str:
        """Its row of README."""
        config, plan = config_and_plan(self.args)
        gpus = config.engine.options["tensor_parallel_size"]
        cost = f"{gpus} H100, {hours(plan.gpu_hours)}"
        command = f"`eval.run configs/eval/{self.args}`"
        note = f" ({self.note})" if self.note else ""
        return f"| {self.elements} | {command} | {cost} | {numbers(*self.published)}{note} | not run | |"


def hours(number: float) -> str:
    return f"{number:.0f} GPU-hours" if number >= 10 else f"{number:.1f} GPU-hours"


def config_and_plan(args: str) -> tuple[EvalConfig, Plan]:
    """Of the arguments after configs/eval/. Which folder holds a model of the same sizes makes no difference."""
    return _planned(re.sub("<.*>", "run", args))


@cache
def _planned(args: str) -> tuple[EvalConfig, Plan]:
    file, *rest = args.split()
    given = [str(ROOT / arg) if arg.endswith(".yaml") else arg for arg in rest]
    config = load(EvalConfig, [str(ROOT / "configs/eval" / file), *given])
    check(config)
    return config, plan_of(config)


def numbers(element: str, series: str, setting: str) -> str:
    points = select(PAPER, element, series=series)
    best: dict[str, float] = {}
    for point in points:
        if point.y_name in ("accuracy_percent", "performance_percent") and setting in ("", point.setting):
            best[point.benchmark] = max(point.y, best.get(point.benchmark, 0.0))
    names = ("AIME24", "AIME25", "MATH500", "GPQA-Diamond")
    return ", ".join(f"{name} {best[name]:.1f}" for name in names if name in best)


def ablation(element: str, series: str, recipe: str) -> Evaluation:
    args = f"ablation.yaml model=<{recipe}>/model"
    return Evaluation(f"{element}, {series}", args, ["max=auto"], THREE, (element, series, ""), "run/model")


PAPER = load_paper()
QWEN, CONTROL = "Qwen/Qwen2.5-32B-Instruct", "simplescaling/{}-conditional-control"
TOKENS = [f"tokens={n} max={{}}" for n in (1024, 2048, 4096, 8192, 16384)]
STEPS = [f"steps={n} max={{}}" for n in (16, 32, 64, 128, 256)]
REJECTIONS = [f"rejection max={n}" for n in (3500, 4000, 5000, 6000, 8000, 16000)]
EVALUATIONS = [
    Evaluation(
        "Figure 1; Figure 4, left; Table 1, s1-32B; Table 3, budget forcing; Table 4; Table 5", "s1-32b.yaml",
        [*BUDGETS, *WAITS, *TEXTS], FOUR, ("Table 5", "s1-32B", ""),
        commands=dict(zip(range(7, 21), [*BUDGETS, *WAITS, TEXTS[0], TEXTS[2], TEXTS[1]], strict=True)),
    ),
    Evaluation(
        "Table 1, s1 without forcing", "unforced.yaml model=simplescaling/s1-32B", ["max=none"], THREE,
        ("Table 1", "s1 without budget forcing", ""), commands={6: "max=none"},
    ),
    Evaluation(
        "Table 1, Qwen2.5-32B-Instruct", "unforced.yaml", ["max=none"], THREE,
        ("Table 1", "Qwen2.5-32B-Instruct", ""), QWEN, commands={2: "max=none"},
    ),
    Evaluation(
        "Table 1, s1.1-32B; Table 5", "s1.1-32b.yaml", ["max=auto", *WAITS[:2]], FOUR,
        ("Table 5", "s1.1-32B", "Wait 2x"), "simplescaling/s1.1-32B",
        commands={3: WAITS[0], 4: "max=auto", 5: WAITS[1]},
    ),
    ablation("Table 2", "1K-random", "ablation-random"),
    ablation("Table 2", "1K-diverse", "ablation-diverse"),
    ablation("Table 2", "1K-longest", "ablation-longest"),
    ablation("Table 2", "59K-full", "ablation-full59k"),
    ablation("Sequence length", "max length 4096", "ablation-length-4096"),
    ablation("Sequence length", "max length 32768", "ablation-length-32768"),
    Evaluation(
        "Figure 4, right", "majority.yaml", ["max=none"], [GPQA], ("Figure 4 parallel", "majority", ""), QWEN,
        repeats=64, temperature=1, commands={51: "max=none"},
    ),
    Evaluation(
        "Figure 6; Table 3, rejection sampling", "rejection.yaml", REJECTIONS, [AIME24],
        ("Table 3", "rejection sampling", ""), temperature=1,
        commands=dict(zip(range(21, 27), REJECTIONS, strict=True)), note="tries without bound; here at most 1,024",
    ),
    Evaluation(
        "Figure 7", "rebase.yaml configs/scorer/math-shepherd.yaml",
        [*(f"steps={n} max=auto" for n in (32, 64, 256, 512)), "rebase n=16 max=auto majority"], [AIME24],
        ("Figure 7", "REBASE", ""), CONTROL.format("step"), repeats=16, temperature=1,
        note="another reward model; other differences are named in the file",
    ),
    Evaluation(
        "Table 11; Table 3, token-conditional", "token-conditional.yaml",
        [label.format(way) for label in TOKENS for way in ("auto", "asked")], [AIME24],
        ("Table 3", "token-conditional + forcing", ""), CONTROL.format("token"),
        commands=dict(enumerate([label.format(way) for way in ("auto", "asked") for label in TOKENS[1:]], 27)),
    ),
    Evaluation(
        "Table 12; Table 3, step-conditional", "step-conditional.yaml",
        [label.format(way) for label in STEPS for way in ("auto", "asked")], [AIME24],
        ("Table 3", "step-conditional + forcing", ""), CONTROL.format("step"),
        commands=dict(enumerate([label.format(way) for way in ("auto", "asked") for label in STEPS], 35)),
    ),
    Evaluation(
        "Table 13; Table 3, class-conditional", "class-conditional.yaml",
        ["max=auto", "short max=auto", "long max=auto"], THREE, ("Table 13", "long", ""),
        commands={49: "long max=auto", 50: "short max=auto"}, note="asked for long thinking",
    ),
]  # fmt: skip
NOT_EVALUATED = {  # the other commands
    1: "a model that answers 1: the tests have scripted engines",
    45: "not in the paper", 46: "not in the paper", 47: "not in the paper", 48: "not in the paper",
    52: "not in the paper, and of another model than its name says",
}  # fmt: skip


READ_ONCE = cache(find_benchmark)


@pytest.fixture(autouse=True)
def benchmarks_read_once(monkeypatch):
    monkeypatch.setattr("eval.plan.find_benchmark", READ_ONCE)


@pytest.mark.parametrize("evaluation", EVALUATIONS, ids=lambda one: one.elements)
def test_an_element_of_the_paper_has_exactly_these_cells(evaluation):
    config, plan = config_and_plan(evaluation.args)
    assert config.name == Path(evaluation.args.split()[0]).stem
    assert (config.model, config.sampling.temperature) == (evaluation.model, evaluation.temperature)
    assert (config.engine.dtype, config.engine.max_model_len, config.limit) == ("float32", 32768, None)
    assert [(p.benchmark, p.num_questions, p.cell.label) for p in plan.cells] == [
        (*benchmark, cell) for benchmark in evaluation.benchmarks for cell in evaluation.cells
    ]
    for one in plan.cells:
        assert one.repeats == (evaluation.repeats if one.cell.way is None else 1)
        assert 0 < one.expected <= one.at_most
    assert plan.sampled <= plan.at_most
    assert plan.gpu_hours > 0


@pytest.mark.slow
@pytest.mark.parametrize("args", sorted({one.args for one in EVALUATIONS}))
def test_a_config_runs_as_planned(args, tmp_path, monkeypatch):
    """On two questions, a scripted engine and without a second model for scores."""
    monkeypatch.chdir(tmp_path)
    engine = ScriptedEngine(script, 400, len(tiny_tokenizer()), filler=5)
    monkeypatch.setattr(inference.engine, "load_engine", lambda *_: (engine, tiny_tokenizer()))
    write_jsonl("q.jsonl", [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(2)])
    config = config_and_plan(args)[0]
    small = replace(config, benchmarks=[], questions="q.jsonl", scorer=None, max_answer_tokens=12)
    path = main(small)
    planned = {(one.cell.label, one.repeats) for one in plan_of(small).cells}
    rows = Counter(row["cell"] for row in read_jsonl(path / "samples.jsonl"))
    assert {(cell, number // 2) for cell, number in rows.items()} == planned


def test_every_command_of_the_released_evaluation_is_a_cell_of_one_of_these_or_said_to_be_none():
    commands = [number for one in EVALUATIONS for number in one.commands] + list(NOT_EVALUATED)
    assert sorted(commands) == list(range(1, 53))
    assert all(set(one.commands.values()) <= set(one.cells) for one in EVALUATIONS)


def test_every_config_of_an_evaluation_belongs_to_an_element():
    named = {one.args.split()[0] for one in EVALUATIONS}
    assert {path.name for path in (ROOT / "configs/eval").glob("*.yaml")} == named | {"every-method.yaml"}


def test_every_element_of_the_paper_with_an_accuracy_has_a_config():
    named = " ".join(one.elements for one in EVALUATIONS)
    named = named.replace("Figure 4, left", "Figure 4 sequential").replace("Figure 4, right", "Figure 4 parallel")
    elements = {point.element for point in PAPER if point.y_name in ("accuracy_percent", "performance_percent")}
    assert len(elements) == 14 and all(element in named for element in elements)


def demo_line() -> str:
    """Its row of README; minutes and run are measured, and the rest of README says on what."""
    gain, run = DEMO["gain"], DEMO["steps"][-1]["run"]
    return (
        "| Figure 1's curve, in small: 8 to 144 thinking tokens, a model of 135M | (nothing: the demo) | 2 CPU cores, "
        f"22.4 minutes (measured) | | gain {gain['difference']:.1f} points [{gain['low']:.1f}, {gain['high']:.1f}], "
        f"to {gain['to_accuracy']:.1f}% | {Path(run).name} |"
    )


def training_line() -> str:
    lengths = ROOT / "configs/train/lengths/s1k.csv"
    config = load(PlanConfig, [str(ROOT / "configs/train/s1-32b.yaml"), f"lengths={lengths}", "nodes=2", "gpus=8"])
    shape, rows = read(config)
    minutes = make_plan(config, shape, rows.lengths).minutes
    return (
        f"| s1-32B itself | `train.sft configs/train/s1-32b.yaml` | 16 H100, {hours(16 * minutes / 60)} | "
        "26 minutes on 16 H100 | not run | |"
    )


def test_readme_has_the_table():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for line in (demo_line(), training_line(), *(one.line for one in EVALUATIONS)):
        assert line in readme
    config, plan = config_and_plan("class-conditional.yaml")
    assert "\n".join(lines_of(plan, config)) in "\n".join(readme)
    assert "all | 1,344 (22.4 min) |" in "\n".join(readme), "the demo's minutes, in the table of its steps"


if __name__ == "__main__":  # the rows, to be put into README
    print("\n".join([demo_line(), training_line(), *(one.line for one in EVALUATIONS)]))
