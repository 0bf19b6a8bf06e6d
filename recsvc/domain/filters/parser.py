"""Makes a typed tree from a filter, by recursive descent.

Grammar (a subset of AIP-160; as there, OR binds tighter than AND):

    filter     = [ and ] END
    and        = or { "AND" or }
    or         = not { "OR" not }
    not        = [ "NOT" ] primary
    primary    = "(" and ")" | field [ comparison ]
    comparison = operator literal | ":" ( literal | "*" ) | "IN" "[" literal { "," literal } "]"
    field      = NAME { "." ( NAME | KEYWORD | STRING ) }

The bounds below keep any input cheap: parsing is linear and recursion cannot run away.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from recsvc.domain.errors import InvalidFilter
from recsvc.domain.filters.lexer import Token, TokenKind, shortened, tokens
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

MAX_LENGTH = 4096
MAX_DEPTH = 32
MAX_TERMS = 100
MAX_ATTRIBUTE_LEVELS = 3

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_ORDERED = frozenset({FieldType.STRING, FieldType.NUMBER, FieldType.TIMESTAMP, FieldType.AGE, FieldType.DYNAMIC})


def parse(text: str, schema: FilterSchema) -> Tree | None:
    """Parse and type-check a filter; None for an empty one.

    Raises InvalidFilter with the 1-based column for whatever is wrong.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidFilter(f"a filter has at most {MAX_LENGTH} characters", MAX_LENGTH + 1)
    if not text.strip():
        return None
    return _Parser(text, schema).filter()


