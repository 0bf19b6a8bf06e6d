"""Who may do what: keys, scopes and tenants, over a real socket."""

from __future__ import annotations

import grpc
import pytest
from grpc_health.v1 import health_pb2
from pydantic import SecretStr

from recsvc.app import Service, running_service
from recsvc.cli.tenants import new_key
from recsvc.domain.bootstrap_keys import BootstrapKey
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, Tenant, TenantSettings
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.rpc.interceptors.auth import required_scopes
from recsvc.rpc.key_hasher import KeyHasher
from recsvc.rpc.server import FILES
from recsvc.settings import Settings
from tests.api import Api, failure

_LIST = catalog_pb.ListItemsRequest()


async def test_without_a_key_nothing_is_answered(service: Service) -> None:
    async with Api.connected(service.port, "") as api:
        failed = await failure(api.catalog.ListItems(_LIST))
    assert (failed.code, failed.reason) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")


@pytest.mark.parametrize("key", ["nonsense", "rk_", "rk_aaaaaaaaaaaa_" + "b" * 43])
async def test_a_wrong_key_is_refused_without_saying_why(service: Service, key: str) -> None:
    async with Api.connected(service.port, key) as api:
        failed = await failure(api.catalog.ListItems(_LIST))
    assert (failed.code, failed.reason, failed.message) == (
        "UNAUTHENTICATED",
        "CREDENTIALS_INVALID",
        "the API key is not valid",
    )


async def test_the_secret_of_another_key_is_refused(service: Service, key: str, new_tenant: Tenant) -> None:
    other = (await new_key(service.storage, new_tenant.tenant_id, "", frozenset(Scope))).secret
    crossed = key[:16] + other[16:]
    async with Api.connected(service.port, crossed) as api:
        assert (await failure(api.catalog.ListItems(_LIST))).code == "UNAUTHENTICATED"


async def test_a_key_does_only_what_its_scopes_say(service: Service, new_tenant: Tenant) -> None:
    reader = await new_key(service.storage, new_tenant.tenant_id, "", frozenset({Scope.CATALOG_READ}))
    async with Api.connected(service.port, reader.secret) as api:
        await api.catalog.ListItems(_LIST)
        failed = await failure(api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a"})))
    assert (failed.code, failed.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
    assert failed.metadata == {"scope": "catalog:write"}


def test_every_method_declares_a_known_scope() -> None:
    known = {scope.value for scope in Scope} | {"any"}
    assert {method: scope for method, scope in required_scopes(FILES).items() if scope not in known} == {}


async def test_a_tenant_sees_and_changes_only_its_own(service: Service, api: Api) -> None:
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "mine", "title": "secret"}))
    stranger = await service.storage.tenants.create(TenantId(f"{id(api)}"), "", TenantSettings())
    key = await new_key(service.storage, stranger.tenant_id, "", frozenset(Scope) - {Scope.ADMIN_SERVICE})
    async with Api.connected(service.port, key.secret) as other:
        assert not (await other.catalog.ListItems(_LIST)).items
        read = await failure(other.catalog.GetItem(catalog_pb.GetItemRequest(item_id="mine")))
        delete = await failure(other.catalog.DeleteItem(catalog_pb.DeleteItemRequest(item_id="mine")))
        assert (read.code, delete.code) == ("NOT_FOUND", "NOT_FOUND")
        await other.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "mine", "title": "theirs"}))
    assert (await api.catalog.GetItem(catalog_pb.GetItemRequest(item_id="mine"))).item.title == "secret"


async def test_only_a_service_key_acts_for_another_tenant(service: Service, api: Api, new_tenant: Tenant) -> None:
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "mine"}))
    admin = await service.storage.tenants.create(TenantId(f"admin-{id(api)}"), "", TenantSettings())
    for scopes, code in ((frozenset(Scope), None), (frozenset(Scope) - {Scope.ADMIN_SERVICE}, "PERMISSION_DENIED")):
        key = await new_key(service.storage, admin.tenant_id, "", scopes)
        async with Api.connected(service.port, key.secret, x_tenant_id=new_tenant.tenant_id) as acting:
            if code is None:
                assert len((await acting.catalog.ListItems(_LIST)).items) == 1
            else:
                assert (await failure(acting.catalog.ListItems(_LIST))).code == code


async def test_row_level_security_alone_keeps_tenants_apart(service: Service, api: Api, new_tenant: Tenant) -> None:
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "mine"}))
    other = await service.storage.tenants.create(TenantId(f"rls-{id(api)}"), "", TenantSettings())
    for tenant_key, rows in ((new_tenant.tenant_key, 1), (other.tenant_key, 0)):
        async with service.storage.database.tenant_transaction(tenant_key) as connection:
            cursor = await connection.execute(b"SELECT item_id FROM items")
            assert len(await cursor.fetchall()) == rows


async def test_a_created_key_works_and_a_revoked_one_does_not(service: Service, api: Api) -> None:
    created = await api.admin.CreateApiKey(admin_pb.CreateApiKeyRequest(display_name="ci", scopes=["catalog:read"]))
    assert created.secret.startswith(f"rk_{created.api_key.key_id}_")
    async with Api.connected(service.port, created.secret) as fresh:
        await fresh.catalog.ListItems(_LIST)
        await api.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(key_id=created.api_key.key_id))
        assert (await failure(fresh.catalog.ListItems(_LIST))).code == "UNAUTHENTICATED"
    listed = await api.admin.ListApiKeys(admin_pb.ListApiKeysRequest())
    assert created.api_key.key_id in {key.key_id for key in listed.api_keys}
    assert created.secret not in str(listed)


