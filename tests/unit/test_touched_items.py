"""Which items of a history count, and how old each is."""

from __future__ import annotations

import numpy as np

from recsvc.domain.ids import UserKey
from recsvc.engine.fold_in import touched_items
from recsvc.storage.user_states import History

_NOW_US = 10**15


def _history(*signals: float, hours: tuple[int, ...] = ()) -> History:
    """Items 1, 2, … newest first; hours: how long ago each was touched."""
    count = len(signals)
    times = _NOW_US - 3_600_000_000 * np.array(hours or range(count))
    seen = np.ones(count, dtype=np.bool_)
    return History(UserKey(1), 1, np.arange(1, count + 1), np.array(signals), seen, times)


def test_disliked_items_count_only_where_the_model_learns_from_them() -> None:
    assert touched_items(_history(1.0, -2.0, 3.0), 10).item_keys.tolist() == [1, 3]
    assert touched_items(_history(1.0, -2.0, 3.0), 10, with_disliked=True).item_keys.tolist() == [1, 2, 3]


def test_signals_that_cancel_out_but_for_rounding_tell_nothing() -> None:
    residue = 0.1 + 0.2 - 0.3
    assert residue != 0
    assert touched_items(_history(residue, -residue, 1.0), 10, with_disliked=True).item_keys.tolist() == [3]


def test_what_was_touched_at_one_time_has_one_age() -> None:
    assert touched_items(_history(1.0, 1.0, 1.0, 1.0, hours=(0, 5, 5, 9)), 10).ages.tolist() == [1, 2, 2, 3]


def test_only_the_newest_count() -> None:
    assert touched_items(_history(*[1.0] * 5), 3).item_keys.tolist() == [1, 2, 3]
