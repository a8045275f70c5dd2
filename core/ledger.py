"""Who was asked what, what came back, and what it cost: a journal of requests, and sums over it.

Every request to a paid endpoint is a row or two of an append-only journal, flushed before anything else happens:

    started    about to be sent, with the most tokens it can be charged for
    failed     ended without an answer; `maybe_paid` where contact was lost and nobody can tell
    answered   a paid answer, whole
    gave_up    the last attempt at a question failed; its outcome is api_error
    reopened   the question is asked anew; what it has cost stays

The ledger is a fold over these rows, so a resumed run knows what the killed one knew. What holds after a kill:

- A journalled answer is never asked for again, by this run or by another one with the same teacher.
- What was in flight is asked again. There are at most `max_concurrency` such requests a kill; they count as `num_lost`,
  and in `cost_at_most` at the most they can have cost. Where the endpoint honours idempotency keys it charges them
  once, and then `cost` is all there is.
- Rows survive the process, not a power failure.
"""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.config import UserError, option
from core.journal import Journal


@dataclass(frozen=True)
class Usage:
    """Tokens as they are charged. cached_input_tokens are part of input_tokens; output includes reasoning."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0

    def is_within(self, worst: "Usage") -> bool:
        return self.input_tokens <= worst.input_tokens and self.output_tokens <= worst.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass
class Prices:
    """Of a million tokens, in the currency of max_cost. Without them tokens are counted and the cost is unknown."""

    input: float | None = option(None, help="of a million input tokens")
    cached_input: float | None = option(
        None, help="of a million input tokens found in the endpoint's cache; null: input"
    )
    output: float | None = option(None, help="of a million output tokens, reasoning included")

    @property
    def are_known(self) -> bool:
        return self.input is not None and self.output is not None

    def cost(self, usage: Usage) -> float | None:
        if not self.are_known:
            return None
        cached = self.input if self.cached_input is None else self.cached_input
        fresh_tokens = usage.input_tokens - usage.cached_input_tokens
        return (
            fresh_tokens * self.input + usage.cached_input_tokens * cached + usage.output_tokens * self.output
        ) / 1e6

    def described(self, usage: Usage) -> str:
        cost = self.cost(usage)
        money = "cost unknown without prices" if cost is None else f"cost {cost:,.2f}"
        return f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} tokens out, {money}"


class Ledger:
    """Sums over the rows of one run's journal.

    idempotent: the endpoint charges requests with one key once, so an answer settles the lost attempts before it.
    paid: what endpoints reported. uncertain: the most that lost or unmetered requests can have cost beside it.
    """

    def __init__(self, prices: Prices, idempotent: bool = False):
        self.prices, self.idempotent = prices, idempotent
        self.paid = Usage()
        self.counts: Counter[str] = Counter()
        self._settled = Usage()  # uncertain for good
        self._unsettled: dict[str, Usage] = {}  # by question, until its answer comes
        self._in_flight: dict[str, Usage] = {}

    def apply(self, row: dict[str, Any]) -> None:
        question, event = row["question"], row["event"]
        if event == "started":
            self._lose(question)  # its process died before it could write how the attempt ended
            self._in_flight[question] = Usage(row["max_input_tokens"], 0, row["max_output_tokens"])
            self.counts["requests"] += 1
        elif event == "failed":
            self.counts["failed"] += 1
            worst = self._in_flight.pop(question)
            if row["maybe_paid"]:
                self._doubt(question, worst)
        elif event == "answered":
            self.counts["answers"] += 1
            self._settle(question, row["usage"] and Usage(**row["usage"]))

    def lose_in_flight(self) -> None:
        """What has no end yet belongs to a process that is gone."""
        for question in list(self._in_flight):
            self._lose(question)

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def cost(self) -> float | None:
        return self.prices.cost(self.paid)

    @property
    def uncertain(self) -> Usage:
        return sum(self._unsettled.values(), self._settled)

    @property
    def committed(self) -> Usage:
        """All that can have been charged when everything in flight has ended."""
        return sum(self._in_flight.values(), self.paid + self.uncertain)

    def fits(self, worst: Usage, max_cost: float | None) -> bool:
        """Whether one more request cannot take the cost above max_cost, however badly all of them end."""
        return max_cost is None or self.prices.cost(self.committed + worst) <= max_cost

    def summary(self) -> dict[str, Any]:
        names = ("requests", "answers", "failed", "lost", "unmetered", "over_reserved")
        return {
            **{f"num_{name}": self.counts[name] for name in names},
            **asdict(self.paid),
            "cost": self.cost,
            "cost_at_most": self.prices.cost(self.paid + self.uncertain),
        }

    def _lose(self, question: str) -> None:
        if question in self._in_flight:
            self.counts["lost"] += 1
            self._doubt(question, self._in_flight.pop(question))

    def _doubt(self, question: str, worst: Usage) -> None:
        self._unsettled[question] = self._unsettled.get(question, Usage()) + worst

    def _settle(self, question: str, usage: Usage | None) -> None:
        worst = self._in_flight.pop(question)
        doubted = self._unsettled.pop(question, Usage())
        if not self.idempotent:
            self._settled += doubted
        if usage is None:
            self.counts["unmetered"] += 1
            self._settled += worst
            return
        self.paid += usage
        self.counts["over_reserved"] += not usage.is_within(worst)


def is_answer(path: Path, row: Any) -> bool:
    """Raises UserError where the file holds something else than requests."""
    if not isinstance(row, dict) or not {"event", "question"} <= row.keys():
        raise UserError(f"{path} is no journal of requests; move it away")
    return row["event"] == "answered"


class AnswerStore:
    """The journals of all runs that asked one teacher: outputs/answers/<teacher>/<run>.jsonl.

    A run appends to its own file and reads all, so a paid answer serves every later run that asks the same, whatever
    became of its run folder. Questions go by the id of their text (`core.types.question_id`).

    writer: name of the run. write=False looks without leaving a trace.
    """

    def __init__(self, folder: Path, writer: str, ledger: Ledger, write: bool = True):
        self.folder, self.writer, self.ledger = folder, writer, ledger
        own = folder / f"{writer}.jsonl"
        self._answers: dict[str, dict[str, Any]] = {}
        self._gave_up: dict[str, dict[str, Any]] = {}
        self._reopened: set[str] = set()
        self._num_answers: Counter[str] = Counter()
        self._others: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("*.jsonl")):
            if path != own:
                self._others |= {row["question"]: row for row in Journal.read(path) if is_answer(path, row)}
        self._journal: Journal | None = None
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(own)
            rows, self._journal.rows = self._journal.rows, []  # the dictionaries hold them from now on
        else:
            rows = Journal.read(own) if own.exists() else []
        for row in rows:
            is_answer(own, row)
            self._apply(row)
        ledger.lose_in_flight()

    def record(self, event: str, question: str, **fields: Any) -> None:
        """Writes the row, then believes it."""
        row = {"event": event, "question": question, **fields}
        if self._journal is not None:
            self._journal.append(row)
        self._apply(row)

    def outcome(self, question: str) -> dict[str, Any] | None:
        """The row that decides this question (answered or gave_up); None: it has to be asked."""
        own = self._answers.get(question) or self._gave_up.get(question)
        return own or (None if question in self._reopened else self._others.get(question))

    def is_taken_over(self, question: str) -> bool:
        """Whether another run has paid for the outcome."""
        row = self.outcome(question)
        return row is not None and row is self._others.get(question)

    def idempotency_key(self, question: str) -> str:
        """One for all attempts at one answer, also over a kill; another one when the question is asked anew."""
        text = f"{self.writer}:{question}:{self._num_answers[question]}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _apply(self, row: dict[str, Any]) -> None:
        self.ledger.apply(row)
        question, event = row["question"], row["event"]
        if event == "answered":
            self._answers[question] = row
            self._num_answers[question] += 1
        elif event == "gave_up":
            self._gave_up[question] = row
        elif event == "reopened":
            self._reopened.add(question)
            self._answers.pop(question, None)
            self._gave_up.pop(question, None)
