"""Every file under configs/ loads as what it is for, passes that entry's check, and an evaluation's its dry run."""

import socket
from pathlib import Path

import pytest

from core.config import load
from core.types import Question, write_jsonl
from data import attempt, classify, distill
from data import filter as filtering
from data.collect import CollectConfig
from eval import figures, plan, run
from eval.benchmarks import find_benchmark
from eval.config import EvalConfig, check
from inference.unpack import UnpackConfig
from train import sft
from train.lengths import read_histogram

ROOT = Path(__file__).parent.parent
MODEL = "model=Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """In the repository, with questions beside it and no network."""
    monkeypatch.chdir(ROOT)
    write_jsonl(
        tmp_path / "q.jsonl", [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(7)]
    )

    def refuse(*_, **__):
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("inference.engine.load_engine", refuse)


def data_config(file: Path) -> None:
    name = file.stem
    if name.startswith("collect"):
        load(CollectConfig, [str(file), "root=x"])
    elif name.startswith("distill"):
        given = ["questions=q", MODEL, "api.base_url=http://localhost:8000/v1", "api.model=m"]
        distill.check(load(distill.DistillConfig, [str(file), *given, "local.model=m"]))
    elif name.startswith("attempt"):
        attempt.check(load(attempt.AttemptConfig, [str(file), "questions=q"]))
    elif name == "classify":
        given = ["questions=q", "dry_run=true", "api.base_url=http://localhost:8000/v1", "api.model=m"]
        classify.check(load(classify.ClassifyConfig, [str(file), *given]))
    else:
        given = ["root=x"] if name in ("own-1k", "s1k-offline") else []
        given += ["against=[x]"] if given else ["traces=x", "pool=y"] if name.startswith("ablation") else []
        filtering.check(load(filtering.FilterConfig, [str(file), *given]))


def demo_config(file: Path, questions: Path, capsys) -> None:
    if file.stem.startswith("eval"):
        assert_dry_run([str(file), MODEL, f"questions={questions}"], capsys)
    elif file.stem == "figures":
        figures.check_config(load(figures.FiguresConfig, [str(file), "tuned=x"]))
    elif file.stem == "sft":
        sft.check(load(sft.SftConfig, [str(file), MODEL, "data=x"]), devices=1)
    elif file.stem == "attempt":
        attempt.check(load(attempt.AttemptConfig, [str(file), MODEL, "questions=q"]))
    elif file.stem == "distill":
        distill.check(load(distill.DistillConfig, [str(file), MODEL, "questions=q"]))
    elif file.stem in ("clean", "filter"):
        filtering.check(load(filtering.FilterConfig, [str(file), "traces=x", "against=[x]", "attempts=[y]"]))
    else:
        load(UnpackConfig if file.stem == "base" else CollectConfig, [str(file)])


def assert_dry_run(args: list[str], capsys) -> None:
    config = load(EvalConfig, [*args, "dry_run=true"])
    assert run.main(config) is None and not Path("outputs/eval", config.name).exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 3 + len(plan.plan_of(config).cells)
    assert "GPU-hours: " in said and "(estimate: H100" in said and said.endswith("nothing was sampled (dry_run)\n")


FILES = sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "configs")))
def test_a_config_passes_the_check_of_what_it_is_for(file, tmp_path, capsys):
    match file.relative_to(ROOT / "configs").parts[:-1]:
        case ("benchmarks",):
            find_benchmark(str(file))
        case ("cluster",):
            assert all(not line or line[0] == "#" or "=" in line for line in file.read_text().splitlines())
        case ("data",):
            data_config(file)
        case ("demo",):
            demo_config(file, tmp_path / "q.jsonl", capsys)
        case ("eval",):
            assert_dry_run([str(file), *([] if "\nmodel:" in file.read_text() else [MODEL])], capsys)
        case ("figures",):
            figures.check_config(load(figures.FiguresConfig, [str(file)]))
        case ("scorer",):
            check(load(EvalConfig, ["configs/eval/rebase.yaml", str(file)]))
        case ("train",):
            sft.check(load(sft.SftConfig, [str(file)]), devices=16)
        case ("train", "parallel"):
            devices = 1 if file.stem in ("single", "lora", "qlora") else 16
            sft.check(load(sft.SftConfig, ["configs/train/s1-32b.yaml", str(file)]), devices)
        case ("train", "lengths"):
            assert read_histogram(file)
        case folder:
            pytest.fail(f"nothing checks configs in {folder}")
