"""Guards against leakage: that nothing of a test part was known to what is judged by it.

A leak makes figures better without a trace, so each guard stops the evaluation loudly instead of correcting anything.
They look at the outcome (masks, ids, stored pairs), not at the code that should have brought it about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

import numpy as np

from recsvc.domain.arrays import Codes, Float64, Mask
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId
from recsvc.training.protocols import SplitKind, Table, Task

_BY_TIME = (SplitKind.TEMPORAL, SplitKind.NEXT_ITEM)


class Leakage(AssertionError):
    """Occurs when something of the test part could have been known; the figures would mean nothing."""


def check_task(task: Task) -> None:
    """Raise Leakage unless the split and its questions keep what is to be found apart from what is told."""
    table, split, questions = task.table, task.split, task.questions
    if (split.told & split.test).any():
        raise Leakage("an event is both in the train part and in the test part")
    if task.kind is not SplitKind.NEXT_ITEM:
        both = np.intersect1d(_pairs(table, split.told), _pairs(table, split.test))
        if len(both):
            raise Leakage(f"{len(both)} pairs of user and item stand in the train part and in the test part")
    if questions.seen.multiply(questions.wanted).nnz:
        raise Leakage("a question tells an item that it asks for")
    if questions.ages.multiply(questions.wanted).nnz:
        raise Leakage("the history of a question holds an item that it asks for")
    if not split.train.any() or not split.test.any():
        return
    if task.kind in _BY_TIME:
        end, start = table.times[split.train].max(), table.times[split.test].min()
        if start <= end:
            raise Leakage("an event of the test part is not later than the end of the train part")
    if task.kind is SplitKind.LEAVE_LAST_OUT:
        last = _per_user(table, split.train, -np.inf, np.maximum)
        first = _per_user(table, split.test, np.inf, np.minimum)
        if (first < last).any():
            raise Leakage("a held-out event is earlier than an event of the same user in the train part")
    if task.kind is SplitKind.USER_HELD_OUT and np.isin(table.users[split.test], table.users[split.train]).any():
        raise Leakage("a user who was to be kept out of training is in the train part")


def check_sessions(task: Task) -> None:
    """Raise Leakage when a question is sent with an item that its subject touched only at that moment or later."""
    table, questions = task.table, task.questions
    lengths = [len(session) for session in questions.sessions]
    if not any(lengths):
        return
    everything = np.ones(len(table.users), dtype=np.bool_)
    pairs, pair_of = np.unique(_pairs(table, everything), return_inverse=True)
    first = np.full(len(pairs), np.inf)
    np.minimum.at(first, pair_of, table.times)
    sent = np.repeat(questions.subjects, lengths) * len(table.item_ids) + np.concatenate(questions.sessions)
    place = np.minimum(np.searchsorted(pairs, sent), len(pairs) - 1)
    touched = np.where(pairs[place] == sent, first[place], np.inf)
    if (touched >= np.repeat(questions.moments, lengths)).any():
        raise Leakage("a question is sent with an item that was not touched before its moment")


def watched(events: Iterable[Event], forbidden: Set[EventId]) -> Iterator[Event]:
    """The events, on their way into a tenant; raises Leakage at the first whose id is of the test part."""
    for event in events:
        if event.event_id in forbidden:
            raise Leakage(f"the event {event.event_id!r} of the test part was about to be loaded")
        yield event


def check_past(events: Iterable[Event], moment: float) -> None:
    """Raise Leakage unless all the events are earlier than the moment, in seconds since 1970."""
    if any(event.event_time.timestamp() >= moment for event in events):
        raise Leakage("an event was about to be recorded before it happened")


def check_stored_pairs(table: Table, loaded: Mask, stored: int) -> None:
    """Raise Leakage when a tenant knows of more pairs of subject and item than were loaded.

    loaded: which events were; stored: distinct pairs in the tenant. What is tested is a pair of its own, so any event
    of the test part, however it came in, adds one.
    """
    expected = len(np.unique(_pairs(table, loaded)))
    if stored > expected:
        raise Leakage(f"the tenant knows {stored - expected} pairs of user and item that are not in the train part")


def _pairs(table: Table, mask: Mask) -> Codes:
    return np.asarray(table.users[mask] * len(table.item_ids) + table.items[mask])


def _per_user(table: Table, mask: Mask, start: float, fold: np.ufunc) -> Float64:
    values = np.full(len(table.subjects), start)
    fold.at(values, table.users[mask], table.times[mask])
    return values