async def test_rotation_keeps_the_old_secret_for_the_overlap_only(service: Service, api: Api) -> None:
    created = await api.admin.CreateApiKey(admin_pb.CreateApiKeyRequest(scopes=["catalog:read"]))
    key_id = created.api_key.key_id
    for overlap_s, old_code in ((3600, "OK"), (0, "UNAUTHENTICATED")):
        old = created.secret
        created = await api.admin.RotateApiKey(
            admin_pb.RotateApiKeyRequest(key_id=key_id, overlap={"seconds": overlap_s})
        )
        async with Api.connected(service.port, created.secret) as fresh, Api.connected(service.port, old) as stale:
            await fresh.catalog.ListItems(_LIST)
            if old_code == "OK":
                await stale.catalog.ListItems(_LIST)
            else:
                assert (await failure(stale.catalog.ListItems(_LIST))).code == old_code


async def test_no_key_gives_more_than_it_has(api: Api) -> None:
    failed = await failure(api.admin.CreateApiKey(admin_pb.CreateApiKeyRequest(scopes=["admin:service"])))
    assert (failed.code, failed.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
    unknown = await failure(api.admin.CreateApiKey(admin_pb.CreateApiKeyRequest(scopes=["everything"])))
    assert (unknown.code, *unknown.fields) == ("INVALID_ARGUMENT", "scopes[0]")


async def test_a_key_of_the_service_is_out_of_reach_for_one_of_the_tenant(
    service: Service, api: Api, new_tenant: Tenant
) -> None:
    mighty = await new_key(service.storage, new_tenant.tenant_id, "", frozenset(Scope))
    key_id = mighty.key.key_id
    for attempt in (
        api.admin.RotateApiKey(admin_pb.RotateApiKeyRequest(key_id=key_id)),
        api.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(key_id=key_id)),
    ):
        failed = await failure(attempt)
        assert (failed.code, failed.metadata) == ("PERMISSION_DENIED", {"scope": "admin:service"})
    async with Api.connected(service.port, mighty.secret) as owner:
        await owner.admin.RotateApiKey(admin_pb.RotateApiKeyRequest(key_id=key_id))


async def test_tenants_are_made_changed_and_deleted_by_a_service_key(service: Service, new_tenant: Tenant) -> None:
    key = await new_key(service.storage, new_tenant.tenant_id, "", frozenset(Scope))
    name = f"shop-{id(key)}"
    async with Api.connected(service.port, key.secret) as api:
        await api.admin.CreateTenant(admin_pb.CreateTenantRequest(tenant={"tenant_id": name, "display_name": "Shop"}))
        twice = await failure(api.admin.CreateTenant(admin_pb.CreateTenantRequest(tenant={"tenant_id": name})))
        assert twice.code == "ALREADY_EXISTS"
        changed = await api.admin.UpdateTenant(
            admin_pb.UpdateTenantRequest(
                tenant={"tenant_id": name, "settings": {"defaults": {"novelty": 0.5}}},
                update_mask={"paths": ["settings.defaults"]},
            )
        )
        assert (changed.tenant.display_name, changed.tenant.settings.defaults.novelty) == ("Shop", 0.5)
        await api.admin.DeleteTenant(admin_pb.DeleteTenantRequest(tenant_id=name))
        gone = await failure(api.admin.GetTenant(admin_pb.GetTenantRequest(tenant_id=name)))
        assert (gone.code, gone.reason) == ("NOT_FOUND", "TENANT_NOT_FOUND")


async def test_health_needs_no_key_and_knows_every_service(service: Service) -> None:
    async with Api.connected(service.port, "") as api:
        for name in ("", "readiness", "recsvc.v1.RecommendationService"):
            answer = await api.health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async for update in api.health.Watch(health_pb2.HealthCheckRequest(service="readiness")):
            assert update.status == health_pb2.HealthCheckResponse.SERVING
            break


async def test_every_answer_carries_a_request_id(service: Service, key: str) -> None:
    async with Api.connected(service.port, key, x_request_id="my-own") as api:
        call = api.catalog.ListItems(_LIST)
        assert dict(await call.initial_metadata())["x-request-id"] == "my-own"
        await call
    async with Api.connected(service.port, "") as api:
        call = api.catalog.ListItems(_LIST)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert dict(await call.initial_metadata())["x-request-id"]


async def test_service_info_tells_version_and_tenant(api: Api, new_tenant: Tenant) -> None:
    info = await api.admin.GetServiceInfo(admin_pb.GetServiceInfoRequest())
    assert info.version
    assert info.tenant_id == new_tenant.tenant_id
    assert info.limits["max_page_size"] == 1000


async def test_a_key_of_the_configuration_works_and_does_not_come_back_once_revoked(
    settings: Settings, new_tenant: Tenant
) -> None:
    fresh = await KeyHasher(settings.auth).make()
    tenant_id = TenantId(f"{new_tenant.tenant_id}-bootstrapped")
    line = BootstrapKey(fresh.key_id, fresh.secret_hash, tenant_id, frozenset(Scope)).line
    own = settings.model_copy(update={"auth": settings.auth.model_copy(update={"bootstrap_keys": SecretStr(line)})})
    async with running_service(own) as first, Api.connected(first.port, fresh.text) as api:
        info = await api.admin.GetServiceInfo(admin_pb.GetServiceInfoRequest())
        assert info.tenant_id == tenant_id
        await api.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(key_id=fresh.key_id))
    async with running_service(own) as second, Api.connected(second.port, fresh.text) as api:
        assert (await failure(api.catalog.ListItems(_LIST))).reason == "CREDENTIALS_INVALID"
