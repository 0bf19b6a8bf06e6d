"""Splits: what may be learned from never tells what is judged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.training.splits import (
    Split,
    given_split,
    leave_last_out,
    next_item_split,
    random_split,
    temporal_split,
    user_held_out_split,
)

logs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 40)), max_size=60).map(
    lambda rows: tuple(np.array(rows, dtype=np.int64).reshape(-1, 3).T)
)


def splits_of(log: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[Split]:
    users, items, times = log
    return [
        temporal_split(users, items, times, 0.25),
        leave_last_out(users, items, times, 2),
        random_split(users, items, 0.3, seed=4),
        given_split(users, items, times > 20),
        user_held_out_split(users, items, 0.4, 0.3, seed=5),
    ]


@given(logs)
def test_no_split_tests_what_could_be_known_or_who_is_unknown(log: tuple[np.ndarray, ...]) -> None:
    users, items, _ = log
    for split in splits_of(log):
        assert not (split.told & split.test).any()
        trained = set(zip(users[split.told].tolist(), items[split.told].tolist(), strict=True))
        tested = set(zip(users[split.test].tolist(), items[split.test].tolist(), strict=True))
        assert not trained & tested
        assert {user for user, _ in tested} <= {user for user, _ in trained}


@given(logs, st.floats(0.05, 0.9))
def test_temporal_split_learns_only_from_before_the_test(log: tuple[np.ndarray, ...], share: float) -> None:
    users, items, times = log
    split = temporal_split(users, items, times, share)
    if split.test.any():
        assert times[split.train].max() < times[split.test].min()
    assert (~split.train).mean() <= share if len(users) else True


@given(logs, st.integers(1, 3))
def test_leave_last_out_holds_out_the_newest_of_each_user(log: tuple[np.ndarray, ...], count: int) -> None:
    users, items, times = log
    split = leave_last_out(users, items, times, count)
    for user in np.unique(users):
        own = users == user
        held = own & ~split.train
        assert held.sum() == (count if own.sum() > count else 0)
        if held.any():
            assert times[own & split.train].max() <= times[held].min()


@given(logs, st.floats(0.05, 0.95))
def test_random_split_takes_the_share_of_each_user_and_leaves_something(
    log: tuple[np.ndarray, ...], share: float
) -> None:
    users, items, _ = log
    split = random_split(users, items, share, seed=1)
    for user in np.unique(users):
        own = users == user
        held = int((own & ~split.train).sum())
        assert held == min(int(np.floor(own.sum() * share + 0.5)), own.sum() - 1)


def test_random_split_repeats_with_its_seed_and_differs_without() -> None:
    users, items = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    first, again = random_split(users, items, 0.2, seed=1), random_split(users, items, 0.2, seed=1)
    other = random_split(users, items, 0.2, seed=2)
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)
    assert first.test.mean() == pytest.approx(0.2)


@given(logs, st.floats(0.0, 1.0), st.floats(0.05, 0.95))
def test_users_that_are_held_out_are_never_trained_on(
    log: tuple[np.ndarray, ...], user_share: float, hidden_share: float
) -> None:
    users, items, _ = log
    split = user_held_out_split(users, items, user_share, hidden_share, seed=3)
    assert split.known is not None
    assert not (split.train & split.known).any()
    everybody, kept_out = np.unique(users), np.unique(users[~split.train])
    assert len(kept_out) == int(len(everybody) * user_share + 0.5)
    assert not np.isin(users[split.train], kept_out).any()
    for user in kept_out:
        own = users == user
        hidden = int((own & ~split.known).sum())
        assert hidden == min(int(np.floor(own.sum() * hidden_share + 0.5)), own.sum() - 1)


def test_which_users_are_held_out_depends_on_the_seed_alone() -> None:
    users, items = np.repeat(np.arange(40), 5), np.tile(np.arange(5), 40)
    first, again, other = (user_held_out_split(users, items, 0.25, 0.4, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.train, other.train)
    assert first.test.sum() == 10 * 2


@given(logs, st.floats(0.05, 0.9))
def test_a_next_item_is_new_to_its_user_and_has_something_before_it(log: tuple[np.ndarray, ...], share: float) -> None:
    users, items, times = log
    split = next_item_split(users, items, times, share)
    assert np.array_equal(split.train, temporal_split(users, items, times, share).train)
    for entry in range(len(users)):
        own = users == users[entry]
        before = own & (times < times[entry])
        is_new = not (before & (items == items[entry])).any()
        same = np.flatnonzero(own & (items == items[entry]) & (times == times[entry]))
        wanted = not split.train[entry] and before.any() and is_new and same[0] == entry
        assert split.test[entry] == wanted
