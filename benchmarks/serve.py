"""Tokens a second of inference.serve beside `vllm serve`: the same model, options and streaming clients.

    python -m benchmarks.serve model=outputs/train/demo-1234abcd/model questions=outputs/data/demo-heldout-1234abcd

Needs vLLM. One server runs at a time, in a process of its own, and who goes first alternates: it is started, warmed up,
and then each of many clients streams plain completions of a fixed length one after the other, which stop at nothing.
Ours is also asked for chats with budgets of the same length in all. Prints tokens a second, and for each repeat the
ratio of the two.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.ratios import ratio_lines
from benchmarks.streams import Streamed, cpu_seconds, free_port, our_command, running, stream_to_end
from core.config import option, run_entry
from core.log import say
from eval.draw import load_questions

Bodies = Sequence[dict[str, Any]]
NAME = "model"  # what clients call it, at both


@dataclass
class ServeBenchmarkConfig:
    name: str = option("serve", help="of the benchmark")
    model: str = option(help="local folder or hub id")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    num_questions: int = option(256, help="prompts; each request has one of its own, where there are enough")
    num_clients: int = option(64, help="streams at a time")
    num_requests: int = option(3, help="of each client, one after the other")
    max_tokens: int = option(64, help="of each answer")
    chat_answer_tokens: int = option(16, help="those of them that are answer, in chats")
    repeats: int = option(5, help="how often each server is started and measured")
    dtype: str = option("float32", help="of both engines")
    max_model_len: int = option(1024, help="context of both")
    max_num_seqs: int = option(64, help="sequences at a time in both")


@dataclass(frozen=True)
class Measured:
    """All streams of one measurement. cpu_seconds: of the server and its children."""

    num_tokens: int
    seconds: float
    cpu_seconds: float
    first_token_seconds: float  # median

    @property
    def rate(self) -> float:
        return self.num_tokens / self.seconds


async def clients(port: int, path: str, bodies: Bodies, num_clients: int) -> list[Streamed]:
    """Each client takes the next body when its stream has ended."""
    waiting, done = iter(bodies), []

    async def client() -> None:
        for body in waiting:
            done.append(await stream_to_end(port, path, body))

    async with asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(client())
    return done


def measure(server: psutil.Process, port: int, path: str, bodies: Bodies, num_clients: int) -> Measured:
    cpu = cpu_seconds(server)
    done = asyncio.run(clients(port, path, bodies, num_clients))
    return Measured(
        sum(one.num_tokens for one in done),
        max(one.ended for one in done) - min(one.started for one in done),
        cpu_seconds(server) - cpu,
        statistics.median(one.first - one.started for one in done),
    )


def completion_bodies(prompts: Sequence[str], config: ServeBenchmarkConfig) -> Bodies:
    return [
        {"model": NAME, "prompt": prompt, "max_tokens": config.max_tokens, "ignore_eos": True, "temperature": 0}
        for prompt in prompts
    ]


def chat_bodies(prompts: Sequence[str], config: ServeBenchmarkConfig) -> Bodies:
    num_thinking = config.max_tokens - config.chat_answer_tokens
    budget = {
        "max_thinking_tokens": num_thinking,
        "min_thinking_tokens": num_thinking,
        "max_answer_tokens": config.chat_answer_tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    return [{"model": NAME, "messages": [{"role": "user", "content": prompt}], **budget} for prompt in prompts]


def our_server(config: ServeBenchmarkConfig, port: int) -> list[str]:
    engine = {"backend": "vllm", "dtype": config.dtype, "max_model_len": config.max_model_len,
              "max_num_seqs": config.max_num_seqs}  # fmt: skip
    pairs = [f"engine.{key}={value}" for key, value in engine.items()]
    return our_command(config.model, port, f"served_model_name={NAME}", f"max_queue={config.num_clients}", *pairs)


def vllm_server(config: ServeBenchmarkConfig, port: int) -> list[str]:
    """With the options of ours (inference/vllm_engine.py), and without a line for each request."""
    from vllm.platforms import current_platform

    from inference.engine import EngineConfig
    from inference.vllm_engine import cpu_defaults

    options = {"model": config.model, "served-model-name": NAME, "port": port, "dtype": config.dtype,
               "max-model-len": config.max_model_len, "max-num-seqs": config.max_num_seqs,
               "disable-uvicorn-access-log": True, "disable-log-stats": True}  # fmt: skip
    if current_platform.is_cpu():
        options |= {key.replace("_", "-"): value for key, value in cpu_defaults(EngineConfig()).items()}
        options["dtype"] = config.dtype
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for key, value in options.items():
        command += [f"--no-{key}"] if value is False else [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return command


def warmed_up(
    command: Sequence[str], port: int, log: Path, bodies: Bodies, config: ServeBenchmarkConfig, chats: Bodies = ()
) -> list[Measured]:
    """Starts a server, asks it once for a round of short streams, and measures completions, then chats if any."""
    short = [body | {"max_tokens": 8} for body in bodies[: config.num_clients]]
    with running(command, port, log) as server:
        asyncio.run(clients(port, "/v1/completions", short, config.num_clients))
        done = [measure(server, port, "/v1/completions", bodies, config.num_clients)]
        if chats:
            done.append(measure(server, port, "/v1/chat/completions", chats, config.num_clients))
        return done


def compare(config: ServeBenchmarkConfig, prompts: Sequence[str], folder: Path) -> dict[str, list[Measured]]:
    """{way: one measurement a repeat}"""
    bodies, chats = completion_bodies(prompts, config), chat_bodies(prompts, config)

    def ours(repeat: int) -> dict[str, Measured]:
        port = free_port()
        plain, budgets = warmed_up(our_server(config, port), port, folder / f"ours-{repeat}.log", bodies, config, chats)
        return {"inference.serve": plain, "chats with budgets": budgets}

    def theirs(repeat: int) -> dict[str, Measured]:
        port = free_port()
        [plain] = warmed_up(vllm_server(config, port), port, folder / f"vllm-{repeat}.log", bodies, config)
        return {"vllm serve": plain}

    ways: list[Callable[[int], dict[str, Measured]]] = [ours, theirs]
    measured: dict[str, list[Measured]] = {"inference.serve": [], "vllm serve": [], "chats with budgets": []}
    for repeat in range(config.repeats):
        for way in ways if repeat % 2 == 0 else reversed(ways):
            for name, one in way(repeat).items():
                measured[name].append(one)
                say(f"serve | repeat {repeat + 1} | {name} | {one.rate:,.1f} tokens/s | "
                    f"{one.cpu_seconds:.1f} CPU seconds in {one.seconds:.1f}")  # fmt: skip
    return measured


def table(measured: dict[str, list[Measured]]) -> str:
    """Medians, and the ratio of the rates within each repeat."""
    lines = [f"{'way':<19} {'tokens/s (min, median, max)':<28} {'tokens':>7} {'CPU seconds':>11} {'first token':>12}"]
    for name, runs in measured.items():
        rates = sorted(one.rate for one in runs)
        shown = f"{rates[0]:,.1f}, {statistics.median(rates):,.1f}, {rates[-1]:,.1f}"
        cpu, first = (statistics.median(values) for values in
                      ([one.cpu_seconds for one in runs], [one.first_token_seconds for one in runs]))  # fmt: skip
        lines.append(f"{name:<19} {shown:<28} {runs[-1].num_tokens:>7,} {cpu:>11.1f} {first:>10.2f} s")
    lines += ratio_lines("inference.serve / vllm serve", measured["inference.serve"], measured["vllm serve"])
    return "\n".join(lines)


def main(config: ServeBenchmarkConfig) -> None:
    texts = [question.text for question in load_questions(config.questions, config.num_questions)]
    num_requests = config.num_clients * config.num_requests
    prompts = [texts[i % len(texts)] for i in range(num_requests)]
    with tempfile.TemporaryDirectory() as folder:
        measured = compare(config, prompts, Path(folder))
    print(f"{config.num_clients} clients, {num_requests} streams of {config.max_tokens} tokens, {len(texts)} prompts, "
          f"{config.max_num_seqs} sequences at a time, {config.dtype}")  # fmt: skip
    print(table(measured))


if __name__ == "__main__":
    run_entry(main, ServeBenchmarkConfig, __doc__)
