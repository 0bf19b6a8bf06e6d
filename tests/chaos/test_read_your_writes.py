"""Reads on a replica whose callers say how new they must be: a service on real streaming replication."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from recsvc.domain.consistency import TOKEN, WISH
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import user_service_pb2 as users_pb
from recsvc.settings import Settings
from recsvc_client import Client
from tests.api import Api
from tests.chaos.served_with_replica import Served, served_with_replica

_EVENTUAL = ((WISH, "eventual"),)
_ASKED = ((WISH, "token"),)


@pytest.fixture(scope="module")
async def served(settings: Settings) -> AsyncIterator[Served]:
    """A service that asks its replica however far that lags."""
    async with served_with_replica(settings) as running:
        yield running


@pytest.fixture
async def api(served: Served) -> AsyncIterator[Api]:
    """Stubs of a tenant, with the replica in the set."""
    await served.has_replica()
    async with Api.connected(served.service.port, served.key) as connected:
        yield connected


async def _token(call: Any) -> tuple[tuple[str, str], ...]:
    """The metadata that a read must bring to see what this write wrote."""
    await call
    return ((TOKEN, dict(await call.trailing_metadata())[TOKEN]),)


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


async def test_a_read_with_the_token_of_a_write_sees_it_though_the_replica_does_not(served: Served, api: Api) -> None:
    async with served.paused():
        token = await _token(_create(api, "a"))
        assert await _is_missing(_get(api, "a", _EVENTUAL))
        assert (await _get(api, "a", token)).item.item_id == "a"


async def test_a_read_that_says_nothing_sees_every_write(served: Served, api: Api) -> None:
    async with served.paused():
        await _create(api, "b")
        assert (await _get(api, "b")).item.item_id == "b"


async def test_a_replica_that_has_replayed_the_write_is_asked(served: Served, api: Api) -> None:
    token = await _token(_create(api, "c"))
    await served.replica_has_all()
    before = served.asked("replica1"), served.asked("primary")
    for _ in range(10):
        await _get(api, "c", token)
    assert (served.asked("replica1") - before[0], served.asked("primary") - before[1]) == (10, 0)


async def test_a_replica_that_is_about_to_replay_the_write_is_waited_for(served: Served, api: Api) -> None:
    before = served.asked("replica1"), served.asked("primary")
    async with served.paused():
        token = await _token(_create(api, "d"))
        reading = asyncio.create_task(_read(api, "d", token))
        await asyncio.sleep(0.03)
    assert await reading == "d"
    assert (served.asked("replica1") - before[0], served.asked("primary") - before[1]) == (1, 0)


async def _read(api: Api, item_id: str, token: tuple[tuple[str, str], ...]) -> str:
    return str((await _get(api, item_id, token)).item.item_id)


async def test_a_token_that_replicas_cannot_come_to_is_answered_by_the_primary(served: Served, api: Api) -> None:
    before = served.asked("primary")
    async with served.paused():
        token = await _token(_create(api, "e"))
        await _get(api, "e", token)
    assert served.asked("primary") - before == 1


async def test_a_read_that_a_replica_does_not_answer_is_answered_by_the_primary(served: Served, api: Api) -> None:
    token = await _token(_create(api, "f"))
    await served.replica_has_all()
    served.pair.kill(served.pair.replica)
    try:
        for metadata in (token, _EVENTUAL) * 20:
            assert (await _get(api, "f", metadata)).item.item_id == "f"
    finally:
        await asyncio.to_thread(served.pair.replica.start)


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
    served: Served, api: Api, method: str
) -> None:
    name, read = f"of-{method}", _READS[method]
    absent = await read(api, name, ())
    async with served.paused():
        await _create(api, name)
        event = events_pb.Event(event_type="view", user_id=name, item_id=name)
        token = await _token(api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), metadata=_ASKED))
        present = await read(api, name, ())
        assert present != absent
        assert await read(api, name, _EVENTUAL) == absent
        assert await read(api, name, token) == present


async def test_a_user_is_read_with_the_token_of_their_profile(served: Served, api: Api) -> None:
    asked = users_pb.GetUserRequest(user_id="u")
    async with served.paused():
        written = users_pb.UpdateUserRequest(user={"user_id": "u", "labels": ["new"]}, allow_missing=True)
        token = await _token(api.users.UpdateUser(written, metadata=_ASKED))
        assert await _is_missing(api.users.GetUser(asked, metadata=_EVENTUAL))
        assert (await api.users.GetUser(asked, metadata=token)).user.labels == ["new"]


async def test_clients_of_a_session_see_what_they_wrote_and_others_what_they_are_told_of(served: Served) -> None:
    await served.has_replica()
    address = f"127.0.0.1:{served.service.port}"
    async with (
        Client(address, served.key, timeout_s=30, consistency="session") as author,
        Client(address, served.key, timeout_s=30, consistency="session") as reader,
        served.paused(),
    ):
        await asyncio.gather(*(author.upsert_items([{"item_id": f"s{number}"}]) for number in range(5)))
        await author.record_event("view", "s0", user_id="s")
        titles = 'item_id IN ["s0", "s1", "s2", "s3", "s4"]'
        assert [item.item_id async for item in author.list_items(titles)] == [f"s{number}" for number in range(5)]
        assert [event.item_id async for event in author.list_events('user_id = "s"')] == ["s0"]
        assert [item.item_id async for item in reader.list_items(titles)] == []
        reader.session.see(author.session.token)
        assert (await reader.get_item("s4")).item_id == "s4"
