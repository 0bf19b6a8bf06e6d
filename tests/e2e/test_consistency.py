"""Metadata of read-your-writes: who gets a token, and which are refused. What replicas do: tests/chaos."""

from __future__ import annotations

from typing import Any

from recsvc.app import Service
from recsvc.cli.tenants import new_key
from recsvc.domain.consistency import TOKEN, WISH
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, Tenant, TenantSettings
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from tests.api import Api, failure

_ASKED = ((WISH, "token"),)
_CREATE = catalog_pb.CreateItemRequest(item={"item_id": "a"})
_GET = catalog_pb.GetItemRequest(item_id="a")


async def _token(call: Any) -> str | None:
    """What the trailing metadata of a call brought."""
    await call
    return dict(await call.trailing_metadata()).get(TOKEN)


async def test_a_write_answers_with_a_token_only_if_it_is_asked_for_one(api: Api) -> None:
    assert await _token(api.catalog.CreateItem(_CREATE)) is None
    written = catalog_pb.UpdateItemRequest(item={"item_id": "a", "title": "Alien"}, update_mask={"paths": ["title"]})
    token = await _token(api.catalog.UpdateItem(written, metadata=_ASKED))
    assert token
    found = await api.catalog.GetItem(_GET, metadata=((TOKEN, token),))
    assert found.item.title == "Alien"


async def test_a_read_that_is_asked_for_one_answers_with_a_token_too(api: Api) -> None:
    await api.catalog.CreateItem(_CREATE)
    assert await _token(api.catalog.GetItem(_GET, metadata=_ASKED))


async def test_a_stream_of_events_brings_its_token_at_its_end(api: Api) -> None:
    await api.catalog.CreateItem(_CREATE)
    call = api.ingestion.StreamEvents(metadata=_ASKED)
    event = events_pb.Event(event_id="e", event_type="view", user_id="u", item_id="a")
    await call.write(events_pb.StreamEventsRequest(sequence=1, events=[event]))
    await call.done_writing()
    assert [answer.acked_through async for answer in call] == [1]
    assert dict(await call.trailing_metadata())[TOKEN]


async def test_a_call_that_fails_brings_no_token(api: Api) -> None:
    call = api.catalog.GetItem(_GET, metadata=_ASKED)
    assert (await failure(call)).code == "NOT_FOUND"
    assert TOKEN not in dict(await call.trailing_metadata())


async def test_a_malformed_token_is_refused_by_its_name(api: Api) -> None:
    failed = await failure(api.catalog.GetItem(_GET, metadata=((TOKEN, "0/16B3748"),)))
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert list(failed.fields) == [TOKEN]


async def test_a_wish_that_there_is_not_is_refused_by_its_name(api: Api) -> None:
    failed = await failure(api.catalog.GetItem(_GET, metadata=((WISH, "strongest"),)))
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert list(failed.fields) == [WISH]


async def test_a_token_of_another_tenant_is_refused(api: Api, service: Service, new_tenant: Tenant) -> None:
    other = await service.storage.tenants.create(TenantId(f"{new_tenant.tenant_id}-other"), "", TenantSettings())
    key = await new_key(service.storage, other.tenant_id, "test", frozenset(Scope) - {Scope.ADMIN_SERVICE})
    token = await _token(api.catalog.CreateItem(_CREATE, metadata=_ASKED))
    assert token
    async with Api.connected(service.port, key.secret) as stranger:
        failed = await failure(stranger.catalog.GetItem(_GET, metadata=((TOKEN, token),)))
    assert (failed.code, list(failed.fields)) == ("INVALID_ARGUMENT", [TOKEN])
