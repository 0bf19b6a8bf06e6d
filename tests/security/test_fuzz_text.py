"""What callers write by hand or hold as text: filters, orders, tokens. Nothing but our own errors comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from recsvc.domain.errors import InvalidField, InvalidFilter, InvalidPageToken
from recsvc.domain.filters import EVENT_FIELDS, ITEM_FIELDS, USER_FIELDS, FilterSchema, parse
from recsvc.domain.order_by import Order, parse_order_by
from recsvc.domain.paging import PageTokens
from recsvc.storage.filter_sql import EVENT_COLUMNS, ITEM_COLUMNS, USER_COLUMNS, Columns, compile_filter
from tests.security.fuzzing import ROUNDS, Fuzzer

pytestmark = pytest.mark.timeout(1200)
_NOW = datetime(2026, 2, 1, tzinfo=UTC)
# A trailer that is larger than clients take would hide what is wrong.
_LONGEST_MESSAGE = 1000
_PLANTED = "pl4nted"
_SEEDS = (
    'item_type = "film" AND categories:"Drama" OR NOT tags:"old"',
    "attributes.price >= 9.99 AND attributes.in.stock = true",
    "publish_age < 72h AND expire_time:* AND NOT (hidden OR available = false)",
    f'attributes."{_PLANTED} key" IN ["{_PLANTED}", \'{_PLANTED}\', 4, true]',
    'create_time > "2026-01-31T12:00:00Z" AND update_age > -1.5d',
    f"title = \"{_PLANTED}'; DROP TABLE items; --\" AND title != '{_PLANTED}\\\"'",
    'event_type IN ["view", "like"] AND value > 1e3 AND user_id = "u" AND event_age < 1h',
    'labels:"vip" AND user_id >= "a" AND attributes.plan:*',
)
_WORDS = (
    "AND", "OR", "NOT", "IN", "(", ")", "[", "]", ",", ".", ":", "*", "=", "!=", "<", "<=", ">", ">=", "true", "false",
    "attributes", "attributes.a.b.c.d", "title", "value", "tags", "1h", "1e400", "-", '"', "'", "\\", "1e10d", "00",
)  # fmt: skip
_LANGUAGES: tuple[tuple[FilterSchema, Columns], ...] = (
    (ITEM_FIELDS, ITEM_COLUMNS),
    (USER_FIELDS, USER_COLUMNS),
    (EVENT_FIELDS, EVENT_COLUMNS),
)


def _outcome(ask: Callable[[], Any]) -> Any:
    """What is answered, or the error of ours with which it is refused; any other error goes through."""
    try:
        return ask()
    except (InvalidField, InvalidFilter) as refusal:
        return refusal


def _compiles_or_is_refused(text: str) -> bool:
    """Whether a filter was taken in some language; in all of them it must be taken or refused, and nothing else."""
    taken = False
    for schema, columns in _LANGUAGES:
        tree = _outcome(lambda schema=schema: parse(text, schema))
        if isinstance(tree, InvalidFilter):
            assert len(tree.message) < _LONGEST_MESSAGE, text
            assert 1 <= tree.column <= len(text) + 1, text
        else:
            taken = True
            assert _PLANTED not in str(compile_filter(tree, columns, _NOW).condition.as_string()), text
    return taken


def test_a_mutated_filter_compiles_or_is_refused(fuzzer: Fuzzer, inputs: Counter[str]) -> None:
    count = 6_000 * ROUNDS
    taken = sum(_compiles_or_is_refused(fuzzer.mutated_text(fuzzer.dice.choice(_SEEDS), _WORDS)) for _ in range(count))
    inputs["filters"] += count
    # Mutations that break everything would test the lexer alone.
    assert taken > count // 50


@given(st.text(max_size=300))
@example_settings(max_examples=200 * ROUNDS)
def test_any_text_as_filter_compiles_or_is_refused(text: str) -> None:
    _compiles_or_is_refused(text)


def test_a_mutated_order_is_understood_or_refused(fuzzer: Fuzzer, inputs: Counter[str]) -> None:
    fields = ("item_id", "title", "create_time")
    count = 4_000 * ROUNDS
    for _ in range(count):
        text = fuzzer.mutated_text("title desc, create_time asc,item_id", ("desc", "asc", ",", " ", *fields))
        orders = _outcome(lambda text=text: parse_order_by(text, fields, (Order("item_id"),), unique="item_id"))
        if isinstance(orders, InvalidField):
            assert orders.fields[0].field == "order_by"
        else:
            assert {order.field for order in orders} <= set(fields)
            assert orders[-1].field == "item_id"
    inputs["orders"] += count


def test_a_mutated_page_token_is_the_same_or_refused(fuzzer: Fuzzer, inputs: Counter[str]) -> None:
    tokens = PageTokens(b"k" * 32)
    values = ["a title", 1.5, None, _NOW, "id-1"]
    token = tokens.encode("1/items/title", values)
    count = 6_000 * ROUNDS
    for _ in range(count):
        mutated = fuzzer.mutated_text(token, ("=", "==", "-", "_", "+", "/", "A"))
        try:
            decoded = tokens.decode("1/items/title", mutated)
        except InvalidPageToken:
            continue
        assert decoded == (values if mutated else None)
    inputs["page tokens"] += count


@given(
    st.lists(st.none() | st.text() | st.integers() | st.floats(allow_nan=False) | st.datetimes(timezones=st.just(UTC)))
)
@example_settings(max_examples=100 * ROUNDS)
def test_a_page_token_gives_back_what_it_was_made_of_and_to_its_own_list_only(values: list[object]) -> None:
    tokens = PageTokens(b"k" * 32)
    token = tokens.encode("a", values)  # type: ignore[arg-type]
    assert tokens.decode("a", token) == values
    with pytest.raises(InvalidPageToken):
        tokens.decode("b", token)
