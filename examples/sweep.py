"""One question at many thinking budgets, as a picture: how far each budget lets the model think, and what it answers.

    python -m examples.sweep model="$(echo outputs/train/demo-*)"
    python -m examples.sweep model=simplescaling/s1.1-1.5B question="How many r in raspberry" answer=3 \\
        "budgets=[0, 32, 64, 128, 256, 512]"

Writes <save>.png and, with every text and count, <save>.jsonl. All budgets are cut from one trajectory
(inference/continuations.py), so the picture costs little more than its longest line.
"""

from dataclasses import dataclass
from typing import Any

from core.chat import ChatFormat
from core.config import option, run_entry
from core.log import say
from core.types import write_jsonl
from inference import checkpoint
from inference.budget import Budget, ForcedDecode
from inference.continuations import ContinuationStore
from inference.engine import Driver, EngineConfig, load_engine

RIGHT, WRONG, WAIT = "#0072B2", "#999999", "#E69F00"


@dataclass
class SweepConfig:
    model: str = option(help="local folder or hub id")
    question: str = option("Calculate 4 + 2 + 10 + 7.", help="what is asked")
    answer: str = option("23", help="the right one")
    budgets: list[int] = option([8, 16, 24, 32, 96], help="of thinking tokens")
    ignores: list[int] = option([1, 2], help="ends of thinking replaced by Wait, at the largest budget")
    save: str = option("sweep", help="name of the picture, without .png")
    engine: EngineConfig = option(
        EngineConfig(backend="transformers", max_model_len=1024), help="how to load the model"
    )


def sweep(driver: Driver, chat: ChatFormat, config: SweepConfig) -> list[dict[str, Any]]:
    """A row for every budget and every number of ignored ends."""
    longest = max(config.budgets)
    cells = [Budget(longest, num_ignore=n, max_answer_tokens=64) for n in sorted(config.ignores, reverse=True)]
    cells += [Budget(n, max_answer_tokens=64) for n in sorted(config.budgets, reverse=True)]
    prompt = chat.prompt_ids(config.question)
    decodings = [(cell, ForcedDecode(prompt, cell, chat, driver.engine.max_model_len)) for cell in cells]
    samples = {cell: decoding.sample() for cell, decoding in driver.run(decodings)}
    return [row_of(chat, cell, samples[cell]) for cell in reversed(cells)]


def row_of(chat: ChatFormat, cell: Budget, sample) -> dict[str, Any]:
    ids = [(s.source, s.token_ids) for s in sample.segments if s.phase == "thinking"]
    return {
        "max_thinking_tokens": cell.max_thinking_tokens,
        "num_ignore": cell.num_ignore,
        "thinking": [{"source": source, "text": chat.decode(part), "num_tokens": len(part)} for source, part in ids],
        "answer": chat.answer_text(sample.ids("answer")).strip(),
        "ended": sample.ended,
        "num_thinking_tokens": sample.num_thinking_tokens,
        "num_answer_tokens": sample.num_answer_tokens,
    }


def draw(rows: list[dict[str, Any]], question: str, answer: str):
    """A bar a row: sampled thinking, in blue where the answer is right, and the Waits in it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.34 * len(rows)), layout="constrained")
    end = max(row["num_thinking_tokens"] for row in rows)
    for y, row in enumerate(rows):
        final = row["answer"].rpartition("Answer:")[2].strip()
        colour = RIGHT if final.rstrip(".") == answer else WRONG
        start = 0
        for part in row["thinking"]:
            axes.barh(y, part["num_tokens"], 0.62, start, color=WAIT if part["source"] == "forced" else colour)
            start += part["num_tokens"]
        line = final.splitlines()[0] if final else "(no answer)"
        text = line if len(line) <= 34 else f"{line[:33]}..."
        axes.text(start + 0.015 * end, y, text, va="center", fontsize=9, color=colour)
    axes.set_yticks(range(len(rows)), [label_of(row) for row in rows])
    axes.set_xlim(0, 1.3 * end)  # room for the answers
    axes.set_ylim(len(rows) - 0.4, -0.8)  # the first on top
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("thinking tokens")
    axes.set_title(f"{question}  (blue: answered {answer}; orange: Wait)", fontsize=9.5, loc="left")
    return figure


def label_of(row: dict[str, Any]) -> str:
    waits = f", Wait x{row['num_ignore']}" if row["num_ignore"] else ""
    return f"at most {row['max_thinking_tokens']}{waits}"


def main(config: SweepConfig) -> None:
    path = checkpoint.resolve(config.model, config.engine.revision)
    chat = checkpoint.load_chat(config.model, path)
    engine, _ = load_engine(config.model, config.engine, chat.tokenizer)
    driver = Driver(engine, ContinuationStore())
    rows = sweep(driver, chat, config)
    for row in rows:
        say(f"{label_of(row)} | {row['num_thinking_tokens']} thinking tokens | {row['answer']}")
    num_tokens = sum(row["num_thinking_tokens"] for row in rows)
    say(f"sampled {driver.num_sampled['thinking']} thinking tokens for lines of {num_tokens} together")
    write_jsonl(f"{config.save}.jsonl", rows)
    draw(rows, config.question, config.answer).savefig(f"{config.save}.png", dpi=150)
    say(f"{config.save}.png")
    engine.close()


if __name__ == "__main__":
    run_entry(main, SweepConfig, __doc__)
