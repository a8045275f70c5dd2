"""What can go wrong with an evaluation: nothing is lost, and nothing is silently mixed. (Kills: test_resume.py.)"""

import contextlib
import json
import multiprocessing
import os
import random
from pathlib import Path

import pytest
from test_crash import small_disk
from tiny_model import tiny_model, weightless_model
from tiny_tokenizer import tiny_tokenizer

import inference.engine
from core.config import UserError, load, run_entry
from core.journal import Journal
from core.types import Question, read_jsonl, write_jsonl
from eval.run import EvalConfig, main
from inference.scripted_engine import ScriptedEngine

QUESTIONS = [Question.of(f"{i} + {i} = ?", str(2 * i), "integer", "t", "sums") for i in range(4)]
GRID = "cells=[{max_thinking_tokens: [4, 9, auto], num_ignore: [0, 1]}]"


def script(prefix, seed):
    """Thinks on mostly, ends now and then."""
    rng = random.Random(hash((prefix, seed)))  # ints alone: the same in every process
    return rng.choice([2, 1]) if rng.random() < 0.15 else rng.randrange(5, len(tiny_tokenizer()))


class Engines:
    """Stands in for load_engine. fail_after: of the next engine alone. tokenizer: of all."""

    def __init__(self):
        self.loaded: list[ScriptedEngine] = []
        self.fail_after: int | None = None
        self.tokenizer = tiny_tokenizer()

    def __call__(self, model, config):
        fail_after, self.fail_after = self.fail_after, None
        engine = ScriptedEngine(script, config.max_model_len, len(tiny_tokenizer()), filler=5, fail_after=fail_after)
        self.loaded.append(engine)
        return engine, self.tokenizer

    @property
    def num_sampled(self) -> int:
        return sum(engine.num_sampled for engine in self.loaded)


@pytest.fixture
def engines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl("q.jsonl", QUESTIONS)
    monkeypatch.setattr(inference.engine, "load_engine", engines := Engines())
    return engines


def args_of(name: str, *more: str) -> list[str]:
    return [f"name={name}", "model=m", "questions=q.jsonl", GRID, "max_answer_tokens=6", "engine.max_model_len=80",
            "sampling.temperature=1", *more]  # fmt: skip


def evaluate(name: str, *more: str) -> Path:
    return main(load(EvalConfig, args_of(name, *more)))


def result(path: Path) -> list[dict]:
    """Everything but how long it took, and what happened to be cached."""
    rows = list(read_jsonl(path / "samples.jsonl"))
    for row in rows:
        del row["seconds"], row["num_cached_tokens"]
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(rows, sampled tokens) of the run that nothing happened to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        write_jsonl("q.jsonl", QUESTIONS)
        patch.setattr(inference.engine, "load_engine", engines := Engines())
        return result(evaluate("t")), engines.num_sampled


def interrupt(engines: Engines, after: int) -> Path:
    """A run whose engine failed after so many tokens; its folder."""
    engines.fail_after = after
    with pytest.raises(RuntimeError, match="scripted failure"):
        evaluate("t")
    return next(Path("outputs/eval").glob("t-*"))


def damage(path: Path, number: int) -> bytes:
    """Changes one token id of a line, which is still JSON then; the line."""
    lines = path.read_bytes().splitlines(keepends=True)
    row = json.loads(lines[number - 1])
    ids = row["token_ids"] if "token_ids" in row else row["segments"][0]["token_ids"]
    ids[0] += 1
    lines[number - 1] = json.dumps(row, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    return lines[number - 1]


@pytest.mark.slow  # no torch, but half a second
def test_an_engine_that_fails_in_the_middle_costs_nothing_that_was_finished(engines, whole):
    for after in (60, 50):
        path = interrupt(engines, after)
    assert 0 < len(Journal.read(path / "samples.jsonl")) < len(whole[0])
    assert result(evaluate("t")) == whole[0]
    lost = engines.num_sampled - whole[1]
    assert 0 < lost < 60, "only what was in flight at the two failures is sampled again"
    record = json.loads((path / "run.json").read_text())
    assert record["sittings"] == 3 and "error" not in record


def test_broken_lines_are_set_aside_and_drawn_again(engines, whole, capsys):
    path = interrupt(engines, 120)
    broken = damage(path / "samples.jsonl", 2)
    (store,) = Path("outputs/continuations/scripted").glob("*.jsonl")
    damage(store, 3)
    capsys.readouterr()
    assert result(evaluate("t")) == whole[0]
    said = capsys.readouterr().err
    assert said.count(f"{path}/samples.jsonl, line 2: not as written, moved to samples.jsonl.broken") == 1
    assert said.count(f"{store}, line 3: not as written, moved to {store.name}.broken") == 1
    assert (path / "samples.jsonl.broken").read_bytes() == broken


@pytest.mark.slow
@pytest.mark.parametrize("room", [12_000, 30_000, 50_000])
def test_a_full_disk_is_said_in_one_line_and_the_same_command_goes_on(engines, whole, capsys, room):
    with small_disk(Path("outputs").absolute()) as enlarge:
        if not enlarge:
            pytest.skip("to mount a small disk needs root")
        ballast = Path("outputs/ballast")
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(ballast, ballast.stat().st_size - room)
        with pytest.raises(SystemExit) as stop:
            run_entry(main, EvalConfig, "", args_of("t"))
        assert stop.value.code == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and errors[0].startswith("error: no space left on the disk")
        ballast.unlink()
        assert result(evaluate("t")) == whole[0]


def _hold(ready, release):
    inference.engine.load_engine = lambda model, config: ready.set() or release.wait(60)
    with pytest.raises(TypeError):  # there is no engine after all
        evaluate("t")


@pytest.mark.slow  # no torch, but half a second
def test_two_processes_on_one_folder_and_two_shards_beside_each_other(engines, capsys):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(ready, release))
    other.start()
    assert ready.wait(60)
    with pytest.raises(SystemExit):
        run_entry(main, EvalConfig, "", args_of("t"))
    (error,) = capsys.readouterr().err.splitlines()
    assert error.endswith("is in use by another process; wait for it or stop it") and not engines.loaded
    shards = [evaluate("t", "num_shards=2", f"shard={shard}") for shard in range(2)]  # meanwhile
    release.set()
    other.join(60)
    assert other.exitcode == 0
    ids = [{row["question_id"] for row in result(shard)} for shard in shards]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == {q.id for q in QUESTIONS}
    stores = sorted(file.stem for file in Path("outputs/continuations/scripted").glob("*.jsonl"))
    assert stores == sorted(path.name for path in shards), "each writes its own"


