"""A tenant sees nothing of another and changes nothing of it: by any method, any token, and below the API.

Each method is asked once for what another tenant has and once for what nobody has. The answers must be the same to
the letter, so that nothing tells which of the two it was; a mark in every text of the other tenant must not appear.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from psycopg import errors
from redis.asyncio import Redis

from recsvc.app import Service, Storage
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Tenant, TenantSettings
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from recsvc.storage.connection import Connection
from tests.api import Api, failure
from tests.security.calling import Outcome, outcomes
from tests.security.scenarios import METHODS, UNIMPLEMENTED, requests_of, scenarios
from tests.security.tenants import ALL_BUT_SERVICE, MARK, Names, Party, a_party, settled_rows_of, tenant_tables

_PAGED = sorted(path for path, method in METHODS.items() if "page_token" in method.input_type.fields_by_name)
_READABLE_PAGES = [path for path in _PAGED if path not in UNIMPLEMENTED and not path.endswith("/ListTenants")]
_REDIS_KEY = re.compile(rb"recsvc:\{(\d+)\}:.+")
# One sketch for one gauge: a HyperLogLog keeps how many items were shown, and nothing of which or whose.
_OF_NOBODY = re.compile(rb"recsvc:shown-items:\d{4}-\d\d-\d\d")
_IMPLEMENTED = sorted(set(METHODS) - UNIMPLEMENTED)
# Their requests name nothing, and what they say differs from one time to the next.
_TELLING_OF_NOBODY = frozenset({"/recsvc.v1.AdminService/StartTraining"})


@pytest.fixture(scope="module")
async def attacker(service: Service) -> AsyncIterator[Party]:
    """Who attacks: a tenant with data of its own, so that nothing is empty for want of any."""
    async with a_party(service, "attacker") as party:
        yield party


@pytest.fixture(scope="module")
async def victim(service: Service) -> AsyncIterator[Party]:
    """Who must neither be seen nor changed."""
    async with a_party(service, MARK) as party:
        yield party


def _told(outcome: Outcome, asked: Names) -> str:
    """What a call said, with the names that it asked about made alike."""
    text = json.dumps(outcome.document(), sort_keys=True, ensure_ascii=False)
    for name in asked.values():
        text = text.replace(name, "…")
    # Columns tell how long the name before them is.
    return re.sub(r"(?<=column )\d+|(?<=\"column\": \")\d+", "…", text)


def _leaks(outcome: Outcome, victim: Party) -> list[str]:
    """What of the victim a call said beyond the names that it was asked about."""
    wire = outcome.wire().decode("latin-1")
    for name in victim.names.values():
        wire = wire.replace(name, "")
    return [leak for leak in (MARK, victim.secret) if leak in wire]


async def _asked(party: Party, path: str, names: Names) -> list[Outcome]:
    """The outcomes of a method's scenario; what the party wrote under the names is gone again afterwards."""
    found = await outcomes(party.api.channel, path, requests_of(path, names))
    await party.api.catalog.DeleteItem(catalog_pb.DeleteItemRequest(item_id=names.written_item, allow_missing=True))
    await party.api.users.DeleteUser(user_pb.DeleteUserRequest(user_id=names.written_user, allow_missing=True))
    return found


def test_every_method_has_a_scenario() -> None:
    assert set(scenarios(Names.of_nobody())) == set(METHODS)


async def test_no_method_tells_or_changes_anything_of_another_tenant(
    attacker: Party, victim: Party, service: Service
) -> None:
    before = await settled_rows_of(service.storage, victim.tenant)
    different, leaking = {}, {}
    for path in _IMPLEMENTED:
        of_victim, of_nobody = (
            await _asked(attacker, path, victim.names),
            await _asked(attacker, path, Names.of_nobody()),
        )
        if leaks := [leak for outcome in of_victim for leak in _leaks(outcome, victim)]:
            leaking[path] = leaks
        told = [_told(outcome, victim.names) for outcome in of_victim]
        expected = [_told(outcome, Names.of_nobody()) for outcome in of_nobody]
        if path not in _TELLING_OF_NOBODY and told != expected:
            different[path] = [pair for pair in zip(told, expected, strict=True) if pair[0] != pair[1]]
    assert leaking == {}
    assert different == {}
    assert await settled_rows_of(service.storage, victim.tenant) == before


