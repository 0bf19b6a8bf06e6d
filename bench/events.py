"""How fast events come in through the door: single calls and one stream, each acknowledged only once it is on disk."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import grpc

from bench.load import LoadResult, load
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, UserId
from recsvc.gen.v1 import ingestion_service_pb2 as pb

_RECORD = "/recsvc.v1.IngestionService/RecordEvent"
_STREAM = "/recsvc.v1.IngestionService/StreamEvents"
_PER_MESSAGE = 500

Metadata = tuple[tuple[str, str], ...]


def some_events(user_ids: Sequence[str], item_ids: Sequence[str], count: int) -> list[pb.Event]:
    """Views of random items by random users, each with an id of its own."""
    rng = random.Random(0)
    return [
        pb.Event(
            event_id=uuid.uuid4().hex,
            event_type="view",
            user_id=rng.choice(user_ids),
            item_id=rng.choice(item_ids),
        )
        for _ in range(count)
    ]


def plain_events(messages: Sequence[pb.Event]) -> list[Event]:
    """The same events as the domain has them, of now."""
    now = datetime.now(UTC)
    return [
        Event(EventId(one.event_id), one.event_type, ItemId(one.item_id), now, user_id=UserId(one.user_id))
        for one in messages
    ]


async def single_calls(target: str, events: Sequence[pb.Event], *, callers: int, metadata: Metadata) -> LoadResult:
    """One RecordEvent for each event; a tenth of them as warm-up."""
    bodies = [pb.RecordEventRequest(event=event).SerializeToString() for event in events]
    return await load(
        target, _RECORD, bodies, callers=callers, calls=int(len(bodies) / 1.1) - callers, metadata=metadata
    )


async def one_stream(target: str, events: Sequence[pb.Event], metadata: Metadata) -> float:
    """Events a second, from the first message to the last acknowledgement."""
    messages = [
        pb.StreamEventsRequest(sequence=number + 1, events=events[first : first + _PER_MESSAGE]).SerializeToString()
        for number, first in enumerate(range(0, len(events), _PER_MESSAGE))
    ]

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    stored, acked = 0, 0
    async with grpc.aio.insecure_channel(target) as channel:
        await channel.channel_ready()
        start = time.perf_counter()
        async for answer in channel.stream_stream(_STREAM)(sent(), metadata=metadata, timeout=600):
            response = pb.StreamEventsResponse.FromString(answer)
            stored, acked = stored + response.stored_count, response.acked_through
        elapsed = time.perf_counter() - start
    if (stored, acked) != (len(events), len(messages)):
        raise RuntimeError(
            f"{stored} of {len(events)} events were stored, {acked} of {len(messages)} messages acknowledged"
        )
    return stored / elapsed
