"""A minute of clients who come, stop reading and go: what inference.serve keeps of them afterwards.

    python -m benchmarks.soak model=outputs/train/demo-1234abcd/model questions=outputs/data/demo-heldout-1234abcd

Starts a server, asks it each question under each budget alone (greedy, so the text is known from then on), then lets
many clients at once stream chats with random questions and budgets; some go away at a random event, some are too many
for the queue. Fails unless every stream was the beginning of its own text, no sample runs and no block of the KV cache
is in use afterwards, and resident memory grew by less than 5% between second 10 and the end.

A text may also differ from the known one because logits depend in their last bits on what is decoded beside it. Such a
stream is counted as diverged, and is a failure only where it goes on with the text of another question.
"""

import asyncio
import itertools
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.streams import Refused, events, free_port, our_command, resident_bytes, running
from core.config import UserError, option, run_entry
from core.log import say
from eval.draw import load_questions
from inference.serve_metrics import PREFIX

Case = tuple[str, int]  # question, max_thinking_tokens
MIN_SHARED = 20  # characters beyond the beginning that texts have in common: as many of another's are no chance


@dataclass
class SoakConfig:
    name: str = option("soak", help="of the benchmark")
    model: str = option(help="local folder or hub id")
    questions: str = option(help="finished run of data.collect, or a .jsonl file of questions")
    num_questions: int = option(16, help="different ones")
    budgets: list[int] = option([4, 16, 48], help="max_thinking_tokens, one of them drawn for each stream")
    num_ignore: int = option(1, help="ends of thinking that are replaced, in every stream")
    max_answer_tokens: int = option(16, help="answer limit")
    num_clients: int = option(64, help="at a time")
    seconds: float = option(60.0, help="how long clients come")
    disconnect: float = option(0.4, help="share of the streams that are left at a random event")
    seed: int = option(0, help="of what clients do")
    max_queue: int = option(32, help="samples that may wait; the others get 429 and come again")
    max_num_seqs: int = option(16, help="samples decoded at a time")
    max_model_len: int = option(512, help="context")
    dtype: str = option("float32", help="of the engine")
    kv_cache_bytes: int = option(1 << 29, help="of the engine: small, as growth is a share of all that is resident")


@dataclass
class Tally:
    """What the clients saw. wrong: streams with another question's text; diverged: with neither's, from some point."""

    streams: Counter[str] = field(default_factory=Counter)  # complete, left, refused
    wrong: list[str] = field(default_factory=list)
    diverged: int = 0
    num_events: int = 0


def body_of(case: Case, config: SoakConfig) -> dict[str, Any]:
    question, budget = case
    return {
        "messages": [{"role": "user", "content": question}],
        "max_thinking_tokens": budget,
        "num_ignore": config.num_ignore,
        "max_answer_tokens": config.max_answer_tokens,
        "temperature": 0,
    }


async def read(port: int, body: dict[str, Any], leave_after: int | None = None) -> tuple[str, int, bool]:
    """(text, events, did it come to its end) of a chat; text is thinking, a line, answer."""
    texts = {"reasoning_content": "", "content": ""}
    num_events = 0
    async with aclosing(events(port, "/v1/chat/completions", body)) as received:
        async for data in received:
            if num_events == leave_after:
                return _joined(texts), num_events, False
            num_events += 1
            event = json.loads(data)
            if "error" in event:
                raise Refused(200, data)
            for choice in event["choices"]:
                for key in texts:
                    texts[key] += choice["delta"].get(key) or ""
    return _joined(texts), num_events, True


def _joined(texts: dict[str, str]) -> str:
    return texts["reasoning_content"] + ("\n---\n" + texts["content"] if texts["content"] else "")


async def known_texts(port: int, cases: Sequence[Case], config: SoakConfig) -> dict[Case, str]:
    """Each case by itself, one after the other."""
    return {case: (await read(port, body_of(case, config)))[0] for case in cases}


def check(text: str, is_whole: bool, case: Case, known: dict[Case, str], tally: Tally) -> None:
    own = known[case]
    if text == own if is_whole else own.startswith(text):
        return
    at = next((i for i, (a, b) in enumerate(zip(text, own, strict=False)) if a != b), min(len(text), len(own)))
    rest = text[at : at + MIN_SHARED]
    others = [other for other in known if other[0] != case[0]]
    if len(rest) == MIN_SHARED and any(rest in known[other] and rest not in own for other in others):
        tally.wrong.append(f"{case}: {text!r} instead of {own!r}")
    else:
        tally.diverged += 1


async def client(port: int, known: dict[Case, str], config: SoakConfig, seed: int, until: float, tally: Tally) -> None:
    """Streams one random chat after the other. A refused one comes again a moment later, as Retry-After says."""
    choose, cases = random.Random(seed), sorted(known)
    while time.monotonic() < until:
        case = choose.choice(cases)
        leave_after = choose.randrange(40) if choose.random() < config.disconnect else None
        try:
            text, num_events, is_whole = await read(port, body_of(case, config), leave_after)
        except Refused as error:
            if error.status != 429:
                raise
            tally.streams["refused"] += 1
            await asyncio.sleep(choose.uniform(0.2, 1.0))
            continue
        tally.streams["complete" if is_whole else "left"] += 1
        tally.num_events += num_events
        check(text, is_whole, case, known, tally)


