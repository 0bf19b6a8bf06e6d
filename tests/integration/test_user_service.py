"""UserService where it is hard: erasure and merges while events come in, and what may never be left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg import sql

from recsvc.app import Service
from recsvc.domain.errors import UserNotFound
from recsvc.domain.ids import TenantKey, UserId
from recsvc.domain.users import User, UserKind
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database
from recsvc.storage.users import UserRepository
from tests.api import Api, failure, stream_failure
from tests.conftest import RecordedChanges
from tests.rivals import new_stranger, rows, run, stranger_api, until_blocked


@pytest.fixture
async def shop(api: Api) -> Api:
    """A catalogue of five items."""
    items = [catalog_pb.Item(item_id=name) for name in "abcde"]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    return api


@pytest.fixture
def users(service: Service, database: Database, changes: RecordedChanges) -> UserRepository:
    """Users whose changes are announced to the test."""
    return UserRepository(database, service.storage.replicas, changes, service.storage.events)


async def _record(api: Api, event_id: str, item_id: str = "a", **actor: str) -> str:
    """Record a view; the code that it is answered with."""
    event = pb.Event(event_id=event_id, event_type="view", item_id=item_id, **(actor or {"user_id": "u"}))
    response = await api.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=[event]))
    return f"{response.results[0].status.code}{' again' if response.results[0].duplicate else ''}"


async def _events(api: Api, **fields: Any) -> list[str]:
    response = await api.ingestion.ListEvents(pb.ListEventsRequest(**fields))
    return sorted(event.event_id for event in response.events)


def _with(user_id: str, attributes: dict[str, Any], **fields: Any) -> user_pb.User:
    user = user_pb.User(user_id=user_id, **fields)
    user.attributes.update(attributes)
    return user


async def _update(api: Api, user: user_pb.User, *paths: str, allow_missing: bool = True) -> user_pb.User:
    request = user_pb.UpdateUserRequest(user=user, allow_missing=allow_missing)
    if paths:
        request.update_mask.paths.extend(paths)
    return (await api.users.UpdateUser(request)).user


async def _get(api: Api, user_id: str) -> user_pb.User:
    return (await api.users.GetUser(user_pb.GetUserRequest(user_id=user_id))).user


async def _erase(api: Api, user_id: str, *, allow_missing: bool = False) -> user_pb.DeleteUserResponse:
    return await api.users.DeleteUser(user_pb.DeleteUserRequest(user_id=user_id, allow_missing=allow_missing))


async def _merge_session(api: Api, session_id: str, user_id: str) -> user_pb.MergeUsersResponse:
    return await api.users.MergeUsers(user_pb.MergeUsersRequest(source_session_id=session_id, user_id=user_id))


async def _merge_user(api: Api, source_user_id: str, user_id: str) -> user_pb.MergeUsersResponse:
    return await api.users.MergeUsers(user_pb.MergeUsersRequest(source_user_id=source_user_id, user_id=user_id))


async def _listed(api: Api, **fields: Any) -> list[str]:
    """All ids of a list, page by page."""
    found: list[str] = []
    token = ""
    while True:
        page = await api.users.ListUsers(user_pb.ListUsersRequest(page_token=token, **fields))
        found += [user.user_id for user in page.users]
        token = page.next_page_token
        if not token:
            return found


async def _exported(api: Api, user_id: str) -> list[user_pb.ExportUserResponse]:
    return [part async for part in api.users.ExportUser(user_pb.ExportUserRequest(user_id=user_id))]


async def _hold_tenant(connection: Connection, tenant: TenantKey) -> None:
    """Hold what a batch of events looks at last, so that the batch stops when it has written all the rest."""
    await run(connection, tenant, b"SELECT FROM tenants WHERE tenant_key = %(tenant)s FOR UPDATE")


async def _orphans(database: Database, tenant: TenantKey) -> int:
    """Events that belong to nobody."""
    (row,) = await rows(
        database,
        tenant,
        b"SELECT count(*) AS found FROM events e WHERE tenant_key = %(tenant)s AND NOT EXISTS"
        b" (SELECT FROM users u WHERE u.tenant_key = e.tenant_key AND u.user_key = e.user_key)",
    )
    return int(row["found"])


class TestProfiles:
    """What the caller says of a user."""

    async def test_a_profile_comes_back_as_it_was_stored(self, api: Api) -> None:
        stored = await _update(api, _with("u/1 ü", {"age": 30, "home": {"city": "Ä"}, "n": None}, labels=["vip", "{}"]))
        assert stored.create_time.seconds
        assert await _get(api, "u/1 ü") == stored
        assert stored.attributes["home"]["city"] == "Ä"

    async def test_a_mask_of_all_fields_replaces_the_profile(self, api: Api) -> None:
        before = await _update(api, _with("u", {"age": 30}, labels=["vip"]))
        after = await _update(api, user_pb.User(user_id="u"), "*")
        assert (len(after.attributes.fields), list(after.labels)) == (0, [])
        assert after.create_time == before.create_time

    @pytest.mark.parametrize("paths", [[], ["user_id"], ["create_time"], ["attributes."], ["nope"]])
    async def test_a_mask_that_names_nothing_writable_is_refused(self, api: Api, paths: list[str]) -> None:
        request = user_pb.UpdateUserRequest(user={"user_id": "u"}, update_mask={"paths": paths}, allow_missing=True)
        assert (await failure(api.users.UpdateUser(request))).reason == "INVALID_UPDATE_MASK"
        assert await _listed(api) == []

    @pytest.mark.parametrize(
        ("user", "named"),
        [
            (user_pb.User(), "user.user_id"),
            (user_pb.User(user_id="x" * 129), "user.user_id"),
            (user_pb.User(user_id="a\x00"), "user.user_id"),
            (user_pb.User(user_id="u", labels=["ok", "a\x00"]), "user.labels[1]"),
            (user_pb.User(user_id="u", labels=["l"] * 201), "user.labels"),
            (_with("u", {"text": "x" * 17_000}), "user.attributes"),
            (_with("u", {"text": "nul\x00"}), "user.attributes.text"),
            (_with("u", {"a": {"b": {"c": {"d": 1}}}}), "user.attributes.a.b.c"),
            (_with("u", {"n": float("nan")}), "user.attributes.n"),
        ],
    )
    async def test_a_wrong_field_is_named(self, api: Api, user: user_pb.User, named: str) -> None:
        failed = await failure(_update(api, user))
        assert (failed.code, named in failed.fields) == ("INVALID_ARGUMENT", True)
        assert await _listed(api) == []

    async def test_attributes_set_one_by_one_keep_to_the_limits_together(self, api: Api) -> None:
        await _update(api, _with("u", {f"k{number}": 1 for number in range(64)}))
        failed = await failure(_update(api, _with("u", {"more": 1}), "attributes.more"))
        assert list(failed.fields) == ["user.attributes"]
        assert len((await _get(api, "u")).attributes.fields) == 64

    async def test_every_one_of_many_first_updates_counts(self, api: Api) -> None:
        await asyncio.gather(*(_update(api, _with("u", {f"k{n}": n}), f"attributes.k{n}") for n in range(20)))
        assert dict((await _get(api, "u")).attributes.items()) == {f"k{n}": n for n in range(20)}

    async def test_a_session_and_a_user_of_one_id_are_two(self, shop: Api) -> None:
        await _record(shop, "1", session_id="same")
        assert (await failure(_get(shop, "same"))).reason == "USER_NOT_FOUND"
        assert (await failure(_erase(shop, "same"))).reason == "USER_NOT_FOUND"
        assert (await stream_failure(shop.users.ExportUser(user_pb.ExportUserRequest(user_id="same")))).code == (
            "NOT_FOUND"
        )
        await _update(shop, user_pb.User(user_id="same", labels=["known"]))
        await _erase(shop, "same")
        assert await _events(shop) == ["1"]


class TestLists:
    """Known users, page by page."""

    @pytest.mark.parametrize("order_by", ["", "user_id desc", "create_time", "update_time desc, user_id desc"])
    async def test_every_user_stands_in_a_list_once(self, api: Api, order_by: str) -> None:
        names = [f"u{number}" for number in range(7)]
        for name in names:
            await _update(api, user_pb.User(user_id=name))
        found = await _listed(api, order_by=order_by, page_size=2)
        assert found == (names[::-1] if "desc" in order_by else names)

    async def test_a_list_stays_right_while_users_come_and_go(self, api: Api) -> None:
        for number in range(6):
            await _update(api, user_pb.User(user_id=f"u{number}"))
        first = await api.users.ListUsers(user_pb.ListUsersRequest(page_size=3))
        await _erase(api, "u2")
        await _update(api, user_pb.User(user_id="u0a"))
        rest = await api.users.ListUsers(user_pb.ListUsersRequest(page_size=3, page_token=first.next_page_token))
        assert [user.user_id for user in rest.users] == ["u3", "u4", "u5"]
        assert not rest.next_page_token

    async def test_users_are_found_by_what_is_said_of_them(self, api: Api) -> None:
        await _update(api, _with("u1", {"age": 30, "city": "Wien"}, labels=["vip"]))
        await _update(api, _with("u2", {"age": 20, "city": "Bern"}))
        assert await _listed(api, filter="attributes.age >= 30") == ["u1"]
        assert await _listed(api, filter='attributes.city = "Bern" AND NOT labels:"vip"') == ["u2"]
        failed = await failure(api.users.ListUsers(user_pb.ListUsersRequest(filter='user_id = "nul\x00"')))
        assert failed.reason == "INVALID_FILTER"

    async def test_the_longest_ids_can_be_paged(self, api: Api) -> None:
        names = [f"{number}" + "😀" * 127 for number in range(3)]
        for name in names:
            await _update(api, user_pb.User(user_id=name))
        assert await _listed(api, page_size=1) == names


class TestErasure:
    """Nothing of an erased user is left, whoever writes at the same moment."""

    async def test_every_table_is_clean_and_every_count_is_told(
        self, shop: Api, database: Database, tenant: TenantKey
    ) -> None:
        for number in range(30):
            await _record(shop, f"{number}", "abcde"[number % 5])
        await _record(shop, "of another", user_id="v")
        await _note_shown(database, tenant, "u", 3)
        erased = await _erase(shop, "u")
        assert (erased.event_count, erased.shown_count, erased.state_count, erased.profile_count) == (30, 3, 1, 1)
        left = {}
        for table in ("users", "user_state", "events", "event_ids", "shown"):
            query = sql.SQL("SELECT count(*) AS rows FROM {}").format(sql.Identifier(table)).as_bytes()
            left[table] = (await rows(database, tenant, query))[0]["rows"]
        assert left == {"users": 1, "user_state": 1, "events": 1, "event_ids": 1, "shown": 0}
        assert await _events(shop) == ["of another"]

    async def test_an_event_that_is_being_recorded_is_erased_with_the_others(
        self, shop: Api, database: Database, tenant: TenantKey
    ) -> None:
        await _record(shop, "1")
        async with database.tenant_transaction(tenant) as rival:
            await _hold_tenant(rival, tenant)
            recording = asyncio.create_task(_record(shop, "2"))
            await until_blocked(database)
            erasing = asyncio.create_task(_erase(shop, "u"))
            await until_blocked(database, 2)
        assert await recording == "0"
        assert (await erasing).event_count == 2
        assert await _orphans(database, tenant) == 0
        assert await _record(shop, "2") == "0"

    async def test_the_second_erasure_finds_nobody(self, shop: Api) -> None:
        await _record(shop, "1")
        await _erase(shop, "u")
        assert (await failure(_erase(shop, "u"))).reason == "USER_NOT_FOUND"
        again = await _erase(shop, "u", allow_missing=True)
        assert again == user_pb.DeleteUserResponse()

    async def test_of_two_erasures_at_once_one_tells_what_went(self, shop: Api) -> None:
        await _record(shop, "1")
        answers = await asyncio.gather(*(_erase(shop, "u", allow_missing=True) for _ in range(4)))
        assert sorted(answer.event_count for answer in answers) == [0, 0, 0, 1]
        assert sorted(answer.profile_count for answer in answers) == [0, 0, 0, 1]

    async def test_caches_are_told_that_the_user_is_gone(
        self, shop: Api, database: Database, tenant: TenantKey, users: UserRepository, changes: RecordedChanges
    ) -> None:
        await _record(shop, "1")
        (row,) = await rows(database, tenant, b"SELECT user_key FROM users WHERE tenant_key = %(tenant)s")
        erased = await users.erase(tenant, UserId("u"))
        assert (erased.events, erased.users) == (1, 1)
        assert changes.users == [(tenant, {row["user_key"]: 0})]
        await users.erase(tenant, UserId("u"))
        assert len(changes.users) == 1

    async def test_who_comes_back_is_a_new_user(self, shop: Api) -> None:
        recent = recommend_pb.RecommendRequest(user_id="u", strategy=recommend_pb.STRATEGY_RECENTLY_VIEWED)
        await _record(shop, "1", "a")
        assert [item.item_id for item in (await shop.recommendations.Recommend(recent)).items] == ["a"]
        await _erase(shop, "u")
        await _record(shop, "2", "b")
        assert [item.item_id for item in (await shop.recommendations.Recommend(recent)).items] == ["b"]
        assert await _events(shop) == ["2"]


class TestExport:
    """All that is held of a user, and of nobody else."""

    async def test_profile_events_and_shown_lists_come_in_this_order(
        self, shop: Api, database: Database, tenant: TenantKey
    ) -> None:
        await _update(shop, _with("u", {"age": 30}, labels=["vip"]))
        events = [
            pb.Event(event_id=f"{number}", event_type="view", user_id="u", item_id="a", properties={"n": number})
            for number in range(1000)
        ]
        for batch in (events, [pb.Event(event_id="last", event_type="view", user_id="u", item_id="b")]):
            await shop.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=batch))
        await _record(shop, "of another", user_id="v")
        await _record(shop, "of a session", session_id="u")
        await _note_shown(database, tenant, "u", 1001)
        parts = await _exported(shop, "u")
        assert [part.HasField("user") for part in parts] == [True, *[False] * (len(parts) - 1)]
        assert parts[0].user == await _get(shop, "u")
        exported = [event for part in parts for event in part.events]
        assert {event.event_id for event in exported} == {*(f"{number}" for number in range(1000)), "last"}
        assert next(event for event in exported if event.event_id == "7").properties["n"] == 7
        shown = [shown for part in parts for shown in part.shown]
        assert len({one.recommendation_id for one in shown}) == 1001
        assert list(shown[0].item_ids) == ["b", "a"]
        assert max(len(part.events) + len(part.shown) for part in parts) <= 1000
        kinds = [bool(part.shown) for part in parts]
        assert kinds == sorted(kinds)

    async def test_an_unknown_user_is_not_found(self, api: Api) -> None:
        failed = await stream_failure(api.users.ExportUser(user_pb.ExportUserRequest(user_id="nope")))
        assert (failed.code, failed.reason) == ("NOT_FOUND", "USER_NOT_FOUND")


class TestMerge:
    """A history moves as a whole, once, whoever writes at the same moment."""

    async def test_a_history_moves_with_all_that_was_shown(
        self, shop: Api, database: Database, tenant: TenantKey
    ) -> None:
        await _record(shop, "1", "a", session_id="s")
        await _record(shop, "2", "b", session_id="s")
        await _record(shop, "3", "c", user_id="known")
        await _note_shown(database, tenant, "s", 2, kind=UserKind.SESSION)
        await _update(shop, user_pb.User(user_id="known", labels=["kept"]))
        merged = await _merge_session(shop, "s", "known")
        assert (merged.moved_event_count, merged.user.user_id, list(merged.user.labels)) == (2, "known", ["kept"])
        parts = await _exported(shop, "known")
        assert sorted(event.event_id for part in parts for event in part.events) == ["1", "2", "3"]
        assert len([shown for part in parts for shown in part.shown]) == 2
        assert await _listed(shop) == ["known"]
        assert (await rows(database, tenant, b"SELECT count(*) AS rows FROM users"))[0]["rows"] == 1

    async def test_the_known_user_is_created_when_there_is_none(self, shop: Api) -> None:
        await _record(shop, "1", session_id="s")
        merged = await _merge_session(shop, "s", "new")
        assert (merged.moved_event_count, merged.user.user_id) == (1, "new")
        assert merged.user.create_time.seconds
        assert (await _merge_session(shop, "s", "new")).moved_event_count == 0

    async def test_an_anonymous_user_id_becomes_a_known_one(self, shop: Api) -> None:
        await _record(shop, "1", user_id="anonymous")
        await _record(shop, "2", "b", session_id="anonymous")
        assert (await _merge_user(shop, "anonymous", "known")).moved_event_count == 1
        assert await _listed(shop) == ["known"]
        assert await _events(shop, filter='user_id = "known"') == ["1"]

    async def test_a_session_may_have_the_id_of_the_user(self, shop: Api) -> None:
        await _record(shop, "1", session_id="same")
        assert (await _merge_session(shop, "same", "same")).moved_event_count == 1
        failed = await failure(_merge_user(shop, "same", "same"))
        assert list(failed.fields) == ["source_user_id"]

    async def test_one_of_many_merges_at_once_moves_the_history(self, shop: Api) -> None:
        for number in range(5):
            await _record(shop, f"{number}", session_id="s")
        answers = await asyncio.gather(*(_merge_session(shop, "s", "known") for _ in range(5)))
        assert sorted(answer.moved_event_count for answer in answers) == [0, 0, 0, 0, 5]
        assert len(await _events(shop, filter='user_id = "known"')) == 5

    async def test_an_event_that_is_being_recorded_moves_with_the_others(
        self, shop: Api, database: Database, tenant: TenantKey
    ) -> None:
        await _record(shop, "1", session_id="s")
        async with database.tenant_transaction(tenant) as rival:
            await _hold_tenant(rival, tenant)
            recording = asyncio.create_task(_record(shop, "2", session_id="s"))
            await until_blocked(database)
            merging = asyncio.create_task(_merge_session(shop, "s", "known"))
            await until_blocked(database, 2)
        assert await recording == "0"
        assert (await merging).moved_event_count == 2
        assert await _orphans(database, tenant) == 0
        assert await _events(shop, filter='user_id = "known"') == ["1", "2"]

    async def test_no_acknowledged_event_is_lost_while_a_session_is_merged_again_and_again(
        self, shop: Api, database: Database, tenant: TenantKey
    ) -> None:
        async def record(number: int) -> None:
            assert await _record(shop, f"{number}", "abcde"[number % 5], session_id="s") == "0"

        async def merge() -> None:
            for _ in range(2):
                await _merge_session(shop, "s", "known")

        await _record(shop, "first", user_id="known")
        await asyncio.gather(merge(), *(record(number) for number in range(60)), merge())
        assert await _orphans(database, tenant) == 0
        assert len(await _events(shop, page_size=1000)) == 61

    async def test_merges_in_a_circle_end(self, shop: Api) -> None:
        for name in "uvw":
            await _record(shop, name, user_id=name)
        pairs = [("u", "v"), ("v", "w"), ("w", "u")] * 2
        answers = await asyncio.gather(*(_merge_user(shop, *pair) for pair in pairs), return_exceptions=True)
        # A merge may come too late: then neither of its two users is there any more.
        assert {type(answer) for answer in answers} <= {user_pb.MergeUsersResponse, *_not_found(answers)}
        assert await _events(shop) == ["u", "v", "w"]

    async def test_caches_are_told_of_both(
        self, shop: Api, database: Database, tenant: TenantKey, users: UserRepository, changes: RecordedChanges
    ) -> None:
        await _record(shop, "1", session_id="s")
        await _record(shop, "2", user_id="known")
        keys = {
            row["user_id"]: row["user_key"]
            for row in await rows(
                database, tenant, b"SELECT user_id, user_key FROM users WHERE tenant_key = %(tenant)s"
            )
        }
        merged = await users.merge(tenant, UserKind.SESSION, "s", UserId("known"))
        assert merged.moved_events == 1
        assert changes.users == [(tenant, {keys["s"]: 0, keys["known"]: 2})]
        with pytest.raises(UserNotFound):
            await users.merge(tenant, UserKind.SESSION, "s", UserId("nobody"))
        assert len(changes.users) == 1


class TestIsolation:
    """Another tenant's users are as good as not there."""

    async def test_the_same_ids_live_side_by_side(self, service: Service, shop: Api) -> None:
        await _record(shop, "1", user_id="u")
        await _record(shop, "2", session_id="s")
        async with stranger_api(service) as other:
            assert (await failure(_get(other, "u"))).code == "NOT_FOUND"
            assert (await failure(_erase(other, "u"))).code == "NOT_FOUND"
            assert (await failure(_merge_session(other, "s", "thief"))).code == "NOT_FOUND"
            assert (await failure(_merge_user(other, "u", "thief"))).code == "NOT_FOUND"
            assert (await stream_failure(other.users.ExportUser(user_pb.ExportUserRequest(user_id="u")))).code == (
                "NOT_FOUND"
            )
            assert await _listed(other) == []
            await _update(other, user_pb.User(user_id="u", labels=["theirs"]))
            await _erase(other, "u")
        assert await _listed(shop) == ["u"]
        assert await _events(shop) == ["1", "2"]

    async def test_statements_without_a_tenant_touch_only_ones_own(
        self, service: Service, shop: Api, database: Database
    ) -> None:
        await _record(shop, "1", user_id="u")
        other = (await new_stranger(service)).tenant_key
        for table in ("users", "user_state", "events", "event_ids", "shown"):
            name = sql.Identifier(table)
            assert await rows(database, other, sql.SQL("SELECT * FROM {}").format(name).as_bytes()) == []
            await rows(database, other, sql.SQL("DELETE FROM {}").format(name).as_bytes())
        assert await _events(shop) == ["1"]


