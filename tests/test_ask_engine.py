"""inference.ask on the transformers engine: the evaluator's samples, a real Ctrl-C, and what the engine need not do."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import tiny_model

from core.chat import ChatFormat
from core.config import UserError, load
from inference.ask import main
from inference.ask_config import AskConfig, engine_config_of
from inference.budget import Budget, ForcedDecode
from inference.continuations import ContinuationStore
from inference.engine import Driver, EngineConfig, load_engine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
QUESTIONS = ["How many legs do 3 spiders have?", "12 + 34 = ?", "Reverse: one, two, three", "Wait"]
CONTEXT = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"), max_position_embeddings=CONTEXT)


@pytest.mark.parametrize("keys", [{"max_thinking_tokens": 40}, {"max_thinking_tokens": 90, "num_ignore": 2}])
def test_ask_says_what_the_evaluator_draws(folder, tmp_path, capsys, keys):
    budget = Budget(**keys, max_answer_tokens=12)
    engine, tokenizer = load_engine(str(folder), EngineConfig("transformers", max_model_len=CONTEXT))
    chat = ChatFormat("s1", tokenizer)
    decodings = [(q, ForcedDecode(chat.prompt_ids(q), budget, chat, CONTEXT)) for q in QUESTIONS]
    samples = {q: decoding.sample() for q, decoding in Driver(engine, ContinuationStore()).run(decodings)}
    engine.close()

    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
    args = [f"{key}={value}" for key, value in keys.items()]
    main(load(AskConfig, [f"model={folder}", f"prompts={tmp_path / 'questions.txt'}", "profile=s1", "output=json",
                          "engine.backend=transformers", "max_answer_tokens=12", *args]))  # fmt: skip
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in rows] == QUESTIONS
    for row in rows:
        sample = samples[row["question"]]
        assert row["thinking"] == chat.decode(sample.ids("thinking"))
        assert row["answer"] == chat.answer_text(sample.ids("answer"))
        assert (row["num_thinking_tokens"], row["ended"]) == (sample.num_thinking_tokens, sample.ended)


def start(folder, *args):
    command = [sys.executable, "-m", "inference.ask", f"model={folder}", "profile=s1", QUESTIONS[0], *args]
    command += ["min_thinking_tokens=3500", "engine.backend=transformers", f"engine.max_model_len={CONTEXT}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_keeps_what_was_said(folder):
    process = start(folder)
    while process.stdout.readline() != "[thinking]\n":
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    footer = out.splitlines()[-1]
    assert footer.startswith("[tokens: ") and footer.endswith("| interrupted]")
    assert 0 < int(footer.split()[1]) < 3500


def test_the_fingerprint_is_not_computed_for_a_question(folder, monkeypatch):
    """It reads all of the weights."""
    import inference.hf_engine

    def read_all(path):
        raise AssertionError("the weights were read once more")

    monkeypatch.setattr(inference.hf_engine, "digest_of", read_all)
    main(load(AskConfig, [f"model={folder}", QUESTIONS[0], "profile=s1", "max_thinking_tokens=5",
                          "engine.backend=transformers"]))  # fmt: skip


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_auto_is_transformers_without_a_gpu(folder, no_gpu):
    """Whatever else is installed; and the context is the model's."""
    config = engine_config_of(load(AskConfig, ["model=x", "engine.max_model_len=9999"]), folder)
    assert (config.backend, config.max_model_len) == ("transformers", CONTEXT)


def test_four_bits_need_a_gpu(folder, no_gpu):
    with pytest.raises(UserError, match="four_bit=true needs an NVIDIA GPU"):
        main(load(AskConfig, [f"model={folder}", QUESTIONS[0], "four_bit=true"]))
