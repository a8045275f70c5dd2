"""The HTTP side: an OpenAI-compatible FastAPI app over a worker. Nothing here waits for the engine but the streams."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core import log
from inference.api import ApiError, Body, ChatRequest, CompletionRequest, read, shutting_down
from inference.api_keys import ApiKeys
from inference.engine import Engine
from inference.http_limits import guarded
from inference.replies import ChatReply, CompletionReply, Reply, error_chunk
from inference.serve_config import ServeConfig
from inference.serve_metrics import Clock, Metrics
from inference.served_model import ServedModel, Work
from inference.worker import Busy, EngineFailed, Stream, Worker

ENDPOINTS = {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"}
RETRY_AFTER_SECONDS = 1  # a place is free as soon as any sample ends


def create_app(
    engine: Engine,
    served: ServedModel,
    config: ServeConfig,
    api_keys: ApiKeys | None = None,
    on_failure: Callable[[EngineFailed], None] = lambda failure: None,
) -> ASGIApp:
    """The app, which owns the engine's thread while it runs (not the engine, which stays open).

    on_failure: called when the engine has raised; until the process ends /health says so.
    """
    worker = Worker(
        engine,
        max_running=config.engine.max_num_seqs,
        max_waiting=config.max_queue,
        on_end=lambda decoding: metrics.sample(decoding.ended, decoding.sample()),
        on_failure=on_failure,
    )
    metrics = Metrics({
        "running": ("Samples that are decoded", lambda: worker.num_running),
        "waiting": ("Samples that wait for a place", lambda: worker.num_waiting),
        "kv_cache_usage": ("Share of the KV cache that running samples hold", lambda: worker.kv_cache_usage),
    })  # fmt: skip
    answers = Answers(worker, served, metrics, retokenizes=getattr(engine, "retokenizes", False))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await worker.close()
        answers.close()

    app = FastAPI(title="Budget forcing", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await answers.to(request, ChatRequest, ChatReply)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answers.to(request, CompletionRequest, CompletionReply)

    _add_status(app, worker, served, metrics)
    _answer_errors(app)
    return Counted(guarded(app, api_keys, config), metrics, config.log_requests)


class Answers:
    """What both endpoints do: from a request to its answer, or its stream."""

    def __init__(self, worker: Worker, served: ServedModel, metrics: Metrics, retokenizes: bool):
        self._worker, self._served, self._metrics, self._retokenizes = worker, served, metrics, retokenizes
        # one thread reads prompts: a long one delays other prompts, and no stream
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    async def to(self, request: Request, schema: type[Body], kind: type[Reply]) -> Response:
        clock, raw = self._metrics.clock(), await request.body()
        self._worker.check_room()  # before the work of reading a prompt that could not be answered

        def read_and_prepare() -> tuple[Body, Work]:
            body = read(raw, schema)
            return body, self._served.work(body)

        body, work = await asyncio.get_running_loop().run_in_executor(self._reader, read_and_prepare)
        reply = kind(self._served.name, body, work, self._retokenizes)
        request.scope["reply"] = reply  # for the line that log_requests writes
        stream = self._worker.submit(work.decodings)
        if body.stream:
            return EventStream(stream, reply, clock)
        async with cancelled_when_gone(stream, request.receive):
            async for events in stream:
                clock.tick()
                for index, event in events:
                    reply.take(index, event)
            return _json(reply.whole()) if reply.is_whole else Response(status_code=499)  # nobody reads it

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)


def _add_status(app: FastAPI, worker: Worker, served: ServedModel, metrics: Metrics) -> None:
    """The endpoints that ask nothing of the engine."""
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> Response:
        model = {"id": served.name, "object": "model", "created": started, "owned_by": "budget-forcing"}
        return _json({"object": "list", "data": [model | {"max_model_len": served.max_model_len}]})

    @app.get("/health")
    async def health() -> Response:
        if worker.failure is not None:
            raise worker.failure
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@asynccontextmanager
async def cancelled_when_gone(stream: Stream, receive: Receive) -> AsyncIterator[None]:
    """Cancels a stream when its client goes away, and on every other way out.

    Raises ApiError where the server ends before the stream does.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        stream.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:  # by uvicorn, when the grace period is over
        raise shutting_down() from None
    finally:
        watcher.cancel()
        stream.cancel()


class EventStream(Response):
    """Server-sent events, written as they come."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, reply: Reply, clock: Clock):
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._stream, self._reply, self._clock = stream, reply, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with cancelled_when_gone(self._stream, receive):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send(_body(self._reply.opening()))
                async for events in self._stream:
                    self._clock.tick()
                    if chunks := self._reply.chunks(events):
                        await send(_body(chunks))
            last = self._reply.closing()
        except (ApiError, EngineFailed) as error:
            last = error_chunk(_api_error(error))
        await send(_body(last, more=False))


class Counted:
    """Counts and times requests, and says a line about each where asked. Labels are ours alone: no path of a client."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log_requests: bool):
        self._app, self._metrics, self._log_requests = app, metrics, log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            seconds = time.perf_counter() - started
            endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"
            self._metrics.request(endpoint, status, seconds)
            if self._log_requests:
                reply = scope.get("reply")
                log.say(f"{endpoint} {status} | {seconds:.2f}s{f' | {reply.summary()}' if reply else ''}")


def _answer_errors(app: FastAPI) -> None:
    """Every error as OpenAI's error object, and nothing in it that a client sent but names of fields."""

    async def answer(request: Request, error: Exception) -> Response:
        return _error_response(_api_error(error))

    for kind in (ApiError, Busy, EngineFailed, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _api_error(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case Busy():
            return ApiError("the queue is full; try again", status=429, code="queue_full")
        case EngineFailed():
            return ApiError(str(error), status=503, code="engine_failed")
        case HTTPException():
            return ApiError(str(error.detail), status=error.status_code)
    return ApiError("the server has a defect; its log says more", status=500)


def _error_response(error: ApiError) -> Response:
    response = _json(error.body, error.status)
    if error.status == 429:
        response.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    return response


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")


def _body(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