@pytest.mark.slow  # no torch, but half a second
def test_what_the_run_began_with_cannot_change(engines):
    Path("m").mkdir()
    weightless_model(Path("m"))
    path = interrupt(engines, 60)
    (Path("m") / "config.json").write_text((Path("m") / "config.json").read_text().replace("392", "391"))
    with pytest.raises(UserError, match=f"{path}: input model changed since this run began"):
        evaluate("t")
    write_jsonl("q.jsonl", [*QUESTIONS, Question.of("And?", "0", "integer", "t", "sums")])
    with pytest.raises(UserError, match="input model, questions changed since this run began; remove the folder"):
        evaluate("t")
    assert len(engines.loaded) == 1


def test_a_question_too_long_for_the_context_ends_alone_and_is_named_once(engines, whole, capsys):
    long = Question.of("1 + " * 90 + "1 = ?", "91", "integer", "t", "sums")
    write_jsonl("q.jsonl", [QUESTIONS[0], long, *QUESTIONS[1:]])
    rows = result(evaluate("t"))
    assert [row for row in rows if row["question_id"] != long.id] == whole[0]
    own = [row for row in rows if row["question_id"] == long.id]
    assert {(row["ended"], row["correct"], row["response"]) for row in own} == {("context", False, "")}
    error = own[0]["error"]
    assert error.endswith("tokens, the context has 80")
    said = capsys.readouterr().err
    assert said.count(error) == 1
    assert (
        f"t: 6 samples of 1 question have no answer, the first (questions, max=auto ignore=1, {long.id}): {error}"
        in said
    )


def test_a_token_that_was_never_added_to_the_model_is_refused_by_name(engines):
    engines.tokenizer = tiny_tokenizer.__wrapped__()
    engines.tokenizer.add_tokens(["<figure>"])
    fine = evaluate("t")
    named = Question.of("What is in <figure>?", "1", "integer", "t", "sums")
    write_jsonl("q.jsonl", [*QUESTIONS, named])
    id = len(tiny_tokenizer())
    message = f"questions, max=auto ignore=1, {named.id}, 0: the prompt has token id {id}, and the model knows only"
    with pytest.raises(UserError, match=message):
        evaluate("other")
    assert all(id not in segment["token_ids"] for row in result(fine) for segment in row["segments"])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_another_model_under_the_same_path_shares_nothing(tmp_path, monkeypatch, backend):
    pytest.importorskip(backend)
    monkeypatch.chdir(tmp_path)
    write_jsonl("q.jsonl", QUESTIONS)
    engine = [f"engine.backend={backend}", "engine.dtype=float32", "engine.max_num_seqs=4", "sampling.temperature=0"]
    runs = []
    for seed in (0, 1):
        tiny_model(Path("m"), seed=seed)
        if seed:
            with pytest.raises(UserError, match="input model changed since this run began"):
                evaluate("first", *engine)
        runs.append(evaluate(("first", "second")[seed], *engine))
    assert result(runs[0]) != result(runs[1])
    assert len(list(Path("outputs/continuations").iterdir())) == 2, "each model has a store of its own"
    tiny_model(Path("m"), seed=0)
    assert result(evaluate("third", *engine)) == result(runs[0])
    journals = sorted(p.stat().st_size for p in Path("outputs/continuations").glob("*/*.jsonl"))
    assert len(journals) == 3 and journals[0] == 0, "the first model's continuations are found again"
