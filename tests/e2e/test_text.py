"""Texts are cleaned on every way in, over real sockets and from files, and what cannot be cleaned names its field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from rich.console import Console

from recsvc.app import Service
from recsvc.cli.loading import load
from recsvc.datasets import open_dataset
from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from tests.api import Api, failure, failure_of

_DIRTY = "<b>Cafe\u0301</b>\u202e\u200b\x07"
_BAD_ID = "a\u202eb"


def _struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def _dirty_item(item_id: str) -> catalog_pb.Item:
    return catalog_pb.Item(
        item_id=item_id,
        item_type="vide\u200bo",
        title=_DIRTY,
        description=_DIRTY,
        categories=["Cafe\u0301"],
        tags=["new\u200b"],
        attributes=_struct(city="Zu\u0308rich\u202e"),
    )


async def _stored(api: Api, item_id: str) -> catalog_pb.Item:
    return (await api.catalog.GetItem(catalog_pb.GetItemRequest(item_id=item_id))).item


async def _create(api: Api, item: catalog_pb.Item) -> None:
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=item))


async def _update(api: Api, item: catalog_pb.Item) -> None:
    await api.catalog.UpdateItem(catalog_pb.UpdateItemRequest(item=item, allow_missing=True))


async def _upsert(api: Api, item: catalog_pb.Item) -> None:
    response = await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=[item]))
    assert not response.results[0].status.code


async def _import(api: Api, item: catalog_pb.Item) -> None:
    async def chunks() -> AsyncIterator[catalog_pb.ImportItemsRequest]:
        # So many that they go by binary COPY.
        yield catalog_pb.ImportItemsRequest(items=[item, *(catalog_pb.Item(item_id=f"{n}") for n in range(1001))])

    assert [answer.failed_count async for answer in api.catalog.ImportItems(chunks())] == [0]


@pytest.mark.parametrize("write", [_create, _update, _upsert, _import])
async def test_every_way_to_write_an_item_cleans_it(api: Api, write: Any) -> None:
    await write(api, _dirty_item("film"))
    stored = await _stored(api, "film")
    assert (stored.item_type, stored.title, stored.description) == ("video", "Café", "Café")
    assert (list(stored.categories), list(stored.tags)) == (["Café"], ["new"])
    assert stored.attributes["city"] == "Zürich"


async def test_an_item_is_answered_as_it_is_stored(api: Api) -> None:
    response = await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=_dirty_item("film")))
    assert response.item == await _stored(api, "film")


@pytest.mark.parametrize("item_id", [_BAD_ID, "cafe\u0301", "a\u200bb", "a\ufeff"])
async def test_an_id_that_could_pass_for_another_is_refused_by_every_write(api: Api, item_id: str) -> None:
    item = catalog_pb.Item(item_id=item_id)
    created = await failure(api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=item)))
    assert (created.code, *created.fields) == ("INVALID_ARGUMENT", "item.item_id")
    batch = catalog_pb.BatchUpsertItemsRequest(items=[catalog_pb.Item(item_id="good"), item])
    results = (await api.catalog.BatchUpsertItems(batch)).results
    assert [result.status.code for result in results] == [0, 3]
    assert list(failure_of(results[1].status, "").fields) == ["items[1].item_id"]
    user = await failure(
        api.users.UpdateUser(user_pb.UpdateUserRequest(user=user_pb.User(user_id=item_id), allow_missing=True))
    )
    assert (user.code, *user.fields) == ("INVALID_ARGUMENT", "user.user_id")
    listed = await api.catalog.ListItems(catalog_pb.ListItemsRequest())
    assert [stored.item_id for stored in listed.items] == ["good"]


async def test_a_look_up_finds_exactly_the_bytes_that_it_names(api: Api) -> None:
    await _create(api, catalog_pb.Item(item_id="café"))
    assert (await _stored(api, "café")).item_id == "café"
    assert (await failure(_stored(api, "cafe\u0301"))).code == "NOT_FOUND"


async def test_a_filter_finds_a_category_however_its_accents_were_typed(api: Api) -> None:
    await _create(api, _dirty_item("film"))
    for typed in ("Café", "Cafe\u0301"):
        listed = await api.catalog.ListItems(catalog_pb.ListItemsRequest(filter=f'categories:"{typed}"'))
        assert [item.item_id for item in listed.items] == ["film"]


async def test_users_are_cleaned(api: Api) -> None:
    user = user_pb.User(user_id="u", labels=["vi\u200bp"], attributes=_struct(city="Zu\u0308rich"))
    await api.users.UpdateUser(user_pb.UpdateUserRequest(user=user, allow_missing=True))
    stored = (await api.users.GetUser(user_pb.GetUserRequest(user_id="u"))).user
    assert (list(stored.labels), stored.attributes["city"]) == (["vip"], "Zürich")


def _event(event_id: str, **fields: Any) -> ingestion_pb.Event:
    given = {"event_type": "view", "item_id": "film", "user_id": "u", "properties": _struct(q="Cafe\u0301\u202e")}
    return ingestion_pb.Event(event_id=event_id, **{**given, **fields})


async def _record(api: Api, *events: ingestion_pb.Event) -> list[int]:
    codes = []
    for event in events:
        try:
            await api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))
        except Exception as error:
            codes.append(error.code().value[0])  # type: ignore[attr-defined]
        else:
            codes.append(0)
    return codes


async def _record_batch(api: Api, *events: ingestion_pb.Event) -> list[int]:
    response = await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    return [result.status.code for result in response.results]


async def _stream(api: Api, *events: ingestion_pb.Event) -> list[int]:
    async def messages() -> AsyncIterator[ingestion_pb.StreamEventsRequest]:
        yield ingestion_pb.StreamEventsRequest(sequence=1, events=events)

    codes = [0] * len(events)
    async for answer in api.ingestion.StreamEvents(messages()):
        for rejection in answer.rejections:
            codes[rejection.index] = rejection.status.code
    return codes


@pytest.mark.parametrize("record", [_record, _record_batch, _stream])
async def test_every_way_to_record_an_event_cleans_it_and_refuses_bad_names(api: Api, record: Any) -> None:
    await _create(api, catalog_pb.Item(item_id="film"))
    events = [
        _event("good"),
        _event(_BAD_ID),
        _event("user", user_id=_BAD_ID),
        _event("session", session_id="cafe\u0301"),
        _event("key", context=_struct(**{_BAD_ID: 1})),
        _event("also good"),
    ]
    assert await record(api, *events) == [0, 3, 3, 3, 3, 0]
    listed = (await api.ingestion.ListEvents(ingestion_pb.ListEventsRequest())).events
    assert {event.event_id: event.properties["q"] for event in listed} == {"good": "Café", "also good": "Café"}


async def test_a_refused_event_names_the_field(api: Api) -> None:
    response = await api.ingestion.BatchRecordEvents(
        ingestion_pb.BatchRecordEventsRequest(events=[_event("e", user_id=_BAD_ID)])
    )
    assert list(failure_of(response.results[0].status, "").fields) == ["user_id"]


async def test_an_import_from_files_cleans_what_it_loads_and_refuses_bad_elements_one_by_one(
    api: Api, service: Service, new_tenant: Tenant, tmp_path: Path
) -> None:
    items = [
        {"item_id": "film", "title": _DIRTY, "attributes": {"city": "Zu\u0308rich"}},
        {"item_id": "half", "title": "\ud800"},
        {"item_id": "long", "title": "t" * 1001},
        {"item_id": "deep", "attributes": {"a": {"b": {"c": {"d": 1}}}}},
    ]
    users = [{"user_id": "u", "labels": ["vi\u200bp"]}, {"user_id": "v", "attributes": {"a\u202e": 1}}]
    events = [
        {"event_type": "view", "item_id": "film", "user_id": "u", "event_time": "2026-01-01", **fields}
        for fields in ({"properties": {"q": "\x07a"}}, {"context": {"\u200b": 1}})
    ]
    for name, records in (("items", items), ("users", users), ("events", events)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    dataset = open_dataset("jsonl", tmp_path)
    loaded = await load(service.storage, new_tenant.tenant_key, dataset, Console(quiet=True))
    assert (loaded.items, loaded.users, loaded.events, loaded.refused) == (1, 1, 1, 5)
    stored = await _stored(api, "film")
    assert (stored.title, stored.attributes["city"]) == ("Café", "Zürich")
    assert (await api.ingestion.ListEvents(ingestion_pb.ListEventsRequest())).events[0].properties["q"] == "a"
    assert list((await api.users.GetUser(user_pb.GetUserRequest(user_id="u"))).user.labels) == ["vip"]


async def _own_id(api: Api) -> str:
    return (await api.admin.GetTenant(admin_pb.GetTenantRequest())).tenant.tenant_id


async def _set_policies(api: Api, **policies: int) -> None:
    settings = admin_pb.TenantSettings(text=admin_pb.TextSettings(**policies))
    tenant = admin_pb.Tenant(tenant_id=await _own_id(api), settings=settings)
    await api.admin.UpdateTenant(admin_pb.UpdateTenantRequest(tenant=tenant, update_mask={"paths": ["settings.text"]}))


@pytest.mark.parametrize(
    ("policy", "title"),
    [
        (admin_pb.HTML_POLICY_UNSPECIFIED, "R&B"),
        (admin_pb.HTML_POLICY_STRIP, "R&B"),
        (admin_pb.HTML_POLICY_ESCAPE, "&lt;b&gt;R&amp;B&lt;/b&gt;"),
        (admin_pb.HTML_POLICY_KEEP, "<b>R&B</b>"),
    ],
)
async def test_a_tenant_chooses_what_becomes_of_html_in_titles(api: Api, policy: int, title: str) -> None:
    await _set_policies(api, html=policy)
    await _create(api, catalog_pb.Item(item_id="a", title="<b>R&B</b>", categories=["R&B"]))
    stored = await _stored(api, "a")
    assert (stored.title, list(stored.categories)) == (title, ["R&B"])
    await _upsert(api, stored)
    assert (await _stored(api, "a")).title == title


async def test_a_tenant_can_have_html_refused(api: Api) -> None:
    await _set_policies(api, html=admin_pb.HTML_POLICY_REFUSE)
    request = catalog_pb.CreateItemRequest(item=catalog_pb.Item(item_id="a", title="<b>R&B</b>"))
    refused = await failure(api.catalog.CreateItem(request))
    assert (refused.code, *refused.fields) == ("INVALID_ARGUMENT", "item.title")


async def test_html_in_values_is_refused_until_the_tenant_chooses_otherwise(api: Api) -> None:
    item = catalog_pb.Item(item_id="a", categories=["<i>R&B</i>"], attributes=_struct(blurb="<p>one</p>"))
    refused = await failure(api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=item)))
    assert (refused.code, *refused.fields) == ("INVALID_ARGUMENT", "item.categories[0]")
    await _set_policies(api, value_html=admin_pb.HTML_POLICY_STRIP)
    await _create(api, item)
    stored = await _stored(api, "a")
    assert (list(stored.categories), stored.attributes["blurb"]) == (["R&B"], "one")


async def test_names_in_settings_and_keys_follow_the_rules(api: Api) -> None:
    settings = admin_pb.TenantSettings(placements={"home\u200b": {}})
    request = admin_pb.UpdateTenantRequest(tenant=admin_pb.Tenant(tenant_id=await _own_id(api), settings=settings))
    refused = await failure(api.admin.UpdateTenant(request))
    assert (refused.code, *refused.fields) == ("INVALID_ARGUMENT", "tenant.settings.placements[home\\u200b]")
    key = await api.admin.CreateApiKey(
        admin_pb.CreateApiKeyRequest(display_name="Cafe\u0301\u202e", scopes=["catalog:read"])
    )
    assert key.api_key.display_name == "Café"
    kind = ingestion_pb.EventType(event_type="vie\u200bw")
    refused = await failure(
        api.ingestion.UpdateEventType(ingestion_pb.UpdateEventTypeRequest(event_type=kind, allow_missing=True))
    )
    assert (refused.code, *refused.fields) == ("INVALID_ARGUMENT", "event_type.event_type")


async def test_a_mask_in_settings_that_names_no_field_of_items_is_refused(api: Api) -> None:
    settings = admin_pb.TenantSettings(defaults={"item_mask": {"paths": ["no such field"]}})
    request = admin_pb.UpdateTenantRequest(tenant=admin_pb.Tenant(tenant_id=await _own_id(api), settings=settings))
    refused = await failure(api.admin.UpdateTenant(request))
    assert (refused.code, *refused.fields) == ("INVALID_ARGUMENT", "tenant.settings.defaults.item_mask")
