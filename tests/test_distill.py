"""Teachers that fail on purpose: each question ends once, nothing is paid twice, and the ledger is the server's own."""

import multiprocessing
import os
import re
import signal
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from teacher_server import RETRY_AFTER, TeacherServer
from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.config import UserError, load
from core.endpoint import (
    ApiConfig,
    ChatEndpoint,
    Reply,
    RequestConfig,
    RequestFailed,
    seconds_of,
    split_thinking,
    usage_of,
    waiting_time,
    worst_usage,
)
from core.journal import Journal
from core.ledger import AnswerStore, Ledger, Prices, Usage
from core.runs import read_record
from core.types import Question, read_jsonl, write_jsonl
from data import distill
from data.distill import DistillConfig, main
from data.teachers import LocalConfig, answer_of_row, source_answer
from inference.scripted_engine import ScriptedEngine

TLS = ssl.create_default_context()
KEY = "sk-very-secret-0123456789"
PRICES = Prices(input=100.0, cached_input=10.0, output=1000.0)
# what each word of tests/teacher_server.py comes to
OUTCOMES = {
    "good": None, "tags": None, "vllm": None, "429": None, "500": None, "hang": None, "cut": None, "short": None,
    "wrong": None, "empty": "empty_thinking", "mute": "empty_answer", "long": "truncated", "refusal": "refusal",
    "filter": "refusal", "malformed": "malformed", "down": "api_error", "400": "api_error",
}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with TeacherServer() as server:
        yield server


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(ssl, "create_default_context", lambda *args, **kwargs: TLS)  # 50 ms each, and not used
    monkeypatch.setattr(distill, "token_counter", lambda config: lambda text: len(text.split()))


def ask(word: str, number: int = 0) -> Question:
    return Question.of(f"{word}: {number} + 4 = ?", str(number + 4), "integer", "test", "sums")


def config_for(server, space: str, questions: list[Question], **changes) -> DistillConfig:
    if not Path("questions.jsonl").exists():
        write_jsonl("questions.jsonl", questions)
    api = ApiConfig(base_url=f"{server.url}/{space}", model="teach/er", max_tokens=64)
    requests = RequestConfig(
        api_key_env="TEACHER_KEY", max_concurrency=8, max_attempts=3, idle_timeout=0.3, first_wait=0.01, max_wait=0.02,
        idempotent=not space.startswith("plain"),
    )  # fmt: skip
    config = DistillConfig("t", "questions.jsonl", "openai", model="m", api=api, requests=requests, prices=PRICES)
    return replace(config, **changes)


def outcomes(path: Path) -> dict[str, str | None]:
    """{question text: None, or why it was dropped}. Fails where a question has two."""
    rows = [(row["question"]["text"], None) for row in read_jsonl(path / "traces.jsonl")]
    rows += [(row["question"]["text"], row["reason"]) for row in read_jsonl(path / "dropped.jsonl")]
    assert len(dict(rows)) == len(rows), "one outcome a question"
    return dict(rows)


def spending(path: Path) -> dict:
    return read_record(path)["headline"]["spending"]


def charged(server, space: str) -> Usage:
    usage = server.stats(space)["usage"]
    return Usage(usage.get("input", 0), usage.get("cached", 0), usage.get("output", 0))


