"""Asks a model a question under a thinking budget, and shows the thinking as it comes.

    python -m inference.ask model=<folder or hub id> "How many r in raspberry"
    python -m inference.ask model=... "How many r in raspberry" num_ignore=1 compare=true      # a Wait, and without
    python -m inference.ask model=... "..." max_thinking_tokens=2000 min_thinking_tokens=2000  # until it is spent
    python -m inference.ask model=... prompts=questions.txt output=json save=answers.jsonl     # many at once

What the model sampled, what was forced upon it and the answer are told apart: by colour on a terminal, elsewhere by
marks ([[Wait]] was forced). prompts= takes a .txt file (a question a line), .jsonl (rows with `messages`, `question` or
`text`) or .json (one chat: its messages, with or without a system message). output=json prints an object a sample on
stdout, and everything else on stderr. Ctrl-C keeps what was said; a second one ends at once.

engine.backend=auto is vLLM on a GPU where it is installed, and transformers elsewhere: on a CPU vLLM takes 20 to 80
seconds to start, more than a question takes. For hundreds of questions on a CPU: engine.backend=vllm.
"""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from core.chat import ChatFormat
from core.config import UserError, run_entry
from core.journal import Journal
from core.log import Progress, duration, say
from core.types import question_id
from inference import checkpoint
from inference.ask_config import AskConfig, budgets_of, check, engine_config_of
from inference.ask_view import View, view_of
from inference.asked import Asked
from inference.budget import Budget, derived_seed
from inference.engine import Driver, Engine, EngineConfig, load_engine
from inference.prompts import Prompt, prompt_of, read_prompts
from inference.stream import StreamedDecode


def main(config: AskConfig) -> None:
    """Raises SystemExit: 130 after Ctrl-C, 1 where the engine failed on a sample."""
    check(config)
    prompts = prompts_of(config)
    path = checkpoint.resolve(config.model, config.engine.revision, weights=False)
    chat = checkpoint.load_chat(config.model, path, config.profile)
    engine_config = engine_config_of(config, path)
    asked = all_of(config, prompts, budgets_of(config, chat.name), chat, engine_config.max_model_len)
    journal = Journal(Path(config.save), can_redo=True) if config.save else None
    with closing(journal) if journal else nullcontext():
        recall(asked, journal)
        found = "as given" if config.profile else "as found"
        title = f"{config.model} | profile {chat.name}, {found} | context {engine_config.max_model_len:,}"
        with closing(view_of(config.output, asked, title)) as view:
            was_interrupted = run(partial(load, config.model, engine_config, chat.tokenizer), asked, view, journal)
    if was_interrupted:
        raise SystemExit(130)
    if any(one.row["error"] for one in asked):
        raise SystemExit(1)


def prompts_of(config: AskConfig) -> list[Prompt]:
    if config.prompts is not None:
        return read_prompts(config.prompts, config.system)
    return [prompt_of(config.question, "question", config.system)]


def all_of(
    config: AskConfig, prompts: Sequence[Prompt], budgets: dict[str, Budget], chat: ChatFormat, max_model_len: int
) -> list[Asked]:
    """In the order of the output. Raises UserError for a prompt that the context cannot hold."""
    asked = []
    for number, prompt in enumerate(prompts, 1):
        ids = chat.chat_ids(list(prompt.messages))
        for sample in range(config.n):
            for label, budget in budgets.items():
                seed = derived_seed(config.seed, question_id(prompt.question), sample)
                decoding = StreamedDecode(ids, budget, chat, max_model_len, config.sampling, seed)
                if decoding.is_done:
                    way_out = "raise engine.max_model_len or lower max_answer_tokens"
                    raise UserError(f"{prompt.where}: {decoding.sample().error}; {way_out}")
                settings = {"model": config.model, "profile": chat.name, "max_model_len": max_model_len,
                            "budget": asdict(budget), "sampling": asdict(config.sampling), "seed": seed}  # fmt: skip
                asked.append(Asked(prompt, number, sample, label, decoding, settings))
    return asked


def recall(asked: Sequence[Asked], journal: Journal | None) -> None:
    """Hands out the rows of earlier runs."""
    known = {row.get("key"): row for row in (journal.rows if journal else ())}
    for one in asked:
        if one.key in known:
            one.recall(known[one.key])


def run(load: Callable[[], Engine], asked: Sequence[Asked], view: View, journal: Journal | None) -> bool:
    """Asks what has no row yet, all of it at once. Was it interrupted? load: called where anything is left to ask."""
    waiting = deque(one for one in asked if one.row is None)
    view.update()
    if not waiting:
        return False
    engine = load()
    started = time.monotonic()
    with closing(engine), first_interrupt() as interrupts, progress_of(asked, len(waiting)) as progress:
        driver, running = Driver(engine), []
        while (waiting or running) and not interrupts:
            while waiting and driver.has_room:
                running.append(waiting.popleft())
                driver.add(id(running[-1]), running[-1].start())
            driver.step()
            for one in running:
                one.listen()
                if one.row is not None and journal is not None and not one.row["error"]:
                    journal.append(one.row)
            running = [one for one in running if one.row is None]
            view.update()
            if progress:
                progress.update(len(asked) - len(waiting) - len(running), rate(driver, started))
        for one in (*running, *waiting):
            one.cancel()
        view.update()
    return bool(interrupts)


def load(model: str, config: EngineConfig, tokenizer: Any) -> Engine:
    """Raises UserError where the engine has less context than was asked for, as a running server may."""
    started = time.monotonic()
    say(f"loading {model}, engine.backend={config.backend}")
    engine, _ = load_engine(model, config, tokenizer)
    say(f"loaded in {duration(time.monotonic() - started)}")
    if engine.max_model_len < config.max_model_len:
        engine.close()
        raise UserError(f"the engine's context is shorter; give engine.max_model_len={engine.max_model_len}")
    return engine


@contextmanager
def first_interrupt() -> Iterator[list[int]]:
    """Holds the first Ctrl-C, to be acted on between two tokens with nothing lost; the next one ends the process."""
    held: list[int] = []

    def hold(number: int, frame: Any) -> None:
        held.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)


def progress_of(asked: Sequence[Asked], num_waiting: int) -> AbstractContextManager[Progress | None]:
    """For many questions; one is watched as it comes."""
    if asked[-1].number == 1:
        return nullcontext()
    return Progress("ask", len(asked), "samples", len(asked) - num_waiting)


def rate(driver: Driver, started: float) -> str:
    return f"{driver.num_sampled.total() / (time.monotonic() - started):,.0f} tokens/s"


if __name__ == "__main__":
    run_entry(main, AskConfig, __doc__)
