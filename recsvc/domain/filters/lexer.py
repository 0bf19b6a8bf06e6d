"""Cuts a filter into tokens, each with its column, so that every error can say where it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from recsvc.domain.errors import InvalidFilter
from recsvc.domain.text import TextFault, in_normal_form


class TokenKind(StrEnum):
    """What a token is."""

    NAME = "a field name"
    STRING = "a string"
    NUMBER = "a number"
    DURATION = "a duration"
    OPERATOR = "an operator"
    PUNCTUATION = "punctuation"
    KEYWORD = "a keyword"
    END = "the end of the filter"


KEYWORDS = frozenset({"AND", "OR", "NOT", "IN", "true", "false"})
_PATTERN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<duration>-?\d+(?:\.\d+)?[smhd](?![\w.]))
    | (?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<name>[A-Za-z_]\w*)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<operator>!=|<=|>=|=|<|>|:)
    | (?P<punctuation>[()\[\],.*])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Token:
    """One word of a filter; `column` counts from 1."""

    kind: TokenKind
    text: str
    column: int
    value: str | float | timedelta | None = None


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of `text` and at last one of kind END. Raises InvalidFilter at the first foreign character."""
    position = 0
    while position < len(text):
        match = _PATTERN.match(text, position)
        column = position + 1
        if match is None:
            raise InvalidFilter(_complaint(text[position]), column)
        position = match.end()
        lexeme = match.group()
        match match.lastgroup:
            case "space":
                continue
            case "name":
                yield Token(TokenKind.KEYWORD if lexeme in KEYWORDS else TokenKind.NAME, lexeme, column)
            case "string":
                yield Token(TokenKind.STRING, lexeme, column, _unquoted(lexeme, column))
            case "number":
                number = float(lexeme)
                if not math.isfinite(number):
                    raise InvalidFilter(f"the number {shortened(lexeme)} is too large", column)
                yield Token(TokenKind.NUMBER, lexeme, column, number)
            case "duration":
                seconds = float(lexeme[:-1]) * _UNIT_SECONDS[lexeme[-1]]
                if abs(seconds) > 1e10:
                    raise InvalidFilter(f"the duration {shortened(lexeme)} is too long", column)
                yield Token(TokenKind.DURATION, lexeme, column, timedelta(seconds=seconds))
            case "operator":
                yield Token(TokenKind.OPERATOR, lexeme, column)
            case _:
                yield Token(TokenKind.PUNCTUATION, lexeme, column)
    yield Token(TokenKind.END, "", len(text) + 1)


def shortened(text: str) -> str:
    """The beginning of `text`, for an error: errors travel in the trailers of a call, which hold a few kilobytes."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _unquoted(lexeme: str, column: int) -> str:
    value = _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[1]), lexeme[1:-1])
    if "\x00" in value:
        raise InvalidFilter("a string must not contain the character NUL", column)
    try:
        # As what is stored is: the same words match however they were typed.
        return in_normal_form(value)
    except TextFault as fault:
        raise InvalidFilter(f"a string {fault}", column) from None


def _complaint(character: str) -> str:
    if character in "\"'":
        return "the string is not closed"
    if character in "0123456789.-":
        return "malformed number"
    return f"unexpected character {character!r}"