async def test_many_profiles_are_written_at_once_and_the_last_of_an_id_counts(
    users: UserRepository, tenant: TenantKey
) -> None:
    batch = [User(UserId(f"{number % 3000}"), {"n": number}, ("x",)) for number in range(5000)]
    await users.upsert_many(tenant, batch)
    assert (await users.get(tenant, UserId("0"))).attributes == {"n": 3000}
    assert (await users.get(tenant, UserId("2999"))).attributes == {"n": 2999}


def _not_found(answers: list[Any]) -> set[type]:
    return {type(answer) for answer in answers if isinstance(answer, Exception) and "NOT_FOUND" in str(answer)}


async def _note_shown(
    database: Database, tenant: TenantKey, user_id: str, count: int, kind: UserKind = UserKind.USER
) -> None:
    await rows(
        database,
        tenant,
        b"INSERT INTO shown (tenant_key, recommendation_id, user_key, strategy, item_keys)"
        b" SELECT u.tenant_key, u.user_id || n, u.user_key, 'AUTO',"
        b" (SELECT array_agg(i.item_key ORDER BY i.item_id DESC) FROM items i"
        b" WHERE i.tenant_key = u.tenant_key AND i.item_id IN ('a', 'b'))"
        b" FROM users u, generate_series(1, %(count)s) AS n"
        b" WHERE u.tenant_key = %(tenant)s AND u.user_id = %(user_id)s AND u.kind = %(kind)s",
        user_id=user_id,
        count=count,
        kind=kind.value,
    )
