"""The LightGCN layout (Gowalla, Yelp2018, Amazon-Book): one user a line, `user item item …`, ids and nothing else.

The catalogue is what stands in any of `train.txt` and `test.txt`; the events are those of one file, so that a test
split is not imported by accident. Events are of type `view`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from recsvc.datasets.files import Folder, TextFile
from recsvc.datasets.ids import event_id
from recsvc.datasets.source import Dataset, DatasetError
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import ItemId, UserId
from recsvc.domain.text import name_fault
from recsvc.domain.users import User

EVENT_TIME = datetime(2020, 1, 1, tzinfo=UTC)
"""The time of every event: the files tell none, and the order of a line is that of the ids, which means nothing."""

SPLITS = ("train.txt", "test.txt")


def lightgcn(path: Path, events_file: str | None = None) -> Dataset:
    """The data set in the folder or zip archive `path`. events_file: whose lines become events; default `train.txt`."""
    folder = Folder(path)
    chosen = folder.file(events_file or SPLITS[0])
    every = [chosen, *(folder.file(name) for name in SPLITS if name in folder and folder.file(name) != chosen)]

    def items() -> Iterator[Item]:
        seen: set[str] = set()
        for file in every:
            for _, touched in _histories(file):
                for item_id in touched:
                    if item_id not in seen:
                        seen.add(item_id)
                        yield Item(ItemId(item_id))

    def users() -> Iterator[User]:
        seen: set[str] = set()
        for file in every:
            for user_id, _ in _histories(file):
                if user_id not in seen:
                    seen.add(user_id)
                    yield User(UserId(user_id))

    def events() -> Iterator[Event]:
        for user_id, touched in _histories(chosen):
            for item_id in touched:
                yield Event(
                    event_id=event_id("lgcn", user_id, item_id),
                    event_type="view",
                    item_id=ItemId(item_id),
                    event_time=EVENT_TIME,
                    user_id=UserId(user_id),
                )

    return Dataset("lightgcn", items, users, events)


def _histories(file: TextFile) -> Iterator[tuple[str, list[str]]]:
    """Each user with their items, an item that stands twice only once."""
    for number, line in enumerate(file.lines(), start=1):
        ids = line.split()
        if not ids:
            continue
        for element in ids:
            if fault := name_fault(element):
                raise DatasetError(file.place, number, f"the id {element[:20]!r}… {fault}")
        yield ids[0], list(dict.fromkeys(ids[1:]))
