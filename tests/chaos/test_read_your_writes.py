"""Reads on a replica whose callers say how new they must be: a service on real streaming replication."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from recsvc.app import Service, running_service
from recsvc.cli.tenants import new_key
from recsvc.domain.consistency import TOKEN, WISH
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, TenantSettings
from recsvc.embedded.redis import EmbeddedRedis
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import user_service_pb2 as users_pb
from recsvc.settings import PostgresSettings, Settings
from recsvc_client import Client
from tests.api import Api
from tests.chaos.replication import ReplicatedPair, replicated_pair
from tests.conftest import temporary_folder

_PATIENCE_S = 20.0
_EVENTUAL = ((WISH, "eventual"),)
_ASKED = ((WISH, "token"),)
_PAUSED_S = 0.3


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[ReplicatedPair]:
    """A primary and its replica, both there at the end of every test."""
    async with replicated_pair() as started:
        yield started


@pytest.fixture(scope="module")
async def redis_url() -> AsyncIterator[str]:
    """A Redis that knows of no other database's tenants."""
    home = temporary_folder()
    redis = EmbeddedRedis(home)
    await asyncio.to_thread(redis.start)
    yield redis.url
    await asyncio.to_thread(redis.stop)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
async def service(pair: ReplicatedPair, redis_url: str, settings: Settings) -> AsyncIterator[Service]:
    """A service that asks the replica however far it lags."""
    changed = {
        "database_url": SecretStr(pair.primary.url),
        "redis_url": SecretStr(redis_url),
        "postgres": PostgresSettings(
            replica_urls=[SecretStr(pair.replica.url)],
            replica_max_lag_s=600.0,
            replica_check_s=0.2,
            replica_wait_s=0.5,
            breaker_reset_s=0.2,
        ),
    }
    async with running_service(settings.model_copy(update=changed)) as running:
        await running.storage.tenants.create(TenantId("shop"), "", TenantSettings())
        yield running


@pytest.fixture
async def api(service: Service) -> AsyncIterator[Api]:
    """Stubs of a tenant with the replica in the set."""
    await _until(lambda: service.storage.replicas.fresh == {"replica1"})
    key = await new_key(service.storage, TenantId("shop"), "test", frozenset(Scope) - {Scope.ADMIN_SERVICE})
    async with Api.connected(service.port, key.secret) as connected:
        yield connected


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _paused(pair: ReplicatedPair) -> AsyncIterator[None]:
    """While the block runs the replica shows nothing new."""
    await pair.pause_replay()
    try:
        yield
    finally:
        await pair.resume_replay()


async def _token(call: Any) -> tuple[tuple[str, str], ...]:
    """The metadata that a read must bring to see what this write wrote."""
    await call
    return ((TOKEN, dict(await call.trailing_metadata())[TOKEN]),)


def _asked(service: Service, server: str) -> float:
    """How many reads that may be old a server was asked."""
    value = service.storage.metrics.registry.get_sample_value("recsvc_reads_total", {"target": server})
    return value or 0.0


def _create(api: Api, item_id: str) -> Any:
    return api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": item_id}), metadata=_ASKED)


