"""Keys are found where they stand, however far apart they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.ids import ItemKey
from recsvc.storage.snapshots import KeyIndex

_keys = st.integers(1, 2**62).map(ItemKey)
_close_keys = st.integers(1, 2**62).flatmap(
    lambda first: st.lists(st.integers(first, first + 40).map(ItemKey), unique=True)
)


@given(st.one_of(_close_keys, st.lists(_keys, unique=True)), st.lists(_keys), st.integers(-50, 50))
def test_a_key_is_found_where_it_stands_and_no_other_is(keys: list[ItemKey], others: list[ItemKey], shift: int) -> None:
    index = KeyIndex(keys)
    wanted = [*reversed(keys), *others, *(ItemKey(key + shift) for key in keys)]
    expected = [keys.index(key) if key in keys else -1 for key in wanted]
    assert index.positions(wanted).tolist() == expected
