"""What the audit log holds of administrative actions, and that nobody can take it back."""

from __future__ import annotations

import json

import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from recsvc.app import Service, Storage
from recsvc.cli.main import app
from recsvc.cli.tenants import new_key
from recsvc.domain.audit import AuditEntry, AuditQuestion
from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import admin_service_pb2 as pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.rpc.interceptors.audit import is_audited
from recsvc.rpc.interceptors.auth import required_scopes
from recsvc.rpc.server import FILES
from recsvc.settings import Settings
from recsvc.training.runner import TrainingRunner
from tests.api import Api, failure

_METHOD = "recsvc.v1.AdminService/"


async def entries_of(storage: Storage, tenant: Tenant) -> list[AuditEntry]:
    """What calls did for a tenant, oldest first; what the fixtures did by the command line is left out."""
    found = await storage.audit_log.list(AuditQuestion(tenant_id=tenant.tenant_id))
    return [entry for entry in reversed(found) if not entry.actor.startswith("cli:")]


def told(entries: list[AuditEntry]) -> list[tuple[str, tuple[str, ...], str]]:
    """Action, targets and outcome."""
    return [(entry.action.removeprefix(_METHOD), entry.targets, entry.outcome) for entry in entries]


async def test_the_life_of_a_key_is_told(service: Service, api: Api, key: str, new_tenant: Tenant) -> None:
    created = await api.admin.CreateApiKey(pb.CreateApiKeyRequest(scopes=["catalog:read"]))
    key_id = created.api_key.key_id
    rotated = await api.admin.RotateApiKey(pb.RotateApiKeyRequest(key_id=key_id))
    await api.admin.RevokeApiKey(pb.RevokeApiKeyRequest(key_id=key_id))
    entries = await entries_of(service.storage, new_tenant)
    assert told(entries) == [(action, (key_id,), "OK") for action in ("CreateApiKey", "RotateApiKey", "RevokeApiKey")]
    assert {(entry.actor, entry.tenant_key) for entry in entries} == {(key[3:15], new_tenant.tenant_key)}
    for secret in (created.secret, rotated.secret):
        assert secret[16:] not in repr(entries)


async def test_an_entry_carries_the_request_id_that_the_caller_got(
    service: Service, key: str, new_tenant: Tenant
) -> None:
    async with Api.connected(service.port, key, x_request_id="ticket-4711") as api:
        await api.admin.CreateApiKey(pb.CreateApiKeyRequest(scopes=["catalog:read"]))
    assert [entry.request_id for entry in await entries_of(service.storage, new_tenant)] == ["ticket-4711"]


async def test_refusals_are_told_with_their_code(service: Service, api: Api, new_tenant: Tenant) -> None:
    await failure(api.admin.RevokeApiKey(pb.RevokeApiKeyRequest(key_id="nobody")))
    await failure(api.admin.CreateApiKey(pb.CreateApiKeyRequest(scopes=["everything"])))
    await failure(api.admin.CreateApiKey(pb.CreateApiKeyRequest(scopes=["admin:service"])))
    await failure(api.admin.DeleteTenant(pb.DeleteTenantRequest(tenant_id="not-mine")))
    await failure(api.admin.DeleteModel(pb.DeleteModelRequest(model_id="none")))
    assert told(await entries_of(service.storage, new_tenant)) == [
        ("RevokeApiKey", ("nobody",), "NOT_FOUND"),
        ("CreateApiKey", (), "INVALID_ARGUMENT"),
        ("CreateApiKey", (), "PERMISSION_DENIED"),
        ("DeleteTenant", ("not-mine",), "PERMISSION_DENIED"),
        ("DeleteModel", ("none",), "NOT_FOUND"),
    ]


async def test_a_key_without_the_scope_is_told_by_its_id(service: Service, new_tenant: Tenant) -> None:
    reader = await new_key(service.storage, new_tenant.tenant_id, "", frozenset({Scope.CATALOG_READ}))
    async with Api.connected(service.port, reader.secret) as api:
        await failure(api.admin.RevokeApiKey(pb.RevokeApiKeyRequest(key_id="victim")))
    entries = await entries_of(service.storage, new_tenant)
    assert told(entries) == [("RevokeApiKey", ("victim",), "PERMISSION_DENIED")]
    assert entries[0].actor == reader.key.key_id


