"""Ten seconds of clients who come and go, at a real server process over a scripted engine: nothing is left of them."""

import asyncio
import itertools

import psutil
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httptools")
from running_server import server_process  # noqa: E402

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
