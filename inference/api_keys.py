"""Who may ask: keys from an environment variable, known by their digests alone, so nothing can show one."""

import hashlib
import hmac
import os
from collections.abc import Iterable

from core.config import UserError


class ApiKeys:
    def __init__(self, keys: Iterable[str]):
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def accepts(self, authorization: bytes) -> bool:
        """authorization: the header's value. As much work for a wrong key as for a right one."""
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def read_api_keys(variable: str | None) -> ApiKeys | None:
    """The comma-separated keys in an environment variable; None where no variable is named.

    Raises UserError where it is not set, empty, or holds what no header can carry.
    """
    if variable is None:
        return None
    keys = [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]
    if not keys:
        raise UserError(f"api_keys_env={variable}: this environment variable holds no keys (export {variable}=one,two)")
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError(f"api_keys_env={variable}: a key has characters that no Authorization header can carry")
    return ApiKeys(keys)
