"""Every question ends with one subject of the list or one reason, whatever the endpoint does; nothing is paid twice."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import ChatServer, chat_server, completion
from tiny_tokenizer import tiny_tokenizer

import data.classify
import inference.engine
from core.ask import MAX_TRIES
from core.config import UserError, load
from core.endpoint import ApiConfig, RequestConfig, worst_usage
from core.journal import Journal
from core.ledger import Ledger, Prices, Usage
from core.runs import read_record, run_path
from core.types import Question, question_id, read_jsonl, write_jsonl
from data.classify import CHARS_PER_TOKEN, INSTRUCTIONS, REMINDER, SYSTEM, ClassifyConfig, main, prompt_of, read_code
from data.msc import SUBJECTS
from inference.scripted_engine import ScriptedEngine

ROOT = Path(__file__).parent.parent
KEY = "sk-very-secret-1234"
CODES = ["11", "51", "05", "60"]


def problem_of(user: str) -> str:
    return user.split("<problem>\n")[1].split("\n</problem>")[0]


def questions(texts) -> list[Question]:
    return [Question.of(text, "1", "integer", "test", "math") for text in texts]


NUMBERED = questions(f"{i} of many" for i in range(12))


def answer_numbered(user: str, before: int) -> str:
    return f"Because.\n{CODES[int(problem_of(user).split()[0]) % len(CODES)]}"


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_KEY", KEY)


def config_for(server: ChatServer, asked: list[Question] = NUMBERED, max_tokens: int = 512, **how) -> ClassifyConfig:
    """how: fields of RequestConfig that differ from the usual ones."""
    write_jsonl("questions.jsonl", asked)
    usual = {"api_key_env": "TEST_KEY", "max_attempts": 3, "first_wait": 0.001, "max_wait": 0.001, "max_concurrency": 4}
    api = ApiConfig(base_url=server.url, model="fake", max_tokens=max_tokens)
    return ClassifyConfig("t", "questions.jsonl", api, RequestConfig(**{"timeout": 20.0, **usual, **how}))


@pytest.mark.slow
def test_every_question_ends_with_a_subject_or_a_reason():
    ok = "It is about primes.\n11"
    replies = {
        "right": [ok],
        "unknown code, then right": ["99", ok],
        "bold, then right": ["**11**", ok],
        "cut at its limit, then right": [completion("60", finish_reason="length"), ok],
        "rate limited": [(429, {"Retry-After": "0.2"}), ok],
        "server error": [500, 503, ok],
        "no JSON": [b"<html>", b"{}", ok],
        "cut": ["CUT", ok],
        "garbage for ever": ["I cannot tell."],
        "empty": [completion(None)],
        "500 for ever": [500],
        "refused": [completion(None, refusal="I will not.")],
        "filtered": [completion("11", finish_reason="content_filter")],
        "bad request": [400],
    }
    times: dict[str, list[float]] = {}

    def script(user, before):
        problem = problem_of(user)
        times.setdefault(problem, []).append(time.monotonic())
        return replies[problem][min(before, len(replies[problem]) - 1)]

    with chat_server(script) as server:
        path = main(config_for(server, questions(replies)))
    text_of = {q.id: q.text for q in questions(replies)}
    found = {text_of[row["question_id"]]: (row["code"], row["domain"]) for row in read_jsonl(path / "domains.jsonl")}
    dropped = {row["text"]: row["reason"] for row in read_jsonl(path / "dropped.jsonl")}
    assert found == dict.fromkeys(list(replies)[:8], ("11", "Number theory"))
    assert dropped == {
        "garbage for ever": "not_a_code",
        "empty": "not_a_code",
        "500 for ever": "api_error",
        "refused": "refused",
        "filtered": "refused",
        "bad request": "api_error",
    }
    asked = server.num_asked
    assert asked["garbage for ever"] == asked["empty"] == MAX_TRIES == 3
    assert asked["500 for ever"] == 3 and asked["bad request"] == 1, "max_attempts=3, where they may help"
    assert asked["refused"] == asked["filtered"] == asked["right"] == 1
    first, second = times["rate limited"]
    assert second - first >= 0.2, "Retry-After wins over our own wait of a millisecond"
    again = [b["messages"][-1]["content"] for b in server.bodies if "unknown code" in b["messages"][-1]["content"]]
    assert [REMINDER in message for message in again] == [False, True]
    headline = read_record(path)["headline"]
    assert headline["num_classified"] == len(found)
    assert headline["spending"]["num_answers"] == server.num_paid.total() + 2, "what is no completion may be paid"


@pytest.mark.slow
def test_a_reply_that_never_comes_is_dropped_and_the_others_go_on():
    def script(user, before):
        return "HANG" if problem_of(user) == "hangs" else "11"

    with chat_server(script) as server:
        path = main(config_for(server, questions(["hangs", "answers"]), timeout=0.3, max_attempts=2))
    assert server.num_asked["hangs"] == 2 and len(list(read_jsonl(path / "domains.jsonl"))) == 1
    (row,) = read_jsonl(path / "dropped.jsonl")
    assert row["reason"] == "api_error" and "Timeout" in row["detail"]


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_as_the_uninterrupted_one(monkeypatch):
    with chat_server(answer_numbered) as server:
        config = config_for(server)
        append, appended = Journal.append, []

        def append_five(journal, row):
            append(journal, row)
            if row["event"] == "answered":
                appended.append(row["question"])
            if len(appended) == 5:
                raise Killed

        monkeypatch.setattr(Journal, "append", append_five)
        with pytest.raises(Killed):
            main(config)
        monkeypatch.setattr(Journal, "append", append)
        path = main(config)
        texts = {question_id(prompt_of(q)): q.text for q in NUMBERED}
        assert all(server.num_asked[texts[key]] == 1 for key in appended), "what is journalled is not asked again"
        killed = (path / "domains.jsonl").read_bytes()
        whole = main(replace(config, name="whole"))
        assert (whole / "domains.jsonl").read_bytes() == killed
        assert len(killed.splitlines()) == len(NUMBERED)


@pytest.mark.slow  # two interpreters, and half a second of waiting
def test_kill_9_halfway():
    def script(user, before):
        time.sleep(0.05)
        return answer_numbered(user, before)

    with chat_server(script) as server:
        write_jsonl("questions.jsonl", NUMBERED)
        api = [f"api.base_url={server.url}", "api.model=fake", "requests={api_key_env: TEST_KEY, max_concurrency: 2}"]
        arguments = ["-m", "data.classify", "name=t", "questions=questions.jsonl", *api]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while server.num_paid.total() < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        (journal,) = Path("outputs/data").glob("t-*/classify/*.jsonl")
        kept = {row["question"] for row in Journal.read(journal) if row["event"] == "answered"}
        assert 0 < len(kept) < len(NUMBERED)
        subprocess.run([sys.executable, *arguments], env=environment, check=True)
        domains = read_jsonl(journal.parent.parent / "domains.jsonl")
        assert [row["question_id"] for row in domains] == [q.id for q in NUMBERED]
        assert all(server.num_paid[q.text] == 1 for q in NUMBERED if question_id(prompt_of(q)) in kept)
        assert server.num_paid.total() <= len(NUMBERED) + 2, "only what was in flight is paid again"


@pytest.mark.slow
def test_max_cost_holds_and_a_higher_one_goes_on():
    with chat_server(answer_numbered) as server:
        config = config_for(server, max_tokens=100)
        config = replace(config, prices=Prices(10.0, None, 40.0), max_cost=0.2)  # a reply costs 1.4 cents
        with pytest.raises(UserError, match=r"max_cost=0.20: 0.\d+ is spent.*higher max_cost goes on"):
            main(config)
        paid = dict(server.num_paid)
        assert 0 < server.cost(10.0, 40.0) <= 0.2 and len(paid) < len(NUMBERED)
        path = main(replace(config, max_cost=5.0, requests=replace(config.requests, max_concurrency=2)))
        assert set(server.num_paid.values()) == {1}
        assert read_record(path)["headline"]["spending"]["cost"] == pytest.approx(server.cost(10.0, 40.0))


def test_a_request_reserves_its_worst_case():
    api = ApiConfig(system="a" * 40, max_tokens=10)
    worst = worst_usage("\u00e9" * 10, api, RequestConfig())
    assert worst == Usage(60 + 2 * 64, 0, 10), "a token a byte, and 64 for the template around each message"
    ledger = Ledger(Prices(1.0, None, 1.0))
    limits = {"max_input_tokens": worst.input_tokens, "max_output_tokens": worst.output_tokens}
    for key in "ab":
        assert ledger.fits(worst, 400e-6)
        ledger.apply({"event": "started", "question": key, **limits})
    assert not ledger.fits(worst, 400e-6)
    ledger.apply({"event": "answered", "question": "a", "usage": {"input_tokens": 20, "output_tokens": 5}})
    assert ledger.fits(worst, 422e-6) and ledger.cost == pytest.approx(25e-6)
    ledger.apply({"event": "answered", "question": "b", "usage": None})
    assert ledger.prices.cost(ledger.committed) == pytest.approx(223e-6), "an untold usage counts as the worst case"
    assert not ledger.fits(worst, 420e-6)


@pytest.mark.slow
def test_the_key_stays_in_the_environment(capsys):
    """The server repeats it in its errors."""

    def script(user, before):
        return 500 if problem_of(user).startswith("3 ") else answer_numbered(user, before)

    with chat_server(script) as server:
        path = main(config_for(server))
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    (row,) = read_jsonl(path / "dropped.jsonl")
    assert row["reason"] == "api_error" and "status 500, Bearer [key]" in row["detail"]
    written = [file for file in Path("outputs").rglob("*") if file.is_file()]
    assert len(written) > 5 and not any(KEY.encode() in file.read_bytes() for file in written)
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_without_a_key_none_is_sent_and_a_redirect_is_not_followed(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    redirect = (307, {"Location": "/v1/chat/completions"})
    refused = pytest.raises(UserError, match="the endpoint refuses requests: HTTP 307")
    with chat_server(lambda user, before: redirect) as server, refused:
        main(config_for(server, api_key_env=None, max_concurrency=1))
    (headers,) = server.headers
    assert "authorization" not in {name.lower() for name in headers}


@pytest.mark.slow
def test_a_config_that_cannot_work_is_one_clear_line(monkeypatch):
    with chat_server(lambda user, before: 401) as server:
        config = config_for(server)
        with pytest.raises(UserError, match=r"the endpoint refuses requests: HTTP 401: status 401, Bearer \[key\]"):
            main(config)
        assert server.num_asked.total() <= 4, "and nobody else is asked"
        wrong = {
            "max_cost needs prices": {"max_cost": 1.0},
            "environment variable NOT_SET .* is not set": {"requests": RequestConfig(api_key_env="NOT_SET")},
            "the name of an environment variable, in capitals, not the key": {"requests": RequestConfig(KEY)},
            "the API key stands in the config": {"name": f"with {KEY}"},
            "a system message of its own": {"api": replace(config.api, system="Be kind.")},
        }
        for message, changes in wrong.items():
            with pytest.raises(UserError, match=message) as error:
                main(replace(config, **changes))
            assert KEY not in str(error.value)
        for changes in ({"api": ApiConfig()}, {"model": "m"}):
            with pytest.raises(UserError, match="who classifies"):
                main(replace(config, **changes))
    nobody_there = config_for(server, max_failures_in_a_row=5)
    with pytest.raises(UserError, match="5 questions in a row failed, the last one with: no connection"):
        main(replace(nobody_there, name="nobody there"))


@pytest.mark.slow
def test_an_endpoint_that_goes_away_stops_the_run():
    with chat_server(lambda user, before: "11" if problem_of(user).startswith("0 ") else 500) as server:
        with pytest.raises(UserError, match="4 questions in a row failed"):
            main(config_for(server, max_concurrency=1, max_failures_in_a_row=4))
        server.script = answer_numbered
        path = main(config_for(server))
    assert len(list(read_jsonl(path / "domains.jsonl"))) == len(NUMBERED)
    assert server.num_paid["0 of many"] == 1


def test_a_dry_run_asks_nothing_and_leaves_nothing(capsys, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with chat_server(answer_numbered) as server:
        config = replace(config_for(server, max_tokens=500), prices=Prices(2.0, None, 8.0), max_cost=3.0)
        assert main(replace(config, dry_run=True)) is None
    assert not server.bodies and not Path("outputs").exists()
    said = capsys.readouterr().err
    read = sum(len(SYSTEM) + len(prompt_of(q)) for q in NUMBERED) / CHARS_PER_TOKEN
    assert "12 questions, 0 asked before: 12 requests" in said
    assert f"{read:,.0f} tokens in, 1,200 tokens out, cost {(read * 2 + 1200 * 8) / 1e6:.2f}" in said
    assert re.search(r"at most [\d,]+ tokens in, 6,000 tokens out, cost", said)
    assert run_path("data", replace(config, dry_run=True)) == run_path("data", config), "it counts what is journalled"


@pytest.mark.slow
def test_merged_shards_are_the_unsharded_run():
    with chat_server(
        lambda user, before: "?" if problem_of(user)[0] == "7" else answer_numbered(user, before)
    ) as server:
        config = config_for(server)
        whole = main(config)
        sharded = replace(config, num_shards=2)
        for shard in range(2):
            main(replace(sharded, shard=shard))
        num_requests = len(server.bodies)
        merged = main(replace(sharded, merge=True))
        assert len(server.bodies) == num_requests
    for file in ("domains.jsonl", "dropped.jsonl"):
        assert (merged / file).read_bytes() == (whole / file).read_bytes()
    assert read_record(merged)["headline"] == read_record(whole)["headline"]


def test_a_local_model_classifies(monkeypatch):
    """Code 11 at once, or a wrong one until it is reminded, or never."""
    tokenizer, loaded = tiny_tokenizer(), []

    def script(prefix, seed):
        user, said = tokenizer.decode(prefix).split("user\n")[1].split("assistant\n")
        reminded = REMINDER[:20] in user
        text = "11" if "easy" in user or (reminded and "hard" in user) else "zz"
        ids, done = (tokenizer.encode(t, add_special_tokens=False) for t in (text, said))
        return ids[len(done)] if len(done) < len(ids) else tokenizer.eos_token_id

    def load_engine(model, config):
        loaded.append(ScriptedEngine(script, 400, len(tokenizer)))
        return loaded[-1], tokenizer

    monkeypatch.setattr(inference.engine, "load_engine", load_engine)
    monkeypatch.setattr(data.classify, "INSTRUCTIONS", replace(INSTRUCTIONS, system="Which subject?"))
    write_jsonl("questions.jsonl", questions(["easy", "hard", "never", "x" * 900]))
    config = ClassifyConfig(name="t", questions="questions.jsonl", model="m", max_answer_tokens=16)
    path = main(config)
    assert [row["code"] for row in read_jsonl(path / "domains.jsonl")] == ["11", "11"]
    reasons = {row["text"][:5]: row["reason"] for row in read_jsonl(path / "dropped.jsonl")}
    assert reasons["never"] == "not_a_code" and set(reasons) == {"never", "xxxxx"}
    assert len(loaded) == 1 and main(config) == path and len(loaded) == 1


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("Primes.\n11", "11"),
        ("11\n", "11"),
        ("Primes.\n 11 \n\n", "11"),
        ("Code 11", None),
        ("11.", None),
        ("1", None),
        ("04", None),
        ("11\nThat is all.", None),
        ("", None),
    ],
)
def test_only_a_code_of_the_list_alone_on_the_last_line_counts(reply, code):
    assert read_code(reply) == code


def test_the_subjects_are_those_of_the_paper():
    """Codes as the released featurization.py lists them."""
    codes = """03 05 06 08 11 12 13 14 15 16 17 18 19 20 22 26 28 30 31 32 33 34 35 37 39 40 41 42 43 44 45 46 47 49 51
    52 53 54 55 57 58 60 62 65 68 70 74 76 78 80 81 82 83 85 86 90 91 92 93 94 97"""
    assert list(SUBJECTS) == codes.split() and len(SUBJECTS) == 61
    assert len({s.title for s in SUBJECTS.values()}) == 61 and all(s.covers for s in SUBJECTS.values())
    assert all(f"\n{s.code} {s.title}: {s.covers}\n" in SYSTEM for s in SUBJECTS.values())


def test_a_huge_question_is_cut():
    prompt = prompt_of(questions(["begin " + "x" * 10_000_000])[0])
    assert len(prompt) < 21_000 and "begin" in prompt and "left out" in prompt


def test_the_checked_in_config_loads():
    config = load(ClassifyConfig, [str(ROOT / "configs/data/classify.yaml"), "questions=x"])
    assert config.max_cost and config.prices.are_known and config.api.options == {"temperature": 0}
