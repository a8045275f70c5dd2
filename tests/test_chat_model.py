"""A chat endpoint evaluated: its answers graded, each paid once, failures asked again, thinking kept apart."""

import json
from collections import Counter

import pytest
from chat_server import COMPLETION_TOKENS, PROMPT_TOKENS, chat_server, completion

from core.config import UserError, load
from core.endpoint import Reply
from core.runs import Run
from core.types import Question, write_jsonl
from eval.cells import Cell, Cells, cells_of
from eval.chat_model import CELL, ChatModelConfig, check, draw_replies, row_of
from eval.draw import tasks_of
from eval.run import EvalConfig
from eval.run import main as evaluate
from inference.budget import Budget


def question(text: str) -> Question:
    """As the fake server reads it, which charges 1,000 tokens for it."""
    return Question.of(f"<problem>\n{text}\n</problem>{' ' * 1000}", "4", "integer", "t", "sums")


def config(url: str, *args: str) -> ChatModelConfig:
    pairs = [f"api.base_url={url}", "api.model=big", "requests.stream=false", "requests.first_wait=0.001",
             "requests.max_attempts=2", "prices.input=1", "prices.output=10", *args]  # fmt: skip
    return load(ChatModelConfig, pairs)


@pytest.fixture
def draw(tmp_path):
    """draw(config, questions, repeats) -> (rows, spending): one sitting of one run."""

    def sitting(config, questions, repeats=1, cells=(CELL,), **more):
        tasks = tasks_of(questions, cells, repeats, "b")
        rows, spent = draw_replies(config, tasks, Run(tmp_path / "t-1234abcd", {}), **more)
        return list(rows), spent

    return sitting


