"""Runs eval.run on a scripted engine in a process of its own, for tests that kill it.

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


def load_scripted(model, config):
    SlowEngine.seconds_per_step = float(sys.argv[2])
    return SlowEngine(script, config.max_model_len, len(tiny_tokenizer()), filler=5), tiny_tokenizer()


if __name__ == "__main__":
    inference.engine.load_engine = load_scripted
    cells = "cells=[{max_thinking_tokens: [10, 40, 80], num_ignore: [0, 2]}]"
    args = ["name=killed", "model=scripted", f"questions={sys.argv[1]}", cells, "max_answer_tokens=12", "repeats=2"]
    run_entry(main, EvalConfig, "test", [*args, "sampling.temperature=0.8", "engine.max_model_len=400"])
