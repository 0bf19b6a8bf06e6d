"""SQL's own characters in every string of every method: no statement fails, nothing more is returned or changed.

The methods and their fields are walked by the descriptors, so that a new field is attacked from its first day on. Each
attack is a plausible request in all but one string. Whatever the answer is, it must be one that the contract foresees:
a statement that failed would be INTERNAL. The answer and the tables must tell nothing of, and leave alone, whatever
belongs to another tenant. RECSVC_SECURITY_ROUNDS multiplies the number of attacks a field.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from psycopg import sql

from recsvc.app import Service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from recsvc.rpc.server import FILES
from recsvc.storage.database import Database
from tests.api import Api
from tests.rivals import stranger_api

_ATTACKS = (
    "' OR '1'='1",
    "'; DROP TABLE items; --",
    '" OR ""="',
    "a') UNION SELECT secret_hash FROM api_keys --",
    "%s %(tenant)s %%",
    "{filter} {0} {}",
    "$1 $$; SELECT pg_sleep(9) $$",
    "\\'; DELETE FROM events; --",
    "a/**/OR/**/1=1",
    "E'\\x27' || current_user",
    '{NULL,"a"}',
    "*",
)
_ROUNDS = int(os.environ.get("RECSVC_SECURITY_ROUNDS", "1"))
_FORESEEN = {
    *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "FAILED_PRECONDITION", "ABORTED"),
    *("UNIMPLEMENTED", "RESOURCE_EXHAUSTED"),
    # A stream that says nothing more, cut off by the test.
    "DEADLINE_EXCEEDED",
}
_TIMEOUT_S = 2.0
_SECRET = "nobody else's"
# The valid value of a field, by its name, wherever it stands.
_PLAUSIBLE = {
    "item_id": "mine",
    "item_ids": "mine",
    "user_id": "me",
    "event_type": "view",
    "event_id": "new",
    "url": "https://example.org/",
    "events": "model.activated",
    "scopes": "catalog:read",
    "order_by": "",
    "page_token": "",
    "filter": "",
    "tenant_id": "",
}
_METHODS = [method for file in FILES for service in file.services_by_name.values() for method in service.methods]

# What callers write; other tables follow from these in the background.
_STORED = (
    *("tenants", "event_types", "attribute_schemas", "items", "deleted_items", "users", "events", "event_ids"),
    *("models", "training_runs"),
)

# How an attack gets past the parser of a field with a language of its own; {} is the attack as a quoted string.
_DRESSES = {
    "filter": ("item_id = {}", "user_id IN [{}]", "labels:{}", "NOT title > {}", "attributes.{} = {}", "categories:{}"),
    "category_field": ("attributes.{}",),
    "paths": ("attributes.{}",),
}

Setter = Callable[[Message, str], None]


def _strings(descriptor: Descriptor, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, Setter]]:
    """The strings that a message can hold, by path, each with what puts one there."""
    if descriptor.full_name in seen:
        return
    for field in descriptor.fields:
        if field.message_type is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                yield field.name, _setter(field)
        elif field.message_type.full_name == "google.protobuf.Struct":
            yield f"{field.name}.<key>", _struct_setter(field.name, is_key=True)
            yield f"{field.name}.<value>", _struct_setter(field.name, is_key=False)
        elif field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            yield f"{field.name}.<key>", _map_setter(field.name)
            if value.message_type is not None:
                for path, put in _strings(value.message_type, (*seen, descriptor.full_name)):
                    yield f"{field.name}.{path}", _within_map(field.name, put)
        elif not field.message_type.full_name.startswith("google.protobuf.") or field.message_type.name == "FieldMask":
            for path, put in _strings(field.message_type, (*seen, descriptor.full_name)):
                yield f"{field.name}.{path}", _within(field, put)


def _setter(field: FieldDescriptor) -> Setter:
    def put(message: Message, text: str) -> None:
        if field.is_repeated:
            del getattr(message, field.name)[:]
            getattr(message, field.name).append(text)
        else:
            setattr(message, field.name, text)

    return put


def _struct_setter(name: str, *, is_key: bool) -> Setter:
    return lambda message, text: getattr(message, name).update({text: 1} if is_key else {"key": [text]})


def _map_setter(name: str) -> Setter:
    return lambda message, text: getattr(message, name)[text].SetInParent()


def _within_map(name: str, put: Setter) -> Setter:
    return lambda message, text: put(getattr(message, name)["home"], text)


def _within(field: FieldDescriptor, put: Setter) -> Setter:
    def put_within(message: Message, text: str) -> None:
        child = getattr(message, field.name)
        if field.is_repeated:
            child = child[0] if child else child.add()
        child.SetInParent()
        put(child, text)

    return put_within


def _plausible(descriptor: Descriptor, tenant_id: str, seen: tuple[str, ...] = ()) -> Message:
    """A request that is refused for nothing but what is attacked, as far as names tell."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.containing_oneof is not None and field.containing_oneof.fields[0] is not field:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            if text := tenant_id if field.name == "tenant_id" else _PLAUSIBLE.get(field.name, ""):
                _setter(field)(message, text)
        elif field.type == FieldDescriptor.TYPE_INT64 and field.name == "sequence":
            message.sequence = 1  # type: ignore[attr-defined]
        elif field.message_type is not None and field.message_type.full_name.startswith("recsvc.v1."):
            child = field.message_type
            if child.full_name in seen or child.GetOptions().map_entry or child.name in ("TenantSettings", "Boost"):
                continue
            made = _plausible(child, tenant_id, (*seen, descriptor.full_name))
            if field.is_repeated:
                getattr(message, field.name).append(made)
            elif made.ListFields():
                getattr(message, field.name).CopyFrom(made)
    return message