@pytest.mark.slow
def test_whatever_the_teacher_does_each_question_ends_once_and_the_bill_agrees(server, capfd):
    questions = [ask(word) for word in OUTCOMES]
    config = config_for(server, "faults", questions)
    path = main(config)
    assert outcomes(path) == {ask(word).text: reason for word, reason in OUTCOMES.items()}

    stats, spent = server.stats("faults"), spending(path)
    twice = {text.split(":")[0] for text, calls in stats["calls"].items() if calls == 2}
    assert twice == {"429", "500", "hang", "cut", "short"}, "what passes is asked again, and only that"
    assert stats["calls"][ask("down").text] == 3 and stats["calls"][ask("400").text] == 1
    assert stats["gaps"][ask("429").text] >= RETRY_AFTER
    paid = Usage(spent["input_tokens"], spent["cached_input_tokens"], spent["output_tokens"])
    assert paid == charged(server, "faults") and paid.cached_input_tokens > 0
    assert spent["cost"] == spent["cost_at_most"] == PRICES.cost(paid) > 0
    assert (spent["num_answers"], spent["num_failed"]) == (len(OUTCOMES) - 2, 5 + 3 + 1)

    rows = {row["question"]["text"].split(":")[0]: row for row in read_jsonl(path / "dropped.jsonl")}
    assert (rows["down"]["status"], rows["400"]["status"]) == (500, 400) and "out of order" in rows["down"]["error"]
    assert rows["400"]["error"] == "HTTP 400: cannot serve Bearer [key]", "the server had repeated the key"
    traces = {row["question"]["text"].split(":")[0]: row for row in read_jsonl(path / "traces.jsonl")}
    for word in ("good", "tags", "vllm", "cut"):
        assert traces[word]["thinking"] == "Add 0 and 4.\u2028That is 4." and traces[word]["attempt"] == "Answer: 4"
        assert traces[word]["teacher"] == "teach/er" and traces[word]["num_thinking_tokens"] == 7

    assert main(config) == path and main(replace(config, max_cost=99.0, prices=PRICES)) == path
    assert server.stats("faults")["calls"] == stats["calls"], "a finished run asks nobody"
    assert stats["keys"] == [f"Bearer {KEY}"]
    assert_no_key_in(*capfd.readouterr())


def assert_no_key_in(*texts: str) -> None:
    files = [file for file in Path().rglob("*") if file.is_file()]
    assert any(file.parent.parent.name == "answers" for file in files) and any(f.name == "log.txt" for f in files)
    for text in (*texts, *(file.read_text(errors="replace") for file in files)):
        assert KEY not in text and KEY[:12] not in text


def test_without_streaming_the_same(server):
    config = config_for(server, "whole", [ask("good"), ask("long"), ask("empty"), ask("garbage")])
    path = main(replace(config, requests=replace(config.requests, stream=False)))
    assert list(outcomes(path).values()) == [None, "truncated", "empty_thinking", "malformed"]
    spent = spending(path)
    assert spent["num_unmetered"] == 1, "nobody knows what the garbage cost"
    assert spent["cost"] < PRICES.cost(charged(server, "whole")) < spent["cost_at_most"]


@pytest.mark.slow
def test_a_server_that_knows_no_idempotency_charges_within_the_bounds(server):
    words = ["cut", "short", "hang", "good"]
    path = main(config_for(server, "plain-cuts", [ask(word) for word in words]))
    spent = spending(path)
    assert set(outcomes(path).values()) == {None} and server.stats("plain-cuts")["num_charged"] == 7
    assert spent["cost"] < PRICES.cost(charged(server, "plain-cuts")) < spent["cost_at_most"]


def _run(config: DistillConfig) -> None:
    main(config)
    os._exit(0)


def answered(path: Path) -> set[str]:
    rows = Journal.read(path) if path.exists() else []
    return {row["question"] for row in rows if row["event"] == "answered"}


