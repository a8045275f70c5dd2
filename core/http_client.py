"""What every client of a server with keys needs: addresses, keys that no message shows, refusals, event streams."""

import json
import os
import re
from collections.abc import AsyncIterable, AsyncIterator
from urllib.parse import urlsplit

from core.config import UserError

SHORTEST_SECRET = 8  # a shorter key is a placeholder ("EMPTY"), and may be a word of an answer


def check_address(url: str, option: str, key_option: str) -> None:
    """Raises UserError, naming the options, for what is no http(s) address or holds a secret."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UserError(f"{option} holds credentials or a query; name the key's variable in {key_option}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{option} is no http(s) address")


def check_key_name(variable: str | None, option: str) -> None:
    if variable is not None and not re.fullmatch(r"[A-Z][A-Z0-9_]*", variable):
        # not shown: it may be the key
        raise UserError(f"{option} takes the name of an environment variable, in capitals, not the key")


def read_key(variable: str | None, option: str) -> str | None:
    """The key in an environment variable; None where none is named. Raises UserError for one that is not set."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"environment variable {variable} ({option}) is not set")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"environment variable {variable} holds characters that no key has")
    return key


def scrubbed(text: str, api_key: str | None) -> str:
    """Without the key, and as text that can be written: pairs of half characters joined, lone ones replaced."""
    if api_key and len(api_key) >= SHORTEST_SECRET:
        text = text.replace(api_key, "[key]")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def message_of(body: str) -> str:
    """What the body of a refusal says, in whatever form."""
    try:
        said = json.loads(body)["error"]
        return str(said["message"] if isinstance(said, dict) else said)
    except (ValueError, TypeError, KeyError, RecursionError):
        return " ".join(body.split())


async def event_data(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """What follows `data:` in each line of an event stream; comments, which keep the connection alive, are left out."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")  # not at U+2028 and the like, which JSON may hold
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
    if rest.startswith(b"data:"):
        yield rest[5:].strip()
