"""The shape of compiled filters: our own columns, fixed fragments, and every value a parameter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

import pytest
from hypothesis import given

from recsvc.domain.filters import EVENT_FIELDS, ITEM_FIELDS, USER_FIELDS, FilterSchema, Tree, parse
from recsvc.storage.filter_sql import EVENT_COLUMNS, ITEM_COLUMNS, USER_COLUMNS, CompiledFilter, compile_filter
from tests.filter_strategies import NOW, trees

# All that a compiled filter may consist of: columns of items, the compiler's own words, parameters.
_FRAGMENT = re.compile(
    r"""
      i\.[a-z_]+ | %\(filter_\d+\)s | [()\[\],\s] | ->|\#>>|@>|::|<>|<=|>=|[=<>]
    | AND|OR|NOT|IS|TRUE|NULL|CASE|WHEN|THEN|ELSE|END|ANY|ARRAY|COLLATE\ "C"
    | jsonb_typeof|to_jsonb|cardinality|text|boolean|numeric|false|0|'number'|'string'|'null'|'{}'
    """,
    re.VERBOSE,
)


def compiled(
    text: str, schema: FilterSchema = ITEM_FIELDS, columns: Mapping[str, str] = ITEM_COLUMNS
) -> CompiledFilter:
    return compile_filter(parse(text, schema), columns, NOW)


@given(trees)
def test_sql_consists_of_fixed_fragments_and_values_are_parameters(tree: Tree) -> None:
    result = compile_filter(tree, ITEM_COLUMNS, NOW)
    text = result.condition.as_string(None)
    assert _FRAGMENT.sub("", text) == ""
    assert set(re.findall(r"%\((\w+)\)s", text)) == set(result.params)


def test_hostile_value_stays_a_value() -> None:
    hostile = "'; DROP TABLE items; --%(x)s{}"
    result = compiled(f'attributes."{hostile}" = "{hostile}" OR item_id = "{hostile}"')
    assert "DROP" not in result.condition.as_string(None)
    assert list(result.params.values()) == [hostile] * 3


def test_no_filter_is_true() -> None:
    assert compile_filter(None, ITEM_COLUMNS, NOW) == CompiledFilter()
    assert CompiledFilter().condition.as_string(None) == "true"


def test_prefix_keeps_the_parameters_of_two_filters_apart() -> None:
    tree = parse('title = "a"', ITEM_FIELDS)
    first, second = (compile_filter(tree, ITEM_COLUMNS, NOW, prefix) for prefix in ("filter", "boost0"))
    assert (set(first.params), set(second.params)) == ({"filter_0"}, {"boost0_0"})


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ('categories:"Books"', "i.categories @> ARRAY[%(filter_0)s]::text[]"),
        ('item_id IN ["a", "b"]', "(i.item_id = ANY(%(filter_0)s))"),
        ("publish_age < 72h", "(i.publish_time > %(filter_0)s)"),
    ],
)
def test_indexed_columns_stand_bare_so_that_their_index_can_serve(text: str, sql: str) -> None:
    assert compiled(text).condition.as_string(None) == sql


def test_age_is_counted_from_the_given_moment() -> None:
    assert compiled("publish_age < 72h").params == {"filter_0": NOW - timedelta(days=3)}


@pytest.mark.parametrize(
    ("schema", "columns"),
    [(ITEM_FIELDS, ITEM_COLUMNS), (USER_FIELDS, USER_COLUMNS), (EVENT_FIELDS, EVENT_COLUMNS)],
    ids=["items", "users", "events"],
)
def test_every_field_of_the_language_has_a_column(schema: FilterSchema, columns: Mapping[str, str]) -> None:
    attributes = {"attributes"} if schema.has_attributes else set()
    assert set(columns) == set(schema.fields) | set(schema.ages) | attributes
    assert set(schema.ages.values()) <= set(schema.fields)