def reply_body(content, finish="stop", reasoning=None, reasoning_tokens=None):
    body = completion(content, finish)
    body["choices"][0]["message"]["reasoning_content"] = reasoning
    if reasoning_tokens is not None:
        body["usage"]["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    return body


def reply(*args, **parts):
    """What the journal keeps of such a body."""
    reply = Reply()
    reply.add(json.dumps(reply_body(*args, **parts)))
    return {"event": "answered", **reply.row(str)}


def row(outcome, *args):
    (task,) = tasks_of([question("2 + 2")], [CELL])
    return row_of(task, outcome, config("http://localhost/v1", *args))


@pytest.mark.slow
def test_every_repeat_is_a_request_of_its_own_and_none_is_paid_twice(draw):
    questions = [question("2 + 2"), question("3 + 1")]
    with chat_server(lambda user, before: f"Answer: {4 + before % 2}") as server:
        rows, spent = draw(config(server.url), questions, repeats=3)
        assert [(r["question_id"], r["repeat"]) for r in rows] == [(q.id, r) for q in questions for r in range(3)]
        assert Counter(r["correct"] for r in rows) == {True: 4, False: 2}, "the server says 4, 5, 4 to each"
        assert spent["num_requests"] == 6 and spent["cost"] == pytest.approx(server.cost(1, 10))
        assert draw(config(server.url), questions, repeats=3) == (rows, spent) and server.num_paid.total() == 6
        more, _ = draw(config(server.url), questions, repeats=4)
        assert server.num_paid.total() == 8 and [r for r in more if r["repeat"] < 3] == rows
    row = rows[0]
    assert (row["benchmark"], row["cell"], row["ended"], row["answer_finish"]) == ("b", "chat", "natural", "stop")
    assert (row["num_prompt_tokens"], row["num_answer_tokens"]) == (PROMPT_TOKENS, COMPLETION_TOKENS)
    assert row["num_thinking_tokens"] == 0 and row["flops"] is None and row["extracted"] in ("4", "5")


@pytest.mark.parametrize(
    ("outcome", "response", "thinking", "ended", "tokens", "correct"),
    [
        (reply("Answer: 4", reasoning="2 and 2"), "Answer: 4", "2 and 2", "natural", (None, None), True),
        (
            reply("Answer: 4", reasoning="2 and 2", reasoning_tokens=90),
            "Answer: 4",
            "2 and 2",
            "natural",
            (90, 10),
            True,
        ),
        (reply("<think>so 5</think>Answer: 4"), "Answer: 4", "so 5", "natural", (None, None), True),
        (reply("", "length", "so \\boxed{4}"), "", "so \\boxed{4}", "budget", (None, None), False),
        (reply("<think>so \\boxed{4}", "length"), "", "so \\boxed{4}", "budget", (None, None), False),
        (reply("It is \\boxed{4}. Now", "length"), "It is \\boxed{4}. Now", "", "natural", (0, 100), True),
        (reply("", "content_filter"), "", "", "natural", (0, 100), False),
    ],
)
def test_thinking_is_kept_apart_and_never_graded(outcome, response, thinking, ended, tokens, correct):
    found = row(outcome)
    assert (found["response"], found["thinking"], found["ended"], found["correct"]) == (
        response,
        thinking,
        ended,
        correct,
    )
    assert (found["num_thinking_tokens"], found["num_answer_tokens"]) == tokens
    assert (found["answer_finish"] is None) == (ended == "budget")


def test_where_the_template_opens_thinking_an_unclosed_reply_is_thinking():
    found = row(reply("so \\boxed{4}, or", "length"), "opens_thinking=true")
    assert (found["response"], found["thinking"], found["correct"]) == ("", "so \\boxed{4}, or", False)
    found = row(reply("so 5</think>\n\nAnswer: 4"), "opens_thinking=true")
    assert (found["response"], found["thinking"], found["correct"]) == ("Answer: 4", "so 5", True)


@pytest.mark.slow
def test_what_failed_for_good_is_no_wrong_answer_and_is_asked_again(draw):
    is_healed = False

    def script(user, before):
        return 500 if "3 + 1" in user and not is_healed else "Answer: 4"

    questions = [question("2 + 2"), question("3 + 1")]
    with chat_server(script) as server:
        rows, _ = draw(config(server.url), questions)
        assert [(r["ended"], r["correct"]) for r in rows] == [("natural", True), ("error", None)]
        assert rows[1]["error"].startswith("HTTP 500") and server.num_asked["3 + 1"] == 2
        is_healed = True
        rows, spent = draw(config(server.url), questions)
        assert [(r["ended"], r["correct"]) for r in rows] == [("natural", True)] * 2
        assert server.num_paid == {"2 + 2": 1, "3 + 1": 1} and spent["num_answers"] == 2


@pytest.mark.slow
def test_max_cost_leaves_questions_for_later(draw):
    questions = [question(f"{i} + {4 - i}") for i in range(4)]
    with chat_server(lambda user, before: "Answer: 4") as server:
        cheap = ["api.max_tokens=100", "requests.max_concurrency=1"]
        with pytest.raises(UserError, match=r"max_cost=0.01: 0.00\d+ is spent"):
            draw(config(server.url, *cheap, "max_cost=0.01"), questions, num_shards=2)
        assert 0 < server.num_paid.total() < 4 and server.cost(1, 10) <= 0.005
        rows, _ = draw(config(server.url, *cheap, "max_cost=1"), questions)
        assert all(r["correct"] for r in rows) and server.num_paid.total() == 4


def test_a_malformed_answer_is_ungraded():
    unread = Reply()
    unread.add("<html>gateway</html>")
    found = row({"event": "answered", **unread.row(str)})
    assert found["correct"] is None and found["ended"] == "natural" and found["num_sampled_tokens"] is None
    assert found["grader"] == "none (malformed)" and "<html>" in found["error"]


def test_the_question_may_ask_for_short_thinking(draw):
    cells = cells_of([Cells(), Cells(control="short")], "s1", "", 100, False)
    check(config("http://localhost/v1"), 1, cells)
    with chat_server(lambda user, before: "Answer: 4") as server:
        rows, _ = draw(config(server.url), [question("2 + 2")], cells=cells)
        asked = [body["messages"][-1]["content"] for body in server.bodies]
    assert {r["cell"] for r in rows} == {"max=auto", "short max=auto"} and len(set(asked)) == 2


@pytest.mark.slow
def test_eval_run_evaluates_an_endpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    questions = [question("2 + 2"), question("3 + 1")]
    write_jsonl("q.jsonl", questions)
    is_healed = False

    def script(user, before):
        return 500 if "3 + 1" in user and not is_healed else reply_body("Answer: 4", reasoning_tokens=30)

    with chat_server(script) as server:
        endpoint = [f"chat_model.api.base_url={server.url}", "chat_model.api.model=org/big"]
        requests = "chat_model.requests={stream: false, max_attempts: 1}"
        args = ["name=big", "questions=q.jsonl", *endpoint, requests]
        with pytest.raises(UserError, match=r"1 requests failed, the first \(questions, chat, .*HTTP 500"):
            evaluate(load(EvalConfig, args))
        is_healed = True
        path = evaluate(load(EvalConfig, args))
        assert evaluate(load(EvalConfig, args)) == path and server.num_paid == {"2 + 2": 1, "3 + 1": 1}
    scores = json.loads((path / "scores.json").read_text())
    (score,) = scores["cells"]
    assert (score["cell"], score["accuracy"], score["thinking_tokens"]) == ("chat", 100.0, 30)
    assert scores["chat_model"]["num_answers"] == 2
    (results,) = (path / "harness" / "chat").glob("results_*.json")
    assert json.loads(results.read_text())["model_name"] == "org/big"
    with pytest.raises(UserError, match="name what to evaluate: model=.*, or chat_model="):
        evaluate(load(EvalConfig, [*args, "model=m"]))


@pytest.mark.parametrize(
    ("args", "repeats", "cell", "said"),
    [
        (["api.options={seed: 1}"], 2, CELL, "all are the same"),
        (["api.options={temperature: 0}"], 2, CELL, "all are the same"),
        ([], 1, Cell("max=64", Budget(64)), "cannot be forced"),
        ([], 1, Cell("max=auto ignore=1", Budget("auto", num_ignore=1)), "cannot be forced"),
        (["requests.api_key_env=NO_SUCH_KEY"], 1, CELL, "NO_SUCH_KEY"),
        (["api.model=null"], 1, CELL, "api.model"),
    ],
)
def test_what_could_only_fail_later_is_refused(args, repeats, cell, said):
    with pytest.raises(UserError, match=said):
        check(config("http://localhost/v1", *args), repeats, [cell])
