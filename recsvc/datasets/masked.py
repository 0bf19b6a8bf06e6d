"""A part of a data set, chosen event by event: what an evaluation loads.

Masks are parallel to the stream of events. Who chose them, and why, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, compress

from recsvc.datasets.source import Dataset
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId


def part_of(dataset: Dataset, mask: Iterable[bool], count: int) -> Dataset:
    """The data set with the events in the mask, `count` of them; a mask may be longer than the stream."""
    # A list of Python's own truth values: an array would box each of millions anew.
    chosen = list(mask)
    return replace(dataset, events=lambda: compress(dataset.events(), chosen), event_count=count)


def with_every_item(dataset: Dataset, item_ids: Iterable[str]) -> Dataset:
    """The data set with a bare item for each id that its catalogue lacks, so that no event is refused for that."""
    missing = dict.fromkeys(item_ids)
    for item in dataset.items():
        missing.pop(item.item_id, None)

    def items() -> Iterator[Item]:
        return chain(dataset.items(), (Item(ItemId(item_id)) for item_id in missing))

    known = dataset.item_count
    return replace(dataset, items=items, item_count=None if known is None else known + len(missing))


def without_catalogue(dataset: Dataset) -> Dataset:
    """Only the events, for a tenant that has the items and users already."""
    return replace(dataset, items=lambda: iter(()), users=lambda: iter(()), item_count=0)


def ids_of(streams: Iterable[Iterable[Event]], mask: Iterable[bool], told: Iterable[bool]) -> frozenset[EventId]:
    """The ids of the events in the mask, over streams one after another, that no event of `told` has, too."""
    wanted: set[EventId] = set()
    others: set[EventId] = set()
    for event, is_wanted, is_told in zip(chain.from_iterable(streams), mask, told, strict=True):
        if is_wanted:
            wanted.add(event.event_id)
        elif is_told:
            others.add(event.event_id)
    return frozenset(wanted - others)
