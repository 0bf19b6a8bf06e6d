"""The one place where a filter becomes SQL: fixed fragments and our own column names; every value is a parameter.

The SQL cannot fail at run time, whatever the attributes of a stored row look like, and it is two-valued: each
comparison below a NOT is wrapped so that NULL counts as false, which makes NOT mean the same here as in
`domain.filters.evaluate`. Elsewhere NULL and false come to the same, and an unwrapped comparison can use an index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import LiteralString

from psycopg import sql

from recsvc.domain.filters import (
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
    Value,
)
from recsvc.domain.filters.tree import Member

Columns = Mapping[str, str]

ITEM_COLUMNS: Columns = {
    name: f"i.{name}"
    for name in (
        "item_id", "item_type", "title", "categories", "tags", "attributes", "available", "hidden", "publish_time",
        "expire_time", "create_time", "update_time",
    )
} | {"publish_age": "i.publish_time", "create_age": "i.create_time", "update_age": "i.update_time"}  # fmt: skip

USER_COLUMNS: Columns = {
    name: f"u.{name}" for name in ("user_id", "labels", "attributes", "create_time", "update_time")
} | {"create_age": "u.create_time", "update_age": "u.update_time"}

EVENT_COLUMNS: Columns = {
    "event_id": "e.event_id",
    "event_type": "t.event_type",
    # Of known users only; joined apart, so that a user's events are found by the index on users.
    "user_id": "known.user_id",
    "session_id": "e.session_id",
    "item_id": "i.item_id",
    "value": "e.value",
    "recommendation_id": "e.recommendation_id",
    "event_time": "e.event_time",
    "create_time": "e.create_time",
    "event_age": "e.event_time",
    "create_age": "e.create_time",
}

_OPERATORS: Mapping[Operator, LiteralString] = {
    Operator.EQ: "=",
    Operator.LT: "<",
    Operator.LE: "<=",
    Operator.GT: ">",
    Operator.GE: ">=",
}


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """A condition and its parameters."""

    condition: sql.Composable = field(default_factory=lambda: sql.SQL("true"))
    params: dict[str, object] = field(default_factory=dict)


def compile_filter(tree: Tree | None, columns: Columns, now: datetime, prefix: str = "filter") -> CompiledFilter:
    """Compile a tree; None becomes `true`.

    columns: SQL expression of each field. now: what ages are counted from. prefix: of the parameters' names, so that
    several filters fit into one statement.
    """
    if tree is None:
        return CompiledFilter()
    compiler = _Compiler(columns, now, prefix)
    return CompiledFilter(compiler.condition(tree), compiler.params)


class _Compiler:
    def __init__(self, columns: Columns, now: datetime, prefix: str) -> None:
        self._columns = columns
        self._now = now
        self._prefix = prefix
        self._negations = 0
        self.params: dict[str, object] = {}

    def condition(self, tree: Tree) -> sql.Composable:
        match tree:
            case And(children):
                return sql.SQL("({})").format(sql.SQL(" AND ").join(map(self.condition, children)))
            case Or(children):
                return sql.SQL("({})").format(sql.SQL(" OR ").join(map(self.condition, children)))
            case Not(child):
                return self._negated(lambda: self.condition(child))
            case Comparison(field_, Operator.NE, value):
                return self._negated(lambda: self._compare(field_, Operator.EQ, value))
            case Comparison(field_, operator, value):
                return self._compare(field_, operator, value)
            case Member(field_, values):
                return self._member(field_, values)
            case Has(field_, value):
                return self._has(field_, value)
            case Present(field_):
                return self._present(field_)

    def _compare(self, field_: Field, operator: Operator, value: Value) -> sql.Composable:
        sign = sql.SQL(_OPERATORS[operator])
        if field_.type is FieldType.DYNAMIC:
            return self._compare_attribute(field_, sign, value)
        column = self._column(field_)
        if isinstance(value, timedelta):
            # now − column < age, turned round so that an index on the column can serve.
            flipped = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(operator.value, operator.value)
            moment = self._bind(self._now - value)
            return self._known(sql.SQL("{} {} {}").format(column, sql.SQL(flipped), moment))
        if field_.type is FieldType.STRING and operator is not Operator.EQ:
            # The order of code points, whatever collation the database has.
            return self._known(sql.SQL('{} COLLATE "C" {} {}').format(column, sign, self._bind(value)))
        return self._known(sql.SQL("{} {} {}").format(column, sign, self._bind(value)))

    def _compare_attribute(self, field_: Field, sign: sql.SQL, value: Value) -> sql.Composable:
        found = self._attribute(field_)
        if isinstance(value, bool):
            return self._known(sql.SQL("{} {} to_jsonb({}::boolean)").format(found, sign, self._bind(value)))
        if isinstance(value, float):
            # As jsonb, because a cast to float8 would fail for a stored 1e400.
            return self._known(
                sql.SQL("jsonb_typeof({0}) = 'number' AND {0} {1} to_jsonb({2}::numeric)").format(
                    found, sign, self._bind(_exact(value))
                )
            )
        return sql.SQL(
            "(CASE WHEN jsonb_typeof({0}) = 'string' THEN ({0} #>> '{{}}') COLLATE \"C\" {1} {2} ELSE false END)"
        ).format(found, sign, self._bind(value))

    def _member(self, field_: Field, values: tuple[Value, ...]) -> sql.Composable:
        if field_.type in (FieldType.STRING, FieldType.NUMBER, FieldType.TIMESTAMP):
            return self._known(sql.SQL("{} = ANY({})").format(self._column(field_), self._bind(list(values))))
        return sql.SQL("({})").format(
            sql.SQL(" OR ").join(self._compare(field_, Operator.EQ, value) for value in values)
        )

    def _has(self, field_: Field, value: Value) -> sql.Composable:
        if field_.type is FieldType.STRING_LIST:
            return sql.SQL("{} @> ARRAY[{}]::text[]").format(self._column(field_), self._bind(value))
        if field_.type is not FieldType.DYNAMIC:
            return self._compare(field_, Operator.EQ, value)
        found = self._attribute(field_)
        wanted, cast_to = _json_scalar(value)
        # An array contains a scalar by @>; a scalar contains itself; an object contains neither.
        return self._known(sql.SQL("{} @> to_jsonb({}::{})").format(found, self._bind(wanted), sql.SQL(cast_to)))

    def _present(self, field_: Field) -> sql.Composable:
        if field_.type is FieldType.DYNAMIC:
            return self._known(sql.SQL("jsonb_typeof({}) <> 'null'").format(self._attribute(field_)))
        if field_.type is FieldType.STRING_LIST:
            return sql.SQL("(cardinality({}) > 0)").format(self._column(field_))
        return sql.SQL("({} IS NOT NULL)").format(self._column(field_))

    def _column(self, field_: Field) -> sql.SQL:
        # Ours, from the constants above: a field that is not there cannot come out of the parser.
        return sql.SQL(self._columns[field_.name])

    def _attribute(self, field_: Field) -> sql.Composable:
        # Not #>, which takes the key "0" for the first element of a list.
        keys = (sql.SQL("{}::text").format(self._bind(key)) for key in field_.path)
        return sql.SQL("({})").format(sql.SQL(" -> ").join([self._column(field_), *keys]))

    def _bind(self, value: object) -> sql.Placeholder:
        name = f"{self._prefix}_{len(self.params)}"
        self.params[name] = value
        return sql.Placeholder(name)

    def _negated(self, child: Callable[[], sql.Composable]) -> sql.Composable:
        self._negations += 1
        condition = child()
        self._negations -= 1
        return sql.SQL("(NOT {})").format(condition)

    def _known(self, condition: sql.Composable) -> sql.Composable:
        return sql.SQL("(({}) IS TRUE)" if self._negations else "({})").format(condition)


def _json_scalar(value: Value) -> tuple[object, LiteralString]:
    match value:
        case bool():
            return value, "boolean"
        case float():
            return _exact(value), "numeric"
        case _:
            return value, "text"


def _exact(number: float) -> Decimal:
    # With the very digits that `json` writes when it stores the number.
    return Decimal(repr(number))
