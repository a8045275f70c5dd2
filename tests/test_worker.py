"""The engine's thread and its streams, without HTTP: whatever comes and goes, everyone gets their own, and all ends."""

import asyncio
import random
import time

import pytest
from running_server import CONTEXT, SlowEngine, chat_format

from core.types import Sample
from inference.budget import Budget
from inference.engine import Driver
from inference.stream import StreamedDecode
from inference.worker import Busy, EngineFailed, Worker

SHORT, LONG = Budget(12, max_answer_tokens=8), Budget(40, min_thinking_tokens=40, max_answer_tokens=8)


def decoding(question: str, budget: Budget = SHORT) -> StreamedDecode:
    chat = chat_format()
    return StreamedDecode(chat.prompt_ids(question), budget, chat, CONTEXT)


def alone(question: str, budget: Budget) -> str:
    [(_, done)] = Driver(SlowEngine()).run([("alone", decoding(question, budget))])
    return done.text("thinking") + done.text("answer")


async def read(stream) -> str:
    """All of a stream with one decoding."""
    texts, samples = [], []
    async for events in stream:
        for index, event in events:
            assert index == 0 and not samples
            samples.append(event) if isinstance(event, Sample) else texts.append(event.text)
    assert len(samples) == 1
    return "".join(texts)


def run(engine, visit, **limits):
    """Awaits visit(worker) on a fresh loop, with a worker that is closed then."""

    async def main():
        worker = Worker(engine, **{"max_running": 3, "max_waiting": 100, **limits})
        worker.start()
        try:
            return await asyncio.wait_for(visit(worker), 30)
        finally:
            await worker.close()
            assert not worker._thread.is_alive()

    return asyncio.run(main())


@pytest.mark.slow
def test_whatever_comes_and_goes_each_gets_its_own_text_and_the_engine_is_left_empty():
    rng = random.Random(0)
    engine = SlowEngine(0.001)
    questions = {f"Question {i}": rng.choice([SHORT, LONG]) for i in range(24)}
    leaves = {question: rng.random() < 0.4 for question in questions}

    async def ask(worker: Worker, question: str) -> str | None:
        await asyncio.sleep(rng.random() * 0.2)
        stream = worker.submit([decoding(question, questions[question])])
        if not leaves[question]:
            return await read(stream)
        await asyncio.sleep(rng.random() * 0.1)
        stream.cancel()
        assert [events async for events in stream] == []
        return None

    async def visit(worker: Worker):
        texts = await asyncio.gather(*(ask(worker, question) for question in questions))
        while worker.num_running or worker.num_waiting:
            await asyncio.sleep(0.001)
        return texts

    texts = run(engine, visit)
    for (question, budget), text in zip(questions.items(), texts, strict=True):
        assert text == (None if leaves[question] else alone(question, budget))
    assert not engine._active and engine.num_cancelled > 0


def test_who_waits_behind_one_that_leaves_is_not_forgotten():
    """Cancelling and submitting in one breath."""

    async def visit(worker: Worker):
        running = worker.submit([decoding("running", LONG)])
        await anext(running)
        waiting = worker.submit([decoding("waiting")])
        await asyncio.sleep(0.01)
        waiting.cancel()
        last = worker.submit([decoding("last")])
        assert await read(last) == alone("last", SHORT)
        running.cancel()

    run(SlowEngine(0.002), visit, max_running=1)


def test_all_samples_of_a_request_are_taken_or_none():
    async def visit(worker: Worker):
        three = worker.submit([decoding("a", LONG) for _ in range(3)])
        with pytest.raises(Busy):
            worker.submit([decoding("b"), decoding("b")])
        assert (worker.num_running + worker.num_waiting, worker.failure) == (3, None)
        four = worker.submit([decoding("b")])
        three.cancel()
        return await read(four)

    assert run(SlowEngine(0.002), visit, max_running=2, max_waiting=2) == alone("b", SHORT)


def test_a_failure_reaches_those_who_run_those_who_wait_and_those_who_come():
    failures = []

    async def visit(worker: Worker):
        streams = [worker.submit([decoding(f"{i}", LONG)]) for i in range(6)]
        for stream in streams:
            with pytest.raises(EngineFailed, match="RuntimeError: scripted failure"):
                await read(stream)
        with pytest.raises(EngineFailed):
            worker.submit([decoding("late")])
        assert failures == [worker.failure]

    run(SlowEngine(fail_after=40), visit, on_failure=failures.append)


def test_closing_ends_what_runs():
    async def visit(worker: Worker):
        stream = worker.submit([decoding("a", LONG)])
        await anext(stream)
        await worker.close()
        events = [event async for batch in stream for _, event in batch]
        assert events[-1].ended == "cancelled"

    started = time.monotonic()
    run(SlowEngine(0.002), visit)
    assert time.monotonic() - started < 5
