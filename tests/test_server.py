"""The server over a scripted engine: the tests of every server, the queue, clients that leave, engines that fail."""

import json
import signal
import socket
import threading
import time

import pytest
from running_server import CONTEXT, SlowEngine, chat_format, running_server, server_process
from tiny_tokenizer import CHATML, tiny_tokenizer

pytest.importorskip("fastapi")
pytest.register_assert_rewrite("server_suite")
import httpx2  # noqa: E402
import openai  # noqa: E402
from server_suite import *  # noqa: E402, F403
from server_suite import MESSAGES, Served, read_stream, reference_on  # noqa: E402

from core.chat import ChatFormat  # noqa: E402
from core.config import UserError  # noqa: E402
from inference.budget import Budget  # noqa: E402
from inference.serve import bind  # noqa: E402

pytestmark = pytest.mark.slow
WITH_TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + CHATML
FOREVER = {"min_thinking_tokens": CONTEXT, "max_thinking_tokens": CONTEXT}


@pytest.fixture(scope="module", params=["s1", "think-tags, with tools"])
def served(request):
    template = WITH_TOOLS if "tools" in request.param else CHATML
    chat = ChatFormat(request.param.split(",")[0], tiny_tokenizer(chat_template=template))
    with running_server(SlowEngine(0.001), chat) as url:
        yield Served(url, "tiny", chat, CONTEXT, reference_on(SlowEngine()))


def served_at(url: str) -> Served:
    return Served(url, "tiny", chat_format(), CONTEXT, reference_on(SlowEngine()))


def post(url: str, **fields) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES, **fields}, timeout=60)


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_more_clients_than_places_all_get_their_own_text():
    prompts = [[{"role": "user", "content": f"Question {i}"}] for i in range(24)]
    got: dict[int, str] = {}
    with running_server(SlowEngine(0.0005), max_num_seqs=3) as url:
        served = served_at(url)

        def ask(i: int) -> None:
            stream = served.ask(prompts[i], extra={"max_thinking_tokens": 5 + i, "max_answer_tokens": 20}, stream=True)
            got[i] = read_stream(stream).content[0]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for i, messages in enumerate(prompts):
            expected = served.asked_directly(Budget(5 + i, max_answer_tokens=20), messages)
            assert got[i] == expected.text("answer")


def test_a_full_queue_says_so_and_is_open_again_when_clients_have_left():
    with running_server(SlowEngine(0.02), max_num_seqs=2, max_queue=2, max_n=3) as url:
        served = served_at(url)
        streams = [served.ask(extra=FOREVER, stream=True) for _ in range(4)]
        until(lambda: served.num_running() == 2)
        metrics = httpx2.get(f"{url}/metrics").text
        assert "budget_forcing_waiting 2.0" in metrics
        refused = post(url)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        for stream in streams[:3]:  # two that run and one that waits
            stream.close()
        answer = post(url, n=3, max_thinking_tokens=3, max_answer_tokens=3)
        until(lambda: served.num_running() == 1)
        assert len(answer.json()["choices"]) == 3
        streams[3].close()
        until(lambda: served.num_running() == 0)


def test_a_client_that_leaves_before_a_whole_answer_frees_the_engine():
    engine = SlowEngine(0.02)
    with running_server(engine) as url:
        with pytest.raises(httpx2.ReadTimeout):
            body = {"messages": MESSAGES, "n": 3, **FOREVER}
            httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=0.5)
        until(lambda: engine.num_cancelled == 3)
        until(lambda: served_at(url).num_running() == 0)
        assert 'thinking_ended_total{reason="cancelled"} 3.0' in httpx2.get(f"{url}/metrics").text


def test_an_engine_that_fails_is_told_to_all():
    with running_server(SlowEngine(0.002, fail_after=60)) as url:
        whole: list[httpx2.Response] = []
        thread = threading.Thread(target=lambda: whole.append(post(url, **FOREVER)))
        thread.start()
        streamed = post(url, stream=True, **FOREVER)
        thread.join(20)
        *_, error, done, end = streamed.text.split("\n\n")
        message = "the engine failed: RuntimeError: scripted failure"
        assert json.loads(error.removeprefix("data: "))["error"]["message"] == message
        assert (done, end) == ("data: [DONE]", "")
        assert whole[0].status_code == 503 and whole[0].json()["error"]["message"] == message
        assert httpx2.get(f"{url}/health").status_code == 503
        assert post(url).status_code == 503