async def test_tenants_are_told_of_even_after_they_are_gone(service: Service, new_tenant: Tenant) -> None:
    admin = await new_key(service.storage, new_tenant.tenant_id, "", frozenset(Scope))
    name = f"{new_tenant.tenant_id}-shop"
    async with Api.connected(service.port, admin.secret) as api:
        await api.admin.CreateTenant(pb.CreateTenantRequest(tenant={"tenant_id": name}))
        change = pb.UpdateTenantRequest(
            tenant={"tenant_id": name, "display_name": "Shop"}, update_mask={"paths": ["display_name"]}
        )
        await api.admin.UpdateTenant(change)
        await api.admin.DeleteTenant(pb.DeleteTenantRequest(tenant_id=name))
    found = await service.storage.audit_log.list(AuditQuestion(tenant_id=name))
    assert told(list(reversed(found))) == [
        (action, (name,), "OK") for action in ("CreateTenant", "UpdateTenant", "DeleteTenant")
    ]


async def test_a_training_run_is_told_with_its_id(
    service: Service, api: Api, new_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(TrainingRunner, "_supervise", nothing)
    run_id = (await api.admin.StartTraining(pb.StartTrainingRequest())).training_run.training_run_id
    await failure(api.admin.StartTraining(pb.StartTrainingRequest()))
    assert told(await entries_of(service.storage, new_tenant)) == [
        ("StartTraining", (run_id,), "OK"),
        ("StartTraining", (), "FAILED_PRECONDITION"),
    ]


async def test_a_key_sent_in_the_place_of_an_id_is_not_stored(
    service: Service, api: Api, key: str, new_tenant: Tenant
) -> None:
    await failure(api.admin.RevokeApiKey(pb.RevokeApiKeyRequest(key_id=key)))
    entries = await entries_of(service.storage, new_tenant)
    assert len(entries) == 1
    assert key[16:] not in repr(entries)


async def test_reading_is_not_told_and_strangers_write_nothing(
    service: Service, api: Api, key: str, new_tenant: Tenant
) -> None:
    await api.admin.ListApiKeys(pb.ListApiKeysRequest())
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a"}))
    async with Api.connected(service.port, key[:-1] + ("a" if key[-1] != "a" else "b")) as stranger:
        await failure(stranger.admin.RevokeApiKey(pb.RevokeApiKeyRequest(key_id="victim")))
    assert await entries_of(service.storage, new_tenant) == []


def test_every_method_of_administration_that_does_not_merely_read_is_audited() -> None:
    audited = {
        method.rpartition("/")[2] for method, scope in required_scopes(FILES).items() if is_audited(method, scope)
    }
    assert audited == {
        *("CreateTenant", "UpdateTenant", "DeleteTenant", "CreateApiKey", "RotateApiKey", "RevokeApiKey"),
        *("StartTraining", "ActivateModel", "DeleteModel", "CreateWebhook", "DeleteWebhook", "TestWebhook"),
    }


async def test_what_cannot_be_told_is_not_done(
    service: Service, api: Api, new_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StorageUnavailable

    monkeypatch.setattr("recsvc.storage.api_keys.append", fail)
    before = {key.key_id for key in (await api.admin.ListApiKeys(pb.ListApiKeysRequest())).api_keys}
    failed = await failure(api.admin.CreateApiKey(pb.CreateApiKeyRequest(scopes=["catalog:read"])))
    assert failed.code == "UNAVAILABLE"
    assert {key.key_id for key in (await api.admin.ListApiKeys(pb.ListApiKeysRequest())).api_keys} == before


@pytest.mark.parametrize(
    "statement",
    [
        b"UPDATE audit_log SET outcome = 'OK' WHERE tenant_id = %s",
        b"DELETE FROM audit_log WHERE tenant_id = %s",
        b"TRUNCATE audit_log",
    ],
)
@pytest.mark.parametrize("as_owner", [True, False])
async def test_entries_can_be_neither_changed_nor_deleted(
    service: Service, api: Api, new_tenant: Tenant, statement: bytes, as_owner: bool
) -> None:
    await failure(api.admin.RevokeApiKey(pb.RevokeApiKeyRequest(key_id="nobody")))
    database = service.storage.database
    opened = database.service_transaction() if as_owner else database.tenant_transaction(new_tenant.tenant_key)
    parameters = [new_tenant.tenant_id] if b"%s" in statement else None
    async with opened as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement, parameters)
        await connection.execute(b"ROLLBACK")
    assert len(await entries_of(service.storage, new_tenant)) == 1


async def test_requests_are_granted_no_more_than_to_add_and_read(service: Service) -> None:
    kinds = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
    async with service.storage.database.connection() as connection:
        cursor = await connection.execute(
            b"SELECT kind FROM unnest(%s::text[]) AS kind WHERE has_table_privilege('recsvc_app', 'audit_log', kind)",
            [list(kinds)],
        )
        assert {row["kind"] for row in await cursor.fetchall()} == {"SELECT", "INSERT"}


async def test_a_tenant_can_neither_read_nor_write_entries_of_another(
    service: Service, api: Api, new_tenant: Tenant
) -> None:
    database = service.storage.database
    async with database.tenant_transaction(new_tenant.tenant_key) as connection:
        cursor = await connection.execute(b"SELECT DISTINCT tenant_key FROM audit_log")
        assert [row["tenant_key"] for row in await cursor.fetchall()] == [new_tenant.tenant_key]
        insert = (
            b"INSERT INTO audit_log (tenant_key, tenant_id, actor, action, targets, outcome, request_id)"
            b" VALUES (%s, '', '', '', '{}', '', '')"
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(insert, [new_tenant.tenant_key + 1])
        await connection.execute(b"ROLLBACK")


async def test_only_entries_past_their_time_are_deleted(storage: Storage, new_tenant: Tenant) -> None:
    ages_days = (1, 35, 401)
    async with storage.database.service_transaction() as connection:
        for days in ages_days:
            await connection.execute(
                b"INSERT INTO audit_log (entry_time, tenant_id, actor, action, targets, outcome, request_id)"
                b" VALUES (now() - make_interval(days => %s), %s, 'a', 'b', '{}', 'OK', %s)",
                [days, new_tenant.tenant_id, str(days)],
            )
    assert await storage.audit_log.delete_older(400, 1000) >= 1
    left = await storage.audit_log.list(AuditQuestion(tenant_id=new_tenant.tenant_id))
    assert sorted(entry.request_id for entry in left) == ["1", "35"]


def test_what_the_command_line_does_is_told(settings: Settings) -> None:
    assert settings.database_url is not None
    assert settings.redis_url is not None
    environment = {
        "RECSVC_DATABASE_URL": settings.database_url.get_secret_value(),
        "RECSVC_REDIS_URL": settings.redis_url.get_secret_value(),
        "COLUMNS": "200",
    }

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, env=environment)

    tenant = "audited-by-cli"
    run("tenants", "create", tenant)
    key_id = run("keys", "create", "--tenant", tenant).stdout[3:15]
    assert run("keys", "revoke", "--tenant", tenant, "nobody").exit_code == 1
    run("keys", "rotate", "--tenant", tenant, key_id)
    run("keys", "revoke", "--tenant", tenant, key_id)
    run("tenants", "delete", tenant, "--yes")
    found = [json.loads(line) for line in run("audit", "--json", "--tenant", tenant).stdout.splitlines()]
    assert [(each["action"].removeprefix(_METHOD), each["targets"], each["outcome"]) for each in found] == [
        ("DeleteTenant", [tenant], "OK"),
        ("RevokeApiKey", [key_id], "OK"),
        ("RotateApiKey", [key_id], "OK"),
        ("RevokeApiKey", ["nobody"], "NOT_FOUND"),
        ("CreateApiKey", [key_id], "OK"),
        ("CreateTenant", [tenant], "OK"),
    ]
    assert all(each["actor"].startswith("cli:") for each in found)
    options = ("--action", "RevokeApiKey", "--outcome", "OK", "--before", str(found[0]["entry"]), "--limit", "1")
    shown = run("audit", "--tenant", tenant, *options)
    assert key_id in shown.stdout
    assert f"--before {found[1]['entry']}" in shown.stderr


async def test_entries_are_filtered_and_paged(storage: Storage, new_tenant: Tenant) -> None:
    for number, outcome in enumerate(("OK", "NOT_FOUND", "OK")):
        entry = AuditEntry(None, new_tenant.tenant_id, f"actor-{number}", "RevokeApiKey", ("victim",), outcome)
        await storage.audit_log.append(entry)

    async def actors(**question: object) -> list[str]:
        asked = AuditQuestion(**{"tenant_id": new_tenant.tenant_id, **question})  # type: ignore[arg-type]
        return [entry.actor for entry in await storage.audit_log.list(asked)]

    newest, middle, oldest = await storage.audit_log.list(AuditQuestion(tenant_id=new_tenant.tenant_id))
    assert newest.time is not None
    assert await actors() == ["actor-2", "actor-1", "actor-0"]
    assert await actors(limit=2) == ["actor-2", "actor-1"]
    assert await actors(before=middle.key) == [oldest.actor]
    assert await actors(outcome="OK") == ["actor-2", "actor-0"]
    assert await actors(actor="actor-1") == ["actor-1"]
    assert await actors(action="CreateApiKey") == []
    assert await actors(since=newest.time) == ["actor-2"]
    assert await actors(until=newest.time) == ["actor-1", "actor-0"]
