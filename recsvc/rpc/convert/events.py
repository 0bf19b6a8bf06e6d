"""Events and event types between messages and the domain."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from recsvc.domain.errors import EventTimeOutOfRange, InvalidField
from recsvc.domain.events import MAX_CLOCK_SKEW, Event, EventType, StoredEvent
from recsvc.domain.ids import EventId, ItemId, SessionId, UserId
from recsvc.domain.tenancy import TenantSettings
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.rpc.columns import Columns
from recsvc.rpc.convert.tenant_settings import settings_proto
from recsvc.rpc.convert.values import duration, mask_paths, moment, plain, span, struct, timestamp

# In one step: a caller's event is little else.
_names_of = attrgetter("event_id", "event_type", "user_id", "session_id", "item_id", "recommendation_id")
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_EVENT_TYPE_FIELDS = ("weight", "half_life", "counts_as_seen", "conversion")


def event(message: pb.Event, path: str, now: datetime, retention: timedelta | None = None) -> Event:
    """The event in a message; without an id it gets one, without a time it happened now.

    retention: how long the tenant keeps events; None for ever.

    Raises InvalidField (naming the field below `path`) and EventTimeOutOfRange.
    """
    event_id, event_type, user_id, session_id, item_id, recommendation_id = _names_of(message)
    if not user_id and not session_id:
        raise InvalidField(f"{path}.user_id", "is required, or session_id")
    return Event(
        EventId(event_id or uuid.uuid4().hex),
        event_type,
        ItemId(item_id),
        _event_time(message.event_time, path, now, retention) if message.HasField("event_time") else now,
        UserId(user_id) if user_id else None,
        SessionId(session_id) if session_id else None,
        message.value if message.HasField("value") else None,
        plain(message.context) if message.HasField("context") else {},
        recommendation_id or None,
        plain(message.properties) if message.HasField("properties") else {},
    )


def events(columns: Columns[pb.Event], now: datetime, retention: timedelta | None = None) -> list[Event]:
    """The events in many messages, as `event` has each of them: of a batch, columns take half as long.

    Raises InvalidField and EventTimeOutOfRange where `event` would for any of them, without telling for which.
    """
    event_ids, user_ids, session_ids = (columns.values(name) for name in ("event_id", "user_id", "session_id"))
    if not (all(user_ids) or all(map(any, zip(user_ids, session_ids, strict=True)))):
        raise InvalidField("events.user_id", "is required, or session_id")
    rows = zip(
        event_ids if all(event_ids) else [event_id or uuid.uuid4().hex for event_id in event_ids],
        columns.values("event_type"),
        columns.values("item_id"),
        _optional(columns, "event_time", lambda sent: _event_time(sent, "events", now, retention), now),
        _none_for_empty(user_ids),
        _none_for_empty(session_ids),
        _optional(columns, "value", float, None),
        _optional(columns, "context", plain, {}),
        _none_for_empty(columns.values("recommendation_id")),
        _optional(columns, "properties", plain, {}),
        strict=False,
    )
    return list(map(Event._make, rows))


def _none_for_empty(texts: Sequence[str]) -> Iterable[str | None]:
    if all(texts):
        return texts
    return [text or None for text in texts] if any(texts) else repeat(None)


def _optional(
    columns: Columns[pb.Event], name: str, converted: Callable[[Any], object], otherwise: object
) -> Iterable[object]:
    """A field that need not be set; `otherwise` where it is not."""
    presence = columns.presence(name)
    if not any(presence):
        return repeat(otherwise)
    return (
        converted(value) if is_set else otherwise for value, is_set in zip(columns.values(name), presence, strict=True)
    )


def _event_time(message: Timestamp, path: str, now: datetime, retention: timedelta | None) -> datetime:
    event_time = moment(message, f"{path}.event_time")
    if event_time > now + MAX_CLOCK_SKEW:
        minutes = int(MAX_CLOCK_SKEW / timedelta(minutes=1))
        raise EventTimeOutOfRange(f"{path}.event_time", f"is more than {minutes} minutes in the future")
    if event_time < _EARLIEST:
        raise EventTimeOutOfRange(f"{path}.event_time", "is before 1970")
    if retention is not None and event_time < now - retention:
        days = retention / timedelta(days=1)
        raise EventTimeOutOfRange(f"{path}.event_time", f"is older than the {days:.10g} days that events are kept")
    return event_time


@lru_cache(maxsize=10_000)
def event_retention(settings: TenantSettings) -> timedelta | None:
    """How long the tenant's settings say that events are kept; None for ever."""
    message = settings_proto(settings)
    if not message.HasField("event_retention"):
        return None
    return span(message.event_retention)


def event_proto(stored: StoredEvent) -> pb.Event:
    """The message for a stored event."""
    source = stored.event
    return pb.Event(
        event_id=source.event_id,
        event_type=source.event_type,
        user_id=source.user_id or "",
        session_id=source.session_id or "",
        item_id=source.item_id,
        value=source.value,
        event_time=timestamp(source.event_time),
        context=struct(source.context) if source.context else None,
        recommendation_id=source.recommendation_id or "",
        properties=struct(source.properties) if source.properties else None,
        create_time=timestamp(stored.create_time),
    )


def event_type_change(request: pb.UpdateEventTypeRequest, present: EventType) -> EventType:
    """The event type after the update. Raises InvalidUpdateMask."""
    message = request.event_type
    paths = (
        mask_paths(request.update_mask, _EVENT_TYPE_FIELDS) if request.HasField("update_mask") else _EVENT_TYPE_FIELDS
    )
    wanted = {
        "weight": message.weight,
        "half_life": span(message.half_life) if message.HasField("half_life") else None,
        "counts_as_seen": message.counts_as_seen,
        "conversion": message.conversion,
    }
    return replace(present, **{path: wanted[path] for path in paths})  # type: ignore[arg-type]


def event_type_proto(source: EventType) -> pb.EventType:
    """The message for an event type."""
    return pb.EventType(
        event_type=source.event_type,
        weight=source.weight,
        half_life=duration(source.half_life),
        counts_as_seen=source.counts_as_seen,
        conversion=source.conversion,
        create_time=timestamp(source.create_time),
        update_time=timestamp(source.update_time),
    )
