"""Items, users and events from records of named fields: what the csv and the jsonl reader have in common.

The fields are those of the messages in the contract, by their snake_case names, with the values of JSON. Fields that
the service sets itself (`etag`, `create_time`, …) are read over, so that an export can be imported; unknown ones are
errors, because a misspelt field would otherwise be lost in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from recsvc.datasets.ids import event_id
from recsvc.datasets.rows import iso_time
from recsvc.datasets.source import DatasetError
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, SessionId, UserId
from recsvc.domain.text import name_fault
from recsvc.domain.users import User

_SERVICE_SETS = frozenset({"etag", "create_time", "update_time"})
ITEM_FIELDS = _SERVICE_SETS | {
    *("item_id", "item_type", "title", "description", "categories", "tags", "attributes", "embedding"),
    *("available", "hidden", "publish_time", "expire_time"),
}
USER_FIELDS = _SERVICE_SETS | {"user_id", "attributes", "labels"}
EVENT_FIELDS = _SERVICE_SETS | {
    *("event_id", "event_type", "user_id", "session_id", "item_id", "value", "event_time", "context"),
    *("recommendation_id", "properties"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """Named values and where they stand. A field that is missing and one that is null are the same."""

    path: Path
    line: int
    fields: Mapping[str, object]

    def fail(self, what: str) -> NoReturn:
        """Raise DatasetError for this record."""
        raise DatasetError(self.path, self.line, what)

    def check_known(self, known: frozenset[str]) -> None:
        """Raise DatasetError when a field is none of the known ones."""
        if unknown := sorted(self.fields.keys() - known):
            self.fail(f"unknown field {unknown[0]!r}")

    def id(self, field: str) -> str:
        """A field that must hold an id."""
        if (text := self.optional_id(field)) is None:
            self.fail(f"lacks {field}")
        return text

    def optional_id(self, field: str) -> str | None:
        """A field that may hold an id; an empty one is none, as in proto3."""
        text = self.text(field)
        if text and (fault := name_fault(text)):
            self.fail(f"{field} {fault}")
        return text or None

    def text(self, field: str) -> str:
        """A string; empty when missing."""
        value = self.fields.get(field)
        if value is None:
            return ""
        return value if isinstance(value, str) else self.fail(f"{field} must be a string")

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of strings; empty when missing."""
        value = self.fields.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(element, str) and element for element in value):
            self.fail(f"{field} must be a list of non-empty strings")
        return tuple(value)

    def number(self, field: str) -> float | None:
        """A finite number; None when missing."""
        value = self.fields.get(field)
        return None if value is None else self._finite(field, value)

    def numbers(self, field: str) -> tuple[float, ...] | None:
        """A list of finite numbers; None when missing or empty."""
        value = self.fields.get(field)
        if value is None:
            return None
        if not isinstance(value, list):
            self.fail(f"{field} must be a list of numbers")
        return tuple(self._finite(field, element) for element in value) or None

    def flag(self, field: str, default: bool) -> bool:
        """A boolean; the default when missing."""
        value = self.fields.get(field)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.fail(f"{field} must be true or false")

    def struct(self, field: str) -> Mapping[str, object]:
        """A JSON object; empty when missing."""
        value = self.fields.get(field)
        if value is None:
            return {}
        return value if isinstance(value, dict) else self.fail(f"{field} must be an object")

    def time(self, field: str) -> datetime | None:
        """An ISO 8601 time, UTC when it names no zone; None when missing."""
        if not (text := self.text(field)):
            return None
        if (moment := iso_time(text)) is None:
            self.fail(f"{field} {text!r} is not an ISO 8601 time")
        return moment

    def _finite(self, field: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(f"{field} must be a finite number")
        return float(value)


def item(record: Record) -> Item:
    """The item that the record describes; only `item_id` is needed."""
    record.check_known(ITEM_FIELDS)
    return Item(
        item_id=ItemId(record.id("item_id")),
        item_type=record.text("item_type"),
        title=record.text("title"),
        description=record.text("description"),
        categories=record.texts("categories"),
        tags=record.texts("tags"),
        attributes=record.struct("attributes"),
        embedding=record.numbers("embedding"),
        available=record.flag("available", True),
        hidden=record.flag("hidden", False),
        publish_time=record.time("publish_time"),
        expire_time=record.time("expire_time"),
    )


def user(record: Record) -> User:
    """The user that the record describes; only `user_id` is needed."""
    record.check_known(USER_FIELDS)
    return User(UserId(record.id("user_id")), record.struct("attributes"), record.texts("labels"))


def event(record: Record) -> Event:
    """The event that the record describes.

    `event_type item_id event_time` and one of `user_id session_id` are needed. Without `event_id` the line and what it
    says make one, so that the same file can be imported again and nothing counts twice.
    """
    record.check_known(EVENT_FIELDS)
    user_id, session_id = record.optional_id("user_id"), record.optional_id("session_id")
    if user_id is None and session_id is None:
        record.fail("lacks both user_id and session_id")
    event_type, item_id, event_time = record.id("event_type"), record.id("item_id"), record.time("event_time")
    if event_time is None:
        record.fail("lacks event_time")
    own_id = record.optional_id("event_id")
    made_of = ("line", record.line, user_id or session_id, item_id, event_type, event_time.isoformat())
    return Event(
        event_id=EventId(own_id) if own_id else event_id(*made_of),
        event_type=event_type,
        item_id=ItemId(item_id),
        event_time=event_time,
        user_id=UserId(user_id) if user_id else None,
        session_id=SessionId(session_id) if session_id else None,
        value=record.number("value"),
        context=record.struct("context"),
        recommendation_id=record.optional_id("recommendation_id"),
        properties=record.struct("properties"),
    )