async def test_every_scenario_reaches_data_where_it_is_the_callers_own(victim: Party) -> None:
    """The walk proves nothing where a request is refused whoever asks: asked by its owner, none is NOT_FOUND."""
    reading = ("Get", "List", "Export", "Recommend", "Similar", "Rank", "Explain", "BatchGet", "WatchTrainingRun")
    unfit = {}
    for path in _IMPLEMENTED:
        if path.rpartition("/")[2].startswith(reading) and not path.endswith("/ListTenants"):
            found = await outcomes(victim.api.channel, path, requests_of(path, victim.names))
            # SimilarUsers and explanations of one more model may have too little to go by, which is no refusal.
            if bad := [outcome.code for outcome in found if outcome.code != "OK"]:
                unfit[path] = bad
    assert unfit == {}


@pytest.mark.parametrize("path", sorted(UNIMPLEMENTED))
async def test_what_has_no_behaviour_yet_says_so(attacker: Party, path: str) -> None:
    (outcome,) = await outcomes(attacker.api.channel, path, requests_of(path, attacker.names))
    assert outcome.code == "UNIMPLEMENTED"


@pytest.mark.parametrize("path", _IMPLEMENTED)
async def test_no_method_acts_for_another_tenant_without_the_scope_for_it(
    attacker: Party, victim: Party, service: Service, path: str
) -> None:
    told = []
    for names in (victim.names, Names.of_nobody()):
        async with Api.connected(service.port, attacker.secret, x_tenant_id=names.tenant) as acting:
            (outcome,) = await outcomes(acting.channel, path, requests_of(path, names)[:1])
        assert outcome.code == "PERMISSION_DENIED"
        assert _leaks(outcome, victim) == []
        told.append(_told(outcome, names))
    assert told[0] == told[1]


async def _page(party: Party, path: str, **fields: Any) -> Outcome:
    (outcome,) = await outcomes(
        party.api.channel, path, [type(requests_of(path, party.names)[0])(page_size=1, **fields)]
    )
    return outcome


async def _token(party: Party, path: str) -> str:
    token: str = (await _page(party, path)).responses[0].next_page_token
    assert token
    return token


def _refused(outcome: Outcome) -> bool:
    return outcome.code == "INVALID_ARGUMENT" and b"INVALID_PAGE_TOKEN" in outcome.wire()


@pytest.mark.parametrize("path", _READABLE_PAGES)
async def test_a_page_token_of_another_tenant_is_refused(attacker: Party, victim: Party, path: str) -> None:
    outcome = await _page(attacker, path, page_token=await _token(victim, path))
    assert _refused(outcome)
    assert _leaks(outcome, victim) == []


@pytest.mark.parametrize("path", _READABLE_PAGES)
async def test_a_page_token_of_another_list_is_refused(attacker: Party, path: str) -> None:
    others = [other for other in _READABLE_PAGES if other != path]
    assert [
        other for other in others if not _refused(await _page(attacker, path, page_token=await _token(attacker, other)))
    ] == []


@pytest.mark.parametrize(
    "path", [path for path in _READABLE_PAGES if "filter" in METHODS[path].input_type.fields_by_name]
)
async def test_a_page_token_of_another_filter_or_order_is_refused(attacker: Party, path: str) -> None:
    token = await _token(attacker, path)
    by = "event_time" if path.endswith("ListEvents") else "create_time"
    for changed in ({"filter": f'{by} > "2000-01-01T00:00:00Z"'}, {"order_by": f"{by} asc"}):
        assert _refused(await _page(attacker, path, page_token=token, **changed))


@pytest.mark.parametrize("path", _READABLE_PAGES)
async def test_a_page_token_with_any_byte_changed_is_refused(attacker: Party, path: str) -> None:
    token = await _token(attacker, path)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        tampered = base64.urlsafe_b64encode(changed).decode().rstrip("=")
        assert _refused(await _page(attacker, path, page_token=tampered)), position


