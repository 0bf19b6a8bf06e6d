"""What a filter means: decided for one item in memory. That SQL agrees is shown by tests/integration."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given

from recsvc.domain.filters import ITEM_FIELDS, Not, Tree, evaluate, parse
from tests.filter_strategies import NOW, Item, catalogues, trees

ITEM: Item = {
    "item_id": "film-7",
    "item_type": "video",
    "title": "Solaris",
    "categories": ["Films", "Films/Drama"],
    "tags": [],
    "attributes": {
        "price": 12.5,
        "year": 1972,
        "exact": 2**53 + 1,
        "huge": 10**400,
        "dubbed": False,
        "languages": ["ru", "de", 7],
        "crew": {"director": {"name": "Tarkovsky"}},
        "note": None,
        "empty": [],
        "sizes": [["s"], {"m": 1}],
    },
    "available": True,
    "hidden": False,
    "publish_time": NOW - timedelta(days=2),
    "expire_time": None,
    "create_time": NOW - timedelta(days=3),
    "update_time": NOW + timedelta(hours=1),
}


def matches(text: str) -> bool:
    tree = parse(text, ITEM_FIELDS)
    assert tree is not None
    return evaluate(tree, ITEM, ITEM_FIELDS, NOW)


@pytest.mark.parametrize(
    "text",
    [
        'item_type = "video"',
        'item_type IN ["article", "video"]',
        'title > "Sol" AND title < "Som"',
        'categories:"Films/Drama"',
        "categories:* AND NOT tags:*",
        "available AND NOT hidden",
        "attributes.price >= 12.5 AND attributes.price < 13",
        "attributes.year = 1972",
        "attributes.exact > 9007199254740992",
        "attributes.huge > 1e308",
        "attributes.dubbed = false",
        'attributes.languages:"ru" AND attributes.languages:7',
        'attributes.crew.director.name = "Tarkovsky"',
        'attributes.crew.director.name:"Tarkovsky"',
        "attributes.crew:* AND attributes.empty:*",
        "publish_age < 72h AND publish_age = 2d AND create_age > 2.5d",
        "update_age < 0s",
        'publish_time < "2026-02-01T00:00:00Z"',
    ],
)
def test_filter_matches(text: str) -> None:
    assert matches(text)
    assert not matches(f"NOT ({text})")


@pytest.mark.parametrize(
    "text",
    [
        'title = "solaris"',
        'categories:"Drama"',
        'attributes.price = "12.5"',
        'attributes.year > "1"',
        "attributes.dubbed = 0",
        "attributes.languages = 7",
        'attributes.languages:"r"',
        'attributes.languages."0" = "ru"',
        'attributes.sizes:"s"',
        'attributes.crew:"director"',
        'attributes.title.x = "a"',
    ],
)
def test_filter_does_not_match(text: str) -> None:
    assert not matches(text)
    assert matches(f"NOT ({text})")


@pytest.mark.parametrize("field", ["attributes.absent", "attributes.note", "attributes.absent.deeper"])
def test_every_comparison_with_a_missing_attribute_is_false_but_unequal(field: str) -> None:
    for operator in ("=", "<", "<=", ">", ">=", ":"):
        assert not matches(f"{field} {operator} 1")
    assert not matches(f"{field} IN [1, 2]")
    assert not matches(f"{field}:*")
    assert matches(f"{field} != 1")


def test_missing_time_has_no_age() -> None:
    assert not matches('expire_time > "2000-01-01T00:00:00Z"')
    assert not matches('expire_time <= "2000-01-01T00:00:00Z"')
    assert matches('expire_time != "2000-01-01T00:00:00Z"')
    assert not matches("expire_time:*")


@given(catalogues(max_size=1), trees)
def test_not_is_the_opposite_always(catalogue: list[Item], tree: Tree) -> None:
    [item] = catalogue
    assert evaluate(Not(tree), item, ITEM_FIELDS, NOW) is not evaluate(tree, item, ITEM_FIELDS, NOW)