@pytest.mark.parametrize(
    "content, says",
    [
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "a"}], "top_p": -Infinity}', "top_p"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "Unicode"),
        (b'{"messages": [{"role": "user", "content": "a"}], "stop": "\\ud800"}', "Unicode"),
        (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1e400}', "max_tokens"),
        (b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 5000 + b"}", ""),
        (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
        (b'{"messages": [1, 2]}', "messages[0]"),
        (b'{"messages": [{"role": "user", "content": "a"}], "model": "../../etc/passwd\\r\\nx: y"}', "model"),
        (b'{"messages": ', "JSON"),
        (b"\xff\xfe", ""),
        (b"[]", ""),
        (b"", ""),
    ],
)
def test_a_body_that_cannot_be_read_gives_a_clear_error_in_json(served, content, says):
    headers = {"content-type": "application/json"}
    response = httpx2.post(f"{served.url}/v1/chat/completions", content=content, headers=headers, timeout=60)
    assert response.status_code in (400, 404)
    error = json.loads(response.text, parse_constant=lambda text: pytest.fail(text))["error"]
    assert says in error["message"] and set(error) == {"message", "type", "param", "code"}
    assert httpx2.get(f"{served.url}/health").json() == {"status": "ok"}


@pytest.mark.parametrize("prompt", [[], "", [[]], [10**6], [-1], ["a"] * 1000], ids=str)
def test_prompts_that_are_none(served, prompt):
    response = httpx2.post(f"{served.url}/v1/completions", json={"prompt": prompt})
    assert response.status_code == 400 and response.json()["error"]["param"] in ("prompt", "n")


def test_an_instruct_model_thinks_only_when_asked(served):
    chat = chat_format("plain")
    with running_server(SlowEngine(), chat) as url:
        answer = post(url, max_tokens=30).json()["choices"][0]
        assert "reasoning_content" not in answer["message"] and "thinking" not in answer
        assert answer["message"]["content"]
        forced = post(url, num_ignore=1, max_answer_tokens=20).json()["choices"][0]
        expected = Served(url, "tiny", chat, CONTEXT, reference_on(SlowEngine())).asked_directly(
            Budget("auto", num_ignore=1, max_answer_tokens=20)
        )
        assert forced["message"]["reasoning_content"] == expected.text("thinking")


def test_a_line_a_request_holds_no_text(capfd):
    with running_server(SlowEngine(), log_requests=True) as url:
        post(url, max_thinking_tokens=4, max_answer_tokens=4, user="secret-user")
        httpx2.get(f"{url}/v1/secret-path?key=secret-key")
    lines = capfd.readouterr().err
    assert "/v1/chat/completions 200 | " in lines and "4 thinking" in lines and "other 404" in lines
    assert "secret" not in lines and "spiders" not in lines


def test_a_signal_ends_the_process_after_the_grace_period(tmp_path):
    with server_process(tmp_path, engine="0.02") as (process, port, output):
        url, answers = f"http://127.0.0.1:{port}", []
        stream = served_at(url).ask(extra=FOREVER, stream=True)
        next(iter(stream))
        whole = threading.Thread(target=lambda: answers.append(post(url, **FOREVER)))
        whole.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        whole.join(20)
        assert answers[0].status_code == 503 and "shutting down" in answers[0].text
        assert process.wait(20) == 0
        assert "Traceback" not in output.read_text() and "server ended" in output.read_text()


def test_a_failed_engine_ends_the_process(tmp_path):
    with server_process(tmp_path, engine="0.01, fail_after=20") as (process, port, output):
        assert post(f"http://127.0.0.1:{port}", **FOREVER).status_code == 503
        assert process.wait(20) == 1
        assert "error: the engine failed: RuntimeError: scripted failure" in output.read_text()


def test_an_address_in_use_is_told_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another port"):
        bind("127.0.0.1", taken.getsockname()[1])
