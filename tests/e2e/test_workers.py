"""Several processes on one port: who gets the calls, what a death costs, how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import psycopg
import pytest

from recsvc.app import Storage
from recsvc.cli.tenants import new_key
from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.settings import Settings
from recsvc_client.client import SERVICE_CONFIG
from tests.api import Api
from tests.e2e.workers import Workers, callers, running_workers
from tests.processes import kill_9

pytestmark = pytest.mark.timeout(180)
_CALLERS = 16
_ITEM = "locked"


@pytest.fixture
async def tenant_key(storage: Storage, new_tenant: Tenant) -> str:
    """A key of a tenant with one item."""
    await storage.items.upsert_many(new_tenant.tenant_key, [Item(ItemId(_ITEM))])
    scopes = frozenset(Scope) - {Scope.ADMIN_SERVICE}
    return (await new_key(storage, new_tenant.tenant_id, "test", scopes)).secret


@asynccontextmanager
async def _locked_item(settings: Settings, tenant: Tenant) -> AsyncIterator[None]:
    """While the block runs, calls that write the item are in flight and do not end."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(
            "SELECT FROM items WHERE tenant_key = %s AND item_id = %s FOR UPDATE", [tenant.tenant_key, _ITEM]
        )
        yield
        await connection.rollback()


def _write(api: Api, number: int) -> Any:
    item = catalog_pb.Item(item_id=_ITEM, title=f"title {number}")
    return api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=[item]), timeout=60)


async def _in_flight(workers: Workers, apis: Sequence[Api]) -> list[asyncio.Task[grpc.StatusCode]]:
    """A write by each caller, of an item that is locked: all of them have begun."""
    calls = [asyncio.create_task(_answer(_write(api, number))) for number, api in enumerate(apis)]
    async with asyncio.timeout(30):
        while await workers.metric("recsvc_calls_in_flight") < len(calls):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return calls


def _connections(workers: Workers, pids: Sequence[int]) -> list[int]:
    return [workers.connections(pid) for pid in pids]


async def test_calls_are_spread_over_the_workers_and_counted_together(
    settings: Settings, new_tenant: Tenant, tenant_key: str
) -> None:
    with running_workers(settings, 2) as workers:
        await workers.serve(2)
        async with callers(workers, tenant_key, _CALLERS) as apis:
            spread = _connections(workers, workers.pids)
            assert sum(spread) == _CALLERS
            assert min(spread) > 0
            async with _locked_item(settings, new_tenant):
                calls = await _in_flight(workers, apis)
            assert set(await asyncio.gather(*calls)) == {grpc.StatusCode.OK}
        counted = await workers.metric(
            "recsvc_call_seconds_count", method="/recsvc.v1.CatalogService/BatchUpsertItems", code="OK"
        )
        assert counted == _CALLERS


async def test_the_death_of_a_worker_costs_its_calls_in_flight_and_no_others_and_it_is_replaced(
    settings: Settings, new_tenant: Tenant, tenant_key: str
) -> None:
    with running_workers(settings, 2) as workers:
        await workers.serve(2)
        async with callers(workers, tenant_key, _CALLERS) as apis:
            victim = max(workers.pids, key=workers.connections)
            lost = workers.connections(victim)
            async with _locked_item(settings, new_tenant):
                calls = await _in_flight(workers, apis)
                kill_9(victim)
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            answers = await asyncio.gather(*calls)
        assert answers.count(grpc.StatusCode.UNAVAILABLE) == lost
        assert answers.count(grpc.StatusCode.OK) == _CALLERS - lost
        await workers.serve(3)
        assert victim not in workers.pids
        async with callers(workers, tenant_key, _CALLERS):
            assert min(_connections(workers, workers.pids)) > 0
        assert await workers.metric("recsvc_worker_ends_total") == 1
        # What had been in flight at the dead one is not counted as in flight for ever.
        assert await workers.metric("recsvc_calls_in_flight") == 0


