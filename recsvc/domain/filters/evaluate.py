"""Decides a filter for one thing in memory, with the very meaning that the compiled SQL has.

Two-valued: of a missing value every comparison is false, and `!=` is the opposite of `=`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from recsvc.domain.filters.schema import FieldType, FilterSchema
from recsvc.domain.filters.tree import (
    And,
    Comparison,
    Field,
    Has,
    Member,
    Not,
    Operator,
    Or,
    Present,
    Tree,
    Value,
)

_COMPARE: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: operator.eq,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
}


def evaluate(tree: Tree, thing: Mapping[str, object], schema: FilterSchema, now: datetime) -> bool:
    """Whether `thing` (its fields by name, lists as sequences, attributes as a mapping) matches.

    now: what ages are counted from.
    """
    match tree:
        case And(children):
            return all(evaluate(child, thing, schema, now) for child in children)
        case Or(children):
            return any(evaluate(child, thing, schema, now) for child in children)
        case Not(child):
            return not evaluate(child, thing, schema, now)
        case Comparison(field, kind, value):
            found = _lookup(field, thing, schema, now)
            if kind is Operator.NE:
                return not _compares(found, Operator.EQ, value)
            return _compares(found, kind, value)
        case Member(field, values):
            found = _lookup(field, thing, schema, now)
            return any(_compares(found, Operator.EQ, value) for value in values)
        case Has(field, value):
            found = _lookup(field, thing, schema, now)
            if isinstance(found, list | tuple):
                return any(_compares(element, Operator.EQ, value) for element in found)
            return _compares(found, Operator.EQ, value)
        case Present(field):
            found = _lookup(field, thing, schema, now)
            return found is not None and not (field.type is FieldType.STRING_LIST and not found)


def _lookup(field: Field, thing: Mapping[str, object], schema: FilterSchema, now: datetime) -> object:
    if field.type is FieldType.AGE:
        moment = thing.get(schema.ages[field.name])
        return now - moment if isinstance(moment, datetime) else None
    found = thing.get(field.name)
    for key in field.path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _compares(found: object, kind: Operator, value: Value) -> bool:
    if isinstance(found, bool) or isinstance(value, bool):
        return isinstance(found, bool) and isinstance(value, bool) and kind is Operator.EQ and found == value
    if isinstance(value, float):
        return isinstance(found, int | float) and _COMPARE[kind](_exact(found), _exact(value))
    return isinstance(found, type(value)) and _COMPARE[kind](found, value)


def _exact(number: float) -> Decimal:
    # JSON numbers are decimal, and so is the order that PostgreSQL gives them: a large integer is not rounded here.
    return Decimal(number) if isinstance(number, int) else Decimal(repr(number))
