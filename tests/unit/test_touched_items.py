"""Which items of a history count, and how old each is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recsvc.domain.ids import ItemKey, UserKey
from recsvc.engine.fold_in import touched_items
from recsvc.storage.user_states import History

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _history(*signals: float, hours: tuple[int, ...] = ()) -> History:
    """Items 1, 2, … newest first; hours: how long ago each was touched."""
    count = len(signals)
    times = tuple(_NOW - timedelta(hours=ago) for ago in hours or range(count))
    items = tuple(ItemKey(number + 1) for number in range(count))
    return History(UserKey(1), 1, items, signals, (True,) * count, times)


def test_disliked_items_count_only_where_the_model_learns_from_them() -> None:
    assert touched_items(_history(1.0, -2.0, 3.0), 10).item_keys == (1, 3)
    assert touched_items(_history(1.0, -2.0, 3.0), 10, with_disliked=True).item_keys == (1, 2, 3)


def test_signals_that_cancel_out_but_for_rounding_tell_nothing() -> None:
    residue = 0.1 + 0.2 - 0.3
    assert residue != 0
    assert touched_items(_history(residue, -residue, 1.0), 10, with_disliked=True).item_keys == (3,)


def test_what_was_touched_at_one_time_has_one_age() -> None:
    assert touched_items(_history(1.0, 1.0, 1.0, 1.0, hours=(0, 5, 5, 9)), 10).ages == (1, 2, 2, 3)


def test_only_the_newest_count() -> None:
    assert touched_items(_history(*[1.0] * 5), 3).item_keys == (1, 2, 3)
