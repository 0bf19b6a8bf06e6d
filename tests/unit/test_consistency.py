"""Tokens of read-your-writes: what they say, to whom, and what is refused."""

from __future__ import annotations

import pytest

from recsvc.domain.consistency import MAX_TOKENS, NO_REPLICA, ConsistencyTokens
from recsvc.domain.errors import InvalidField
from recsvc.domain.ids import TenantKey

_SHOP, _OTHER = TenantKey(1), TenantKey(2)


@pytest.fixture
def tokens() -> ConsistencyTokens:
    """With a key of the test's own."""
    return ConsistencyTokens(bytes(range(32)))


@pytest.mark.parametrize("position", [0, 1, 0x2_A0B1_C2D3, NO_REPLICA])
def test_a_token_is_read_as_the_position_that_it_was_made_of(tokens: ConsistencyTokens, position: int) -> None:
    assert tokens.decode(_SHOP, tokens.encode(_SHOP, position)) == position


def test_of_several_tokens_the_furthest_counts(tokens: ConsistencyTokens) -> None:
    text = ", ".join(tokens.encode(_SHOP, position) for position in (5, 900, 7))
    assert tokens.decode(_SHOP, text) == 900


def test_tokens_of_one_position_do_not_show_that_it_is_one(tokens: ConsistencyTokens) -> None:
    assert len({tokens.encode(_SHOP, 7) for _ in range(50)}) == 50


def test_a_token_of_another_tenant_is_refused(tokens: ConsistencyTokens) -> None:
    of_another = tokens.encode(_OTHER, 7)
    with pytest.raises(InvalidField, match="x-consistency-token"):
        tokens.decode(_SHOP, of_another)


def test_a_token_of_another_key_is_refused(tokens: ConsistencyTokens) -> None:
    of_another = ConsistencyTokens(bytes(32)).encode(_SHOP, 7)
    with pytest.raises(InvalidField, match="x-consistency-token"):
        tokens.decode(_SHOP, of_another)


def test_a_changed_token_is_refused(tokens: ConsistencyTokens) -> None:
    token = tokens.encode(_SHOP, 7)
    for at, letter in enumerate(token[:-1]):
        changed = token[:at] + ("A" if letter != "A" else "B") + token[at + 1 :]
        with pytest.raises(InvalidField, match="x-consistency-token"):
            tokens.decode(_SHOP, changed)


@pytest.mark.parametrize("text", ["", ",", "0/16B3748", "nonsense", "ä", "A" * 5, "A" * 4000])
def test_what_is_no_token_is_refused(tokens: ConsistencyTokens, text: str) -> None:
    with pytest.raises(InvalidField, match="x-consistency-token"):
        tokens.decode(_SHOP, text)


def test_more_tokens_than_anybody_needs_are_refused(tokens: ConsistencyTokens) -> None:
    text = ",".join([tokens.encode(_SHOP, 7)] * (MAX_TOKENS + 1))
    with pytest.raises(InvalidField, match="at most"):
        tokens.decode(_SHOP, text)
