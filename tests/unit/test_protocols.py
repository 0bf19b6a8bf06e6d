"""Protocols: which questions are asked, with what history, and what they want found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, SessionId, UserId
from recsvc.training.leakage import check_sessions, check_task
from recsvc.training.protocols import SplitKind, Subject, Table, Task, read_table, split_table, validation_for
from recsvc.training.validation import ValidationKind

_START = datetime(2026, 1, 1, tzinfo=UTC)

Log = list[tuple[str, str, int]]
logs = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcdefg"), st.integers(0, 30)), min_size=1, max_size=50
)


def an_event(who: str, item: str, day: float, event_type: str = "view", value: float | None = None) -> Event:
    """An event of the user `who`, or of a session when the name begins with `s-`."""
    is_session = who.startswith("s-")
    return Event(
        EventId(f"{who}/{item}/{day}/{event_type}"),
        event_type,
        ItemId(item),
        _START + timedelta(days=day),
        user_id=None if is_session else UserId(who),
        session_id=SessionId(who) if is_session else None,
        value=value,
    )


def table_of(log: Log) -> Table:
    return read_table(an_event(*entry) for entry in log)


def _history(task: Task, question: int) -> dict[str, int]:
    row = task.questions.ages[question]
    return {task.table.item_ids[item]: int(age) for item, age in zip(row.indices, row.data, strict=True)}


def _wanted(task: Task, question: int) -> set[str]:
    return {task.table.item_ids[item] for item in task.questions.wanted[question].indices}


def _subjects(task: Task) -> list[str]:
    return [task.table.subjects[subject].id for subject in task.questions.subjects]


def test_a_session_and_a_user_of_the_same_name_are_two() -> None:
    event = an_event("s-1", "a", 0)
    user = Event(EventId("e"), "view", ItemId("a"), _START, user_id=UserId("s-1"))
    table = read_table([event, user])
    assert list(table.subjects) == [Subject("s-1", True), Subject("s-1", False)]


def test_an_event_of_a_known_user_in_a_session_is_the_users() -> None:
    event = Event(EventId("e"), "view", ItemId("a"), _START, user_id=UserId("u"), session_id=SessionId("s"))
    assert list(read_table([event]).subjects) == [Subject("u")]


def test_liked_is_what_training_counts_as_liked() -> None:
    events = [
        an_event("u", "a", 0),
        an_event("u", "b", 1, "rate", 2.5),
        an_event("u", "c", 2, "rate", 3.0),
        an_event("u", "d", 3, "dislike"),
        an_event("u", "e", 4, "impression"),
        an_event("u", "f", 5, "purchase"),
    ]
    assert read_table(events).liked.tolist() == [True, False, True, False, False, True]


def test_the_given_test_part_is_wanted_from_the_whole_train_part() -> None:
    train = [an_event("u", "a", 0), an_event("u", "b", 2), an_event("v", "a", 1)]
    test = [an_event("u", "c", 0), an_event("u", "a", 5), an_event("nobody", "c", 0)]
    task = split_table(read_table(train, test), SplitKind.GIVEN)
    assert _subjects(task) == ["u"]
    assert _wanted(task, 0) == {"c"}
    assert _history(task, 0) == {"a": 2, "b": 1}


def test_disliked_items_are_known_but_neither_liked_nor_wanted() -> None:
    events = [
        *(an_event("u", item, day) for day, item in enumerate("abc")),
        an_event("u", "d", 3, "dislike"),
        an_event("u", "e", 9),
        an_event("u", "f", 9, "dislike"),
    ]
    task = split_table(read_table(events), SplitKind.TEMPORAL, test_share=0.45)
    assert _wanted(task, 0) == {"e"}
    assert set(_history(task, 0)) == {"a", "b", "c"}
    assert {task.table.item_ids[item] for item in task.questions.seen[0].indices} == {"a", "b", "c", "d"}


def test_each_next_step_is_asked_for_with_all_that_came_before() -> None:
    log: Log = [("u", item, day) for day, item in enumerate("abcdef")]
    log += [("u", "g", 5), ("u", "a", 6), ("u", "h", 7), ("v", "x", 6), ("v", "y", 8)]
    task = split_table(table_of(log), SplitKind.NEXT_ITEM, test_share=0.75)
    assert sorted(task.table.item_ids[item] for item in set(task.table.items[task.split.train])) == ["a", "b", "c", "d"]
    questions = [
        (subject, _wanted(task, number), [task.table.item_ids[item] for item in task.questions.sessions[number]])
        for number, subject in enumerate(_subjects(task))
    ]
    assert questions == [
        ("u", {"e"}, []),
        ("u", {"f", "g"}, ["e"]),
        # Day 6 brings nothing new, and makes `a` the last item of the session.
        ("u", {"h"}, ["e", "f", "g", "a"]),
        ("v", {"y"}, ["x"]),
    ]
    assert _history(task, 2) == {"a": 1, "b": 6, "c": 5, "d": 4, "e": 3, "f": 2, "g": 2}


def test_held_out_users_are_asked_about_with_what_is_told_later() -> None:
    log: Log = [(f"u{user}", f"i{item}", item) for user in range(20) for item in range(10)]
    task = split_table(table_of(log), SplitKind.USER_HELD_OUT, test_share=0.25, seed=1)
    assert len(task.questions) == 5
    assert task.train.sum() == 15 * 10
    for question, subject in enumerate(task.questions.subjects):
        assert task.train[subject].nnz == 0
        assert len(_wanted(task, question)) == 2
        assert len(_history(task, question)) == 8


def test_a_sample_of_users_is_asked_all_their_questions() -> None:
    log: Log = [(f"u{user}", f"i{item}", item) for user in range(20) for item in range(10)]
    task = split_table(table_of(log), SplitKind.NEXT_ITEM, test_share=0.35, at_most=4, seed=2)
    assert len(np.unique(task.questions.subjects)) == 4
    assert len(task.questions) == 4 * 3


@given(logs, st.sampled_from([kind for kind in SplitKind if kind is not SplitKind.GIVEN]), st.floats(0.1, 0.8))
def test_no_question_of_any_protocol_leaks(log: Log, kind: SplitKind, share: float) -> None:
    task = split_table(table_of(log), kind, test_share=share, seed=3)
    check_task(task)
    check_sessions(task)
    for question in range(len(task.questions)):
        assert _wanted(task, question)
        assert _history(task, question)
        assert not _wanted(task, question) & set(_history(task, question))
        assert min(_history(task, question).values()) >= 1


@pytest.mark.parametrize(
    ("kind", "validation"),
    [
        (SplitKind.TEMPORAL, ValidationKind.TEMPORAL),
        (SplitKind.LEAVE_LAST_OUT, ValidationKind.NEXT_ITEM),
        (SplitKind.NEXT_ITEM, ValidationKind.NEXT_ITEM),
        (SplitKind.RANDOM, ValidationKind.RANDOM),
        (SplitKind.USER_HELD_OUT, ValidationKind.RANDOM),
    ],
)
def test_a_model_is_chosen_by_the_question_that_it_will_be_asked(kind: SplitKind, validation: ValidationKind) -> None:
    log: Log = [(f"u{user}", f"i{item}", item) for user in range(8) for item in range(6)]
    assert validation_for(split_table(table_of(log), kind)) is validation


def _given(train_days: list[float], test_days: list[float]) -> Task:
    users = [f"u{user}" for user in range(5)]
    train = [an_event(user, f"i{place}", day) for user in users for place, day in enumerate(train_days)]
    test = [an_event(user, f"t{place}", day) for user in users for place, day in enumerate(test_days)]
    return split_table(read_table(train, test), SplitKind.GIVEN)


def test_what_a_given_split_asks_for_is_told_by_its_times() -> None:
    assert validation_for(_given([1, 1, 1], [1])) is ValidationKind.BLOCKED
    assert validation_for(_given([1, 2, 3], [4, 5])) is ValidationKind.TEMPORAL
    assert validation_for(_given([1, 2, 5], [3, 4])) is ValidationKind.RANDOM