class _Parser:
    def __init__(self, text: str, schema: FilterSchema) -> None:
        self._tokens = list(tokens(text))
        self._schema = schema
        self._position = 0
        self._depth = 0
        self._terms = 0

    def filter(self) -> Tree:
        tree = self._and()
        if self._next.kind is not TokenKind.END:
            raise self._unexpected("AND, OR or the end of the filter")
        return tree

    def _and(self) -> Tree:
        children = [self._or()]
        while self._accept("AND"):
            children.append(self._or())
        return children[0] if len(children) == 1 else And(tuple(children))

    def _or(self) -> Tree:
        children = [self._not()]
        while self._accept("OR"):
            children.append(self._not())
        return children[0] if len(children) == 1 else Or(tuple(children))

    def _not(self) -> Tree:
        if self._accept("NOT"):
            return Not(self._primary())
        return self._primary()

    def _primary(self) -> Tree:
        if self._next.text == "(" and self._next.kind is TokenKind.PUNCTUATION:
            opening = self._take()
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise InvalidFilter(f"more than {MAX_DEPTH} levels of parentheses", opening.column)
            tree = self._and()
            self._expect(")")
            self._depth -= 1
            return tree
        return self._term()

    def _term(self) -> Tree:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise InvalidFilter(f"more than {MAX_TERMS} comparisons", self._next.column)
        start = self._next
        field = self._field()
        if self._next.kind is TokenKind.OPERATOR:
            operator = self._take()
            return self._has(field) if operator.text == ":" else self._comparison(field, operator)
        if self._accept("IN"):
            return self._member(field)
        if field.type is not FieldType.BOOL:
            raise InvalidFilter(f"{shortened(str(field))} is no truth value; compare it with something", start.column)
        return Comparison(field, Operator.EQ, True)

    def _comparison(self, field: Field, operator: Token) -> Tree:
        if field.type is FieldType.STRING_LIST:
            raise InvalidFilter(f'{field} is a list: use {field}:"…"', operator.column)
        kind = Operator(operator.text)
        literal = self._next
        value = self._value(field)
        if kind not in (Operator.EQ, Operator.NE) and (field.type not in _ORDERED or isinstance(value, bool)):
            raise InvalidFilter(f"{shortened(str(field))} is a truth value and has no order", literal.column)
        return Comparison(field, kind, value)

    def _has(self, field: Field) -> Tree:
        if self._accept("*"):
            return Present(field)
        return Has(field, self._value(field))

    def _member(self, field: Field) -> Tree:
        if field.type is FieldType.STRING_LIST:
            raise InvalidFilter(f'{field} is a list: use {field}:"…"', self._next.column)
        self._expect("[")
        values = [self._value(field)]
        while self._accept(","):
            values.append(self._value(field))
        self._expect("]")
        return Member(field, tuple(values))

    def _field(self) -> Field:
        name = self._take(TokenKind.NAME, "a field name")
        path: list[str] = []
        while self._accept("."):
            key = self._take_any((TokenKind.NAME, TokenKind.KEYWORD, TokenKind.STRING), "an attribute key")
            path.append(str(key.value) if key.kind is TokenKind.STRING else key.text)
        if name.text == "attributes" and self._schema.has_attributes:
            return self._attribute(name, tuple(path))
        if path:
            raise InvalidFilter(f"{shortened(name.text)} has no sub-fields", name.column)
        if (field_type := self._schema.fields.get(name.text)) is not None:
            return Field(name.text, field_type)
        if name.text in self._schema.ages:
            return Field(name.text, FieldType.AGE)
        known = sorted([*self._schema.fields, *self._schema.ages])
        raise InvalidFilter(
            f"{self._schema.resource} has no field {shortened(name.text)!r}; there are {', '.join(known)}"
            + (" and attributes.<key>" if self._schema.has_attributes else ""),
            name.column,
        )

    def _attribute(self, name: Token, path: tuple[str, ...]) -> Field:
        if not 1 <= len(path) <= MAX_ATTRIBUTE_LEVELS:
            raise InvalidFilter(f"write attributes.<key>, with 1 to {MAX_ATTRIBUTE_LEVELS} keys", name.column)
        allowed = self._schema.attribute_keys
        if allowed is not None and path[0] not in allowed:
            raise InvalidFilter(f"the attribute schema has no filterable key {shortened(path[0])!r}", name.column)
        return Field("attributes", FieldType.DYNAMIC, path)

    def _value(self, field: Field) -> Value:
        token = self._take()
        match token.kind, field.type:
            case TokenKind.STRING, FieldType.STRING | FieldType.STRING_LIST | FieldType.DYNAMIC:
                return str(token.value)
            case TokenKind.STRING, FieldType.TIMESTAMP:
                return _timestamp(str(token.value), token.column)
            case TokenKind.NUMBER, FieldType.NUMBER | FieldType.DYNAMIC if isinstance(token.value, float):
                return token.value
            case TokenKind.DURATION, FieldType.AGE if isinstance(token.value, timedelta):
                return token.value
            case TokenKind.KEYWORD, FieldType.BOOL | FieldType.DYNAMIC if token.text in ("true", "false"):
                return token.text == "true"
        if token.kind is TokenKind.END:
            raise InvalidFilter("a value is missing", token.column)
        wanted = {
            FieldType.TIMESTAMP: 'an RFC 3339 timestamp in quotes, such as "2026-01-31T12:00:00Z"',
            FieldType.AGE: "a duration such as 72h",
            FieldType.STRING_LIST: "a string in quotes",
            FieldType.STRING: "a string in quotes",
            FieldType.BOOL: "true or false",
            FieldType.DYNAMIC: "a string in quotes, a number, true or false",
        }.get(field.type, "a number")
        raise InvalidFilter(
            f"{shortened(str(field))} is compared with {wanted}, not {shortened(token.text)!r}", token.column
        )

    @property
    def _next(self) -> Token:
        return self._tokens[self._position]

    def _take(self, kind: TokenKind | None = None, wanted: str = "") -> Token:
        token = self._next
        if kind is not None and token.kind is not kind:
            raise self._unexpected(wanted)
        if token.kind is not TokenKind.END:
            self._position += 1
        return token

    def _take_any(self, kinds: tuple[TokenKind, ...], wanted: str) -> Token:
        if self._next.kind not in kinds:
            raise self._unexpected(wanted)
        return self._take()

    def _accept(self, text: str) -> bool:
        token = self._next
        if token.text == text and token.kind in (TokenKind.KEYWORD, TokenKind.PUNCTUATION):
            self._position += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._unexpected(repr(text))

    def _unexpected(self, wanted: str) -> InvalidFilter:
        token = self._next
        found = str(token.kind) if token.kind is TokenKind.END else repr(shortened(token.text))
        return InvalidFilter(f"expected {wanted}, found {found}", token.column)


def _timestamp(text: str, column: int) -> datetime:
    try:
        if _RFC_3339.fullmatch(text) is None:
            raise ValueError
        # In UTC, because PostgreSQL knows fewer offsets from it than Python does.
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidFilter(
            f'{shortened(text)!r} is no RFC 3339 timestamp with a time zone, such as "2026-01-31T12:00:00Z"', column
        ) from None