@pytest.mark.slow
def test_kill_9_halfway_and_nothing_is_paid_twice(server):
    questions = [ask(word, number) for number in range(8) for word in ("good", "cut", "500")]
    text_of = {question.id: question.text for question in questions}
    config = config_for(server, "slow-kill", questions)
    done: set[str] = set()
    num_kills, limit = 0, replace(config.requests, max_concurrency=4)
    while num_kills < 2:
        process = multiprocessing.get_context("fork").Process(target=_run, args=(replace(config, requests=limit),))
        process.start()
        deadline = time.monotonic() + 30
        while process.is_alive() and time.monotonic() < deadline:
            journals = list(Path("outputs").glob("answers/*/*.jsonl"))
            if journals and len(answered(journals[0])) >= len(done) + 4:
                break
            time.sleep(0.002)
        assert process.is_alive(), "it must be killed while it works"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        num_kills += 1
        journal = journals[0]
        calls = server.stats("slow-kill")["calls"]
        done = answered(journal)
        assert 4 <= len(done) < len(questions)
    calls_of_done = {text_of[id]: calls[text_of[id]] for id in done}
    path = main(config)  # other limits, the same run
    assert set(outcomes(path)) == set(text_of.values()) and set(outcomes(path).values()) == {None}
    after = server.stats("slow-kill")["calls"]
    assert {text: after[text] for text in calls_of_done} == calls_of_done, "no paid answer was asked for again"
    spent = spending(path)
    assert spent["cost"] == spent["cost_at_most"] == PRICES.cost(charged(server, "slow-kill"))
    assert 1 <= spent["num_lost"] <= num_kills * limit.max_concurrency
    assert read_record(path)["sittings"] == num_kills + 1
    rows = Journal.read(journal)
    assert (
        len({row["question"] for row in rows if row["event"] == "answered"}) == len(questions) == spent["num_answers"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("space", ["plain-poor", "poor"])
def test_max_cost_is_never_exceeded_and_nearly_used(server, space):
    questions = [ask("cut" if number % 3 == 0 else "good", number) for number in range(20)]
    config = config_for(server, space, questions, max_cost=0.15)
    path = main(config)
    worst = PRICES.cost(worst_usage(questions[0].text, config.api, config.requests))
    spent = spending(path)
    assert PRICES.cost(charged(server, space)) <= spent["cost_at_most"] <= 0.15
    assert spent["cost_at_most"] > 0.15 - worst - 0.001, "asking stops when another request might not fit, not before"
    reasons = list(outcomes(path).values())
    assert 0 < reasons.count("max_cost") < 20 and set(reasons) == {None, "max_cost"}

    again = main(replace(config, max_cost=20.0, retry=["max_cost"]))
    assert again == path and set(outcomes(path).values()) == {None}, "with more money the rest is asked, and only that"
    assert all(calls == 2 if "cut" in text else 1 for text, calls in server.stats(space)["calls"].items())


@pytest.mark.slow  # no torch, but together some seconds
def test_an_endpoint_that_charges_more_than_asked_for_is_asked_no_further(server):
    config = config_for(server, "greedy", [ask("greedy", number) for number in range(30)])
    with pytest.raises(UserError, match="charged 6 tokens in and 1,009 out, .* set requests.max_billed_tokens"):
        main(replace(config, max_cost=30.0))
    asked = sum(server.stats("greedy")["calls"].values())
    assert asked <= config.requests.max_concurrency
    path = main(replace(config, max_cost=60.0, requests=replace(config.requests, max_billed_tokens=1064)))
    assert set(outcomes(path).values()) == {None} and spending(path)["num_answers"] == 30
    assert spending(path)["num_over_reserved"] == asked and spending(path)["cost"] == PRICES.cost(
        charged(server, "greedy")
    )


@pytest.mark.slow
def test_retry_asks_again_what_it_names_and_pays_for_nothing_else(server):
    config = config_for(server, "retry", [ask(word) for word in ("good", "down", "400", "long", "refusal")])
    path = main(config)
    before = server.stats("retry")["calls"]
    server.heal("retry")
    assert main(replace(config, retry=["malformed"])) == path and server.stats("retry")["calls"] == before
    main(replace(config, retry=["api_error", "truncated"]))
    assert [t for t, reason in outcomes(path).items() if reason] == [ask("refusal").text]
    after = server.stats("retry")["calls"]
    extra = {text.split(":")[0]: after[text] - before[text] for text in after}
    assert extra == {"good": 0, "down": 1, "400": 1, "long": 1, "refusal": 0}
    assert spending(path)["cost"] == PRICES.cost(charged(server, "retry")), "the truncated answer was paid, too"


@pytest.mark.slow  # no torch, but together some seconds
def test_a_killed_retry_goes_on_and_does_not_begin_anew(server, monkeypatch):
    config = config_for(server, "killed-retry", [ask("long", number) for number in range(3)])
    path = main(config)
    again = replace(config, retry=["truncated"])

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distill, "finish", interrupted)
        main(again)
    assert set(server.stats("killed-retry")["calls"].values()) == {2} and not (path / "DONE").exists()
    assert main(again) == path and set(server.stats("killed-retry")["calls"].values()) == {2}
    main(again)  # the run was finished, so this is a second retry
    assert set(server.stats("killed-retry")["calls"].values()) == {3}


@pytest.mark.slow  # no torch, but together some seconds
def test_another_run_of_the_teacher_takes_paid_answers_over(server):
    words = ["good", "long", "down", "cut"]
    questions = [ask(word, number) for word in words for number in range(3)]
    config = config_for(server, "shared", questions)
    main(replace(config, limit=7))
    before = server.stats("shared")["calls"]
    other = replace(config, name="other", correct_only=True, max_thinking_tokens=100)
    path = main(other)
    asked = {text for text, calls in server.stats("shared")["calls"].items() if calls != before.get(text)}
    assert asked == {q.text for q in questions[6:]}, "a question without a paid answer is asked, api_error included"
    spent = spending(path)
    assert spent["num_taken_over"] == 6 and spent["num_answers"] == 3

    assert main(replace(other, retry=["truncated"])) == path and spending(path)["num_taken_over"] == 3
    after = server.stats("shared")["calls"]
    assert all(after[q.text] == (2 if "long" in q.text else 1) for q in questions[:6])


@pytest.mark.slow  # no torch, but together some seconds
def test_merged_shards_are_the_unsharded_run(server):
    questions = [ask(word, number) for number in range(4) for word in ("good", "long", "down")]
    questions.append(replace(questions[0], source="the same id again"))
    config = config_for(server, "shards", questions)
    with pytest.raises(UserError, match=r"3 of 3 shards are not finished: shard=0, 1, 2"):
        main(replace(config, num_shards=3, merge=True))
    shards = [main(replace(config, num_shards=3, shard=i)) for i in range(3)]
    merged = main(replace(config, num_shards=3, merge=True))
    whole = main(config)
    for name in ("traces.jsonl", "dropped.jsonl"):
        assert (merged / name).read_bytes() == (whole / name).read_bytes()
        assert all((path / name).read_bytes() != (whole / name).read_bytes() for path in shards)
    assert [row["reason"] for row in read_jsonl(whole / "dropped.jsonl")].count("duplicate") == 1
    assert spending(merged)["cost"] == pytest.approx(PRICES.cost(charged(server, "shards")))
    assert spending(whole)["cost"] == 0 and spending(whole)["num_taken_over"] == 8


@pytest.mark.slow
def test_an_endpoint_that_refuses_the_key_stops_the_run_and_drops_nothing(server, capfd):
    config = config_for(server, "locked", [ask("locked", number) for number in range(30)])
    with pytest.raises(UserError) as stop:
        main(config)
    assert "HTTP 401: wrong key Bearer [key]" in str(stop.value) and "\n" not in str(stop.value)
    assert sum(server.stats("locked")["calls"].values()) <= config.requests.max_concurrency
    server.heal("locked")
    assert set(outcomes(main(config)).values()) == {None}
    assert_no_key_in(*capfd.readouterr())


@pytest.mark.slow  # no torch, but together some seconds
def test_an_endpoint_that_is_down_stops_the_run_and_drops_nothing(server):
    config = config_for(server, "outage", [ask("down", number) for number in range(15)])
    requests = replace(config.requests, max_failures_in_a_row=5, max_concurrency=2)
    with pytest.raises(UserError, match="5 questions in a row failed, the last one with: HTTP 500: out of order"):
        main(replace(config, requests=requests))
    assert sum(server.stats("outage")["calls"].values()) < 30
    server.heal("outage")
    assert set(outcomes(main(config)).values()) == {None}


def test_nobody_there_is_an_api_error_without_a_status(server):
    config = config_for(server, "-", [ask("good")])
    path = main(replace(config, api=replace(config.api, base_url="http://127.0.0.1:9")))
    (row,) = read_jsonl(path / "dropped.jsonl")
    assert row["reason"] == "api_error" and "no connection" in row["error"] and "status" not in row
    assert spending(path)["cost_at_most"] == 0


def test_dry_run_says_what_it_would_cost_and_sends_nothing(server, capsys, monkeypatch):
    monkeypatch.delenv("TEACHER_KEY")
    config = config_for(server, "dry", [ask("good", number) for number in range(10)], max_cost=1.0, dry_run=True)
    config = replace(config, expected_output_tokens=10)
    assert main(replace(config, max_cost=0.05)) is None
    said = capsys.readouterr().err
    # 10 requests of 6 words: 60 tokens in, 100 out
    assert "10 requests" in said and "60 tokens in, 100 tokens out, cost 0.11" in said
    assert "0.05 left of max_cost 0.05, enough for about 4 of them" in said
    assert re.search(r"at most [\d,]+ tokens in, 640 tokens out", said)
    assert not Path("outputs").exists() and server.stats("dry")["calls"] == {}

    monkeypatch.setenv("TEACHER_KEY", KEY)
    main(replace(config, limit=4, dry_run=False))
    main(config)
    assert "4 decided before: 6 requests" in (said := capsys.readouterr().err)
    assert "9 tokens an answer (the mean of 4 answers)" in said
    assert sum(server.stats("dry")["calls"].values()) == 4


def test_correct_only_drops_wrong_answers_of_a_teacher(server):
    config = config_for(server, "right", [ask("good"), ask("wrong")], correct_only=True)
    assert list(outcomes(main(config)).values()) == [None, "wrong_answer"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["teacher=oracle"], "teacher 'oracle' is unknown"),
        (["api.model=null"], "needs api.base_url"),
        ([f"api.base_url=https://user:{KEY}@x/v1"], "credentials"),
        ([f"api.base_url=https://x/v1?key={KEY}"], "credentials"),
        ([f"api.base_url={KEY}"], "no http(s) address"),
        ([f"requests.api_key_env={KEY}"], "name of an environment variable"),
        ([f"api.system=use {KEY}"], "stands in the config"),
        (["api.options.max_tokens=9"], "api.max_tokens"),
        (["max_cost=1", "prices.output=null"], "max_cost needs prices"),
        (["retry=[wrong_answer]"], "'wrong_answer' is not asked again"),
        (["shard=2", "num_shards=2"], "shard=2"),
        (["merge=true"], "num_shards"),
        (["requests.api_key_env=UNSET_KEY"], "environment variable UNSET_KEY"),
        (["teacher=source", "max_cost=1"], "teacher=openai"),
        (["teacher=engine"], "local.model"),
        (["num_shards=2"], "question id 'no-hex'"),
    ],
)
def test_wrong_configs_are_one_line_without_the_key(changes, message):
    write_jsonl("questions.jsonl", [replace(ask("good"), id="no-hex")])
    Path("base.yaml").write_text(
        "{name: t, teacher: openai, questions: questions.jsonl, model: m, prices: {input: 1, output: 1},"
        " api: {base_url: 'http://127.0.0.1:9', model: m}, requests: {api_key_env: TEACHER_KEY}}"
    )
    with pytest.raises(UserError) as error:
        main(load(DistillConfig, ["base.yaml", *changes]))
    assert message in str(error.value) and "\n" not in str(error.value) and KEY not in str(error.value)
    assert not any(KEY in file.read_text() for file in Path().rglob("*") if file.is_file())


