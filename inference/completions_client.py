"""One running server's /v1/models and /v1/completions, as an engine asks them: what comes back, chunk by chunk."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from core.config import UserError
from core.http_client import event_data, message_of, scrubbed

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 600.0  # a full server may let a request wait that long for its first token
KEEP_ALIVE_SECONDS = 2.0  # servers close idle connections after some 5; ours must go first
MAX_ERROR_CHARS = 300


class ServerFailed(Exception):
    """A request ended without its answer. The message holds no key. status: of HTTP; None where none came."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ListedModel:
    """As /v1/models has it. max_model_len: None where the server does not say."""

    name: str
    max_model_len: int | None
    owned_by: str


class CompletionsClient:
    """base_url: up to, and without, /completions. options: more fields of every request.
    model: that is asked, once `find_model` has found it.
    """

    def __init__(self, base_url: str, api_key: str | None, options: Mapping[str, Any], max_connections: int):
        self.model: ListedModel | None = None
        self._api_key, self._options = api_key, options
        self._http = httpx2.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            ),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def find_model(self, name: str | None) -> ListedModel:
        """The model of that name, or the only one. Raises ServerFailed, or UserError where there is no such."""
        try:
            response = await self._http.get("models")
        except httpx2.HTTPError as error:
            raise self._lost(error) from None
        if response.status_code != 200:
            raise self._refused(response.status_code, response.text)
        try:
            models = {row["id"]: row for row in response.json()["data"]}
        except (ValueError, TypeError, KeyError):
            raise ServerFailed("its /models is no list of models") from None
        if name not in models and not (name is None and len(models) == 1):
            some = ", ".join(sorted(models)[:5]) + (", ..." if len(models) > 5 else "")
            raise UserError(f"engine.served_model_name={name}: the server's models are: {some}")
        name = name or next(iter(models))
        length = models[name].get("max_model_len")
        self.model = ListedModel(name, length if type(length) is int else None, str(models[name].get("owned_by")))
        return self.model

    async def choices(self, fields: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """What the server sends of its one choice, the last with a finish_reason. Closed early, it hangs up, and the
        server gives up the request; read to the end, it leaves the connection to the next one. Raises ServerFailed."""
        if own := sorted(fields.keys() & self._options.keys()):
            raise UserError(f"engine.options: {own[0]!r} is not passed on; each request says that")
        is_finished = False
        body = {**self._options, **fields, "model": self.model.name, "stream": True}
        try:
            async with self._http.stream("POST", "completions", json=body) as response:
                if response.status_code != 200:
                    raise self._refused(response.status_code, (await response.aread()).decode("utf-8", "replace"))
                async for data in event_data(response.aiter_bytes()):
                    choice = None if is_finished or data == b"[DONE]" else self._choice(data)
                    if choice is not None:
                        is_finished = choice.get("finish_reason") is not None
                        yield choice
        except httpx2.HTTPError as error:
            if not is_finished:
                raise self._lost(error) from None
        if not is_finished:
            raise ServerFailed("the stream ended before the answer did")

    async def first_choice(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The first chunk, once all have come. Raises ServerFailed."""
        return [choice async for choice in self.choices(fields)][0]

    def _choice(self, data: bytes) -> dict[str, Any] | None:
        """None: a chunk about something else, as usage is."""
        try:
            chunk = json.loads(data)
            if chunk.get("error"):
                raise ServerFailed(self._clean(message_of(data.decode("utf-8", "replace"))))
            choice = chunk["choices"][0] if chunk["choices"] else None
            if not isinstance(choice, dict | None):
                raise TypeError("a choice is no object")
            return choice
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            raise self.malformed(data.decode("utf-8", "replace")) from None

    def malformed(self, what: Any) -> ServerFailed:
        return ServerFailed(self._clean(f"malformed chunk: {what}"))

    def _refused(self, status: int, body: str) -> ServerFailed:
        return ServerFailed(self._clean(f"HTTP {status}: {message_of(scrubbed(body, self._api_key))}"), status)

    def _lost(self, error: httpx2.HTTPError) -> ServerFailed:
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return ServerFailed(self._clean(f"no connection: {error}"))
        return ServerFailed(self._clean(f"connection lost: {type(error).__name__}: {error}"))

    def _clean(self, text: str) -> str:
        return scrubbed(text, self._api_key)[:MAX_ERROR_CHARS]
