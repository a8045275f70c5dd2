"""eval.run on a scripted engine: in the process of a test, or, for tests that kill it, in one of its own.

python tests/scripted_eval.py questions.jsonl SECONDS_PER_STEP
"""

import random
import sys
import time

from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.config import run_entry
from eval.run import EvalConfig, main
from inference.scripted_engine import ScriptedEngine


class SlowEngine(ScriptedEngine):
    seconds_per_step = 0.0

    def step(self):
        time.sleep(self.seconds_per_step)
        return super().step()


def script(prefix, seed):
    rng = random.Random(f"{prefix} {seed}")
    tokenizer = tiny_tokenizer()
    return rng.choice([tokenizer.eos_token_id, 1]) if rng.random() < 0.06 else rng.randrange(5, len(tokenizer))


def scripted_engines(monkeypatch, script=script) -> list[ScriptedEngine]:
    """Every engine loaded from now on is scripted; the list grows by it."""
    engines = []

    def load_engine(model, config):
        engines.append(ScriptedEngine(script, config.max_model_len, len(tiny_tokenizer()), filler=5))
        return engines[-1], tiny_tokenizer()

    monkeypatch.setattr(inference.engine, "load_engine", load_engine)
    return engines


def load_slow(model, config):
    SlowEngine.seconds_per_step = float(sys.argv[2])
    return SlowEngine(script, config.max_model_len, len(tiny_tokenizer()), filler=5), tiny_tokenizer()


if __name__ == "__main__":
    inference.engine.load_engine = load_slow
    cells = "cells=[{max_thinking_tokens: [10, 40, 80], num_ignore: [0, 2]}]"
    args = ["name=killed", "model=scripted", f"questions={sys.argv[1]}", cells, "max_answer_tokens=12", "repeats=2"]
    run_entry(main, EvalConfig, "test", [*args, "sampling.temperature=0.8", "engine.max_model_len=400"])
