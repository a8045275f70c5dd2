"""Benchmarks of serving, small: ten seconds of clients who come and go at a server process over a scripted engine."""

import asyncio
import itertools

import psutil
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")
from running_server import server_process  # noqa: E402

from benchmarks.ratios import interval  # noqa: E402
from benchmarks.serve import Measured, clients, table  # noqa: E402
from benchmarks.soak import SoakConfig, Tally, at_rest, check, failures, growth, known_texts, soak  # noqa: E402

pytestmark = pytest.mark.slow


def test_nothing_is_left_of_clients_who_come_and_go(tmp_path):
    config = SoakConfig("soak", "tiny", "", num_clients=8, seconds=10, budgets=[4, 30], max_num_seqs=3, max_queue=2)
    cases = list(itertools.product([f"Question {i}" for i in range(12)], config.budgets))
    pairs = [f"engine.max_num_seqs={config.max_num_seqs}", f"max_queue={config.max_queue}", "max_n=1"]
    with server_process(tmp_path, *pairs, engine="0.001") as (process, port, output):
        known = asyncio.run(known_texts(port, cases, config))
        tally, resident = asyncio.run(soak(port, known, config, psutil.Process(process.pid)))
        assert failures(tally, resident, at_rest(port), config, first=3) == []
    assert tally.diverged == 0 and tally.streams["complete"] > 50
    assert output.read_text().count("Traceback") == 0


def test_what_the_soak_calls_wrong():
    known = {("a", 1): "one two three four five six seven", ("b", 1): "one two 3 4 5 6 7 8 9 10 11 12 13 14"}

    def seen(text: str, is_whole: bool) -> Tally:
        check(text, is_whole, ("a", 1), known, tally := Tally())
        return tally

    assert seen("one two three", False) == seen(known["a", 1], True) == seen("", False) == Tally()
    assert seen("one two three", True).diverged == 1  # cut
    assert seen("one two seven", False).diverged == 1
    assert len(seen("one two 3 4 5 6 7 8 9 10 11 12", False).wrong) == 1
    assert growth([50, 100, 101, 102, 99, 103, 104, 105], first=2) == pytest.approx(0.0297, abs=1e-4)


def test_streams_are_counted_as_the_server_counts_them(tmp_path):
    body = {"prompt": "How many legs", "max_tokens": 20, "ignore_eos": True}
    with server_process(tmp_path, engine="0.0005") as (_, port, _):
        done = asyncio.run(clients(port, "/v1/completions", [body] * 10, num_clients=4))
    assert [one.num_tokens for one in done] == [20] * 10
    assert all(one.started < one.first < one.ended for one in done)


def test_the_ratio_has_an_interval():
    assert interval([0.9, 0.9, 0.9]) == pytest.approx((0.9, 0.9, 0.9))
    mean, low, high = interval([0.8, 1.25])  # logarithms -0.2231 and 0.2231: t(0.975, 1) = 12.7062 by their stderr
    assert (mean, low, high) == pytest.approx((1.0, 0.0587, 17.0), rel=0.01)
    runs = {
        "inference.serve": [Measured(100, 1.0, 1.0, 0.1), Measured(100, 2.0, 1.0, 0.1)],
        "vllm serve": [Measured(200, 2.0, 4.0, 0.1), Measured(200, 4.0, 4.0, 0.1)],
        "chats with budgets": [Measured(100, 1.0, 1.0, 0.1)] * 2,
    }
    *_, by_seconds, by_cpu = table(runs).splitlines()
    assert "vllm serve: 1.000 [1.000, 1.000]" in by_seconds and "2.000 [2.000, 2.000]" in by_cpu
