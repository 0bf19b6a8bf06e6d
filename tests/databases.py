"""Databases of a test's own, in the cluster of the others."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo


@asynccontextmanager
async def own_database(url: str, purpose: str) -> AsyncIterator[str]:
    """The URL of an empty database, which is dropped when the block is left. url: of any other in the cluster."""
    name = f"recsvc_{purpose}_{os.getpid()}"
    identifier = sql.Identifier(name)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        try:
            yield make_conninfo(url, dbname=name)
        finally:
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
