"""Every guard, with a leak planted that it must see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from recsvc.domain.arrays import Mask
from recsvc.training.leakage import Leakage, check_past, check_sessions, check_stored_pairs, check_task, watched
from recsvc.training.protocols import SplitKind, Task, split_table
from recsvc.training.splits import Split
from tests.unit.test_protocols import an_event, table_of


def _a_task(kind: SplitKind) -> Task:
    log = [(f"u{user}", f"i{(user + 3 * day) % 17}", day) for user in range(12) for day in range(8)]
    return split_table(table_of(log), kind, test_share=0.3, seed=1)


def _with(task: Task, train: Mask, test: Mask) -> Task:
    return replace(task, split=Split(train, test, task.split.known))


def _an_event_in_both(task: Task) -> Task:
    train = task.split.train.copy()
    train[np.flatnonzero(task.split.test)[0]] = True
    return _with(task, train, task.split.test)


def _a_pair_in_both(task: Task) -> Task:
    table = task.table
    tested, trained = np.flatnonzero(task.split.test)[0], np.flatnonzero(task.split.told)[0]
    users, items = table.users.copy(), table.items.copy()
    users[trained], items[trained] = users[tested], items[tested]
    return replace(task, table=replace(table, users=users, items=items))


def _an_early_test_event(task: Task) -> Task:
    # Of another pair, so that only its time gives it away.
    table, times = task.table, task.table.times.copy()
    times[np.flatnonzero(task.split.test)[0]] = times.min()
    return replace(task, table=replace(table, times=times))


def _a_trained_user(task: Task) -> Task:
    table, users = task.table, task.table.users.copy()
    users[np.flatnonzero(task.split.train)[0]] = users[np.flatnonzero(task.split.test)[0]]
    items = table.items.copy()
    items[np.flatnonzero(task.split.train)[0]] = 10**6
    return replace(task, table=replace(table, users=users, items=items, item_ids=[*map(str, range(10**6 + 1))]))


def _an_answer_in(name: str) -> Callable[[Task], Task]:
    def leak(task: Task) -> Task:
        questions = task.questions
        told = (getattr(questions, name) + _only_first_row(questions.wanted)).tocsr()
        return replace(task, questions=replace(questions, **{name: told}))

    return leak


def _only_first_row(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.vstack([matrix[:1], sparse.csr_matrix((matrix.shape[0] - 1, matrix.shape[1]))]).tocsr()


EVERY = list(SplitKind)[1:]


@pytest.mark.parametrize("kind", EVERY)
def test_a_clean_task_passes(kind: SplitKind) -> None:
    task = _a_task(kind)
    assert len(task.questions)
    check_task(task)
    check_sessions(task)


@pytest.mark.parametrize(
    ("kind", "leak", "message"),
    [
        *((kind, _an_event_in_both, "both in the train part and in the test part") for kind in EVERY),
        *((kind, _an_answer_in("seen"), "tells an item that it asks for") for kind in EVERY),
        *((kind, _an_answer_in("ages"), "history of a question holds") for kind in EVERY),
        *((kind, _a_pair_in_both, "pairs of user and item") for kind in EVERY if kind is not SplitKind.NEXT_ITEM),
        (SplitKind.TEMPORAL, _an_early_test_event, "not later than the end of the train part"),
        (SplitKind.NEXT_ITEM, _an_early_test_event, "not later than the end of the train part"),
        (SplitKind.LEAVE_LAST_OUT, _an_early_test_event, "earlier than an event of the same user"),
        (SplitKind.USER_HELD_OUT, _a_trained_user, "kept out of training is in the train part"),
    ],
)
def test_a_planted_leak_is_seen(kind: SplitKind, leak: Callable[[Task], Task], message: str) -> None:
    with pytest.raises(Leakage, match=message):
        check_task(leak(_a_task(kind)))


def test_a_session_with_a_later_item_is_seen() -> None:
    task = _a_task(SplitKind.NEXT_ITEM)
    sessions = list(task.questions.sessions)
    last_of_same_user = np.flatnonzero(task.questions.subjects == task.questions.subjects[0])[-1]
    sessions[0] = np.append(sessions[0], task.questions.wanted[last_of_same_user].indices[0])
    with pytest.raises(Leakage, match="not touched before its moment"):
        check_sessions(replace(task, questions=replace(task.questions, sessions=sessions)))


def test_a_test_event_on_its_way_into_a_tenant_is_stopped() -> None:
    events = [an_event("u", "a", 0), an_event("u", "b", 1), an_event("u", "c", 2)]
    assert list(watched(events, frozenset())) == events
    on_their_way = watched(events, frozenset({events[1].event_id}))
    assert next(on_their_way) == events[0]
    with pytest.raises(Leakage, match="about to be loaded"):
        next(on_their_way)


def test_a_pair_too_many_in_a_tenant_is_seen() -> None:
    task = _a_task(SplitKind.RANDOM)
    pairs = task.table.users[task.split.train] * 1000 + task.table.items[task.split.train]
    stored = len(np.unique(pairs))
    check_stored_pairs(task.table, task.split.train, stored)
    with pytest.raises(Leakage, match="1 pairs"):
        check_stored_pairs(task.table, task.split.train, stored + 1)


def test_an_event_that_has_not_happened_yet_is_stopped() -> None:
    events = [an_event("u", "a", 0), an_event("u", "b", 1)]
    moment = events[1].event_time.timestamp()
    check_past(events, moment + 1)
    with pytest.raises(Leakage, match="before it happened"):
        check_past(events, moment)