def _get(api: Api, item_id: str, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
    return api.catalog.GetItem(catalog_pb.GetItemRequest(item_id=item_id), metadata=metadata)


async def _is_missing(call: Awaitable[Any]) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


async def test_a_read_with_the_token_of_a_write_sees_it_though_the_replica_does_not(
    pair: ReplicatedPair, api: Api
) -> None:
    async with _paused(pair):
        token = await _token(_create(api, "a"))
        assert await _is_missing(_get(api, "a", _EVENTUAL))
        assert (await _get(api, "a", token)).item.item_id == "a"


async def test_a_read_that_says_nothing_sees_every_write(pair: ReplicatedPair, api: Api) -> None:
    async with _paused(pair):
        await _create(api, "b")
        assert (await _get(api, "b")).item.item_id == "b"


async def test_a_replica_that_has_replayed_the_write_is_asked(service: Service, api: Api) -> None:
    token = await _token(_create(api, "c"))
    await asyncio.sleep(_PAUSED_S)
    before = _asked(service, "replica1"), _asked(service, "primary")
    for _ in range(10):
        await _get(api, "c", token)
    assert (_asked(service, "replica1") - before[0], _asked(service, "primary") - before[1]) == (10, 0)


async def test_a_replica_that_is_about_to_replay_the_write_is_waited_for(
    pair: ReplicatedPair, service: Service, api: Api
) -> None:
    before = _asked(service, "replica1"), _asked(service, "primary")
    async with _paused(pair):
        token = await _token(_create(api, "d"))
        reading = asyncio.create_task(_read(api, "d", token))
        await asyncio.sleep(0.03)
    assert await reading == "d"
    assert (_asked(service, "replica1") - before[0], _asked(service, "primary") - before[1]) == (1, 0)


async def _read(api: Api, item_id: str, token: tuple[tuple[str, str], ...]) -> str:
    return str((await _get(api, item_id, token)).item.item_id)


async def test_a_token_that_replicas_cannot_come_to_is_answered_by_the_primary(
    pair: ReplicatedPair, service: Service, api: Api
) -> None:
    before = _asked(service, "primary")
    async with _paused(pair):
        token = await _token(_create(api, "e"))
        await _get(api, "e", token)
    assert _asked(service, "primary") - before == 1


async def test_a_read_that_a_replica_does_not_answer_is_answered_by_the_primary(pair: ReplicatedPair, api: Api) -> None:
    token = await _token(_create(api, "f"))
    await asyncio.sleep(_PAUSED_S)
    pair.kill(pair.replica)
    try:
        for metadata in (token, _EVENTUAL) * 20:
            assert (await _get(api, "f", metadata)).item.item_id == "f"
    finally:
        await asyncio.to_thread(pair.replica.start)


_READS: dict[str, Callable[[Api, str, tuple[tuple[str, str], ...]], Awaitable[Any]]] = {
    "BatchGetItems": lambda api, name, metadata: api.catalog.BatchGetItems(
        catalog_pb.BatchGetItemsRequest(item_ids=[name]), metadata=metadata
    ),
    "ListItems": lambda api, name, metadata: api.catalog.ListItems(
        catalog_pb.ListItemsRequest(filter=f'item_id = "{name}"'), metadata=metadata
    ),
    "GetItemActivity": lambda api, name, metadata: api.catalog.GetItemActivity(
        catalog_pb.GetItemActivityRequest(item_ids=[name]), metadata=metadata
    ),
    "ListUsers": lambda api, name, metadata: api.users.ListUsers(
        users_pb.ListUsersRequest(filter=f'user_id = "{name}"'), metadata=metadata
    ),
    "ListEvents": lambda api, name, metadata: api.ingestion.ListEvents(
        events_pb.ListEventsRequest(filter=f'item_id = "{name}"'), metadata=metadata
    ),
}


@pytest.mark.parametrize("method", _READS)
async def test_every_read_that_takes_a_token_is_asked_of_the_replica_and_never_too_old(
    pair: ReplicatedPair, api: Api, method: str
) -> None:
    name, read = f"of-{method}", _READS[method]
    absent = await read(api, name, ())
    async with _paused(pair):
        await _create(api, name)
        event = events_pb.Event(event_type="view", user_id=name, item_id=name)
        token = await _token(api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), metadata=_ASKED))
        present = await read(api, name, ())
        assert present != absent
        assert await read(api, name, _EVENTUAL) == absent
        assert await read(api, name, token) == present


async def test_a_user_is_read_with_the_token_of_their_profile(pair: ReplicatedPair, api: Api) -> None:
    asked = users_pb.GetUserRequest(user_id="u")
    async with _paused(pair):
        written = users_pb.UpdateUserRequest(user={"user_id": "u", "labels": ["new"]}, allow_missing=True)
        token = await _token(api.users.UpdateUser(written, metadata=_ASKED))
        assert await _is_missing(api.users.GetUser(asked, metadata=_EVENTUAL))
        assert (await api.users.GetUser(asked, metadata=token)).user.labels == ["new"]


async def test_clients_of_a_session_see_what_they_wrote_and_others_what_they_are_told_of(
    pair: ReplicatedPair, service: Service
) -> None:
    await _until(lambda: service.storage.replicas.fresh == {"replica1"})
    key = await new_key(service.storage, TenantId("shop"), "test", frozenset(Scope) - {Scope.ADMIN_SERVICE})
    address = f"127.0.0.1:{service.port}"
    async with (
        Client(address, key.secret, timeout_s=30, consistency="session") as author,
        Client(address, key.secret, timeout_s=30, consistency="session") as reader,
        _paused(pair),
    ):
        await asyncio.gather(*(author.upsert_items([{"item_id": f"s{number}"}]) for number in range(5)))
        await author.record_event("view", "s0", user_id="s")
        titles = 'item_id IN ["s0", "s1", "s2", "s3", "s4"]'
        assert [item.item_id async for item in author.list_items(titles)] == [f"s{number}" for number in range(5)]
        assert [event.item_id async for event in author.list_events('user_id = "s"')] == ["s0"]
        assert [item.item_id async for item in reader.list_items(titles)] == []
        reader.session.see(author.session.token)
        assert (await reader.get_item("s4")).item_id == "s4"