async def test_the_list_of_all_tenants_is_for_service_keys(attacker: Party, victim: Party) -> None:
    outcome = await _page(attacker, "/recsvc.v1.AdminService/ListTenants")
    assert outcome.code == "PERMISSION_DENIED"
    assert _leaks(outcome, victim) == []


async def test_a_resume_token_of_another_tenant_is_refused(attacker: Party, victim: Party) -> None:
    path = "/recsvc.v1.RecommendationService/WatchRecommendations"
    request = {"request": {"user_id": "same in both"}}
    (watched,) = await outcomes(victim.api.channel, path, [recommend_pb.WatchRecommendationsRequest(**request)])
    token = watched.responses[0].resume_token
    resumed = recommend_pb.WatchRecommendationsRequest(**request, resume_token=token)
    assert (await outcomes(victim.api.channel, path, [resumed], timeout_s=1))[0].code != "INVALID_ARGUMENT"
    (outcome,) = await outcomes(attacker.api.channel, path, [resumed])
    assert outcome.code == "INVALID_ARGUMENT"
    assert b"resume_token" in outcome.wire()


async def test_a_key_cannot_give_more_than_it_has(attacker: Party) -> None:
    request = admin_pb.CreateApiKeyRequest(scopes=["admin:service"])
    assert (await failure(attacker.api.admin.CreateApiKey(request))).reason == "SCOPE_MISSING"


async def test_equal_questions_of_two_tenants_never_share_a_cached_list(service: Service) -> None:
    request = recommend_pb.RecommendRequest(count=5, strategy=recommend_pb.STRATEGY_NEW)
    # Alike in all but the item, versions included, so that only the names of their cached lists keep them apart.
    for item_id in ("first", "second"):
        tenant_id = TenantId(f"{MARK}-cached-{item_id}")
        await service.storage.tenants.create(tenant_id, "", TenantSettings())
        key = await new_key(service.storage, tenant_id, "", ALL_BUT_SERVICE)
        async with Api.connected(service.port, key.secret) as api:
            await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": item_id}))
            for _ in range(2):
                found = await api.recommendations.Recommend(request)
                assert [item.item_id for item in found.items] == [item_id]


async def test_equal_ids_of_two_tenants_never_wake_each_others_watchers(attacker: Party, victim: Party) -> None:
    request = recommend_pb.WatchRecommendationsRequest(request={"user_id": "watched in both", "count": 5})
    watch = attacker.api.recommendations.WatchRecommendations(request)
    own = victim.api.recommendations.WatchRecommendations(request)
    try:
        await watch.read()
        await own.read()
        event = ingestion_pb.Event(event_type="purchase", user_id="watched in both", item_id=victim.names.item)
        await victim.api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))
        assert (await asyncio.wait_for(own.read(), 10)).HasField("recommendation")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.read(), 0.5)
    finally:
        watch.cancel()
        own.cancel()


async def test_every_key_in_redis_that_holds_something_of_a_tenant_names_it(
    attacker: Party, victim: Party, service: Service
) -> None:
    for party in (attacker, victim):
        await party.api.recommendations.Recommend(recommend_pb.RecommendRequest(user_id=party.names.user))
    redis = Redis.from_url(service.storage.urls.redis_url)
    try:
        keys = [key async for key in redis.scan_iter(count=1000)]
    finally:
        await redis.aclose()
    assert [key for key in keys if not (_REDIS_KEY.fullmatch(key) or _OF_NOBODY.fullmatch(key))] == []
    tenants = {int(match.group(1)) for key in keys if (match := _REDIS_KEY.fullmatch(key))}
    assert {attacker.tenant.tenant_key, victim.tenant.tenant_key} <= tenants


async def _readable_tables(connection: Connection) -> list[str]:
    """All tables on which the role of requests has any right at all."""
    cursor = await connection.execute(
        b"SELECT c.relname FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace"
        b" AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege('recsvc_app', c.oid,"
        b" 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') ORDER BY 1"
    )
    return [row["relname"] for row in await cursor.fetchall()]


