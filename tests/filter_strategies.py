"""Hypothesis strategies for filters and for the items that they are decided for.

Values come from small pools, so that a random filter often matches a random item; the pools hold what has broken
filter languages before: quotes, keywords as keys, keys that look like numbers, integers that no double can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from unicodedata import normalize

from hypothesis import strategies as st

from recsvc.domain.filters import (
    ITEM_FIELDS,
    And,
    Comparison,
    Field,
    FieldType,
    Has,
    Not,
    Operator,
    Or,
    Present,
    Tree,
)
from recsvc.domain.filters.tree import Member

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
Item = Mapping[str, object]

_WORDS = [
    "",
    "a",
    "b",
    "B",
    "é",
    "10",
    "9",
    "\U0001f600",
    "￿",
    'say "hi"',
    "back\\slash",
    "new\nline",
    "%(x)s {}",
    "it's",
]
_KEYS = ["a", "b", "0", "IN", "true", "two words", ""]
_NUMBERS = [0.0, -1.5, 1.0, 0.1, 1e23, 5e-324, 1.7976931348623157e308, float(2**53), 4.35]
_LARGE_INTEGERS = [2**53 + 1, -(10**400), 10**400, 1, 0]

# In NFC, as what is stored is.
words = st.sampled_from(_WORDS) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4
).map(partial(normalize, "NFC"))
numbers = st.sampled_from(_NUMBERS) | st.floats(allow_nan=False, allow_infinity=False)
moments = st.sampled_from([NOW, NOW - timedelta(days=3), NOW + timedelta(microseconds=1)]) | st.timedeltas(
    timedelta(days=-20_000), timedelta(days=20_000)
).map(NOW.__add__)
ages = st.sampled_from([timedelta(0), timedelta(days=3), timedelta(seconds=-90)]) | st.timedeltas(
    timedelta(days=-400), timedelta(days=20_000)
)
json_scalars = st.none() | st.booleans() | words | numbers | st.sampled_from(_LARGE_INTEGERS)
attributes = st.dictionaries(
    st.sampled_from(_KEYS),
    st.recursive(
        json_scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
items = st.fixed_dictionaries(
    {
        "item_type": words,
        "title": words,
        "categories": st.lists(words, max_size=3),
        "tags": st.lists(words, max_size=3),
        "attributes": attributes,
        "available": st.booleans(),
        "hidden": st.booleans(),
        "publish_time": st.none() | moments,
        "expire_time": st.none() | moments,
        "create_time": moments,
        "update_time": moments,
    }
)


def catalogues(max_size: int = 8) -> st.SearchStrategy[list[Item]]:
    """Lists of items with the ids i0, i1, …"""
    return st.lists(items, min_size=1, max_size=max_size).map(
        lambda rows: [{"item_id": f"i{position}", **row} for position, row in enumerate(rows)]
    )


def _item_fields() -> st.SearchStrategy[Field]:
    plain = [Field(name, kind) for name, kind in ITEM_FIELDS.fields.items()]
    plain += [Field(name, FieldType.AGE) for name in ITEM_FIELDS.ages]
    paths = st.lists(st.sampled_from(_KEYS), min_size=1, max_size=3).map(tuple)
    attribute = st.builds(lambda path: Field("attributes", FieldType.DYNAMIC, path), paths)
    return st.sampled_from(plain) | attribute


_VALUES: Mapping[FieldType, st.SearchStrategy[object]] = {
    FieldType.STRING: words | st.sampled_from(["i0", "i1", "i2"]),
    FieldType.STRING_LIST: words,
    FieldType.NUMBER: numbers,
    FieldType.BOOL: st.booleans(),
    FieldType.TIMESTAMP: moments,
    FieldType.AGE: ages,
    FieldType.DYNAMIC: words | numbers | st.booleans(),
}


@st.composite
def terms(draw: st.DrawFn) -> Tree:
    """One comparison of an item's field, as the parser could have made it."""
    field = draw(_item_fields())
    values = _VALUES[field.type]
    forms = (
        ["has", "present"] if field.type is FieldType.STRING_LIST else ["compare", "compare", "has", "in", "present"]
    )
    match draw(st.sampled_from(forms)):
        case "has":
            return Has(field, draw(values))  # type: ignore[arg-type]
        case "present":
            return Present(field)
        case "in":
            return Member(field, tuple(draw(st.lists(values, min_size=1, max_size=4))))  # type: ignore[arg-type]
        case _:
            value = draw(values)
            operators = [Operator.EQ, Operator.NE] if isinstance(value, bool) else list(Operator)
            return Comparison(field, draw(st.sampled_from(operators)), value)  # type: ignore[arg-type]


trees: st.SearchStrategy[Tree] = st.recursive(
    terms(),
    lambda inner: (
        st.builds(Not, inner)
        | st.lists(inner, min_size=2, max_size=3).map(lambda children: And(tuple(children)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda children: Or(tuple(children)))
    ),
    max_leaves=8,
)
