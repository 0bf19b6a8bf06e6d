"""The typed tree that a filter becomes: immutable, and printable as a filter that parses to the same tree.

A cache's key is made of the text, not of the tree itself: to Python `attributes.a = true` and `attributes.a = 1` are
equal, because True == 1.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from recsvc.domain.filters.schema import FieldType

Value: TypeAlias = str | float | bool | datetime | timedelta
_PLAIN_KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class Operator(StrEnum):
    """The comparisons."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the resource; `path` leads into the attributes and is empty otherwise."""

    name: str
    type: FieldType
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As it is written in a filter."""
        keys = (key if _PLAIN_KEY.fullmatch(key) else _quoted(key) for key in self.path)
        return ".".join((self.name, *keys))


@dataclass(frozen=True, slots=True)
class Comparison:
    """`field operator value`. Of a missing value every comparison but != is false."""

    field: Field
    operator: Operator
    value: Value

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field} {self.operator} {_literal(self.value)}"


@dataclass(frozen=True, slots=True)
class Member:
    """`field IN [values]`."""

    field: Field
    values: tuple[Value, ...]

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field} IN [{', '.join(map(_literal, self.values))}]"


@dataclass(frozen=True, slots=True)
class Has:
    """`field:value`: a list contains the value, or a single value equals it."""

    field: Field
    value: Value

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field}:{_literal(self.value)}"


@dataclass(frozen=True, slots=True)
class Present:
    """`field:*`: there is a value (and a list is not empty)."""

    field: Field

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"{self.field}:*"


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    child: Tree

    def __str__(self) -> str:
        """As it is written in a filter."""
        return f"NOT {_within(self.child, Not, And, Or)}"


@dataclass(frozen=True, slots=True)
class And:
    """All of them; at least two."""

    children: tuple[Tree, ...]

    def __str__(self) -> str:
        """As it is written in a filter."""
        return " AND ".join(_within(child, And) for child in self.children)


@dataclass(frozen=True, slots=True)
class Or:
    """One of them; at least two."""

    children: tuple[Tree, ...]

    def __str__(self) -> str:
        """As it is written in a filter."""
        return " OR ".join(_within(child, And, Or) for child in self.children)


Tree: TypeAlias = Comparison | Member | Has | Present | Not | And | Or


def _within(child: Tree, *looser: type) -> str:
    # No more parentheses than needed, so that the text is no deeper than the filter that it came from.
    return f"({child})" if isinstance(child, looser) else str(child)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _quoted(value)
        case datetime():
            return _quoted(value.isoformat())
        case timedelta():
            # Six digits are all that a timedelta has; an exponent would not be a duration.
            return f"{value.total_seconds():f}s"
        case _:
            return repr(value)