async def soak(
    port: int, known: dict[Case, str], config: SoakConfig, server: psutil.Process
) -> tuple[Tally, list[int]]:
    """(what the clients saw, resident bytes of the server at each second)"""
    tally, resident = Tally(), []
    started = time.monotonic()

    async def watch() -> None:
        while True:
            resident.append(resident_bytes(server))
            await asyncio.sleep(max(0.0, started + len(resident) - time.monotonic()))

    watcher = asyncio.create_task(watch())
    async with asyncio.TaskGroup() as group:
        for i in range(config.num_clients):
            seed = config.seed * config.num_clients + i
            group.create_task(client(port, known, config, seed, started + config.seconds, tally))
    watcher.cancel()
    return tally, resident


def gauges(port: int) -> dict[str, float]:
    """The server's own numbers: samples running and waiting, share of the KV cache in use."""
    text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    values = {family.name: family.samples for family in text_string_to_metric_families(text)}
    return {name: values[PREFIX + name][0].value for name in ("running", "waiting", "kv_cache_usage")}


def at_rest(port: int, seconds: float = 10.0) -> dict[str, float]:
    """The gauges as soon as all are 0, or as they are after so many seconds."""
    deadline = time.monotonic() + seconds
    while any((now := gauges(port)).values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def growth(resident: Sequence[int], first: int = 10) -> float:
    """Of resident memory from second `first` to the end, as a share; medians of three seconds."""
    start, end = sorted(resident[first - 1 : first + 2])[1], sorted(resident[-3:])[1]
    return end / start - 1


def failures(
    tally: Tally, resident: Sequence[int], rest: dict[str, float], config: SoakConfig, first: int = 10
) -> list[str]:
    """What is not as it should be. first: the second from which memory is to stay as it is."""
    found = [f"another question's text: {one}" for one in tally.wrong]
    found += [f"{name} is {value:g} after all have gone" for name, value in rest.items() if value != 0]
    if (grown := growth(resident, first)) >= 0.05:
        found.append(f"resident memory grew by {grown:.1%}")
    if config.num_clients > config.max_num_seqs + config.max_queue and not tally.streams["refused"]:
        found.append("nobody was refused, though the clients are more than places and queue")
    found += [f"no stream was {kind}" for kind in ("complete", "left") if not tally.streams[kind]]
    return found


def report(tally: Tally, resident: Sequence[int], rest: dict[str, float], seconds: float) -> str:
    mib = [one / (1 << 20) for one in resident]
    counts = ", ".join(f"{tally.streams[kind]:,} {kind}" for kind in ("complete", "left", "refused"))
    return "\n".join([
        f"streams in {seconds:.0f} s: {counts}; {tally.num_events / seconds:,.0f} events/s",
        f"texts: {len(tally.wrong)} with another question's, {tally.diverged} diverged by rounding, the rest as alone",
        f"afterwards: {', '.join(f'{name} {value:g}' for name, value in rest.items())}",
        f"resident memory: {mib[0]:,.0f} MiB at second 0, {mib[min(10, len(mib) - 1)]:,.0f} at 10, "
        f"{mib[-1]:,.0f} at {len(mib) - 1} ({growth(resident):+.1%} from second 10)",
    ])  # fmt: skip


def main(config: SoakConfig) -> None:
    questions = [question.text for question in load_questions(config.questions, config.num_questions)]
    cases = list(itertools.product(questions, config.budgets))
    port = free_port()
    pairs = [
        f"max_queue={config.max_queue}",
        "answer_reserve=32",
        f"engine.max_num_seqs={config.max_num_seqs}",
        f"engine.max_model_len={config.max_model_len}",
        f"engine.dtype={config.dtype}",
        f"engine.options.kv_cache_memory_bytes={config.kv_cache_bytes}",
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(our_command(config.model, port, *pairs), port, Path(folder) / "server.log") as server,
    ):
        known = asyncio.run(known_texts(port, cases, config))
        say(f"soak | {len(known)} texts known, {len(set(known.values()))} of them different")
        tally, resident = asyncio.run(soak(port, known, config, server))
        rest = at_rest(port)
    print(f"{config.num_clients} clients, {len(questions)} questions, budgets {config.budgets}, "
          f"{config.max_num_seqs} samples at a time, {config.max_queue} waiting")  # fmt: skip
    print(report(tally, resident, rest, seconds=len(resident) - 1))
    if found := failures(tally, resident, rest, config):
        raise UserError("; ".join(found))


if __name__ == "__main__":
    run_entry(main, SoakConfig, __doc__)
