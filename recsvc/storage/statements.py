"""Reads the .sql files: named blocks of one statement each, so that SQL is read, reviewed and explained as SQL.

A block begins with its name between dashes, then a line that says what it is for:

    -- get_item --
    -- One item by the caller's id.
    SELECT …
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from psycopg import sql

_HEADER = re.compile(r"^-- (?P<name>[a-z][a-z0-9_]*) --$", re.MULTILINE)
_COMMENT = re.compile(r"/\* (?P<name>[a-z][a-z0-9_]*) \*/")
# No comment with a name is longer.
_COMMENT_BYTES = 80

UNNAMED = "unnamed"
"""Stands for the name of a statement that came out of no .sql file."""


class StatementError(ValueError):
    """Occurs at start-up when a .sql file is malformed."""


def parse(text: str, source: str) -> dict[str, str]:
    """Split a .sql file into its blocks. Raises StatementError for text before the first block or a double name."""
    headers = list(_HEADER.finditer(text))
    if not headers or text[: headers[0].start()].strip():
        raise StatementError(f"{source}: a block must begin with '-- name --'")
    blocks: dict[str, str] = {}
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        name = header["name"]
        body = text[header.end() : following.start() if following else len(text)].strip()
        if name in blocks:
            raise StatementError(f"{source}: {name} stands twice")
        if not body.startswith("-- "):
            raise StatementError(f"{source}: {name} does not say what it is for")
        # The comment with the name stays in front: it names the statement in pg_stat_statements and in logs.
        statement = body.split("\n", 1)[1].strip()
        blocks[name] = f"/* {name} */ {statement}"
    return blocks


@cache
def load(file: str) -> Mapping[str, str]:
    """The blocks of recsvc/storage/sql/<file>.sql, by name."""
    source = resources.files("recsvc.storage") / "sql" / f"{file}.sql"
    return parse(source.read_text(encoding="utf-8"), f"{file}.sql")


def compose(statement: str, **fragments: sql.Composable) -> sql.Composed:
    """Put SQL fragments (never values) into a statement's {placeholders}."""
    return sql.SQL(statement).format(**fragments)


def name_of(query: str | bytes | sql.Composable) -> str:
    """The name of a statement that came out of a .sql file; empty for another one."""
    if isinstance(query, sql.Composed):
        query = next(iter(query), sql.SQL(""))
    if isinstance(query, sql.Composable):
        query = query.as_string(None)
    if isinstance(query, bytes):
        query = query[:_COMMENT_BYTES].decode("ascii", errors="replace")
    found = _COMMENT.match(query)
    return found["name"] if found else ""
