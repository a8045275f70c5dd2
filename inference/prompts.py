"""What is asked: chats, from a text, or from a file of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import UserError
from core.types import numbered_lines, read_jsonl

KEYS = ("messages", "question", "text")  # of a row, the first it has


@dataclass(frozen=True)
class Prompt:
    """messages: as chat templates read them, the last one the user's. where: the file and line, for messages."""

    messages: tuple[dict[str, str], ...]
    where: str

    @property
    def question(self) -> str:
        return self.messages[-1]["content"]


def prompt_of(content: Any, where: str, system: str | None = None) -> Prompt:
    """content: a question, or a list of messages. Raises UserError for what is neither, or says nothing."""
    messages = [{"role": "user", "content": content}] if isinstance(content, str) else content
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise UserError(f'{where}: expected text, or messages as [{{"role": "user", "content": "..."}}]')
    if messages[-1]["role"] != "user":
        raise UserError(f"{where}: the last message is {messages[-1]['role']!r}; the user must have the last word")
    if not messages[-1]["content"].strip():
        raise UserError(f"{where}: the question is empty")
    if system is not None:
        if any(message["role"] == "system" for message in messages):
            raise UserError(f"{where} has a system message already; leave out system=")
        messages = [{"role": "system", "content": system}, *messages]
    return Prompt(tuple(messages), where)


def read_prompts(path: str, system: str | None = None) -> list[Prompt]:
    """The prompts of a file, in its order. Raises UserError naming file and line."""
    try:
        contents = _contents(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give a .txt, .jsonl or .json file") from None
    if not contents:
        raise UserError(f"{path} holds no questions")
    return [prompt_of(content, where, system) for where, content in contents]


def _contents(path: str) -> list[tuple[str, Any]]:
    """[(where, text or messages)]"""
    kind = Path(path).suffix
    if kind == ".txt":
        lines = [(number, line.decode().strip()) for number, line in numbered_lines(path)]
        return [(f"{path}, line {number}", line) for number, line in lines if line]
    if kind == ".jsonl":
        return [(f"{path}, row {number}", _content(row)) for number, row in enumerate(read_jsonl(path), 1)]
    if kind == ".json":
        text = b"".join(line for _, line in numbered_lines(path)).decode()
        try:
            return [(path, _content(json.loads(text)))]
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    raise UserError(f"prompts={path}: expected a .txt (a question a line), .jsonl or .json (one chat) file")


def _content(row: Any) -> Any:
    return next((row[key] for key in KEYS if key in row), None) if isinstance(row, dict) else row


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
