"""The protocols of evaluation: a data set as arrays, split, and turned into questions with known answers.

A question is asked of the service as any caller would ask it: for a user or session, perhaps with the items of the
running session. What counts as relevant is what counts as liked in training: an event with a positive signal (a rating
above the middle, any other event of a type with a positive weight). Knows nothing of how questions are answered.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions, Mask
from recsvc.domain.events import DEFAULT_EVENT_TYPES, Event, event_signal
from recsvc.training.splits import (
    Split,
    given_split,
    leave_last_out,
    next_item_split,
    random_split,
    temporal_split,
    user_held_out_split,
)
from recsvc.training.validation import ValidationKind, ages_by_time

HIDDEN_SHARE = 0.2
"""Of the history of each user that was kept out of training (Liang et al. 2018)."""

_WEIGHTS = {kind.event_type: kind.weight for kind in DEFAULT_EVENT_TYPES}
_NEARLY_ALL = 0.9


class SplitKind(StrEnum):
    """How a data set is split, and what is asked."""

    GIVEN = "given"
    """The data set's own test part."""

    TEMPORAL = "temporal"
    """The last share of all events by time; everything in it is to be found at its beginning."""

    LEAVE_LAST_OUT = "leave-last-out"
    """The last event of each user."""

    RANDOM = "random"
    """A random share of each user's events."""

    USER_HELD_OUT = "user-held-out"
    """A share of the users is never trained on; most of their history is told afterwards, the rest is to be found."""

    NEXT_ITEM = "next-item"
    """The last share of all events by time, one step after another: each from all that came before it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who events belong to: a user, or a session of nobody known."""

    id: str
    is_session: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A data set's events as arrays, one entry per event in the order of the files; times in seconds since 1970.

    signals: what each says about taste, before it ages; liked: whether that is positive.
    """

    subjects: Sequence[Subject]
    item_ids: Sequence[str]
    users: Codes
    items: Codes
    times: Float64
    signals: Float64
    liked: Mask
    is_given_test: Mask

    @property
    def touched(self) -> Mask:
        """What is liked or disliked."""
        return np.asarray(self.signals != 0)

    def matrix(self, mask: Mask) -> Interactions:
        """(subjects, items) with 1 where the entries in the mask have a pair."""
        return _ones(self.users[mask], self.items[mask], (len(self.subjects), len(self.item_ids)))


@dataclass(frozen=True, slots=True)
class Questions:
    """n questions, in the order of their subjects, then of time.

    subjects: (n,) rows of the table; moments: (n,) when it is asked. sessions: for each question the items to send with
    it, oldest first. All (n, items): ages, for every liked item that is known then, 1 + the number of distinct times
    after it; signals, for the same items, the sum of what the events say; touched_ages and touched_signals, the same
    for every item that is liked or disliked; seen, 1 for what the subject has; wanted, 1 for what must be found.
    """

    subjects: Codes
    moments: Float64
    sessions: Sequence[Codes]
    ages: Interactions
    signals: Interactions
    touched_ages: Interactions
    touched_signals: Interactions
    seen: Interactions
    wanted: Interactions

    def __len__(self) -> int:
        """How many there are."""
        return len(self.subjects)


@dataclass(frozen=True, slots=True)
class Task:
    """A split data set. train: (subjects, items) with 1 for what is liked in the train part."""

    table: Table
    kind: SplitKind
    split: Split
    train: Interactions
    questions: Questions

    def without_sessions(self) -> Task:
        """The same for a service that knows of what would have been sent with the questions."""
        nothing = [np.zeros(0, dtype=np.int64)] * len(self.questions)
        return replace(self, questions=replace(self.questions, sessions=nothing))


def read_table(train: Iterable[Event], test: Iterable[Event] = ()) -> Table:
    """The events of a data set; test: those of its own test part, if it has one."""
    subjects: dict[Subject, int] = {}
    item_ids: dict[str, int] = {}
    users, items, times, signals, is_test = array("q"), array("q"), array("d"), array("d"), array("b")
    for part, events in enumerate((train, test)):
        for event in events:
            is_session = event.user_id is None
            subject = Subject(str(event.session_id if is_session else event.user_id), is_session)
            users.append(subjects.setdefault(subject, len(subjects)))
            items.append(item_ids.setdefault(event.item_id, len(item_ids)))
            times.append(event.event_time.timestamp())
            signals.append(event_signal(event.event_type, event.value, _WEIGHTS.get(event.event_type, 0.0)))
            is_test.append(part)
    return Table(
        list(subjects),
        list(item_ids),
        np.array(users, dtype=np.int64),
        np.array(items, dtype=np.int64),
        np.array(times, dtype=np.float64),
        np.array(signals, dtype=np.float64),
        np.array(signals, dtype=np.float64) > 0,
        np.array(is_test, dtype=np.bool_),
    )


def split_table(
    table: Table, kind: SplitKind, *, test_share: float = 0.2, at_most: int | None = None, seed: int = 0
) -> Task:
    """Split a data set and make the questions, of a random sample of subjects when there are more than `at_most`.

    test_share: of the events; with USER_HELD_OUT of the users. Nothing of the test part is in the train part.
    """
    match kind:
        case SplitKind.GIVEN:
            split = given_split(table.users, table.items, table.is_given_test)
        case SplitKind.TEMPORAL:
            split = temporal_split(table.users, table.items, table.times, test_share)
        case SplitKind.LEAVE_LAST_OUT:
            split = leave_last_out(table.users, table.items, table.times)
        case SplitKind.RANDOM:
            split = random_split(table.users, table.items, test_share, seed)
        case SplitKind.USER_HELD_OUT:
            split = user_held_out_split(table.users, table.items, test_share, HIDDEN_SHARE, seed)
        case SplitKind.NEXT_ITEM:
            split = next_item_split(table.users, table.items, table.times, test_share)
    wanted = split.test & table.liked
    asked = _sample(np.unique(table.users[wanted]), at_most, seed)
    wanted &= np.isin(table.users, asked)
    questions = _next_steps(table, split, wanted) if kind is SplitKind.NEXT_ITEM else _one_each(table, split, wanted)
    return Task(table, kind, split, table.matrix(split.train & table.liked), questions)


def validation_for(task: Task) -> ValidationKind:
    """What a model for these questions should be chosen by; of the test part only its times are looked at."""
    match task.kind:
        case SplitKind.TEMPORAL:
            return ValidationKind.TEMPORAL
        case SplitKind.LEAVE_LAST_OUT | SplitKind.NEXT_ITEM:
            return ValidationKind.NEXT_ITEM
        case SplitKind.RANDOM | SplitKind.USER_HELD_OUT:
            return ValidationKind.RANDOM
    table, split = task.table, task.split
    if _share_of_users(table, split.train, split.train, at_once=True) >= _NEARLY_ALL:
        return ValidationKind.BLOCKED
    if _share_of_users(table, split.train, split.test) >= _NEARLY_ALL:
        return ValidationKind.TEMPORAL
    return ValidationKind.RANDOM


def _one_each(table: Table, split: Split, wanted: Mask) -> Questions:
    """For each subject all that is wanted of it, with all that was told before."""
    subjects = np.unique(table.users[wanted])
    row_of = np.full(len(table.subjects), -1, dtype=np.int64)
    row_of[subjects] = np.arange(len(subjects))
    told = split.told & (row_of[table.users] >= 0)
    shape = (len(subjects), len(table.item_ids))
    moments = np.full(len(subjects), -np.inf)
    np.maximum.at(moments, row_of[table.users[told]], table.times[told])
    rows, liked, touched = row_of[table.users], np.flatnonzero(told & table.liked), np.flatnonzero(told & table.touched)
    return Questions(
        subjects=subjects,
        moments=moments,
        sessions=[np.zeros(0, dtype=np.int64)] * len(subjects),
        ages=_ages(rows, table, liked, shape),
        signals=_signals(rows, table, liked, shape),
        touched_ages=_ages(rows, table, touched, shape),
        touched_signals=_signals(rows, table, touched, shape),
        seen=_ones(row_of[table.users[told]], table.items[told], shape),
        wanted=_ones(row_of[table.users[wanted]], table.items[wanted], shape),
    )


def _next_steps(table: Table, split: Split, wanted: Mask) -> Questions:
    """For each subject and moment with something wanted, what was before; the part after training as the session."""
    order = np.lexsort((table.times, table.users))
    starts = np.searchsorted(table.users[order], np.arange(len(table.subjects) + 1))
    entries = np.flatnonzero(wanted)
    steps = np.unique(np.stack([table.users[entries].astype(np.float64), table.times[entries]], axis=1), axis=0)
    subjects, moments = steps[:, 0].astype(np.int64), steps[:, 1]
    before, after, sessions = [], [], []
    for subject, moment in zip(subjects, moments, strict=True):
        own = order[starts[subject] : starts[subject + 1]]
        at = slice(*np.searchsorted(table.times[own], [moment, np.nextafter(moment, np.inf)]))
        history = own[: at.start]
        before.append(history)
        after.append(own[at][wanted[own[at]]])
        running = history[~split.train[history] & table.liked[history]]
        sessions.append(_last_of_each(table.items[running]))
    shape = (len(subjects), len(table.item_ids))
    questions = np.arange(len(subjects))
    rows = np.repeat(questions, [len(history) for history in before])
    known, found = _concatenated(before), _concatenated(after)

    def told(mask: Mask) -> tuple[Interactions, Interactions]:
        chosen = np.flatnonzero(mask[known])
        entries, of_rows = known[chosen], rows[chosen]
        ages = ages_by_time(of_rows, np.asarray(table.times[entries]))
        return (
            _smallest(of_rows, table.items[entries], ages, shape),
            _sums(of_rows, table.items[entries], table.signals[entries], shape),
        )

    ages, signals = told(table.liked)
    touched_ages, touched_signals = told(table.touched)
    return Questions(
        subjects=subjects,
        moments=moments,
        sessions=sessions,
        ages=ages,
        signals=signals,
        touched_ages=touched_ages,
        touched_signals=touched_signals,
        seen=_ones(rows, table.items[known], shape),
        wanted=_ones(np.repeat(questions, [len(step) for step in after]), table.items[found], shape),
    )


def _ages(row_of_entry: Codes, table: Table, entries: Codes, shape: tuple[int, int]) -> Interactions:
    rows = row_of_entry[entries]
    return _smallest(rows, table.items[entries], ages_by_time(rows, table.times[entries]), shape)


def _signals(row_of_entry: Codes, table: Table, entries: Codes, shape: tuple[int, int]) -> Interactions:
    return _sums(row_of_entry[entries], table.items[entries], table.signals[entries], shape)


def _sums(rows: Codes, columns: Codes, values: Float64, shape: tuple[int, int]) -> Interactions:
    """A matrix with the sum of the values of each pair."""
    matrix = sparse.csr_matrix((values.astype(np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    return matrix


def _smallest(rows: Codes, columns: Codes, values: Codes, shape: tuple[int, int]) -> Interactions:
    """A matrix with the smallest of the values of each pair."""
    order = np.lexsort((values, columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    first = np.append(True, (np.diff(rows) != 0) | (np.diff(columns) != 0))[: len(rows)]
    return sparse.csr_matrix((values[first].astype(np.float32), (rows[first], columns[first])), shape=shape)


def _ones(rows: Codes, columns: Codes, shape: tuple[int, int]) -> Interactions:
    matrix = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _last_of_each(items: Codes) -> Codes:
    """The items in the order of their last occurrence."""
    _, from_the_end = np.unique(items[::-1], return_index=True)
    return np.asarray(items[np.sort(len(items) - 1 - from_the_end)], dtype=np.int64)


def _concatenated(parts: Sequence[Codes]) -> Codes:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _sample(subjects: Codes, at_most: int | None, seed: int) -> Codes:
    if at_most is None or len(subjects) <= at_most:
        return subjects
    return np.sort(np.random.default_rng(seed).choice(subjects, at_most, replace=False))


def _share_of_users(table: Table, earlier: Mask, later: Mask, *, at_once: bool = False) -> float:
    """The share of users for whom every event of `later` is after all of `earlier`, or all are of one time."""
    last = np.full(len(table.subjects), -np.inf)
    np.maximum.at(last, table.users[earlier], table.times[earlier])
    first = np.full(len(table.subjects), np.inf)
    np.minimum.at(first, table.users[later], table.times[later])
    both = np.isfinite(last) & np.isfinite(first)
    if not both.any():
        return 0.0
    return float(np.mean(last[both] == first[both] if at_once else last[both] < first[both]))
