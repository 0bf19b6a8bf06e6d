"""Events, their types, and what an event says about taste: the signal that training and fold-in share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

from recsvc.domain.ids import EventId, ItemId, SessionId, UserId

MAX_CLOCK_SKEW = timedelta(minutes=10)
"""How far in the future an event's time may lie: phones are wrong by minutes, not by days."""

_MIDDLE_RATING = 2.5
_NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EventType:
    """How much one kind of event tells about taste.

    weight: signal of one event; negative for dislike, 0 for what tells nothing. half_life: the age at which the signal
    has halved; None for never. counts_as_seen: the item is not recommended again unless asked. conversion: what
    experiments and reports count as success.
    """

    event_type: str
    weight: float
    half_life: timedelta | None = None
    counts_as_seen: bool = True
    conversion: bool = False
    create_time: datetime | None = None
    update_time: datetime | None = None


DEFAULT_EVENT_TYPES: tuple[EventType, ...] = (
    EventType("view", 1.0),
    EventType("click", 1.0),
    EventType("like", 2.0),
    EventType("add_to_cart", 2.0),
    EventType("purchase", 3.0, conversion=True),
    EventType("rate", 1.0),
    EventType("dislike", -2.0),
    EventType("impression", 0.0, counts_as_seen=False),
)


class Event(NamedTuple):
    """One thing that a user or session did. Either `user_id` or `session_id` is set, or both.

    A tuple, and so is what became of it: they come by the ten thousand, and a frozen dataclass takes three times as
    long to make.
    """

    event_id: EventId
    event_type: str
    item_id: ItemId
    event_time: datetime
    user_id: UserId | None = None
    session_id: SessionId | None = None
    value: float | None = None
    context: Mapping[str, object] = _NOTHING
    recommendation_id: str | None = None
    properties: Mapping[str, object] = _NOTHING


def event_signal(event_type: str, value: float | None, weight: float) -> float:
    """What an event says about taste before it ages, as `event_signal_v1` has it in SQL. weight: of its type.

    A rating counts by its distance from the middle of five stars; other types count the same whatever their value.
    """
    if event_type == "rate" and value is not None:
        return weight * min(1.0, max(-1.0, (value - _MIDDLE_RATING) / _MIDDLE_RATING))
    return weight


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is listed and exported: with the time at which it arrived."""

    event: Event
    create_time: datetime


class Recorded(NamedTuple):
    """The outcome of one event of a batch: stored now, or stored before (`duplicate`)."""

    event_id: EventId
    duplicate: bool
