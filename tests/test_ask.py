"""inference.ask with a scripted engine: what is asked, what is shown, what is kept."""

import io
import json
import random
import re
import signal

import pytest
from rich.console import Console
from tiny_model import weightless_model
from tiny_tokenizer import tiny_tokenizer

import inference.ask
from core.chat import ChatFormat
from core.config import UserError, load, run_entry
from inference.ask import AskConfig
from inference.ask_view import Columns, marked, view_of
from inference.budget import Budget, ForcedDecode
from inference.checkpoint import load_tokenizer
from inference.engine import Delta, Driver, EngineConfig
from inference.scripted_engine import ScriptedEngine

QUESTION = "How many legs do 3 spiders have?"
SAYS = "3 * 8 = 24."


def says(text, then="<|im_end|>"):
    """A model that writes `text`, whatever it reads, and then ends its turn; after an end of thinking it answers."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False) + tokenizer.encode(then, add_special_tokens=False)

    def script(prefix, seed):
        written = next(n for n in range(len(ids) - 1, -1, -1) if prefix[len(prefix) - n :] == tuple(ids[:n]))
        return ids[written]

    return script


def babbles(prefix, seed):
    rng = random.Random(f"{prefix} {seed}")
    tokenizer = tiny_tokenizer()
    return tokenizer.eos_token_id if rng.random() < 0.1 else rng.randrange(5, len(tokenizer))


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """ask(*args, script=...) -> (exit status, stdout, stderr), on a scripted engine."""
    (tmp_path / "model").mkdir()
    weightless_model(tmp_path / "model")
    engines = []

    def run(*args, script=None, kind=ScriptedEngine):
        def load_scripted(model, config, tokenizer):
            engines.append(kind(script or says(SAYS), config.max_model_len, len(tiny_tokenizer()), filler=5))
            return engines[-1], tiny_tokenizer()

        monkeypatch.setattr(inference.ask, "load_engine", load_scripted)
        defaults = [f"model={tmp_path / 'model'}", "profile=s1", "engine.backend=transformers", "max_answer_tokens=30"]
        try:
            run_entry(inference.ask.main, AskConfig, "doc", [*defaults, *args])
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    run.engines = engines
    return run


@pytest.mark.slow
def test_piped_text_marks_what_was_forced(ask):
    status, out, err = ask(QUESTION, "num_ignore=1")
    lines = out.splitlines()
    assert status == 0 and "profile s1, as given" in lines[0] and "context 512" in lines[0]
    assert lines[1:5] == ["[thinking]", f"{SAYS}[[Wait]]{SAYS}", "[answer]", SAYS]
    num = len(tiny_tokenizer().encode(SAYS))
    num_wait = len(tiny_tokenizer().encode("Wait"))
    assert f"tokens: {2 * num + num_wait} thinking, {num} answer" in lines[5]
    assert "tokens/s | first token after" in lines[5]
    assert "1 end replaced | thinking ended by itself" in lines[5] and len(lines) == 6
    assert "loading" in err and "\x1b" not in out


def test_a_cut_shows_the_cue_and_says_why(ask):
    _, out, _ = ask(QUESTION, "max_thinking_tokens=3")
    assert f"[answer]\n[[Final Answer:]]{SAYS}\n" in out
    assert "thinking was cut at its budget" in out


@pytest.mark.parametrize("profile", ["s1", "think-tags", "plain"])
@pytest.mark.parametrize("budget", [{}, {"max_thinking_tokens": 20}, {"num_ignore": 2, "min_thinking_tokens": 9}])
def test_json_is_the_forced_decode(ask, tmp_path, profile, budget):
    args = [f"{key}={value}" for key, value in budget.items()]
    status, out, _ = ask(QUESTION, f"profile={profile}", "output=json", *args, script=babbles)
    [row] = map(json.loads, out.splitlines())
    chat = ChatFormat(profile, load_tokenizer(tmp_path / "model"))
    if profile == "plain" and not budget:
        budget = {"max_thinking_tokens": None}
    engine = ScriptedEngine(babbles, 512, len(tiny_tokenizer()), filler=5)
    decoding = ForcedDecode(chat.prompt_ids(QUESTION), Budget(max_answer_tokens=30, **budget), chat, 512)
    [(_, decoding)] = Driver(engine).run([(0, decoding)])
    sample = decoding.sample()
    assert status == 0 and row["profile"] == profile and row["question"] == QUESTION
    assert row["answer"] == chat.answer_text(sample.ids("answer"))
    assert row["thinking"] == chat.decode(sample.ids("thinking"))
    for phase in ("thinking", "answer"):
        assert "".join(s["text"] for s in row["segments"] if s["phase"] == phase) == row[phase]
    for name in ("ended", "answer_finish", "num_ignored", "num_suppressed", "num_thinking_tokens", "num_answer_tokens"):
        assert row[name] == getattr(sample, name)
    num_sampled = len(sample.ids("thinking", "sampled")) + sample.num_answer_tokens
    assert row["num_forced_tokens"] == len(sample.token_ids) - num_sampled
    assert row["seconds"] >= (row["seconds_to_first_token"] or 0) and row["error"] is None


def test_compare_piped_is_one_after_the_other(ask):
    _, out, _ = ask(QUESTION, "num_ignore=1", "compare=true")
    first, second = out.split("\n=== ")[1:]
    assert first.startswith(f"1: {QUESTION}, without forcing ===\n") and "Wait" not in first
    assert second.startswith(f"1: {QUESTION}, num_ignore=1 ===\n") and "[[Wait]]" in second


def test_compare_on_a_terminal_is_side_by_side(ask, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=30, no_color=True)
    views = []

    def on_terminal(output, asked, title):
        views.append(view_of(output, asked, title, console))
        return views[-1]

    monkeypatch.setattr(inference.ask, "view_of", on_terminal)
    assert ask(QUESTION, "num_ignore=1", "compare=true")[0] == 0
    assert isinstance(views[0], Columns)
    text = without_styles(screen.getvalue())
    final = text[text.rindex(QUESTION) :]
    [row] = [line for line in final.splitlines() if "[[Wait]]" in line]
    assert row.count(SAYS) == 3, "without forcing on the left, with it on the right"
    assert "1 end replaced" in final


def without_styles(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_colours_and_no_control_characters_on_a_terminal(ask, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system="standard", width=100)
    monkeypatch.setattr(inference.ask, "view_of", lambda *args: view_of(*args, console))
    ask(QUESTION, "num_ignore=1", script=says("a\x1b[2Jb\x07c"))
    text = screen.getvalue()
    assert "\x1b[30;43mWait\x1b[0m" in text and "[[" not in text
    assert "\x07" not in text and "a[2Jbc" in without_styles(text), "no escape sequence but our own"


@pytest.mark.slow
def test_many_questions_come_in_order_and_are_not_asked_twice(ask, tmp_path):
    lines = [f"{QUESTION} {i}" for i in range(7)]
    (tmp_path / "questions.txt").write_text("\n".join(lines) + "\n\n")
    args = [f"prompts={tmp_path / 'questions.txt'}", f"save={tmp_path / 'saved.jsonl'}", "num_ignore=1"]
    status, out, err = ask(*args, "output=json", script=babbles)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row["question"] for row in rows] == lines
    assert len({row["answer"] for row in rows}) > 1
    assert "ask | 7/7 samples" in err
    assert ask(*args, "output=json", script=babbles)[1] == out and len(ask.engines) == 1
    with open(tmp_path / "questions.txt", "a") as file:
        file.write("One more?\n")
    more = ask(*args, "output=json", script=babbles)[1].splitlines()
    assert more[:7] == out.splitlines() and json.loads(more[7])["question"] == "One more?"
    text = ask(*args, script=babbles)[1]
    assert [line for line in text.splitlines() if line.startswith("===")][7] == "=== 8: One more? ==="
    assert len(ask.engines) == 2
    ask(*args, "num_ignore=2", script=babbles)
    assert len(ask.engines) == 3, "another budget is another question"


def test_the_same_question_twice_in_a_file(ask, tmp_path):
    (tmp_path / "twice.txt").write_text(f"{QUESTION}\n{QUESTION}\n")
    _, out, _ = ask(f"prompts={tmp_path / 'twice.txt'}", "output=json")
    assert len(out.splitlines()) == 2


def test_samples_differ_by_seed(ask):
    args = (QUESTION, "n=3", "sampling.temperature=1", "output=json")
    out = ask(*args, script=babbles)[1]
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["sample"] for row in rows] == [0, 1, 2] and len({row["thinking"] for row in rows}) == 3
    other = [json.loads(line)["thinking"] for line in ask(*args, "seed=1", script=babbles)[1].splitlines()]
    assert set(other).isdisjoint(row["thinking"] for row in rows)


def interrupted_after(num_tokens, script):
    """Ctrl-C while the model is at work on one token more."""
    count = iter(range(num_tokens + 1))

    def interrupt(prefix, seed):
        if next(count) == num_tokens:
            signal.raise_signal(signal.SIGINT)
        return script(prefix, seed)

    return interrupt


@pytest.mark.parametrize("output", ["text", "json"])
def test_ctrl_c_keeps_what_was_said(ask, output):
    before = signal.getsignal(signal.SIGINT)
    status, out, _ = ask(QUESTION, f"output={output}", script=interrupted_after(4, says("a b c d e f g h")))
    assert status == 130
    if output == "json":
        row = json.loads(out)
        assert (row["ended"], row["num_thinking_tokens"]) == ("cancelled", 5)
        assert row["thinking"] and "a b c d e f g h".startswith(row["thinking"])
    else:
        assert "tokens: 5 thinking, 0 answer" in out and "interrupted" in out
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once(ask):
    def impatient(prefix, seed):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    before = signal.getsignal(signal.SIGINT)
    status, _, err = ask(QUESTION, script=impatient)
    assert status == 130 and "interrupted" in err
    assert signal.getsignal(signal.SIGINT) is before


def test_only_finished_samples_are_saved(ask, tmp_path):
    saved = tmp_path / "saved.jsonl"
    ask(QUESTION, f"save={saved}", script=interrupted_after(4, says(SAYS)))
    assert saved.read_text() == ""
    ask(QUESTION, f"save={saved}")
    assert json.loads(saved.read_text())["answer"] == SAYS


def test_a_chat_with_a_system_message(ask, tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1 = ?"},
                {"role": "assistant", "content": "2"}, {"role": "user", "content": "And 2 + 2?"}]  # fmt: skip
    (tmp_path / "chat.json").write_text(json.dumps({"messages": messages}))
    prompts = []

    def note(prefix, seed):
        prompts.append(tiny_tokenizer().decode(prefix))
        return tiny_tokenizer().eos_token_id

    assert ask(f"prompts={tmp_path / 'chat.json'}", script=note)[0] == 0
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1 = ?<|im_end|>" in prompts[0]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"question": "1 + 1 = ?"}) + "\n" + json.dumps({"text": "2?"}))
    assert ask(f"prompts={tmp_path / 'chats.jsonl'}", "system=Be brief.", script=note)[0] == 0
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2?" in prompts[-1]


@pytest.mark.parametrize(
    "args, message",
    [
        ([], "ask something"),
        ([""], "the question is empty"),
        ([QUESTION, "prompts=x.txt"], "one of the two"),
        (["How", "many"], "put the question into quotes"),
        (["prompts=missing.txt"], "missing.txt does not exist"),
        (["prompts=x.csv"], "expected a .txt"),
        ([QUESTION, "profile=s2"], "profile 's2' is unknown"),
        ([QUESTION * 60], "question: prompt, close and answer need"),
        ([QUESTION, "max_thinking_tokens=-1"], "max_thinking_tokens=-1"),
        ([QUESTION, "max_thinking_tokens=many"], "max_thinking_tokens='many'"),
        ([QUESTION, "sampling.temperature=.nan"], "sampling.temperature=nan"),
        ([QUESTION, "sampling.top_p=0"], "top_p"),
        ([QUESTION, "n=2"], "n=2"),
        ([QUESTION, "compare=true"], "nothing is forced"),
        ([QUESTION, "output=yaml"], "output='yaml'"),
        ([QUESTION, "four_bit=true", "engine.backend=vllm"], "four_bit=true"),
        ([QUESTION, "model=/no/such/folder"], "/no/such/folder does not exist"),
        ([QUESTION, "save=/no/such/folder/x.jsonl"], "/no/such/folder"),
        ([QUESTION, "nmu_ignore=1"], "did you mean 'num_ignore'"),
    ],
)
def test_bad_input_is_one_line_before_a_model_is_loaded(ask, args, message):
    status, out, err = ask(*args)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not ask.engines


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "\n\n", "a.txt holds no questions"),
        ("a.txt", b"\xff\xfe", "a.txt: not UTF-8"),
        ("a.jsonl", '{"question": "x"}\n{"q": "y"}', "a.jsonl, row 2: expected text, or messages"),
        ("a.jsonl", '{"question": "x"}\n{', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"question": " "}', "a.jsonl, row 1: the question is empty"),
        ("a.json", '[{"role": "user"}]', "a.json: expected text, or messages"),
        ("a.json", '[{"role": "assistant", "content": "x"}]', "the user must have the last word"),
        ("a.json", "{", "a.json, line 1: not JSON"),
    ],
)
def test_a_bad_file_is_named(ask, tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, err = ask(f"prompts={tmp_path / name}")
    assert status == 2 and message in err and err.count("\n") == 1


def test_delimiters_the_tokenizer_lacks_and_no_chat_template(ask, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink(missing_ok=True)
    assert "has no chat template" in ask(QUESTION)[2]
    plain = tiny_tokenizer(special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    plain.save_pretrained(tmp_path / "model")
    assert "splits into ordinary text" in ask(QUESTION, "profile=think-tags")[2]


def test_an_engine_that_fails_on_a_sample(ask, tmp_path):
    class Failing(ScriptedEngine):
        def step(self):
            return [(key, Delta((), "error", error="no luck")) for key in self._active]

    saved = tmp_path / "saved.jsonl"
    status, out, _ = ask(QUESTION, f"save={saved}", kind=Failing)
    assert status == 1 and "no luck" in out and saved.read_text() == ""


def test_marks_go_round_the_words():
    assert marked("\nFinal Answer:") == "\n[[Final Answer:]]"
    assert marked("\n") == "\n"


@pytest.mark.parametrize(
    "args, question",
    [
        (["x=5, what is x*x?"], "x=5, what is x*x?"),
        (["2+2=?"], "2+2=?"),
        (["yes"], "yes"),
        (["${model} [1, 2]: ok"], "${model} [1, 2]: ok"),
        (["question=Why?"], "Why?"),
    ],
)
def test_a_question_is_taken_letter_by_letter(args, question):
    assert load(AskConfig, ["model=x", *args]).question == question


def test_free_text_is_for_schemas_that_want_it():
    with pytest.raises(UserError, match="cannot read argument 'How many'"):
        load(EngineConfig, ["How many"])