async def test_the_service_config_makes_good_what_was_in_flight_at_a_worker_that_dies(
    settings: Settings, new_tenant: Tenant, tenant_key: str
) -> None:
    with running_workers(settings, 2) as workers:
        await workers.serve(2)
        config = (("grpc.service_config", SERVICE_CONFIG),)
        async with callers(workers, tenant_key, _CALLERS, config) as apis:
            victim = max(workers.pids, key=workers.connections)
            assert workers.connections(victim) > 0
            async with _locked_item(settings, new_tenant):
                calls = await _in_flight(workers, apis)
                kill_9(victim)
                async with asyncio.timeout(30):
                    while not await workers.metric("recsvc_worker_ends_total"):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            assert set(await asyncio.gather(*calls)) == {grpc.StatusCode.OK}


async def test_what_a_dead_worker_has_counted_stays_counted(settings: Settings, tenant_key: str) -> None:
    with running_workers(settings, 2) as workers:
        await workers.serve(2)
        async with callers(workers, tenant_key, _CALLERS) as apis:
            assert {await _answer(_write(api, number)) for number, api in enumerate(apis)} == {grpc.StatusCode.OK}
        kill_9(*workers.pids)
        await workers.serve(4)
        async with callers(workers, tenant_key, _CALLERS) as apis:
            assert {await _answer(_write(api, number)) for number, api in enumerate(apis)} == {grpc.StatusCode.OK}
        assert await workers.metric("recsvc_call_seconds_count", code="OK") == 2 * _CALLERS


async def test_sigterm_lets_calls_in_flight_end_at_all_workers(
    settings: Settings, new_tenant: Tenant, tenant_key: str
) -> None:
    with running_workers(settings, 2) as workers:
        await workers.serve(2)
        async with callers(workers, tenant_key, _CALLERS) as apis:
            async with _locked_item(settings, new_tenant):
                calls = await _in_flight(workers, apis)
                workers.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(10):
                    while len(workers.said("service.draining")) < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
            assert set(await asyncio.gather(*calls)) == {grpc.StatusCode.OK}
        assert await workers.ended() == 0


async def test_a_second_signal_ends_the_parent_and_its_workers_at_once(
    settings: Settings, new_tenant: Tenant, tenant_key: str
) -> None:
    with running_workers(settings, 2, RECSVC_SERVER__DRAIN_S="60") as workers:
        await workers.serve(2)
        pids = workers.pids
        async with callers(workers, tenant_key, 2) as apis, _locked_item(settings, new_tenant):
            calls = await _in_flight(workers, apis)
            workers.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while len(workers.said("service.draining")) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            workers.process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(workers.process.wait, 5) == 128 + signal.SIGINT
            async with asyncio.timeout(5):
                while any(_is_alive(pid) for pid in pids):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert set(await asyncio.gather(*calls)) == {grpc.StatusCode.UNAVAILABLE}


async def test_sigterm_ends_a_parent_that_waits_for_postgresql(settings: Settings) -> None:
    with running_workers(settings, 2, RECSVC_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none") as workers:
        async with asyncio.timeout(30):
            while not workers.said("start.waiting"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        workers.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(workers.process.wait, 10) == 0
        assert "Traceback" not in workers.log.read_text(encoding="utf-8")


async def test_workers_end_when_their_parent_is_killed(settings: Settings) -> None:
    with running_workers(settings, 2) as workers:
        await workers.serve(2)
        orphans = workers.pids
        workers.process.kill()
        workers.process.wait()
        async with asyncio.timeout(30):
            while any(_is_alive(pid) for pid in orphans):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_workers_that_die_again_and_again_at_once_end_the_service_with_an_error(settings: Settings) -> None:
    missing = {"RECSVC_TLS__CERT_FILE": "/missing.crt", "RECSVC_TLS__KEY_FILE": "/missing.key"}
    with running_workers(settings, 2, **missing) as workers:
        assert await workers.ended() == 1
        log = workers.log.read_text(encoding="utf-8")
        assert "error: workers die as soon as they are started, 5 times each by now; the last one exited with 1" in log
        assert "/missing.crt" in log


async def test_a_port_that_is_taken_is_named(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with running_workers(settings, 2, RECSVC_SERVER__PORT=str(port)) as workers:
            assert await workers.ended() == 1
            assert f"error: server.port {port} at 127.0.0.1: Address already in use" in workers.log.read_text()


async def _answer(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
