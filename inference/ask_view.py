"""What a person or a script sees of questions being asked: a stream of text, two columns, or JSON lines."""

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from inference.asked import Asked, Said

STYLES = {("thinking", "sampled"): "dim", ("thinking", "forced"): "black on yellow",
          ("answer", "sampled"): "bold", ("answer", "forced"): "black on yellow"}  # fmt: skip
ENDED = {"natural": "thinking ended by itself", "budget": "thinking was cut at its budget", "error": "failed",
         "context": "thinking was cut at the context's end", "cancelled": "interrupted"}  # fmt: skip
# what could move the cursor or change colours: all control characters but newline and tab
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
REFRESHES_PER_SECOND = 8


class View(Protocol):
    def update(self) -> None:
        """Shows what has come since the last time."""
        ...

    def close(self) -> None: ...


def view_of(output: str, asked: Sequence[Asked], title: str, console: Console | None = None) -> View:
    """asked: in the order of the output; two that are compared are neighbours."""
    console = console or Console(highlight=False)
    if output == "json":
        return JsonLines(asked, console)
    if asked[0].label and console.is_terminal:
        return Columns(asked, title, console)
    return Stream(asked, title, console)


class JsonLines:
    """One object a finished sample, in order."""

    def __init__(self, asked: Sequence[Asked], console: Console):
        self._waiting, self._console = list(asked), console

    def update(self) -> None:
        while self._waiting and (row := self._waiting[0].row) is not None:
            if self._waiting.pop(0).has_begun:
                self._console.out(json.dumps(row, ensure_ascii=False), highlight=False)

    def close(self) -> None:
        pass


class Stream:
    """One sample after the other. A single question is written as it comes, of many each when it is finished."""

    def __init__(self, asked: Sequence[Asked], title: str, console: Console):
        self._asked, self._console = asked, console
        self._is_live = len({one.number for one in asked}) == 1
        self._front = self._num_written = 0
        self._phase: str | None = None  # of what was written last; None before a sample's heading
        self._last = "\n"  # the last character
        self._write(title + "\n", "dim")

    def update(self) -> None:
        while self._front < len(self._asked):
            one = self._asked[self._front]
            if one.row is None and not (self._is_live and one.has_begun):
                return
            if one.has_begun:
                self._write_new(one)
            if one.row is None:
                return
            self._front, self._num_written, self._phase = self._front + 1, 0, None

    def close(self) -> None:
        pass

    def _write_new(self, one: Asked) -> None:
        if self._phase is None:
            self._phase = ""
            if len(self._asked) > 1:
                self._write(f"\n=== {heading(one)} ===\n", "bold")
        for said in one.said[self._num_written :]:
            self._write_said(said)
        self._num_written = len(one.said)
        if one.row is not None:
            self._end_line()
            self._write(f"[{footer(one.row)}]\n", "dim")

    def _write_said(self, said: Said) -> None:
        text = readable(said, self._console)
        if said.phase != self._phase:
            text = text.lstrip("\n")
            if not text:
                return
            self._end_line()
            self._write(f"[{said.phase}]\n", "dim")
            self._phase = said.phase
        self._write(text, STYLES[said.phase, said.source])

    def _end_line(self) -> None:
        if self._last != "\n":
            self._write("\n", "")

    def _write(self, text: str, style: str) -> None:
        if text:
            self._console.out(text, style=style or None, end="", highlight=False)
            self._last = text[-1]


class Columns:
    """Two samples of a question side by side: their last lines while they run, all of it when they have ended."""

    def __init__(self, asked: Sequence[Asked], title: str, console: Console):
        self._pairs = [asked[i : i + 2] for i in range(0, len(asked), 2)]
        self._console, self._front = console, 0
        console.print(Text(title, "dim"))
        self._live = Live(console=console, transient=True, refresh_per_second=REFRESHES_PER_SECOND)
        self._live.start()

    def update(self) -> None:
        while self._front < len(self._pairs):
            pair = self._pairs[self._front]
            if any(one.row is None for one in pair):
                self._live.update(columns(pair, self._console, max(1, self._console.height - 8)))
                return
            self._live.update("", refresh=True)  # or the last frame would be drawn below once more
            if any(one.has_begun for one in pair):
                self._console.print(columns(pair, self._console))
            self._front += 1

    def close(self) -> None:
        self._live.stop()


def columns(pair: Sequence[Asked], console: Console, num_lines: int | None = None) -> Table:
    """num_lines: only the last so many of each text."""
    table = Table(title=Text(CONTROL.sub("", pair[0].prompt.question)), expand=True)
    for one in pair:
        table.add_column(Text(one.label), ratio=1, overflow="fold")
    width = console.width // 2 - 4
    table.add_row(*[_lines(one, console, width, num_lines) for one in pair])
    return table


def _lines(one: Asked, console: Console, width: int, num_lines: int | None) -> Group:
    text = Text()
    phase = None
    for said in one.said:
        if said.phase != phase:
            phase = said.phase
            text.rstrip()
            text.append(f"\n[{phase}]\n" if text else f"[{phase}]\n", "dim")
        text.append(readable(said, console), STYLES[said.phase, said.source])
    lines = text.wrap(console, width)
    shown = Text("\n").join(lines[-num_lines:] if num_lines else lines)
    return Group(shown, Text(f"\n{footer(one.row)}", "dim")) if one.row else Group(shown)


def heading(one: Asked) -> str:
    question = " ".join(CONTROL.sub("", one.prompt.question).split())
    parts = [f"{one.number}: {question if len(question) <= 80 else question[:79] + '...'}", one.label]
    return ", ".join([part for part in parts if part] + ([f"sample {one.sample + 1}"] if one.sample else []))


def footer(row: dict[str, Any]) -> str:
    """Tokens, speed, and why thinking ended."""
    counts = (f"{row[f'num_{kind}_tokens']} {kind}" for kind in ("thinking", "answer", "forced"))
    parts = [f"tokens: {', '.join(counts)}"]
    if row["tokens_per_second"]:
        parts.append(f"{row['seconds']:.2f} s, {row['tokens_per_second']:.1f} tokens/s")
    if row["seconds_to_first_token"] is not None:
        parts.append(f"first token after {row['seconds_to_first_token']:.2f} s")
    if num_replaced := row["num_ignored"] + row["num_suppressed"]:
        parts.append(f"{num_replaced} end{'s' if num_replaced > 1 else ''} replaced")
    parts.append(row["error"] or ENDED[row["ended"]])
    return " | ".join(parts)


def readable(said: Said, console: Console) -> str:
    """What a model writes must not steer a terminal; where there is no colour, marks say what was forced."""
    text = CONTROL.sub("", said.text) if console.is_terminal else said.text
    has_colour = console.color_system is not None and not console.no_color
    return marked(text) if said.source == "forced" and not has_colour else text


def marked(text: str) -> str:
    """The marks go round the words, not round the blanks beside them."""
    words = text.strip()
    return text.replace(words, f"[[{words}]]", 1) if words else text
