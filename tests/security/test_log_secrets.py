"""Neither keys nor anything about a person gets into the log or onto standard error, whatever a server meets.

A server of its own, at level DEBUG, is sent keys and marked names with every method: in requests, in wrong requests, in
metadata, and while PostgreSQL refuses rows and quotes them in its messages.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.message_factory import GetMessageClass
from pydantic import SecretStr

from recsvc.app import Storage, open_storage
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, TenantSettings
from recsvc.settings import Settings
from recsvc.telemetry.log_events import EVERY_LINE, LOG_EVENTS, WHILE_ANSWERING, WITH_EXCEPTION
from tests.api import Api
from tests.chaos.installation import ServerProcess
from tests.databases import own_database
from tests.security.calling import outcomes
from tests.security.scenarios import METHODS, requests_of
from tests.security.tenants import Names

_MARK = "p3rs0n"
_PASSWORD = "Hu5hHu5h"
_PAGE_TOKEN_SECRET = "pAgEt0kEn"
_WRONG_KEYS = ("rk_k1k2k3_wr0ngs3cr3t", "n0k3yAtA11")
_EMAIL = f"{_MARK}.doe@mail.example.org"
_PERSONAL = replace(
    Names.of_nobody(),
    user=_EMAIL,
    written_user=f"other.{_EMAIL}",
    session=f"{_MARK}-session",
    item=f"{_MARK}-item",
    written_item=f"{_MARK}-item-1",
    event=f"{_MARK}-event",
    recommendation=f"{_MARK}-recommendation",
    attribute=f"{_MARK}_attribute",
)
_SHOP = TenantId("shop")
_REFUSING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no room for %', NEW USING ERRCODE = 'P0042', DETAIL = 'of ' || NEW::text; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON user_state FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON event_ids FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON shown FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@dataclass(frozen=True)
class _Shop:
    """A server, its database, and a key for all methods."""

    server: ServerProcess
    database_url: str
    key: str

    def lines(self) -> list[dict[str, Any]]:
        """What the server logged, in full; fails for anything that is no line of the log."""
        return [json.loads(line) for line in self.server.log.read_text("utf-8").splitlines()]


@pytest.fixture
async def shop(storage: Storage, settings: Settings, tmp_path: Path) -> AsyncIterator[_Shop]:
    """A server at level DEBUG on a database of its own."""
    async with own_database(storage.urls.database_url, "log_secrets") as own_url:
        url = psycopg.conninfo.make_conninfo(own_url, password=_PASSWORD)
        async with open_storage(settings.model_copy(update={"database_url": SecretStr(url)})) as opened:
            await opened.tenants.create(_SHOP, "", TenantSettings())
            key = (await new_key(opened, _SHOP, "test", frozenset(Scope))).secret
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
        environment = kept | {
            "RECSVC_DATABASE_URL": url,
            "RECSVC_REDIS_URL": storage.urls.redis_url,
            "RECSVC_LOG_LEVEL": "DEBUG",
            "RECSVC_ACCESS_LOG__OK_SHARE": "1",
            "RECSVC_ACCESS_LOG__LINES_PER_SECOND": "10000",
            "RECSVC_PAGE_TOKEN_SECRET": _PAGE_TOKEN_SECRET,
        }
        server = ServerProcess(environment, tmp_path / "log")
        server.start()
        try:
            await server.serves()
            yield _Shop(server, url, key)
        finally:
            server.kill()


def _wrong(path: str) -> Any:
    """A request of a method in which each text breaks the rules."""
    return _filled(GetMessageClass(METHODS[path].input_type)(), depth=3)


def _filled(message: Any, depth: int) -> Any:
    for field in message.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, f"{_EMAIL}\x07{_WRONG_KEYS[0]}")
        elif field.type == field.TYPE_MESSAGE and not field.is_repeated and depth:
            _filled(getattr(message, field.name), depth - 1)
    return message


async def _everything_is_asked(shop: _Shop) -> None:
    async with Api.connected(shop.server.port, shop.key) as api:
        for path in METHODS:
            await outcomes(api.channel, path, [*requests_of(path, _PERSONAL), _wrong(path)])
            await outcomes(api.channel, path, [_MARK.encode()])


async def _strangers_call(shop: _Shop) -> None:
    """With wrong keys, in the ways that keys are sent, and with names in all other metadata."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.server.port}") as channel:
        for path in ("/recsvc.v1.UserService/GetUser", f"/recsvc.v1.UserService/{_MARK}"):
            call = channel.unary_unary(path)
            for metadata in _strange_metadata():
                with suppress(grpc.aio.AioRpcError):
                    await call(b"", metadata=metadata, timeout=10)


def _strange_metadata() -> Iterator[tuple[tuple[str, str], ...]]:
    for key in _WRONG_KEYS:
        yield (("authorization", f"Bearer {key}"), ("x-request-id", _EMAIL))
        yield (("authorization", f"Basic {key}"), ("cookie", f"session={_MARK}"))
        yield (("x-api-key", key), ("x-tenant-id", f"{_MARK}-tenant"), ("user-agent", _MARK))


@pytest.mark.timeout(300)
async def test_no_key_and_nothing_about_a_person_is_logged(shop: _Shop) -> None:
    await _strangers_call(shop)
    await _everything_is_asked(shop)
    async with await psycopg.AsyncConnection.connect(shop.database_url, autocommit=True) as connection:
        await connection.execute(_REFUSING.encode())
    await _everything_is_asked(shop)
    assert shop.server.is_alive
    shop.server.stop()

    lines = shop.lines()
    # What the test is for did happen: PostgreSQL quoted rows, and exceptions were told of.
    refused = [line for line in lines if line.get("sqlstate") == "P0042"]
    assert {line["event"] for line in refused} >= {"call.failed"}
    assert {line["tenant"] for line in refused if line["event"] == "call.failed"} == {_SHOP}
    secrets = (_MARK, _PASSWORD, _PAGE_TOKEN_SECRET, shop.key.rpartition("_")[2], "wr0ngs3cr3t", "n0k3yAtA11")
    told = [(secret, line) for line in lines for secret in secrets if secret in json.dumps(line)]
    assert told == []
    common = {*EVERY_LINE, *WHILE_ANSWERING, *WITH_EXCEPTION}
    assert [line for line in lines if set(line) - common - set(LOG_EVENTS[line["event"]].fields)] == []
