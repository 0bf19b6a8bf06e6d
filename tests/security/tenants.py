"""Two tenants that know nothing of each other: one that attacks, and one whose every text carries a mark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import MISSING, dataclass, fields

from recsvc.app import Service, Storage
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId
from recsvc.domain.models import TrainingState
from recsvc.domain.tenancy import Scope, Tenant, TenantSettings
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from tests.api import Api
from tests.random_model import activate_random_model

MARK = "vq9zk7"
ALL_BUT_SERVICE = frozenset(Scope) - {Scope.ADMIN_SERVICE}
_SETTLED_S = 0.7


@dataclass(frozen=True)
class Names:
    """One name for each kind of thing that a request can name.

    The written ones are for requests that write: what these create must not be what the other requests look for.
    """

    tenant: str
    item: str
    written_item: str
    user: str
    written_user: str
    session: str
    event: str
    event_type: str
    recommendation: str
    model: str
    run: str
    key: str
    placement: str
    attribute: str
    experiment: str = "none"
    webhook: str = "none"

    @staticmethod
    def of_nobody() -> Names:
        """Names of the same shape that no tenant has."""
        return Names(
            **{each.name: f"n0b0dy_{each.name}" for each in fields(Names) if each.default is MISSING}
            | {"key": "n0b0dyn0b0dy"}
        )

    def values(self) -> list[str]:
        """All names, longest first, so that none is replaced within another."""
        return sorted({getattr(self, each.name) for each in fields(self)} - {"none"}, key=len, reverse=True)


@dataclass(frozen=True)
class Party:
    """A tenant with a catalogue, users and a model, and who calls for it."""

    tenant: Tenant
    api: Api
    secret: str
    names: Names


@asynccontextmanager
async def a_party(service: Service, mark: str) -> AsyncIterator[Party]:
    """A tenant all of whose texts carry the mark, settled: nothing changes by itself any more."""
    storage = service.storage
    tenant = await storage.tenants.create(TenantId(f"{mark}-tenant"), f"{mark} display", TenantSettings())
    secret = (await new_key(storage, tenant.tenant_id, f"{mark} key", ALL_BUT_SERVICE)).secret
    try:
        async with Api.connected(service.port, secret) as api:
            await _fill(api, tenant.tenant_id, mark)
            await activate_random_model(storage, tenant.tenant_key, 1)
            model = await activate_random_model(storage, tenant.tenant_key, 2)
            run = await storage.training_runs.start(tenant.tenant_key, {})
            await storage.training_runs.finish(tenant.tenant_key, run.training_run_id, TrainingState.FAILED, error=mark)
            other_key = await api.admin.CreateApiKey(
                admin_pb.CreateApiKeyRequest(display_name=f"{mark} other", scopes=["catalog:read"])
            )
            shown = await api.recommendations.Recommend(recommend_pb.RecommendRequest(user_id=f"{mark}-user-0"))
            names = Names(
                tenant=tenant.tenant_id,
                item=f"{mark}-item-0",
                written_item=f"{mark}-item-1",
                user=f"{mark}-user-0",
                written_user=f"{mark}-user-1",
                session=f"{mark}-session",
                event=f"{mark}-event-0",
                event_type=f"{mark}-type",
                recommendation=shown.recommendation_id,
                model=model.model_id,
                run=run.training_run_id,
                key=other_key.api_key.key_id,
                placement=f"{mark}-placement",
                attribute=f"{mark}_attribute",
            )
            await settled_rows_of(storage, tenant)
            yield Party(tenant, api, secret, names)
    finally:
        await storage.tenants.delete(tenant.tenant_id)


async def _fill(api: Api, tenant_id: str, mark: str) -> None:
    settings = {"placements": {f"{mark}-placement": {"count": 3}}}
    await api.admin.UpdateTenant(
        admin_pb.UpdateTenantRequest(
            tenant={"tenant_id": tenant_id, "settings": settings}, update_mask={"paths": ["settings"]}
        )
    )
    await api.catalog.UpdateAttributeSchema(
        catalog_pb.UpdateAttributeSchemaRequest(
            schema={"attributes": [{"key": f"{mark}_attribute", "type": catalog_pb.ATTRIBUTE_TYPE_STRING}]}
        )
    )
    items = [_an_item(mark, number) for number in range(12)]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    # Deletions are told of, too.
    await api.catalog.DeleteItem(catalog_pb.DeleteItemRequest(item_id=f"{mark}-item-11"))
    await api.ingestion.UpdateEventType(
        ingestion_pb.UpdateEventTypeRequest(event_type={"event_type": f"{mark}-type", "weight": 1}, allow_missing=True)
    )
    for number in range(3):
        user = {"user_id": f"{mark}-user-{number}", "labels": [f"{mark}-label"]}
        await api.users.UpdateUser(user_pb.UpdateUserRequest(user=user, allow_missing=True))
    events = [
        ingestion_pb.Event(
            event_id=f"{mark}-event-{number}",
            event_type=f"{mark}-type",
            item_id=f"{mark}-item-{number}",
            recommendation_id=f"{mark}-shown",
            **({"user_id": f"{mark}-user-{number % 3}"} if number else {"session_id": f"{mark}-session"}),
        )
        for number in range(9)
    ]
    response = await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    assert {result.status.code for result in response.results} == {0}


def _an_item(mark: str, number: int) -> catalog_pb.Item:
    item = catalog_pb.Item(
        item_id=f"{mark}-item-{number}",
        item_type=f"{mark}-type",
        title=f"{mark} title",
        description=f"{mark} description",
        categories=[f"{mark}-category"],
        tags=[f"{mark}-tag"],
    )
    item.attributes[f"{mark}_attribute"] = f"{mark} value"
    return item


async def tenant_tables(storage: Storage) -> list[str]:
    """All tables that keep rows of tenants, as PostgreSQL's catalogue has them; partitions count as their whole."""
    async with storage.database.connection() as connection:
        cursor = await connection.execute(
            b"SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            b" WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')"
            b" AND NOT c.relispartition AND a.attname = 'tenant_key' ORDER BY 1"
        )
        return [row["relname"] for row in await cursor.fetchall()]


async def rows_of(storage: Storage, tenant: Tenant) -> dict[str, list[str]]:
    """Everything that is stored of a tenant, by table."""
    found: dict[str, list[str]] = {}
    async with storage.database.connection() as connection:
        for table in await tenant_tables(storage):
            query = f"SELECT t::text AS row FROM {table} t WHERE tenant_key = %s ORDER BY 1"  # noqa: S608
            cursor = await connection.execute(query.encode(), [tenant.tenant_key])
            found[table] = [row["row"] for row in await cursor.fetchall()]
    return found


async def settled_rows_of(storage: Storage, tenant: Tenant) -> dict[str, list[str]]:
    """The same, once the projector and the log of shown lists have nothing more to do."""
    async with asyncio.timeout(30):
        before = await rows_of(storage, tenant)
        while True:
            await asyncio.sleep(_SETTLED_S)
            after = await rows_of(storage, tenant)
            if after == before and not any(after[queue] for queue in ("dirty_users", "item_signals", "item_marks")):
                return after
            before = after
