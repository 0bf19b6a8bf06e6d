"""What an item's content is turned into: names, strengths, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.catalog import Item
from recsvc.domain.content import content_features, words
from recsvc.domain.ids import ItemId

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
_ITEMS = st.builds(
    Item,
    item_id=st.just(ItemId("i")),
    item_type=st.text(max_size=20),
    title=st.text(max_size=100),
    description=st.text(max_size=300),
    categories=st.lists(st.text(max_size=20), max_size=5).map(tuple),
    tags=st.lists(st.text(max_size=20), max_size=5).map(tuple),
    attributes=st.dictionaries(st.text(max_size=300), _VALUES, max_size=4),
)


def _an_item(**fields: object) -> Item:
    return Item(ItemId("i"), **fields)  # type: ignore[arg-type]


def _names(**fields: object) -> set[str]:
    return set(content_features(_an_item(**fields)))


@given(_ITEMS)
def test_whatever_an_item_says_its_strengths_are_positive_and_finite(item: Item) -> None:
    features = content_features(item)
    assert all(strength > 0 and math.isfinite(strength) for strength in features.values())
    assert all(0 < len(name) <= 200 for name in features)


@given(_ITEMS, st.randoms())
def test_the_order_of_labels_and_attributes_changes_nothing(item: Item, random: object) -> None:
    categories, tags, attributes = list(item.categories), list(item.tags), list(item.attributes.items())
    for values in (categories, tags, attributes):
        random.shuffle(values)  # type: ignore[attr-defined]
    shuffled = replace(item, categories=tuple(categories), tags=tuple(tags), attributes=dict(attributes))
    assert content_features(shuffled) == content_features(item)


def test_an_item_that_says_nothing_has_no_features() -> None:
    assert content_features(_an_item(title="? a 7", attributes={"note": None, "list": [], "blank": " "})) == {}


def test_each_field_has_names_of_its_own() -> None:
    assert _names(
        item_type="Book",
        title="Dune",
        categories=("Science  Fiction",),
        tags=("classic",),
        attributes={"language": "English", "in_print": True, "authors": ["Frank Herbert"], "size": {"cover": "hard"}},
    ) == {
        "type:book",
        "word:dune",
        "category:science fiction",
        "tag:classic",
        "attribute:language=english",
        "attribute:in_print=true",
        "attribute:authors=frank herbert",
        "attribute:size.cover=hard",
    }


def test_a_long_description_weighs_no_more_than_a_category() -> None:
    features = content_features(_an_item(description=" ".join(f"word{n}" for n in range(500)), categories=("crime",)))
    length = math.sqrt(sum(value**2 for name, value in features.items() if name.startswith("word:")))
    assert length == pytest.approx(features["category:crime"])


def test_a_word_that_is_repeated_counts_more_but_not_as_often() -> None:
    features = content_features(_an_item(title="fish fish fish fish chips"))
    assert 1 < features["word:fish"] / features["word:chips"] < 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat's 2nd LIFE, a love-story", ["the", "cat", "2nd", "life", "love", "story"]),
        ("Ünïcode ﬁne Straße", ["ünïcode", "fine", "strasse"]),
        ("Преступление и наказание", ["преступление", "наказание"]),
        ("東京物語", ["東京", "京物", "物語"]),
        ("snake_case 猫", ["snake", "case", "猫"]),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


def test_near_numbers_share_coarse_features_and_equal_ones_all() -> None:
    def of(year: float) -> set[str]:
        return _names(attributes={"year": year})

    assert of(1997) == of(1997.0)
    assert len(of(1997) & of(1999)) == 3, "the decade, the century, the power of two"
    assert len(of(1997) & of(1901)) == 2
    assert not of(1997) & of(-1997)
    assert not of(1997) & of(0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_feature(number: float) -> None:
    assert _names(attributes={"price": number}) == set()


def test_a_true_is_not_a_one() -> None:
    assert not _names(attributes={"flag": True}) & _names(attributes={"flag": 1})


def test_dates_share_their_year_and_month() -> None:
    one, other = (_names(attributes={"released": text}) for text in ("2024-05-01", "2024-05-17T10:00:00+00:00"))
    assert one == other == {"attribute:released=2024", "attribute:released=2024-05"}


def test_a_long_attribute_is_read_as_text() -> None:
    assert _names(attributes={"blurb": "space opera " * 20}) == {"word:space", "word:opera"}
