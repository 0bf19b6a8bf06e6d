"""What a data set is to the rest of the house: a name and three streams of domain objects.

A data set is read as often as it is asked for and never held whole: each of `items`, `users` and `events` starts a
fresh iterator. The event streams keep nothing but what their format forces on them. Who stores the objects is not
known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.users import User


class DatasetError(Exception):
    """Occurs when a data set cannot be read: where (file, 1-based line if there is one) and what is wrong."""

    def __init__(self, path: Path, line: int | None, what: str) -> None:
        super().__init__(f"{path}: {what}" if line is None else f"{path}, line {line}: {what}")
        self.path = path
        self.line = line
        self.what = what


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items, users and events, each a stream that can be started again.

    item_count and event_count are for progress bars: None when only a full read would tell, and otherwise the number of
    elements to expect, which lines that a reader passes over (repeats, for one) can make a little too high.
    Within one stream no id stands twice.
    """

    name: str
    items: Callable[[], Iterator[Item]]
    users: Callable[[], Iterator[User]]
    events: Callable[[], Iterator[Event]]
    item_count: int | None = None
    event_count: int | None = None
