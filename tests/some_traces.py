"""Traces of unlike lengths to train on. Importing this needs no torch."""

from core.types import Question, Trace


def some_traces(n: int = 24) -> list[Trace]:
    def trace(i: int) -> Trace:
        question = Question.of(f"{i} + {i} + 1 = ?", str(2 * i + 1), "integer", "test", "sums")
        thinking = f"{i} + {i} = {2 * i}\n{2 * i} + 1 = {2 * i + 1}\n" * (1 + i % 4)
        return Trace(question, thinking, f"Final Answer: {2 * i + 1}", "hand")

    return [trace(i) for i in range(n)]
