"""Executes every example of docs/guides/filters.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recsvc.domain.errors import InvalidFilter
from recsvc.domain.filters import EVENT_FIELDS, ITEM_FIELDS, USER_FIELDS, FieldType, FilterSchema, evaluate, parse
from recsvc.domain.filters.parser import MAX_ATTRIBUTE_LEVELS, MAX_DEPTH, MAX_LENGTH, MAX_TERMS

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "filters.md").read_text(encoding="utf-8")
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
SCHEMAS: Mapping[str, FilterSchema] = {"item": ITEM_FIELDS, "user": USER_FIELDS, "event": EVENT_FIELDS}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Fenced blocks: what stands behind the language, and the content."""
    yield from re.findall(rf"^```{language} (.+?)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def example_things() -> dict[str, dict[str, object]]:
    things = {}
    for resource, content in blocks("json"):
        thing = json.loads(content)
        for name, kind in SCHEMAS[resource].fields.items():
            if kind is FieldType.TIMESTAMP and thing[name] is not None:
                thing[name] = datetime.fromisoformat(thing[name])
        things[resource] = thing
    return things


THINGS = example_things()
EXAMPLES = [
    (resource, line, verdict == "matches")
    for info, content in blocks("text")
    for resource, _, verdict in [info.partition(" ")]
    for line in content.splitlines()
]
ERRORS = re.findall(r"^\| `(.+?)` \| (\d+) \| (.+) \|$", GUIDE, re.MULTILINE)


@pytest.mark.parametrize(("resource", "text", "matches"), EXAMPLES)
def test_example_means_what_the_guide_says(resource: str, text: str, matches: bool) -> None:
    tree = parse(text, SCHEMAS[resource])
    assert tree is not None
    assert evaluate(tree, THINGS[resource], SCHEMAS[resource], NOW) is matches


@pytest.mark.parametrize(("text", "column", "description"), ERRORS)
def test_wrong_example_is_refused_as_the_guide_says(text: str, column: str, description: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(text, ITEM_FIELDS)
    assert (str(caught.value.column), caught.value.description[: len(description)]) == (column, description)


def test_example_things_have_every_field() -> None:
    for resource, schema in SCHEMAS.items():
        assert set(THINGS[resource]) == set(schema.fields) | ({"attributes"} if schema.has_attributes else set())


def test_table_of_fields_is_complete() -> None:
    told = {
        (resource, name, kind)
        for resource, names, kind in re.findall(r"^\| (item|user|event) \| (.+?) \| (.+?) \|$", GUIDE, re.MULTILINE)
        for name in re.findall(r"`(.+?)`", names)
    }
    actual = {
        (resource, name, str(kind))
        for resource, schema in SCHEMAS.items()
        for name, kind in [
            *schema.fields.items(),
            *((age, FieldType.AGE) for age in schema.ages),
            *([("attributes.<key>", FieldType.DYNAMIC)] if schema.has_attributes else []),
        ]
    }
    assert told == actual


def test_table_of_bounds_is_right() -> None:
    _, _, bounds = GUIDE.partition("## Bounds")
    told = [int(number) for number in re.findall(r"^\| [a-z ]+ \| (\d+)(?: characters)? \|$", bounds, re.MULTILINE)]
    assert told == [MAX_LENGTH, MAX_DEPTH, MAX_TERMS, MAX_ATTRIBUTE_LEVELS]


def test_guide_has_its_examples() -> None:
    assert len(EXAMPLES) > 40
    assert len(ERRORS) >= 9
