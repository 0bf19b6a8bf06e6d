"""Deskdrop: a year of reading and reacting in one company's article platform.

Every line is one event. The titles of the articles are in another file, which is not read: items have ids only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recsvc.datasets.files import only_file
from recsvc.datasets.ids import event_id
from recsvc.datasets.rows import Row, headed_rows
from recsvc.datasets.source import Dataset
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import ItemId, SessionId, UserId
from recsvc.domain.users import User

FILE = "users_interactions.csv"
EVENT_TYPES = {"VIEW": "view", "LIKE": "like", "BOOKMARK": "like", "COMMENT CREATED": "like", "FOLLOW": "like"}
"""What the platform's event types are here. The platform's own name stays in the property `action`."""

_COLUMNS = ("timestamp", "eventType", "contentId", "personId", "sessionId")
_CIRCUMSTANCES = {"userAgent": "user_agent", "userRegion": "region", "userCountry": "country"}


def deskdrop(path: Path) -> Dataset:
    """Deskdrop: `path` is the csv file (gzipped or not) or its folder."""
    file = only_file(path, FILE)

    def distinct(column: str) -> Iterator[str]:
        seen: set[str] = set()
        for row in headed_rows(file, _COLUMNS):
            if (element := row.id(column)) not in seen:
                seen.add(element)
                yield element

    def items() -> Iterator[Item]:
        for item_id in distinct("contentId"):
            yield Item(ItemId(item_id), item_type="article")

    def users() -> Iterator[User]:
        for user_id in distinct("personId"):
            yield User(UserId(user_id))

    def events() -> Iterator[Event]:
        return map(_event, headed_rows(file, _COLUMNS))

    return Dataset("deskdrop", items, users, events, event_count=file.row_count())


def _event(row: Row) -> Event:
    action = row.text("eventType")
    if action not in EVENT_TYPES:
        row.fail(f"eventType {action!r} is none of {', '.join(EVENT_TYPES)}")
    circumstances = ((ours, row.cells.get(theirs, "").strip()) for theirs, ours in _CIRCUMSTANCES.items())
    return Event(
        # People repeat an action within one second, so only the line tells the events apart.
        event_id=event_id("dd", row.line),
        event_type=EVENT_TYPES[action],
        item_id=ItemId(row.id("contentId")),
        event_time=row.epoch("timestamp"),
        user_id=UserId(row.id("personId")),
        session_id=SessionId(row.id("sessionId")),
        context={name: value for name, value in circumstances if value},
        properties={"action": action},
    )
