"""Events over a stream that outlives its connections: what was not acknowledged when one broke goes over the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

import grpc

from recsvc_client.errors import RecsvcError, broken, explained
from recsvc_client.gen.v1.ingestion_service_pb2 import Event, StreamEventsRequest, StreamEventsResponse
from recsvc_client.repeating import Outage

Stream: TypeAlias = "grpc.aio.StreamStreamCall[StreamEventsRequest, StreamEventsResponse]"

# The service takes up to 1000 events and 4 MiB at once; more than a few hundred events make nothing faster.
_MESSAGE_EVENTS = 500
_MESSAGE_BYTES = 1024 * 1024
# As many messages of one stream as the service has under way.
_UNACKNOWLEDGED = 64


async def acknowledgements(
    open_stream: Callable[[], Stream],
    outbox: Outbox,
    *,
    give_up_after_s: float,
) -> AsyncGenerator[StreamEventsResponse]:
    """What the service says of the events of an outbox, until all of them are on disk or refused.

    open_stream: begins a stream. give_up_after_s: raises what the last attempt failed with when the service could not
    be reached, or acknowledged nothing, for so long. Raises RecsvcError at once for what trying again does not help,
    and what the source of the events raises, once all that came before is acknowledged.
    """
    outage = Outage(give_up_after_s)
    async with outbox:
        while True:
            call = open_stream()
            sending = asyncio.create_task(outbox.send(call))
            has_acknowledged = False
            try:
                # They come when the stream begins, and an answer only when there was something to send.
                if await call.initial_metadata() and not outbox.is_waiting:
                    outage.end()
                while (answer := await _next(call)) is not None:
                    outage.end()
                    has_acknowledged = True
                    outbox.acknowledge(answer.acked_through)
                    yield answer
                if outbox.is_done:
                    break
                raise broken("the stream ended")
            except RecsvcError as error:
                rest_s = outage.pause_s(_broken_by(error, has_acknowledged))
            finally:
                sending.cancel()
                call.cancel()
                await asyncio.wait([sending])
            await asyncio.sleep(rest_s)
    outbox.raise_failure()


class Outbox:
    """The events that are to be sent, or acknowledged: an async context manager around the reading of their source.

    The source is read only as far as there is room.
    """

    def __init__(self, events: AsyncIterable[Event]) -> None:
        """events: each with an id."""
        self._events = events
        self._read: asyncio.Queue[Event | None] = asyncio.Queue(_MESSAGE_EVENTS)
        self._sent: deque[StreamEventsRequest] = deque()
        self._last = 0
        self._has_room = asyncio.Event()
        self._is_read = False
        self._failure: Exception | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to read."""
        self._reading = asyncio.create_task(self._read_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    @property
    def is_waiting(self) -> bool:
        """Whether something was sent and not acknowledged."""
        return bool(self._sent)

    @property
    def is_done(self) -> bool:
        """Whether all events of the source are acknowledged."""
        return self._is_read and not self._sent

    def raise_failure(self) -> None:
        """Raise what ended the source, if it was an error."""
        if self._failure is not None:
            raise self._failure

    def acknowledge(self, through: int) -> None:
        """Messages up to this number need not be sent again."""
        while self._sent and self._sent[0].sequence <= through:
            self._sent.popleft()
        self._has_room.set()

    async def send(self, call: Stream) -> None:
        """Send what is not acknowledged, then what the source has; ends with the source, or when the stream breaks."""
        # Whoever reads the stream hears why it broke.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for message in tuple(self._sent):
                await call.write(message)
            while not self._is_read:
                while len(self._sent) >= _UNACKNOWLEDGED:
                    self._has_room.clear()
                    await self._has_room.wait()
                if events := await self._take():
                    self._last += 1
                    message = StreamEventsRequest(sequence=self._last, events=events)
                    self._sent.append(message)
                    await call.write(message)
            await call.done_writing()

    async def _take(self) -> list[Event]:
        """What there is, as soon as there is anything: little, while the source is slower than the stream."""
        event = await self._read.get()
        taken, size_bytes = [], 0
        while event is not None:
            taken.append(event)
            size_bytes += event.ByteSize()
            if len(taken) == _MESSAGE_EVENTS or size_bytes >= _MESSAGE_BYTES or self._read.empty():
                return taken
            event = self._read.get_nowait()
        self._is_read = True
        return taken

    async def _read_all(self) -> None:
        try:
            async for event in self._events:
                await self._read.put(event)
        except Exception as error:  # of the source, whatever that is
            self._failure = error
        await self._read.put(None)


async def _next(call: Stream) -> StreamEventsResponse | None:
    """The next answer; None at the end."""
    with explained():
        answer = await call.read()
    return answer if isinstance(answer, StreamEventsResponse) else None


def _broken_by(error: RecsvcError, has_acknowledged: bool) -> RecsvcError:
    """The same as a broken connection, if another stream can go on where this one ended."""
    is_idle = error.reason == "STREAM_IDLE"
    # A stream may have only so many messages, and bytes.
    is_full = error.reason == "LIMIT_EXCEEDED" and has_acknowledged
    # grpc.aio says so, and not the service, when the stream breaks while it is being written to.
    is_cut_off = error.code == "INTERNAL" and not error.reason
    return broken(error.message) if is_idle or is_full or is_cut_off else error
