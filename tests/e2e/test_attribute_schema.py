"""The attribute schema: every way in holds to it, and it cannot contradict what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from recsvc.app import Service
from recsvc.domain.catalog import Item
from recsvc.domain.errors import AttributeNotAllowed
from recsvc.domain.ids import ItemId
from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import catalog_service_pb2 as pb
from tests.api import Api, Failure, failure, failure_of

Write = Callable[[Api, pb.Item], Awaitable[Failure]]


def _item(item_id: str, **attributes: Any) -> pb.Item:
    made = Struct()
    made.update(attributes)
    return pb.Item(item_id=item_id, attributes=made)


async def _set_schema(api: Api, **types: str) -> None:
    definitions = [pb.AttributeDefinition(key=key, type=f"ATTRIBUTE_TYPE_{kind}") for key, kind in types.items()]
    schema = pb.AttributeSchema(attributes=definitions)
    await api.catalog.UpdateAttributeSchema(pb.UpdateAttributeSchemaRequest(schema=schema))


async def _create(api: Api, item: pb.Item) -> Failure:
    return await failure(api.catalog.CreateItem(pb.CreateItemRequest(item=item)))


async def _update(api: Api, item: pb.Item) -> Failure:
    return await failure(api.catalog.UpdateItem(pb.UpdateItemRequest(item=item, allow_missing=True)))


async def _set_one(api: Api, item: pb.Item) -> Failure:
    mask = {"paths": [f"attributes.{key}" for key in item.attributes]}
    request = pb.UpdateItemRequest(item=item, update_mask=mask, allow_missing=True)
    return await failure(api.catalog.UpdateItem(request))


async def _upsert(api: Api, item: pb.Item) -> Failure:
    response = await api.catalog.BatchUpsertItems(pb.BatchUpsertItemsRequest(items=[item]))
    return failure_of(response.results[0].status, "INVALID_ARGUMENT")


async def _import(api: Api, item: pb.Item) -> Failure:
    async def chunks() -> AsyncIterator[pb.ImportItemsRequest]:
        yield pb.ImportItemsRequest(items=[item])

    (answer,) = [answer async for answer in api.catalog.ImportItems(chunks())]
    return failure_of(answer.failures[0].status, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("write", "path"),
    [(_create, "item"), (_update, "item"), (_set_one, "item"), (_upsert, "items[0]"), (_import, "items[0]")],
)
async def test_every_way_to_write_an_item_holds_to_the_schema(api: Api, write: Write, path: str) -> None:
    await _set_schema(api, price="NUMBER")
    unknown = await write(api, _item("a", colour="red"))
    assert (unknown.code, unknown.reason) == ("INVALID_ARGUMENT", "ATTRIBUTE_NOT_ALLOWED")
    assert list(unknown.fields) == [f"{path}.attributes.colour"]
    mistyped = await write(api, _item("a", price="cheap"))
    assert list(mistyped.fields) == [f"{path}.attributes.price"]


async def test_the_bulk_path_of_imports_from_files_holds_to_the_schema(
    api: Api, service: Service, new_tenant: Tenant
) -> None:
    await _set_schema(api, price="NUMBER")
    items = [Item(ItemId("good"), attributes={"price": 1}), Item(ItemId("bad"), attributes={"price": "cheap"})]
    outcomes = await service.storage.items.upsert_many(new_tenant.tenant_key, items)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Written", AttributeNotAllowed.__name__]


async def test_a_required_attribute_is_asked_of_an_item_when_it_is_written_next(api: Api) -> None:
    await api.catalog.CreateItem(pb.CreateItemRequest(item=_item("old")))
    definition = pb.AttributeDefinition(key="price", type=pb.ATTRIBUTE_TYPE_NUMBER, required=True)
    schema = pb.AttributeSchema(attributes=[definition])
    await api.catalog.UpdateAttributeSchema(pb.UpdateAttributeSchemaRequest(schema=schema))
    assert (await api.catalog.GetItem(pb.GetItemRequest(item_id="old"))).item.item_id == "old"
    refused = await failure(api.catalog.UpdateItem(pb.UpdateItemRequest(item=pb.Item(item_id="old", title="new"))))
    assert list(refused.fields) == ["item.attributes.price"]


async def test_an_attribute_that_is_not_filterable_is_refused_in_filters(api: Api) -> None:
    definition = pb.AttributeDefinition(key="cost", type=pb.ATTRIBUTE_TYPE_NUMBER, filterable=False)
    schema = pb.AttributeSchema(attributes=[definition])
    await api.catalog.UpdateAttributeSchema(pb.UpdateAttributeSchemaRequest(schema=schema))
    refused = await failure(api.catalog.ListItems(pb.ListItemsRequest(filter="attributes.cost > 1")))
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "INVALID_FILTER")


_VALUES = {
    "STRING": "red",
    "NUMBER": 1.5,
    "BOOL": True,
    "TIMESTAMP": "2026-01-31T12:00:00Z",
    "STRING_LIST": ["red"],
    "NUMBER_LIST": [1.5],
    "STRUCT": {"deep": 1},
}


@pytest.mark.parametrize("stored", _VALUES)
async def test_a_type_is_refused_exactly_when_stored_values_contradict_it(api: Api, stored: str) -> None:
    await api.catalog.CreateItem(pb.CreateItemRequest(item=_item("a", key=_VALUES[stored], none=None)))
    accepted = set()
    for kind in _VALUES:
        try:
            await _set_schema(api, key=kind, none=kind)
        except grpc.aio.AioRpcError:
            continue
        accepted.add(kind)
    assert accepted == {stored} | ({"STRING"} if stored == "TIMESTAMP" else set())


async def test_a_refused_type_names_the_field_and_an_item_and_changes_nothing(api: Api) -> None:
    await _set_schema(api, price="NUMBER")
    await api.catalog.CreateItem(pb.CreateItemRequest(item=_item("a", price=1)))
    definitions = [{"key": "new", "type": pb.ATTRIBUTE_TYPE_BOOL}, {"key": "price", "type": pb.ATTRIBUTE_TYPE_STRING}]
    request = pb.UpdateAttributeSchemaRequest(schema=pb.AttributeSchema(attributes=definitions))
    refused = await failure(api.catalog.UpdateAttributeSchema(request))
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "ATTRIBUTE_TYPE_IN_USE")
    assert refused.fields == {"schema.attributes[1].type": "item 'a' has a value of 'price' that is no STRING"}
    present = (await api.catalog.GetAttributeSchema(pb.GetAttributeSchemaRequest())).schema
    assert [(rule.key, rule.type) for rule in present.attributes] == [("price", pb.ATTRIBUTE_TYPE_NUMBER)]


@pytest.mark.parametrize("misleading", ["pri\u200bce", "cafe\u0301"])
async def test_a_key_that_could_pass_for_another_is_refused(api: Api, misleading: str) -> None:
    definitions = [pb.AttributeDefinition(key=misleading, type=pb.ATTRIBUTE_TYPE_NUMBER)]
    request = pb.UpdateAttributeSchemaRequest(schema=pb.AttributeSchema(attributes=definitions))
    refused = await failure(api.catalog.UpdateAttributeSchema(request))
    assert (refused.code, *refused.fields) == ("INVALID_ARGUMENT", "schema.attributes[0].key")
