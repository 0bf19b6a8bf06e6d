"""From signals to the matrix that is learned from, and the binary rows that signals and models travel in."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.errors import NotEnoughData
from recsvc.storage import binary_copy
from recsvc.storage.models import Signals
from recsvc.training.dataset import from_signals

Row = tuple[int, int, float, float]


def _signals(rows: list[Row]) -> Signals:
    users, items, signals, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Signals(
        np.array(users, dtype=np.int64),
        np.array(items, dtype=np.int64),
        np.array(signals, dtype=np.float64),
        np.array(times, dtype=np.float64),
    )


def _grid(users: int, items: int) -> list[Row]:
    return [(100 + user, 7000 + item, 1.0, float(user)) for user in range(users) for item in range(items)]


def test_only_positive_signals_are_learned_from_and_all_count_the_same() -> None:
    rows = [*_grid(4, 4), (999, 7000, -1.0, 0.0), (100, 9999, 0.0, 0.0), (100, 8888, 0.25, 0.0), (101, 8888, 9.0, 0.0)]
    dataset = from_signals(_signals(rows))
    assert dataset.user_keys.tolist() == [100, 101, 102, 103]
    assert dataset.item_keys.tolist() == [7000, 7001, 7002, 7003, 8888]
    matrix = dataset.interactions()
    assert matrix.shape == (4, 5)
    assert set(matrix.data) == {1.0}
    assert matrix.toarray()[:, 4].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_what_is_disliked_counts_as_much_as_it_is_told_to_and_no_later_than_is_known() -> None:
    rows = [*_grid(4, 4), (100, 8888, -1.0, 5.0), (101, 8888, 1.0, 0.0), (102, 8888, -3.0, 9.0), (999, 7000, -1.0, 0.0)]
    dataset = from_signals(_signals(rows))
    assert dataset.interactions().toarray()[:, 4].tolist() == [0.0, 1.0, 0.0, 0.0]
    counted = replace(dataset, disliked_strength=0.5)
    assert counted.interactions().toarray()[:, 4].tolist() == [0.5, 1.0, 0.5, 0.0]
    assert counted.interactions(until=5.0).toarray()[:, 4].tolist() == [0.5, 1.0, 0.0, 0.0]
    assert counted.liked().toarray()[:, 4].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_mask_takes_pairs_and_keeps_the_numbering() -> None:
    dataset = from_signals(_signals(_grid(4, 4)))
    mask = dataset.users == 2
    matrix = dataset.interactions(mask)
    assert matrix.shape == (4, 4)
    assert matrix.toarray().sum(axis=1).tolist() == [0.0, 0.0, 4.0, 0.0]


@given(st.permutations(_grid(5, 4)))
def test_the_order_in_which_signals_arrive_does_not_matter(rows: list[Row]) -> None:
    shuffled, ordered = from_signals(_signals(rows)), from_signals(_signals(_grid(5, 4)))
    for name in ("user_keys", "item_keys", "users", "items", "times"):
        assert getattr(shuffled, name).tolist() == getattr(ordered, name).tolist()


@pytest.mark.parametrize("rows", [[], _grid(1, 20), _grid(20, 1), _grid(3, 3)], ids=["none", "user", "item", "pairs"])
def test_too_little_says_what_is_missing(rows: list[Row]) -> None:
    with pytest.raises(NotEnoughData, match="at least 2 users, 2 items and 10 positive"):
        from_signals(_signals(rows))


def test_the_least_that_can_be_learned_from() -> None:
    assert from_signals(_signals(_grid(2, 5))).interactions().nnz == 10


_keys = st.integers(-(2**63), 2**63 - 1)
_values = st.floats(allow_nan=False)


@given(st.lists(st.tuples(_keys, _keys, _values, _values), max_size=20))
def test_binary_rows_are_read_back_as_they_were_sent(rows: list[Row]) -> None:
    sent = binary_copy.HEADER
    for user, item, signal, time in rows:
        sent += struct.pack(">hiqiqidid", 4, 8, user, 8, item, 8, signal, 8, time)
    columns = binary_copy.read_signals(sent + binary_copy.TRAILER)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == rows