def test_a_key_that_no_header_can_hold_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", f"{KEY}\nX: 1")
    with pytest.raises(UserError, match="TEACHER_KEY holds characters that no key has") as error:
        main(config_for(server, "-", [ask("good")]))
    assert KEY not in str(error.value)


# Reading what comes back


@pytest.mark.parametrize(
    ("reasoning", "content", "expected"),
    [
        ("", "<think>\nhm\n</think>\n\n4", ("hm", "4")),
        ("", "hm\n</think>\n4", ("hm", "4")),
        ("", "hm </think> 4 </think> 5", ("hm", "4 </think> 5")),
        ("", "<think>never closed", ("never closed", "")),
        ("", "just 4", ("", "just 4")),
        ("", "<think></think>4", ("", "4")),
        ("hm", "4", ("hm", "4")),
        ("hm", "<think>\n\n</think>\n4", ("hm", "4")),
        ("hm", "4, as I said before </think>", ("hm", "4, as I said before </think>")),
        (" \n", "<think>hm</think>4", ("hm", "4")),
    ],
)
def test_thinking_is_found_in_its_field_or_between_tags(reasoning, content, expected):
    assert split_thinking(reasoning, content, "<think>", "</think>") == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}, Usage(7, 0, 5)),
        ({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 112}, Usage(7, 0, 105)),  # reasoning in the total
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}, Usage(7, 4, 5)),
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 3}}, Usage(7, 3, 5)),
        ({"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": None}, Usage(7, 0, 5)),
        ({"prompt_tokens": -7, "completion_tokens": 5}, None),
        ({"prompt_tokens": float("inf")}, None),
        ({"prompt_tokens": "many"}, None),
        ([], None),
        (None, None),
    ],
)
def test_usage_as_different_endpoints_report_it(raw, expected):
    assert usage_of(raw) == expected


