"""What may be told of an exception: its type, where it came from, and PostgreSQL's code and constraint.

Never its message. PostgreSQL quotes the values of a row in its messages, and others what a caller sent: ids, e-mail
addresses, keys. Type, place and constraint say as much to whoever has the code.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType

import psycopg

_EXCEPTIONS = 4
_FRAMES = 8
"""The innermost ones: what is farther out is the same for all calls."""


def described(error: BaseException) -> Mapping[str, str]:
    """Fields of a log line: error, exception and, of PostgreSQL's errors, sqlstate and constraint."""
    chain = list(_chain(error))
    facts = {"error": type_of(error), "exception": "\n".join(line for each in chain for line in _lines(each))}
    for each in chain:
        if isinstance(each, psycopg.Error) and each.sqlstate:
            facts["sqlstate"] = each.sqlstate
            if each.diag.constraint_name:
                facts["constraint"] = each.diag.constraint_name
            break
    return facts


def type_of(error: BaseException) -> str:
    """Name of the type, with its module unless it is Python's own."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what caused it, as Python would tell."""
    following: BaseException | None = error
    for _ in range(_EXCEPTIONS):
        if following is None:
            return
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _lines(error: BaseException) -> Iterator[str]:
    members = [type_of(each) for each in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    yield f"{type_of(error)} of {', '.join(members[:_EXCEPTIONS])}" if members else type_of(error)
    yield from (f"  {place}" for place in _places(error.__traceback__))


def _places(trace: TracebackType | None) -> list[str]:
    frames = list(traceback.walk_tb(trace))[-_FRAMES:]
    return [f"{frame.f_globals.get('__name__')}:{line} {frame.f_code.co_name}" for frame, line in frames]
