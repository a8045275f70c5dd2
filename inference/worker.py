"""One thread owns the engine and the driver; asyncio code submits decodings to it and reads what they write.

The thread never waits for the event loop. After each step of the engine it hands over what all decodings wrote in one
call, and the loop sorts it into the streams. What has piled up since a stream was last read comes as one list.
"""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from core.types import Sample
from inference.engine import Driver, Engine
from inference.stream import Piece, StreamedDecode

Event = tuple[int, Piece | Sample]  # of which decoding of a stream; its Sample comes last
SECONDS_BETWEEN_LOOKS = 0.5  # at how full the KV cache is


class Busy(Exception):
    """As many samples as may wait are waiting."""


class EngineFailed(Exception):
    """The engine raised: nothing more will come from it."""


class Stream:
    """What the decodings of one request write, for one reader on the event loop.

    Iterating gives lists of (index, Piece) as they come, and (index, Sample) when one has ended; it stops when all
    have, or after `cancel`. Raises EngineFailed where the engine has.
    """

    def __init__(self, worker: "Worker", decodings: Sequence[StreamedDecode]):
        self.decodings = decodings
        self._worker = worker
        self._events: list[Event] = []
        self._num_open = len(decodings)
        self._wake = asyncio.Event()
        self._error: EngineFailed | None = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> list[Event]:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._num_open == 0:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        events, self._events = self._events, []
        return events

    def cancel(self) -> None:
        """Takes from the engine what still runs. Nothing more comes."""
        self._events = []  # also of what has ended, and was not read
        if self._num_open and self._error is None:
            self._num_open = 0
            self._wake.set()
            self._worker._cancel(self)

    def _put(self, events: list[Event]) -> None:
        if self._num_open:
            self._events += events
            self._num_open -= sum(isinstance(event, Sample) for _, event in events)
            self._wake.set()

    def _fail(self, error: EngineFailed) -> None:
        if self._num_open:
            self._error = error
            self._wake.set()


class Worker:
    """Runs decodings on an engine, in a thread of its own.

    max_running: samples decoded at a time. max_waiting: samples that may wait for that; more are refused.
    on_end: called on the event loop with each decoding that has ended, cancelled ones too.
    on_failure: called on the event loop when the engine has raised.
    kv_cache_usage: see Engine; as of the last look.
    """

    def __init__(
        self,
        engine: Engine,
        max_running: int,
        max_waiting: int,
        on_end: Callable[[StreamedDecode], None] = lambda decoding: None,
        on_failure: Callable[[EngineFailed], None] = lambda failure: None,
    ):
        self.failure: EngineFailed | None = None
        self.kv_cache_usage: float | None = None
        self._engine, self._driver = engine, Driver(engine, store=None, max_in_flight=max_running)
        self._max_open = max_running + max_waiting
        self._on_end, self._on_failure = on_end, on_failure
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()  # what the thread does between two steps
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._is_closing = False
        self._open: Counter[Stream] = Counter()  # samples that have not ended, as the event loop knows it
        # of the thread alone
        self._waiting: deque[tuple[Stream, int]] = deque()
        self._running: dict[tuple[Stream, int], StreamedDecode] = {}
        self._news: dict[Stream, list[Event]] = {}
        self._looked = 0.0

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return max(0, self._open.total() - len(self._running))

    def check_room(self, num_samples: int = 1) -> None:
        """Raises Busy where the queue has no room for so many more, EngineFailed after a failure."""
        if self.failure is not None:
            raise self.failure
        if self._open.total() + num_samples > self._max_open:
            raise Busy

    def start(self) -> None:
        """Called on the event loop that reads the streams."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self, timeout: float = 10.0) -> None:
        """Cancels what runs and ends the thread; the engine stays open. A step that hangs is left behind."""
        self._is_closing = True
        self._tasks.put(lambda: None)
        await asyncio.to_thread(self._thread.join, timeout)

    def submit(self, decodings: Sequence[StreamedDecode]) -> Stream:
        """Starts the decodings of one request, or lets them wait for room, in the order they came.

        Raises Busy where the queue has no room for all of them, EngineFailed after a failure.
        """
        self.check_room(len(decodings))
        stream = Stream(self, decodings)
        self._open[stream] = len(decodings)
        self._tasks.put(partial(self._take_in, stream))
        return stream

    def _cancel(self, stream: Stream) -> None:
        self._tasks.put(partial(self._drop, stream))

    # the thread

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._do_tasks()
                self._start_waiting()
                self._step()
            for stream in {stream for stream, _ in (*self._running, *self._waiting)}:
                self._drop(stream)
            self._hand_over()
        except BaseException as error:  # whatever it is, those who wait must hear of it
            failure = EngineFailed(f"the engine failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._loop.call_soon_threadsafe(self._fail, failure)

    def _do_tasks(self) -> None:
        """What the loop has asked for. Where there is nothing else to do, waits for it."""
        if self._driver.is_idle and not self._waiting:
            self._engine.step()  # frees what it still held
            self.kv_cache_usage = self._engine.kv_cache_usage()
            self._tasks.get()()
        while True:
            try:
                self._tasks.get_nowait()()
            except Empty:
                return

    def _take_in(self, stream: Stream) -> None:
        self._waiting += [(stream, index) for index in range(len(stream.decodings))]

    def _start_waiting(self) -> None:
        while self._waiting and self._driver.has_room:
            stream, index = key = self._waiting.popleft()
            self._running[key] = stream.decodings[index]
            self._driver.add(key, stream.decodings[index])

    def _step(self) -> None:
        finished = self._driver.step()
        for (stream, index), decoding in self._running.items():
            if pieces := decoding.take():
                self._news.setdefault(stream, []).extend((index, piece) for piece in pieces)
        for key, _ in finished:
            self._end(key)
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._looked, self.kv_cache_usage = time.monotonic(), self._engine.kv_cache_usage()
        self._hand_over()

    def _end(self, key: tuple[Stream, int]) -> None:
        stream, index = key
        self._running.pop(key, None)
        self._news.setdefault(stream, []).append((index, stream.decodings[index].sample()))

    def _drop(self, stream: Stream) -> None:
        """Cancels the decodings of a stream that have not ended."""
        for key in [key for key in (*self._running, *self._waiting) if key[0] is stream]:
            if key in self._running:
                self._driver.cancel(key)
            else:
                self._waiting.remove(key)
            stream.decodings[key[1]].cancel()
            self._end(key)

    def _hand_over(self) -> None:
        if self._news:
            news, self._news = self._news, {}
            self._loop.call_soon_threadsafe(self._deliver, news)

    # the event loop again

    def _deliver(self, news: dict[Stream, list[Event]]) -> None:
        for stream, events in news.items():
            ended = [stream.decodings[index] for index, event in events if isinstance(event, Sample)]
            if ended:
                self._open[stream] -= len(ended)
                self._open += Counter()  # forgets those with none left
                for decoding in ended:
                    self._on_end(decoding)
            stream._put(events)

    def _fail(self, failure: EngineFailed) -> None:
        self.failure = failure
        for stream in self._open:
            stream._fail(failure)
        self._open.clear()
        self._on_failure(failure)
