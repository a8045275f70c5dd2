"""What can go wrong with an evaluation: nothing is lost, and nothing is silently mixed. (Kills: test_resume.py.)"""

import errno
import json
import multiprocessing
import random
from pathlib import Path

import pytest
from tiny_model import tiny_model, weightless_model
from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.config import UserError, load, run_entry
from core.journal import Journal
from core.types import Question, read_jsonl, write_jsonl
from eval.run import EvalConfig, main
from inference.scripted_engine import ScriptedEngine

QUESTIONS = [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(4)]
GRID = "cells=[{max_thinking_tokens: [4, 9, auto], num_ignore: [0, 1]}]"


def script(prefix, seed):
    """Thinks on mostly, ends now and then."""
    rng = random.Random(hash((prefix, seed)))  # ints alone: the same in every process
    return rng.choice([2, 1]) if rng.random() < 0.15 else rng.randrange(5, len(tiny_tokenizer()))


class Engines:
    """Stands in for load_engine. fail_after: of the next engine alone. tokenizer: of all."""

    def __init__(self):
        self.loaded: list[ScriptedEngine] = []
        self.fail_after: int | None = None
        self.tokenizer = tiny_tokenizer()

    def __call__(self, model, config):
        fail_after, self.fail_after = self.fail_after, None
        engine = ScriptedEngine(script, config.max_model_len, len(tiny_tokenizer()), filler=5, fail_after=fail_after)
        self.loaded.append(engine)
        return engine, self.tokenizer

    @property
    def num_sampled(self) -> int:
        return sum(engine.num_sampled for engine in self.loaded)


@pytest.fixture
def engines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("q.jsonl", QUESTIONS)
    monkeypatch.setattr(inference.engine, "load_engine", engines := Engines())
    return engines


def args_of(name: str, *more: str) -> list[str]:
    return [f"name={name}", "model=m", "questions=q.jsonl", GRID, "max_answer_tokens=6", "engine.max_model_len=80",
            "sampling.temperature=1", *more]  # fmt: skip


def evaluate(name: str, *more: str) -> Path:
    return main(load(EvalConfig, args_of(name, *more)))


def result(path: Path) -> list[dict]:
    """Everything but how long it took, and what happened to be cached."""
    aside = ("seconds", "num_cached_tokens")
    return [{key: value for key, value in row.items() if key not in aside} for row in read_jsonl(path / "samples.jsonl")]


def interrupted(engines: Engines, name: str) -> Path:
    """A run that failed after half of what it has to sample; its folder."""
    whole = Engines()
    engines.fail_after = 150
    with pytest.raises(RuntimeError, match="scripted failure"):
        evaluate(name)
    (path,) = Path("outputs/eval").glob(f"{name}-*")
    return path
