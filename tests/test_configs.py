"""Every file under configs/ passes the dry run of the entry that takes it, given what a user has to give, without
network or engine, and leaves nothing behind. The command of a file that is no config by itself is in its comment."""

import gzip
import importlib
import json
import os
import re
import shlex
import socket
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from report_runs import make_run
from some_traces import some_traces
from tiny_model import weightless_model

from core.config import run_entry
from core.types import write_jsonl

ROOT = Path(__file__).parent.parent
FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*") if p.is_file())
ENDPOINT = "api.base_url=http://localhost:8000/v1 api.model=m"
MODEL = "model=Qwen/Qwen2.5-0.5B-Instruct"
# (files below configs/, the command): the first line that fits counts. {} is the file, COMMENT what its comment says
COMMANDS = [
    *((f"benchmarks/{name}*", "COMMENT limit=1") for name in ("codeforces", "gpqa_standin", "mmlu")),  # here a row each
    ("benchmarks/*", "COMMENT"),
    ("cluster/*", "COMMENT"),
    ("data/ablation-*", "data.filter {} pool=q.jsonl traces=traces.jsonl"),
    ("data/attempt-*", "data.attempt {} questions=q.jsonl"),
    ("data/classify.yaml", "data.classify {} questions=q.jsonl"),
    ("data/collect-offline.yaml", "data.collect {} root=root"),
    ("data/collect-*", "data.collect {}"),
    ("data/distill-local.yaml", "data.distill {} questions=q.jsonl model=model local.model=model"),
    ("data/distill-openai.yaml", f"data.distill {{}} questions=q.jsonl model=model {ENDPOINT}"),
    ("data/distill-*", "data.distill {} questions=q.jsonl model=model"),
    ("data/own-1k.yaml", "data.filter {} root=root against=[q.jsonl]"),
    ("data/s1k-offline.yaml", "data.filter {} root=root"),
    ("data/s1k*", "data.filter {}"),
    ("demo/attempt.yaml", f"data.attempt {{}} questions=q.jsonl {MODEL}"),
    ("demo/base.yaml", "inference.unpack {}"),
    ("demo/clean.yaml", "data.filter {} traces=traces.jsonl against=[q.jsonl]"),
    ("demo/distill.yaml", "data.distill {} questions=q.jsonl model=model"),
    ("demo/eval-*", f"eval.run {{}} questions=q.jsonl {MODEL}"),
    ("demo/figures.yaml", "eval.figures {} tuned=run"),
    ("demo/filter.yaml", "data.filter {} traces=traces.jsonl attempts=[grades.jsonl]"),
    ("demo/sft.yaml", "train.sft {} data=traces.jsonl model=model"),
    ("demo/*", "data.collect {}"),
    ("eval/ablation.yaml", f"eval.run {{}} {MODEL}"),
    ("eval/every-method.yaml", f"eval.run {{}} {MODEL} root=root"),
    ("eval/*", "eval.run {}"),
    ("figures/*", "eval.figures {}"),
    ("scorer/*", "COMMENT"),
    ("train/lengths/*", "COMMENT"),
    ("train/parallel/*", "COMMENT data=traces.jsonl model=model"),
    ("train/*", "train.sft {} data=traces.jsonl model=model"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The repository's configs, and beside them what a user has: questions, traces, grades, a model, upstream rows."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("user")
    for name in ("configs", "results"):
        (folder / name).symlink_to(ROOT / name)
    weightless_model(folder / "model", max_position_embeddings=32768)
    save_file({}, folder / "model" / "model.safetensors")
    traces = some_traces()
    write_jsonl(folder / "traces.jsonl", traces)
    write_jsonl(folder / "q.jsonl", [trace.question for trace in traces])
    grades = [{"question_id": trace.question.id, "model": "base", "correct": False} for trace in traces]
    write_jsonl(folder / "grades.jsonl", grades)
    paths = re.findall(
        r"[\w/.-]+\.(?:jsonl|json|csv)(?:\.gz)?", (ROOT / "configs/data/collect-offline.yaml").read_text()
    )
    for path in (*paths, "agieval/sat-en.jsonl", "own/mine.jsonl"):
        (folder / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "root" / path).write_bytes(gzip.compress(b"[]") if path.endswith(".gz") else b"[]")
    options = ["1", "2", "3", "4"]
    rows = {  # of the benchmarks that are on no hub, or in every-method.yaml
        "codeforces_sample.jsonl.gz": {"problem": "Add.", "tests": [{"input": "1 2", "output": "3"}]},
        "mmlu_stem_test.jsonl.gz": {"question": "1 + 1?", "choices": options, "answer": 1, "type": "m"},
        "mmlu_pro_physics_chemistry_biology.jsonl.gz": {
            "question": "1 + 1?", "options": options, "answer": "B", "category": "physics",
        },
    }  # fmt: skip
    rows |= {
        f"{name}.jsonl": {"problem": "1 + 1?", "answer": "2", "subject": "sums"}
        for name in ("math500", "aime24", "aime25")
    }
    for name, row in rows.items():
        line = json.dumps(row).encode()
        (folder / "root" / name).write_bytes(gzip.compress(line) if name.endswith(".gz") else line)
    columns = ["Question", "Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)), "High-level domain"]
    (folder / "root" / "gpqa_shaped_198.csv").write_text(",".join(columns) + "\n1 + 1?,2,3,4,5,sums\n")
    before = os.getcwd()
    os.chdir(folder)
    make_run().rename("run")
    os.chdir(before)
    return folder


def command_of(file: str) -> tuple[dict[str, str], list[str]]:
    """(environment, [module, argument, ...]) of what stands before and after ./launch.sh."""
    command = next(text for pattern, text in COMMANDS if fnmatch(file, f"configs/{pattern}"))
    environment = ""
    if command.startswith("COMMENT"):
        said = re.search(r"^#   (.*)\./launch\.sh (.*)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert said is not None and Path(file).stem in said[0], f"{file}: its comment does not say what it goes with"
        environment, command = said[1], command.replace("COMMENT", said[2]).replace("<folder>", "root")
    return dict(word.split("=") for word in environment.split()), shlex.split(command.replace("{}", file))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_config_passes_its_dry_run(file, folder, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("this test has no network")

    environment, (module, *args) = command_of(file)
    if module == "--slurm":
        result = subprocess.run(
            ["./launch.sh", module, *args], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
        )
        assert result.returncode == 0 and "--gpus-per-node=8" in result.stdout, result.stderr
        return
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WORLD_SIZE", environment.get("GPUS", "1"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("inference.engine.load_engine", refuse)
    before = sorted(folder.rglob("*"))
    entry = importlib.import_module(module)
    schema = re.search(r"run_entry\(main, (\w+)", Path(entry.__file__).read_text(encoding="utf-8"))[1]
    run_entry(entry.main, getattr(entry, schema), entry.__doc__, [*args, "dry_run=true"])
    out, said = capsys.readouterr()
    assert said.rstrip().endswith("(dry_run)") or said.startswith("dry run: ")
    assert out == "" and sorted(folder.rglob("*")) == before
