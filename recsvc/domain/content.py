"""What an item says about itself, as named features with strengths: the input of content-based vectors.

Pure and stateless: the features depend on the item alone, so that training and a new item a year later give the same
names. How much a feature counts against others is learned (`training.algorithms.content`), not decided here.

Each field's strengths have length 1 together, so that a long description does not drown the categories. Names begin
with their field: `category:`, `tag:`, `type:`, `key=` of an attribute, `word:` of title and description.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from recsvc.domain.catalog import Item

Features = Mapping[str, float]
"""Strengths by name; all above 0."""

_LONGEST_VALUE = 100
"""A longer attribute is prose, and its words are the features."""

_MOST_VALUES = 100
"""Of a list; beyond that it is an array of measurements rather than a list of labels."""

_MOST_WORDS = 2000
"""Of a text; what a text is about is said by then."""

# Scripts without spaces between words: overlapping pairs of characters stand for words (as Lucene's CJKAnalyzer does).
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]{{2,}}")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_LONGEST_NAME = 200
"""Names are keys of a table; what differs only beyond that is the same."""

_DATE = re.compile(r"(\d{4})-(\d{2})(?:-\d{2}(?:[T ].*)?)?")
_DIGITS = (2, 3, 4)


def content_features(item: Item) -> Features:
    """The features of an item. An item that says nothing has none."""
    fields: list[Mapping[str, float]] = [
        Counter(f"category:{_label(name)}" for name in item.categories),
        Counter(f"tag:{_label(name)}" for name in item.tags),
        Counter([f"type:{_label(item.item_type)}"] if item.item_type else []),
        _damped(Counter(f"word:{word}" for word in words(item.title))),
        _damped(Counter(f"word:{word}" for word in words(item.description))),
        *(Counter(_of_value(f"attribute:{key}", value)) for key, value in sorted(item.attributes.items())),
    ]
    strengths: dict[str, float] = {}
    for counts in fields:
        # Summed in one order, so that the order of tags changes nothing, not even the last bit.
        length = math.sqrt(math.fsum(count * count for count in counts.values()))
        for name, count in sorted(counts.items()):
            strengths[_named(name)] = strengths.get(_named(name), 0.0) + count / length
    return dict(sorted(strengths.items()))


def _named(name: str) -> str:
    return name[:_LONGEST_NAME]


def words(text: str) -> Iterator[str]:
    """Words of two letters or digits and more, in lower case, whatever the script."""
    for match in islice(_TOKEN.finditer(unicodedata.normalize("NFKC", text).casefold()), _MOST_WORDS):
        token = match.group()
        if _IS_UNSPACED.match(token):
            yield from (token[start : start + 2] for start in range(max(1, len(token) - 1)))
        else:
            yield token


def _of_value(name: str, value: object) -> Iterator[str]:
    match value:
        case bool():
            yield f"{name}={str(value).lower()}"
        case int() | float():
            yield from _number_bins(name, float(value))
        case str():
            yield from _of_text(name, value)
        case list() | tuple():
            for element in value[:_MOST_VALUES]:
                yield from _of_value(name, element)
        case dict():
            for key, element in sorted(value.items()):
                yield from _of_value(f"{name}.{key}", element)


def _of_text(name: str, text: str) -> Iterable[str]:
    if date := _DATE.fullmatch(text):
        return (f"{name}={date[1]}", f"{name}={date[1]}-{date[2]}")
    if len(text) > _LONGEST_VALUE:
        return (f"word:{word}" for word in words(text))
    label = _label(text)
    return (f"{name}={label}",) if label else ()


def _number_bins(name: str, number: float) -> Iterator[str]:
    """The number to some significant digits and to its power of two: near ones share coarse bins, equal ones all.

    A year shares its century, its decade and itself; a price its order of magnitude and its neighbourhood.
    """
    if not math.isfinite(number):
        return
    if number == 0:
        yield f"{name}=0"
        return
    sign = "-" if number < 0 else ""
    yield f"{name}~{sign}2^{math.floor(math.log2(abs(number)))}"
    for digits in _DIGITS:
        mantissa, exponent = f"{abs(number):.15e}".split("e")
        # Cut, not rounded: 1999 belongs to the nineties.
        yield f"{name}~{sign}{mantissa[: digits + 1].rstrip('.')}e{int(exponent)}"


def _label(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _damped(counts: Counter[str]) -> Mapping[str, float]:
    """A word that stands ten times says more than one that stands once, but not ten times as much."""
    return {name: 1.0 + math.log(count) for name, count in counts.items()}
