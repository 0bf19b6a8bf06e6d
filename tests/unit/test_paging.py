"""Page tokens: they come back as they were made, and nothing else is taken for one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.errors import InvalidPageToken
from recsvc.domain.paging import PageTokens

_TOKENS = PageTokens(b"k" * 32)
_values = st.lists(
    st.none() | st.text() | st.integers() | st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    min_size=1,
    max_size=4,
)


@given(_values)
def test_a_token_brings_its_values_back(values: list[object]) -> None:
    assert _TOKENS.decode("list", _TOKENS.encode("list", values)) == values


def test_an_empty_token_is_the_first_page() -> None:
    assert _TOKENS.decode("list", "") is None


@given(_values, st.text(min_size=1))
def test_a_token_is_of_no_use_for_another_list(values: list[object], other: str) -> None:
    if other == "list":
        return
    with pytest.raises(InvalidPageToken):
        _TOKENS.decode(other, _TOKENS.encode("list", values))


@given(st.text(min_size=1, max_size=200))
def test_whatever_we_did_not_make_is_refused(text: str) -> None:
    with pytest.raises(InvalidPageToken):
        _TOKENS.decode("list", text)


@given(_values, st.integers(0, 500), st.integers(1, 255))
def test_a_changed_token_is_refused(values: list[object], position: int, change: int) -> None:
    token = bytearray(_TOKENS.encode("list", values).encode())
    at = position % len(token)
    token[at] = (token[at] + change) % 128
    text = token.decode("ascii")
    if text == _TOKENS.encode("list", values):
        return
    try:
        decoded = _TOKENS.decode("list", text)
    except InvalidPageToken:
        return
    # base64 has spare bits in its last character: another spelling of the same bytes is the same token.
    assert decoded == values