async def test_requests_run_under_a_role_that_row_level_security_binds(service: Service, attacker: Party) -> None:
    async with service.storage.database.tenant_transaction(attacker.tenant.tenant_key) as connection:
        cursor = await connection.execute(
            b"SELECT current_user AS name, rolsuper, rolbypassrls, rolcreaterole, rolcanlogin,"
            b" EXISTS (SELECT FROM pg_class WHERE relowner = r.oid) AS is_owner,"
            b" EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid) AS is_member"
            b" FROM pg_roles r WHERE rolname = current_user"
        )
        role = await cursor.fetchone()
    assert role is not None
    assert role.pop("name") == "recsvc_app"
    assert role == dict.fromkeys(role, False)


async def test_every_table_of_tenants_has_row_level_security(service: Service) -> None:
    async with service.storage.database.connection() as connection:
        cursor = await connection.execute(
            b"SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relrowsecurity"
        )
        secured = {row["relname"] for row in await cursor.fetchall()}
        readable = set(await _readable_tables(connection))
    assert set(await tenant_tables(service.storage)) - secured == set()
    assert readable - secured == set()


async def test_every_policy_lets_through_the_rows_of_the_transactions_tenant_and_no_other(service: Service) -> None:
    async with service.storage.database.connection() as connection:
        cursor = await connection.execute(
            b"SELECT DISTINCT expression FROM pg_policy, LATERAL (VALUES (polqual), (polwithcheck)) AS part (tree),"
            b" LATERAL pg_get_expr(tree, polrelid) AS expression WHERE expression IS NOT NULL"
        )
        expressions = [" ".join(row["expression"].split()) for row in await cursor.fetchall()]
    assert expressions == ["(tenant_key = ( SELECT current_tenant_v1() AS current_tenant_v1))"]


async def _seen(storage: Storage, tenant: Tenant | None) -> dict[str, set[Any]]:
    """Tenants whose rows a request of this tenant can see without any predicate, by table."""
    seen = {}
    async with storage.database.connection() as connection, connection.transaction():
        await connection.execute(b"SET LOCAL ROLE recsvc_app")
        if tenant is not None:
            await connection.execute(b"SELECT set_config('recsvc.tenant', %s, true)", [str(tenant.tenant_key)])
        for table in await _readable_tables(connection):
            cursor = await connection.execute(f"SELECT DISTINCT tenant_key FROM {table}".encode())  # noqa: S608
            seen[table] = {row["tenant_key"] for row in await cursor.fetchall()}
    return seen


async def test_without_a_tenant_requests_see_no_row_at_all(service: Service, victim: Party) -> None:
    seen = await _seen(service.storage, None)
    assert len(seen) > 15
    assert {table: tenants for table, tenants in seen.items() if tenants} == {}


async def test_with_a_tenant_requests_see_its_rows_alone(service: Service, attacker: Party, victim: Party) -> None:
    seen = await _seen(service.storage, attacker.tenant)
    assert set().union(*seen.values()) == {attacker.tenant.tenant_key}
    assert {"api_keys", "events", "item_factors", "items", "models", "shown", "users"} <= set(filter(seen.get, seen))


async def test_rows_of_another_tenant_can_be_neither_changed_nor_written(
    service: Service, attacker: Party, victim: Party
) -> None:
    database, other = service.storage.database, victim.tenant.tenant_key
    async with database.connection() as connection:
        tables = await _readable_tables(connection)
    for table in tables:
        # A table may also be closed to deletion for everybody.
        with suppress(errors.InsufficientPrivilege):
            async with database.tenant_transaction(attacker.tenant.tenant_key) as connection:
                cursor = await connection.execute(f"DELETE FROM {table} WHERE tenant_key = %s".encode(), [other])  # noqa: S608
                assert cursor.rowcount == 0, table
    async with database.tenant_transaction(attacker.tenant.tenant_key) as connection:
        with pytest.raises(errors.InsufficientPrivilege):
            await connection.execute(b"INSERT INTO items (tenant_key, item_id) VALUES (%s, 'planted')", [other])
