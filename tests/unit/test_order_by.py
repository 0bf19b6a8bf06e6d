"""`order_by` of lists: what is accepted, and that every order is total."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.errors import InvalidField
from recsvc.domain.order_by import Order, parse_order_by

FIELDS = ("item_id", "title", "create_time")
DEFAULT = (Order("create_time", descending=True),)


def parsed(text: str) -> tuple[Order, ...]:
    return parse_order_by(text, FIELDS, DEFAULT, unique="item_id")


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", (Order("create_time", True), Order("item_id"))),
        ("  ", (Order("create_time", True), Order("item_id"))),
        ("title", (Order("title"), Order("item_id"))),
        ("  title   desc ,create_time asc", (Order("title", True), Order("create_time"), Order("item_id"))),
        ("title DESC", (Order("title", True), Order("item_id"))),
        ("item_id desc", (Order("item_id", True),)),
    ],
)
def test_order_is_parsed_and_made_total(text: str, order: tuple[Order, ...]) -> None:
    assert parsed(text) == order


def test_what_stands_behind_the_unique_field_is_dropped() -> None:
    assert parsed("title, item_id desc, create_time") == (Order("title"), Order("item_id", True))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colour", "cannot order by 'colour'; there are create_time, item_id, title"),
        ("title downwards", "'title downwards' is not '<field>' or '<field> desc'"),
        ("title desc desc", "is not '<field>' or '<field> desc'"),
        ("title,", "'' is not '<field>' or '<field> desc'"),
        (",", "'' is not"),
        ("title, title desc", "'title' stands twice"),
        ("Title", "cannot order by 'Title'"),
        ("title;DROP", "cannot order by 'title;DROP'"),
    ],
)
def test_wrong_order_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parsed(text)
    assert caught.value.fields[0].field == "order_by"
    assert complaint in caught.value.fields[0].description


@given(st.lists(st.sampled_from([*FIELDS, "desc", "asc", ",", " ", "x"]), max_size=10).map(" ".join))
def test_every_accepted_order_ends_with_the_unique_field_and_names_none_twice(text: str) -> None:
    try:
        order = parsed(text)
    except InvalidField:
        return
    names = [one.field for one in order]
    assert names[-1] == "item_id"
    assert len(names) == len(set(names))
    assert set(names) <= set(FIELDS)
