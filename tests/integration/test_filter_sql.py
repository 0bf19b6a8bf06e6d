"""Compiled filters and keyset paging against a real PostgreSQL, with the evaluation in memory as the oracle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Jsonb

from recsvc.domain.filters import EVENT_FIELDS, ITEM_FIELDS, USER_FIELDS, FieldType, FilterSchema, Tree, evaluate, parse
from recsvc.domain.order_by import Order
from recsvc.storage.filter_sql import EVENT_COLUMNS, ITEM_COLUMNS, USER_COLUMNS, compile_filter
from recsvc.storage.keyset import after_clause, order_clause
from tests.filter_strategies import NOW, Item, catalogues, trees

Connection = psycopg.Connection[tuple[object, ...]]

in_database = settings(deadline=None)

_TABLES = """
CREATE TEMP TABLE items_filter_test (
    item_id text PRIMARY KEY, item_type text, title text, categories text[] NOT NULL, tags text[] NOT NULL,
    attributes jsonb NOT NULL, available boolean, hidden boolean, publish_time timestamptz, expire_time timestamptz,
    create_time timestamptz, update_time timestamptz
);
CREATE TEMP TABLE users_filter_test (
    kind smallint, user_id text, labels text[] NOT NULL, attributes jsonb NOT NULL, create_time timestamptz,
    update_time timestamptz
);
CREATE TEMP TABLE events_filter_test (
    event_id text, session_id text, value double precision, recommendation_id text, event_time timestamptz,
    create_time timestamptz
);
CREATE TEMP TABLE event_types_filter_test (event_type text);
CREATE TEMP TABLE rows_keyset_test (id text PRIMARY KEY, name text, score double precision);
CREATE TEMP TABLE seek_keyset_test AS SELECT lpad(n::text, 8, '0') AS id FROM generate_series(1, 20000) n;
CREATE UNIQUE INDEX ON seek_keyset_test (id);
ANALYZE seek_keyset_test;
"""

_ITEM_NAMES = (
    "item_id", "item_type", "title", "categories", "tags", "attributes", "available", "hidden", "publish_time",
    "expire_time", "create_time", "update_time",
)  # fmt: skip
_INSERT = sql.SQL("INSERT INTO items_filter_test ({}) VALUES ({})").format(
    sql.SQL(", ").join(map(sql.Identifier, _ITEM_NAMES)), sql.SQL(", ").join(map(sql.Placeholder, _ITEM_NAMES))
)


@pytest.fixture(scope="module")
def connection(database_url: str) -> Iterator[Connection]:
    """A connection with temporary tables, which go with it."""
    with psycopg.connect(database_url, autocommit=True) as opened:
        opened.execute(_TABLES)
        yield opened


def stored(connection: Connection, catalogue: Sequence[Item]) -> None:
    connection.execute("DELETE FROM items_filter_test")
    with connection.cursor() as cursor:
        cursor.executemany(
            _INSERT, [{**item, "attributes": Jsonb(item["attributes"], json.dumps)} for item in catalogue]
        )


def found(connection: Connection, tree: Tree) -> set[object]:
    compiled = compile_filter(tree, ITEM_COLUMNS, NOW)
    query = sql.SQL("SELECT i.item_id FROM items_filter_test i WHERE {}").format(compiled.condition)
    return {row[0] for row in connection.execute(query, compiled.params)}


def expected(catalogue: Sequence[Item], tree: Tree) -> set[object]:
    return {item["item_id"] for item in catalogue if evaluate(tree, item, ITEM_FIELDS, NOW)}


@in_database
@given(catalogues(), st.lists(trees, min_size=1, max_size=5))
def test_sql_and_memory_find_the_same_items(connection: Connection, catalogue: list[Item], filters: list[Tree]) -> None:
    stored(connection, catalogue)
    for tree in filters:
        assert found(connection, tree) == expected(catalogue, tree), str(tree)


def an_item(item_id: str, **fields: object) -> Item:
    blank = {"item_type": "", "title": "", "categories": [], "tags": [], "attributes": {}, "available": True}
    times = {"hidden": False, "publish_time": None, "expire_time": None, "create_time": NOW, "update_time": NOW}
    return {"item_id": item_id, **blank, **times, **fields}


@pytest.mark.parametrize(
    ("attributes", "text", "matches"),
    [
        ({"n": 10**400}, "attributes.n > 1e308", True),
        ({"n": 2**53 + 1}, "attributes.n = 9007199254740992", False),
        ({"n": 1e23}, "attributes.n = 1e23", True),
        ({"n": 5e-324}, "attributes.n > 0 AND attributes.n = 5e-324", True),
        ({"n": "20"}, "attributes.n > 3", False),
        ({"n": True}, "attributes.n = 1", False),
        ({"l": ["x"]}, 'attributes.l."0" = "x"', False),
        ({"l": ["x"]}, 'attributes.l:"x"', True),
        ({"l": [["x"]]}, 'attributes.l:"x"', False),
        ({"l": {"x": 1}}, 'attributes.l:"x"', False),
        ({"s": "￿"}, 'attributes.s < "\U0001f600"', True),
        ({"s": None}, "NOT attributes.s:*", True),
        ({}, "NOT (attributes.n < 1) AND attributes.n != 1", True),
        ({}, "NOT (NOT (attributes.n < 1 OR publish_age > 1d))", False),
    ],
)
def test_difficult_values_mean_the_same_in_sql_and_in_memory(
    connection: Connection, attributes: Mapping[str, object], text: str, matches: bool
) -> None:
    catalogue = [an_item("x", attributes=attributes)]
    stored(connection, catalogue)
    tree = parse(text, ITEM_FIELDS)
    assert tree is not None
    assert found(connection, tree) == expected(catalogue, tree) == ({"x"} if matches else set())


@pytest.mark.parametrize(
    "moment", ["2026-01-01T00:00:00+23:59", "2026-01-01T00:00:00-23:59", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
)
def test_every_timestamp_that_parses_is_one_to_postgresql(connection: Connection, moment: str) -> None:
    tree = parse(f'create_time < "{moment}" OR create_time IN ["{moment}"]', ITEM_FIELDS)
    assert tree is not None
    catalogue = [an_item("x")]
    stored(connection, catalogue)
    assert found(connection, tree) == expected(catalogue, tree)


_LITERALS: Mapping[FieldType, str] = {
    FieldType.STRING: '"a"',
    FieldType.STRING_LIST: '"a"',
    FieldType.NUMBER: "1.5",
    FieldType.BOOL: "true",
    FieldType.TIMESTAMP: '"2026-01-31T12:00:00Z"',
    FieldType.AGE: "-3d",
    FieldType.DYNAMIC: '"a"',
}


@pytest.mark.parametrize(
    ("schema", "columns", "tables"),
    [
        (ITEM_FIELDS, ITEM_COLUMNS, "items_filter_test i"),
        (USER_FIELDS, USER_COLUMNS, "users_filter_test u"),
        (
            EVENT_FIELDS,
            EVENT_COLUMNS,
            "events_filter_test e, event_types_filter_test t, users_filter_test known, items_filter_test i",
        ),
    ],
    ids=["items", "users", "events"],
)
def test_every_operator_on_every_field_is_valid_sql(
    connection: Connection, schema: FilterSchema, columns: Mapping[str, str], tables: str
) -> None:
    fields = {**schema.fields, **dict.fromkeys(schema.ages, FieldType.AGE)}
    if schema.has_attributes:
        fields["attributes.key"] = FieldType.DYNAMIC
    for name, kind in fields.items():
        literal = _LITERALS[kind]
        forms = [f"{name}:{literal}", f"{name}:*"]
        if kind is not FieldType.STRING_LIST:
            operators = ("=", "!=") if kind is FieldType.BOOL else ("=", "!=", "<", "<=", ">", ">=")
            forms += [f"{name} {operator} {literal}" for operator in operators]
            forms.append(f"{name} IN [{literal}, {literal}]")
        for form in forms:
            for text in (form, f"NOT ({form})"):
                compiled = compile_filter(parse(text, schema), columns, NOW)
                query = sql.SQL("SELECT 1 FROM {} WHERE {}").format(sql.SQL(tables), compiled.condition)
                connection.execute(query, compiled.params)


def test_age_of_an_item_is_counted_to_the_microsecond(connection: Connection) -> None:
    ages = [timedelta(days=3, microseconds=micros) for micros in (-1, 0, 1)]
    catalogue = [an_item(f"i{position}", publish_time=NOW - age) for position, age in enumerate(ages)]
    stored(connection, catalogue)
    for operator, wanted in {"<": {"i0"}, "<=": {"i0", "i1"}, "=": {"i1"}, ">=": {"i1", "i2"}, ">": {"i2"}}.items():
        tree = parse(f"publish_age {operator} 3d", ITEM_FIELDS)
        assert tree is not None
        assert found(connection, tree) == expected(catalogue, tree) == wanted


_KEYSET_COLUMNS = {"id": "r.id", "name": "r.name", "score": "r.score"}
_rows = st.lists(st.tuples(st.none() | st.sampled_from("abc"), st.none() | st.sampled_from([0.0, 1.5])), max_size=12)
_orders = st.lists(
    st.builds(Order, st.sampled_from(["name", "score"]), st.booleans()), max_size=2, unique_by=lambda order: order.field
).flatmap(lambda orders: st.booleans().map(lambda descending: (*orders, Order("id", descending))))


@in_database
@given(_rows, _orders, st.integers(1, 4))
def test_pages_follow_one_another_without_gap_or_overlap(
    connection: Connection,
    rows: list[tuple[str | None, float | None]],
    orders: tuple[Order, ...],
    page_size: int,
) -> None:
    connection.execute("DELETE FROM rows_keyset_test")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO rows_keyset_test VALUES (%s, %s, %s)",
            [(f"r{position:02}", name, score) for position, (name, score) in enumerate(rows)],
        )
    values = sql.SQL(", ").join(sql.SQL(_KEYSET_COLUMNS[order.field]) for order in orders)
    in_order = order_clause(orders, _KEYSET_COLUMNS)
    whole = connection.execute(
        sql.SQL("SELECT {} FROM rows_keyset_test r ORDER BY {}").format(values, in_order)
    ).fetchall()

    paged: list[tuple[object, ...]] = []
    last: tuple[object, ...] | None = None
    while True:
        after, params = after_clause(orders, _KEYSET_COLUMNS, last)
        page = connection.execute(
            sql.SQL("SELECT {} FROM rows_keyset_test r WHERE {} ORDER BY {} LIMIT {}").format(
                values, after, in_order, sql.Literal(page_size)
            ),
            params,
        ).fetchall()
        paged += page
        if len(page) < page_size:
            break
        last = page[-1]
    assert paged == whole


def test_page_in_order_of_the_key_is_found_by_the_index(connection: Connection) -> None:
    after, params = after_clause([Order("id")], {"id": "s.id"}, ["00010000"])
    in_order = order_clause([Order("id")], {"id": "s.id"})
    query = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) SELECT s.id FROM seek_keyset_test s WHERE {} ORDER BY {} LIMIT 10")
    row = connection.execute(query.format(after, in_order), params).fetchone()
    assert row is not None
    plan = json.dumps(row[0])
    assert "Index Cond" in plan
    assert '"Rows Removed by Filter"' not in plan
    assert '"Sort"' not in plan
