"""A database beside which no service runs: users are folded in and items derived when the test says so, and only then.

The service of the other tests has a projector, which takes its turn at every tenant of its database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from pydantic import SecretStr

from recsvc.app import Storage, open_storage
from recsvc.settings import Settings
from recsvc.storage.database import Database
from tests.databases import own_database


@pytest.fixture(scope="session")
async def storage(settings: Settings) -> AsyncIterator[Storage]:
    """All repositories."""
    assert settings.database_url is not None
    async with own_database(settings.database_url.get_secret_value(), "alone") as url:
        changed = settings.model_copy(update={"database_url": SecretStr(url)})
        async with open_storage(changed) as opened:
            # Redis is the one of all tests, and knows tenants by their keys.
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as owner:
                await owner.execute("ALTER TABLE tenants ALTER tenant_key RESTART WITH 1000000")
            yield opened


@pytest.fixture
def database(storage: Storage) -> Database:
    """Its pool."""
    return storage.database


@pytest.fixture(scope="session")
def database_url(storage: Storage) -> str:
    """Its address."""
    return storage.urls.database_url
