"""What a person sees while a job runs: plain lines with rate and ETA, on stderr and in the run's log."""

import os
import sys
import time
from pathlib import Path

_log_file = None  # the open run's log.txt; one entry process has one run


def set_log_file(path: Path | None) -> None:
    """From now on every line also goes to `path` (appended); None stops that."""
    global _log_file
    if _log_file is not None:
        _log_file.close()
    _log_file = open(path, "a", encoding="utf-8") if path else None


def say(text: str) -> None:
    """One line for the person who waits. Plain text with newlines: SLURM logs are files.

    Of the processes that torchrun starts, the first speaks for all.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    print(text, file=sys.stderr, flush=True)
    if _log_file is not None:
        _log_file.write(text + "\n")
        _log_file.flush()


def duration(seconds: float) -> str:
    """4.2s, 3m05s, 2h07m."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """A line every `every` seconds: done/total, rate, the number that matters, ETA; one more at the end.

    done_before: what a resumed run found finished; it counts as done but not into the rate.
    """

    def __init__(self, label: str, total: int, unit: str, done_before: int = 0, every: float = 10.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done = self.done_before = done_before
        self.note = ""
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if self.done_before:
            say(f"{self.label} | {self.done_before}/{self.total} {self.unit} were finished before")
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None and self.done > self.done_before:
            self._line(final=True)

    def update(self, done: int, note: str = "") -> None:
        self.done, self.note = done, note
        if time.monotonic() - self.last_line >= self.every:
            self._line()

    def _line(self, final: bool = False) -> None:
        self.last_line = time.monotonic()
        elapsed = self.last_line - self.started
        rate = (self.done - self.done_before) / elapsed if elapsed > 0 else 0.0
        parts = [self.label, f"{self.done}/{self.total} {self.unit}"]
        if rate > 0:
            parts.append(f"{rate:,.1f}/s" if rate >= 0.1 else f"{1 / rate:.0f} s each")
        if self.note:
            parts.append(self.note)
        if final:
            parts.append(f"took {duration(elapsed)}")
        else:
            known = self.done - self.done_before >= 5  # the first ones carry the start-up
            parts.append(f"eta {duration((self.total - self.done) / rate)}" if known else "eta ?")
        say(" | ".join(parts))