def _attacks(field: str, chance: random.Random) -> Iterator[str]:
    """Attacks on a field, as they are and in the words of the field's own language."""
    for attack in chance.sample(_ATTACKS, min(3 * _ROUNDS, len(_ATTACKS))):
        yield attack
        quoted = '"' + attack.replace("\\", "\\\\").replace('"', '\\"') + '"'
        yield from (dress.replace("{}", quoted if field == "filter" else attack) for dress in _DRESSES.get(field, ()))


async def _answers(api: Api, method: MethodDescriptor, request: Message) -> tuple[str, str]:
    """The code of the answer, and all that it says."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    coders = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    said: list[str] = []
    try:
        if method.client_streaming:

            async def requests() -> AsyncIterator[Message]:
                yield request

            call: Any = api.channel.stream_stream(path, **coders)(requests(), timeout=_TIMEOUT_S)
            said += [str(response) async for response in call]
        elif method.server_streaming:
            call = api.channel.unary_stream(path, **coders)(request, timeout=_TIMEOUT_S)
            async for response in call:
                said.append(str(response))
                # A watcher is told more for as long as it listens.
                if method.name.startswith("Watch"):
                    call.cancel()
                    break
        else:
            said.append(str(await api.channel.unary_unary(path, **coders)(request)))
    except grpc.aio.AioRpcError as error:
        return error.code().name, f"{said} {error.details()}"
    return "OK", str(said)


async def _tables(database: Database, stranger: TenantKey) -> dict[str, list[str]]:
    """All that callers have stored for another tenant, by table."""
    found = {}
    async with database.service_transaction() as connection:
        for table in _STORED:
            query = sql.SQL("SELECT t::text AS stored FROM {} t WHERE tenant_key = %s ORDER BY 1")
            cursor = await connection.execute(query.format(sql.Identifier(table)), [stranger])
            found[table] = [row["stored"] for row in await cursor.fetchall()]
    return found


async def _furnish(api: Api, item_id: str, user_id: str, words: str) -> None:
    item = catalog_pb.Item(item_id=item_id, title=words, categories=[words])
    item.attributes.update({"words": words})
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=item))
    user = user_pb.User(user_id=user_id, labels=[words])
    await api.users.UpdateUser(user_pb.UpdateUserRequest(user=user, allow_missing=True))
    event = ingestion_pb.Event(event_id=words, event_type="view", item_id=item_id, user_id=user_id)
    await api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))


@pytest.mark.parametrize("method", _METHODS, ids=lambda method: f"{method.containing_service.name}/{method.name}")
async def test_no_string_of_a_method_reaches_sql_as_sql(
    method: MethodDescriptor, service: Service, new_tenant: Tenant, database: Database
) -> None:
    chance = random.Random(method.full_name)
    fields = list(_strings(method.input_type))
    # With every scope, so that no method is out of reach.
    key = await new_key(service.storage, new_tenant.tenant_id, "test", frozenset(Scope))
    async with stranger_api(service) as strange, Api.connected(service.port, key.secret) as api:
        await _furnish(strange, "theirs", "them", _SECRET)
        await _furnish(api, "mine", "me", "my own")
        shown = await strange.admin.GetTenant(admin_pb.GetTenantRequest())
        stranger = (await service.storage.tenants.get(TenantId(shown.tenant.tenant_id))).tenant_key
        before = await _tables(database, stranger)
        for path, put in fields:
            for attack in _attacks(path.rpartition(".")[2], chance):
                request = _plausible(method.input_type, new_tenant.tenant_id)
                put(request, attack)
                code, said = await _answers(api, method, request)
                assert code in _FORESEEN, (path, attack, code, said)
                assert _SECRET not in said, (path, attack, said)
                assert "theirs" not in said, (path, attack, said)
        assert await _tables(database, stranger) == before
        alive = await strange.catalog.GetItem(catalog_pb.GetItemRequest(item_id="theirs"))
        assert alive.item.title == _SECRET


def test_the_walk_finds_strings_at_every_depth():
    by_method = {method.full_name: [path for path, _ in _strings(method.input_type)] for method in _METHODS}
    assert "item.attributes.<value>" in by_method["recsvc.v1.CatalogService.UpdateItem"]
    assert "update_mask.paths" in by_method["recsvc.v1.CatalogService.UpdateItem"]
    assert "events.properties.<key>" in by_method["recsvc.v1.IngestionService.StreamEvents"]
    assert "tenant.settings.placements.filter" in by_method["recsvc.v1.AdminService.UpdateTenant"]
    assert sum(map(len, by_method.values())) > 150