@pytest.mark.parametrize(
    "data",
    [
        "", "<html>", "[]", "7", "null", '{"choices": 3}', '{"choices": ["x"]}', '{"choices": [{"delta": "x"}]}',
        '{"choices": [{"delta": {"content": 5}}]}', '{"choices": [{"delta": {"content": ["x"]}}]}',
        '{"choices": [{"finish_reason": {}, "delta": {"reasoning": 1.5}}]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_chunk_that_is_no_chat_chunk_is_malformed_and_nothing_worse(data):
    reply = Reply()
    reply.add(data)
    reply.add('{"choices": [{"delta": {"content": "4"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}')
    row = reply.row(str)
    assert row["malformed"] and row["usage"] == {"input_tokens": 3, "cached_input_tokens": 0, "output_tokens": 0}
    assert answer_of_row({"event": "answered", **row}, ("<think>", "</think>")).drop == "malformed"


def test_what_is_kept_can_be_written_and_never_holds_the_key():
    endpoint = ChatEndpoint(ApiConfig(base_url="http://x", model="m"), RequestConfig(), KEY)
    assert endpoint.scrub(f"a {KEY} b") == "a [key] b"
    halves = Reply()
    for said in (r"\ud83d", r"\ude00 \ud83d.", "sk-very-secret-", "0123456789"):
        halves.add(f'{{"choices": [{{"delta": {{"content": "{said}"}}}}]}}')
    assert halves.row(endpoint.scrub)["content"] == "\U0001f600 \ufffd.[key]"
    placeholder = ChatEndpoint(ApiConfig(base_url="http://x", model="m"), RequestConfig(), "EMPTY")
    assert placeholder.scrub("The set is EMPTY") == "The set is EMPTY"


def test_an_error_inside_a_stream_is_a_failure_that_may_have_cost():
    for body, passes in (('{"error": {"message": "busy", "code": 503}}', True), ('{"error": "no"}', True),
                         ('{"error": {"message": "no", "code": 400}}', False)):  # fmt: skip
        with pytest.raises(RequestFailed) as failed:
            Reply().add(body)
        assert failed.value.maybe_paid and failed.value.is_passing == passes


def test_retry_after_is_seconds_or_a_date_and_never_undercut():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert (
        seconds_of("1.5") == 1.5 and seconds_of("-3") == 0 and seconds_of("soon") is None and seconds_of(None) is None
    )
    assert 28 < seconds_of(soon) <= 30
    wait = waiting_time(RequestConfig(first_wait=1.0, max_wait=8.0))

    def after(num_attempts: int, retry_after: float | None) -> float:
        failure = RequestFailed("busy", 429, retry_after=retry_after)
        outcome = SimpleNamespace(exception=lambda: failure)
        return wait(SimpleNamespace(attempt_number=num_attempts, outcome=outcome))

    assert all(2 ** (n - 1) <= after(n, None) <= 2 ** (n - 1) + 1 for n in (1, 2, 3)), "doubles, with jitter"
    assert len({after(1, None) for _ in range(5)}) > 1 and after(9, None) == 8.0 and after(1, 30.0) == 30.0


def test_a_wait_that_is_too_long_ends_the_question(server):
    config = config_for(server, "patience", [ask("429")])
    path = main(replace(config, requests=replace(config.requests, max_retry_after=0.1)))
    (row,) = read_jsonl(path / "dropped.jsonl")
    assert (row["reason"], row["status"]) == ("api_error", 429) and spending(path)["num_requests"] == 1


# The ledger


def test_a_ledger_read_from_its_journal_is_the_one_that_wrote_it(tmp_path):
    limits = {"max_input_tokens": 10, "max_output_tokens": 100}
    answer = {
        "reasoning": "r",
        "content": "c",
        "usage": {"input_tokens": 5, "cached_input_tokens": 1, "output_tokens": 7},
    }
    for idempotent in (False, True):
        folder = tmp_path / str(idempotent)
        store = AnswerStore(folder, "run", Ledger(PRICES, idempotent))
        store.record("started", "a", **limits)
        store.record("failed", "a", status=None, error="cut", maybe_paid=True)
        store.record("started", "a", **limits)
        store.record("started", "b", **limits)
        assert store.ledger.committed == Usage(30, 0, 300)
        store.close()  # as a kill would
        store = AnswerStore(folder, "run", Ledger(PRICES, idempotent))
        assert store.ledger.counts["lost"] == 2 and store.ledger.committed == Usage(30, 0, 300)
        key = store.idempotency_key("a")
        store.record("started", "a", **limits)
        store.record("answered", "a", **answer)
        # an honoured key settles what was lost before; without, it may have cost
        assert store.ledger.uncertain == (Usage(10, 0, 100) if idempotent else Usage(30, 0, 300))
        assert store.idempotency_key("a") != key and store.outcome("b") is None
        store.record("reopened", "a")
        assert store.outcome("a") is None
        store.close()
        again = AnswerStore(folder, "run", Ledger(PRICES, idempotent), write=False)
        assert again.ledger.summary() == store.ledger.summary() and again.outcome("a") is None
        other = AnswerStore(folder, "other", Ledger(PRICES), write=False)
        assert other.outcome("a")["content"] == "c" and other.is_taken_over("a") and other.ledger.cost == 0


def test_unknown_prices_are_an_unknown_cost():
    assert Prices().cost(Usage(1, 0, 1)) is None and Ledger(Prices()).summary()["cost"] is None
    assert Prices(2.0, None, 8.0).cost(Usage(1_000_000, 500_000, 1_000_000)) == 10.0


# Other teachers


def test_the_source_is_its_own_teacher(tmp_path):
    def of(answer: str | None, **metadata) -> Question:
        return Question.of(f"{metadata} {answer}", answer, "open", "test", "sums", **metadata)

    questions = [of("4", solution=" 2 + 2\nis four \n"), of(None, solution="2 + 2\nTherefore 4."), of("4"),
                 of("5", solution=None), of("6", solution="  ")]  # fmt: skip
    write_jsonl("questions.jsonl", questions)
    path = main(DistillConfig("t", "questions.jsonl", "source", model="m"))
    traces = list(read_jsonl(path / "traces.jsonl"))
    assert [(t["thinking"], t["attempt"], t["teacher"]) for t in traces] == [
        ("2 + 2\nis four", "Final Answer: 4", "source"),
        ("2 + 2\nTherefore 4.", "Final Answer: Therefore 4.", "source"),
    ]
    assert [row["reason"] for row in read_jsonl(path / "dropped.jsonl")] == ["no_solution"] * 3
    assert source_answer(of("1", solution=["not", "text"])).drop == "no_solution"


@pytest.mark.slow
def test_a_local_model_is_a_teacher_and_resumes(monkeypatch):
    tokenizer = tiny_tokenizer()
    says = {"0": "<think>\nhm\n</think>\n\nAnswer: 4<|im_end|>", "1": "<think>" + "hm " * 300,
            "2": "<think></think>4<|im_end|>"}  # fmt: skip

    def script(prefix, seed):
        header = tokenizer.decode(prefix).split("<think>")[0]
        planned = tokenizer.encode(says[header.split("good: ")[1][0]], add_special_tokens=False)
        return planned[len(prefix) - len(tokenizer.encode(header, add_special_tokens=False))]

    engines = []

    def load_scripted(model, config):
        engines.append(ScriptedEngine(script, 200, len(tokenizer), fail_after=20 if not engines else None))
        return engines[-1], tokenizer

    monkeypatch.setattr(inference.engine, "load_engine", load_scripted)
    write_jsonl("questions.jsonl", [ask("good", number) for number in range(3)])
    local = LocalConfig(model="some/teacher-7b", max_answer_tokens=20)
    config = DistillConfig("t", "questions.jsonl", "engine", model="m", local=local)
    with pytest.raises(RuntimeError, match="scripted failure"):
        main(config)
    path = main(config)
    (trace,) = read_jsonl(path / "traces.jsonl")
    assert (trace["thinking"], trace["attempt"], trace["teacher"]) == ("hm", "Answer: 4", "teacher-7b")
    assert list(outcomes(path).values()) == [None, "truncated", "empty_thinking"]
    assert main(config) == path and len(engines) == 2


CONFIGS = sorted((Path(__file__).parent.parent / "configs/data").glob("distill-*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_load_and_pass_the_checks(path):
    config = load(DistillConfig, [str(path), "questions=q.jsonl", "model=m"])
    if config.teacher == "openai" and config.api.base_url is None:
        config.api.base_url, config.api.model = "http://localhost:8000/v1", "m"
    if config.teacher == "engine":
        config.local.model = "m"
    distill.check(config)


def test_there_is_a_config_for_each_way():
    assert {path.stem for path in CONFIGS} == {
        "distill-deepseek-r1", "distill-gemini", "distill-local", "distill-openai", "distill-source",
    }  # fmt: skip
