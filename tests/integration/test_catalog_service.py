"""CatalogService where it is hard: writers in each other's way, large imports, snapshots, values at their limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from psycopg import sql

from recsvc.app import Service
from recsvc.domain.catalog import Item
from recsvc.domain.errors import ItemNotFound
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.gen.v1 import catalog_service_pb2 as pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from recsvc.storage.database import Database
from recsvc.storage.items import ItemRepository, Written
from recsvc.storage.replicas import Replicas
from tests.api import Api, failure, failure_of, stream_failure
from tests.conftest import RecordedChanges
from tests.rivals import new_stranger, rows, run, stranger_api, until_blocked, until_idle


def _struct_item(item_id: str, attributes: dict[str, Any], **fields: Any) -> pb.Item:
    item = pb.Item(item_id=item_id, **fields)
    item.attributes.update(attributes)
    return item


async def _create(api: Api, item_id: str, **fields: Any) -> pb.Item:
    return (await api.catalog.CreateItem(pb.CreateItemRequest(item=pb.Item(item_id=item_id, **fields)))).item


async def _get(api: Api, item_id: str) -> pb.Item:
    return (await api.catalog.GetItem(pb.GetItemRequest(item_id=item_id))).item


async def _update(api: Api, item: pb.Item, *paths: str, allow_missing: bool = False) -> pb.Item:
    request = pb.UpdateItemRequest(item=item, allow_missing=allow_missing)
    if paths:
        request.update_mask.paths.extend(paths)
    return (await api.catalog.UpdateItem(request)).item


async def _delete(api: Api, item_id: str) -> None:
    await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id=item_id))


async def _upsert(api: Api, items: Sequence[pb.Item]) -> list[pb.ItemResult]:
    return list((await api.catalog.BatchUpsertItems(pb.BatchUpsertItemsRequest(items=items))).results)


async def _import(api: Api, *chunks: Sequence[pb.Item]) -> list[pb.ImportItemsResponse]:
    async def messages() -> AsyncIterator[pb.ImportItemsRequest]:
        for chunk in chunks:
            yield pb.ImportItemsRequest(items=chunk)

    return [answer async for answer in api.catalog.ImportItems(messages())]


async def _listed(api: Api, **fields: Any) -> list[str]:
    """All ids of a list, page by page."""
    found: list[str] = []
    token = ""
    while True:
        page = await api.catalog.ListItems(pb.ListItemsRequest(page_token=token, **fields))
        found += [item.item_id for item in page.items]
        token = page.next_page_token
        if not token:
            return found


async def _exported(api: Api, **fields: Any) -> tuple[list[pb.Item], list[str]]:
    """The items and the deleted ids of an export."""
    parts = [part async for part in api.catalog.ExportItems(pb.ExportItemsRequest(**fields))]
    return [item for part in parts for item in part.items], [gone for part in parts for gone in part.deleted_item_ids]


async def _record(api: Api, *events: ingestion_pb.Event) -> list[int]:
    response = await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    return [result.status.code for result in response.results]


def _view(event_id: str, item_id: str, user_id: str = "u", **fields: Any) -> ingestion_pb.Event:
    return ingestion_pb.Event(
        **{"event_id": event_id, "event_type": "view", "item_id": item_id, "user_id": user_id, **fields}
    )


# So that it is the other one that PostgreSQL ends, however late this one comes to wait.
_PATIENT = b"SET LOCAL deadlock_timeout = '1min'"


class TestWritersAtOnce:
    """Two writers of one item: the second one's view of it is outdated, and the contract says what happens then."""

    async def test_an_id_that_another_takes_meanwhile_is_taken(
        self, api: Api, database: Database, tenant: TenantKey
    ) -> None:
        async with database.tenant_transaction(tenant) as rival:
            await run(
                rival,
                tenant,
                b"INSERT INTO items (tenant_key, item_id, title) VALUES (%(tenant)s, 'a', 'rival')",
            )
            late = asyncio.create_task(failure(_create(api, "a", title="late")))
            await until_blocked(database)
        assert (await late).reason == "ALREADY_EXISTS"
        assert (await _get(api, "a")).title == "rival"

    async def test_an_upsert_by_mask_keeps_what_another_creates_meanwhile(
        self, api: Api, database: Database, tenant: TenantKey
    ) -> None:
        async with database.tenant_transaction(tenant) as rival:
            await run(
                rival,
                tenant,
                b"INSERT INTO items (tenant_key, item_id, title) VALUES (%(tenant)s, 'a', 'rival')",
            )
            late = asyncio.create_task(
                _update(api, pb.Item(item_id="a", description="late"), "description", allow_missing=True)
            )
            await until_blocked(database)
        stored = await late
        assert (stored.title, stored.description) == ("rival", "late")

    @pytest.mark.parametrize("by_import", [False, True])
    async def test_a_conditional_batch_write_loses_to_an_earlier_one(
        self, api: Api, database: Database, tenant: TenantKey, by_import: bool
    ) -> None:
        before = await _create(api, "a", title="before")
        async with database.tenant_transaction(tenant) as rival:
            await run(
                rival,
                tenant,
                b"UPDATE items SET title = 'rival', etag = nextval('item_etags')"
                b" WHERE tenant_key = %(tenant)s AND item_id = 'a'",
            )
            items = [pb.Item(item_id="a", title="late", etag=before.etag), pb.Item(item_id="b")]
            if by_import:
                late: asyncio.Task[Any] = asyncio.create_task(_import(api, items))
            else:
                late = asyncio.create_task(_upsert(api, items))
            await until_blocked(database)
        if by_import:
            (answer,) = await late
            assert (answer.created_count, answer.updated_count, answer.failed_count) == (1, 0, 1)
            assert failure_of(answer.failures[0].status, "").reason == "STALE_ETAG"
        else:
            assert [result.status.code for result in await late] == [10, 0]
        assert (await _get(api, "a")).title == "rival"

    async def test_a_conditional_write_does_not_bring_back_what_another_deletes(
        self, api: Api, database: Database, tenant: TenantKey
    ) -> None:
        before = await _create(api, "a")
        async with database.tenant_transaction(tenant) as rival:
            await run(rival, tenant, b"DELETE FROM items WHERE tenant_key = %(tenant)s AND item_id = 'a'")
            late = asyncio.create_task(_upsert(api, [pb.Item(item_id="a", etag=before.etag)]))
            await until_blocked(database)
        assert [result.status.code for result in await late] == [10]
        assert (await failure(_get(api, "a"))).code == "NOT_FOUND"

    async def test_a_batch_that_meets_a_deadlock_is_written_all_the_same(
        self, api: Api, database: Database, tenant: TenantKey
    ) -> None:
        await _upsert(api, [pb.Item(item_id="a"), pb.Item(item_id="b")])
        touch = b"UPDATE items SET title = 'rival' WHERE tenant_key = %(tenant)s AND item_id = %(item_id)s"
        async with database.service_transaction() as rival:
            await rival.execute(_PATIENT)
            await run(rival, tenant, touch, item_id="b")
            late = asyncio.create_task(
                _upsert(api, [pb.Item(item_id="a", title="late"), pb.Item(item_id="b", title="late")])
            )
            await until_blocked(database)
            await run(rival, tenant, touch, item_id="a")
        assert [result.status.code for result in await late] == [0, 0]
        assert [(await _get(api, item_id)).title for item_id in "ab"] == ["late", "late"]

    async def test_batches_with_the_same_items_in_any_order_do_not_deadlock(self, api: Api) -> None:
        items = [pb.Item(item_id=f"{number:03}") for number in range(200)]
        batches = [items if number % 2 else items[::-1] for number in range(8)]
        answers = await asyncio.gather(*(_upsert(api, batch) for batch in batches))
        assert {result.status.code for results in answers for result in results} == {0}
        assert sum(result.created for results in answers for result in results) == 200

    async def test_every_one_of_many_updates_of_one_item_counts(self, api: Api) -> None:
        await _create(api, "a")
        await asyncio.gather(
            *(_update(api, _struct_item("a", {f"k{n}": n}), f"attributes.k{n}") for n in range(20)),
        )
        assert dict((await _get(api, "a")).attributes.items()) == {f"k{n}": n for n in range(20)}

    async def test_a_deletion_that_meets_a_deadlock_is_done_all_the_same(
        self, api: Api, database: Database, tenant: TenantKey
    ) -> None:
        await _create(api, "a")
        await _record(api, *(_view(f"{n}", "a", f"u{n}") for n in range(20)))
        touch = (
            b"UPDATE user_state s SET version = version + 1 FROM users u WHERE s.tenant_key = %(tenant)s"
            b" AND u.tenant_key = s.tenant_key AND u.user_key = s.user_key AND u.user_id = %(user_id)s"
        )
        async with database.service_transaction() as rival:
            await rival.execute(_PATIENT)
            await run(rival, tenant, touch, user_id="u19")
            late = asyncio.create_task(_delete(api, "a"))
            await until_blocked(database)
            await run(rival, tenant, touch, user_id="u0")
        await late
        assert (await failure(_get(api, "a"))).code == "NOT_FOUND"


class TestEtags:
    """An etag makes a write conditional."""

    async def test_every_write_changes_the_etag_and_the_present_one_is_accepted(self, api: Api) -> None:
        item = await _create(api, "a")
        etags = {item.etag}
        for title in ("one", "two"):
            item = await _update(api, pb.Item(item_id="a", title=title, etag=item.etag))
            etags.add(item.etag)
        (result,) = await _upsert(api, [pb.Item(item_id="a", title="three", etag=item.etag)])
        etags.add(result.etag)
        assert len(etags) == 4
        assert (await _get(api, "a")).etag == result.etag

    async def test_an_etag_of_an_item_that_is_not_there_is_stale(self, api: Api) -> None:
        item = await _create(api, "a")
        await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a", etag=item.etag))
        (result,) = await _upsert(api, [pb.Item(item_id="a", etag=item.etag)])
        assert result.status.code == 10
        failed = await failure(_update(api, pb.Item(item_id="a", title="t", etag=item.etag), allow_missing=True))
        assert failed.reason == "STALE_ETAG"
        assert (await failure(_get(api, "a"))).code == "NOT_FOUND"

    @pytest.mark.parametrize("etag", ["1", "nonsense", "f" * 64, "-1"])
    async def test_deleting_what_is_not_there_never_fails_for_its_etag(self, api: Api, etag: str) -> None:
        missing = pb.DeleteItemRequest(item_id="a", etag=etag)
        assert (await failure(api.catalog.DeleteItem(missing))).code == "NOT_FOUND"
        missing.allow_missing = True
        await api.catalog.DeleteItem(missing)

    @pytest.mark.parametrize("etag", ["1", "nonsense", "f" * 64, "-1", "+5", "0x5", "1_0"])
    async def test_an_etag_that_is_not_the_present_one_keeps_the_item(self, api: Api, etag: str) -> None:
        await _create(api, "a")
        stale = pb.DeleteItemRequest(item_id="a", etag=etag, allow_missing=True)
        assert (await failure(api.catalog.DeleteItem(stale))).reason == "STALE_ETAG"
        assert (await _get(api, "a")).item_id == "a"


class TestValues:
    """Every value that the contract allows comes back as it was sent, by either way in."""

    @pytest.mark.parametrize("copies", [1, 1100])
    async def test_values_at_their_limits_come_back(self, api: Api, copies: int) -> None:
        item = _struct_item(
            "limits",
            {
                "large": 1e308,
                "small": 5e-324,
                "exact": 2**53,
                "negative": -0.25,
                "empty": "",
                "quotes": "\"\\'\t\n{}%s%%",
                "astral": "𝔘",
                "nothing": None,
                "deep": {"deeper": {"list": [1, "x", None, True]}},
                "no_keys": {},
            },
            title=" \u00a0<",
            categories=["{}", '"', "\\", "NULL", "a,b"],
            tags=["null", " "],
            embedding=[0.0, 1.401298464324817e-45, 3.4028234663852886e38, -3.4028234663852886e38, 0.1],
            publish_time={"seconds": -62135596800},
            expire_time={"seconds": 253402300799, "nanos": 999_999_000},
        )
        await _import(api, [item, *(pb.Item(item_id=str(number)) for number in range(copies - 1))])
        found = await _get(api, "limits")
        assert found.available
        for name in ("etag", "create_time", "update_time", "available"):
            found.ClearField(name)
        assert found == item

    async def test_the_largest_embedding_is_stored(self, api: Api) -> None:
        await _create(api, "a", embedding=[0.5] * 4000)
        assert len((await _get(api, "a")).embedding) == 4000

    async def test_attributes_set_one_by_one_keep_to_the_limits_together(self, api: Api) -> None:
        await api.catalog.CreateItem(
            pb.CreateItemRequest(item=_struct_item("a", {f"k{number}": "x" * 240 for number in range(60)}))
        )
        many = failure(
            _update(api, _struct_item("a", {f"n{n}": 1 for n in range(5)}), *(f"attributes.n{n}" for n in range(5)))
        )
        assert list((await many).fields) == ["item.attributes"]
        large = failure(_update(api, _struct_item("a", {"text": "x" * 5000}), "attributes.text"))
        assert list((await large).fields) == ["item.attributes"]
        assert len((await _get(api, "a")).attributes.fields) == 60

    async def test_a_mask_of_all_fields_replaces_the_item(self, api: Api) -> None:
        await api.catalog.CreateItem(
            pb.CreateItemRequest(
                item=_struct_item("a", {"k": 1}, title="t", tags=["x"], embedding=[1.0], available=False)
            )
        )
        after = await _update(api, pb.Item(item_id="a", description="only this"), "*")
        assert (after.title, list(after.tags), list(after.embedding), len(after.attributes.fields)) == ("", [], [], 0)
        assert (after.description, after.available) == ("only this", True)

    async def test_without_a_mask_what_is_set_is_written(self, api: Api) -> None:
        await _create(api, "a", title="t", tags=["x"])
        after = await _update(api, pb.Item(item_id="a", available=False))
        assert (after.title, list(after.tags), after.available) == ("t", ["x"], False)


class TestEmbeddings:
    """The first embedding that is stored fixes the length."""

    async def test_a_refused_item_does_not_fix_the_length(self, api: Api) -> None:
        schema = pb.AttributeSchema(attributes=[{"key": "price", "type": pb.ATTRIBUTE_TYPE_NUMBER}])
        await api.catalog.UpdateAttributeSchema(pb.UpdateAttributeSchemaRequest(schema=schema))
        refused = _struct_item("bad", {"colour": "red"}, embedding=[1.0])
        results = await _upsert(api, [refused, pb.Item(item_id="good", embedding=[1.0, 2.0])])
        assert [result.status.code for result in results] == [3, 0]

    async def test_the_first_of_a_batch_fixes_the_length_for_the_others(self, api: Api) -> None:
        items = [pb.Item(item_id=str(length), embedding=[1.0] * length) for length in (3, 2, 3)]
        items[2].item_id = "another"
        results = await _upsert(api, items)
        assert [result.status.code for result in results] == [0, 3, 0]
        assert list(failure_of(results[1].status, "").fields) == ["items[1].embedding"]

    async def test_of_two_first_embeddings_at_once_one_wins(self, api: Api) -> None:
        answers = await asyncio.gather(
            *(_upsert(api, [pb.Item(item_id=str(length), embedding=[1.0] * length)]) for length in (1, 2, 3, 4))
        )
        assert sorted(result.status.code for (result,) in answers) == [0, 3, 3, 3]


class TestImport:
    """Any number of items, chunk by chunk."""

    async def test_a_large_import_is_counted_and_bad_items_are_named(self, api: Api) -> None:
        chunks = [
            [pb.Item(item_id=f"{chunk}/{number}", title=f"title {number}", tags=["x"]) for number in range(6000)]
            for chunk in range(2)
        ]
        chunks[1][17].item_id = ""
        chunks[1][18].title = "nul\x00"
        chunks[1][19].item_id = "1/0"
        chunks[1][20].publish_time.seconds = 10**13
        chunks[1][21].etag = "5"
        chunks[1][22].item_id = "0/0"
        answers = await _import(api, *chunks, [])
        assert [answer.chunk for answer in answers] == [0, 1, 2]
        assert [(answer.created_count, answer.updated_count, answer.failed_count) for answer in answers] == [
            (6000, 0, 0),
            (5994, 1, 5),
            (0, 0, 0),
        ]
        reasons = [(failed.index, failure_of(failed.status, "").reason) for failed in answers[1].failures]
        assert reasons == [
            (17, "INVALID_FIELD"),
            (18, "INVALID_FIELD"),
            (19, "DUPLICATE_IN_BATCH"),
            (20, "INVALID_FIELD"),
            (21, "STALE_ETAG"),
        ]
        items, _ = await _exported(api)
        assert len({item.item_id for item in items}) == len(items) == 11_994

    async def test_a_chunk_is_there_before_the_next_one_is_sent(self, api: Api) -> None:
        async def messages() -> AsyncIterator[pb.ImportItemsRequest]:
            yield pb.ImportItemsRequest(items=[pb.Item(item_id="a")])
            await first_is_answered.wait()
            assert (await _get(api, "a")).item_id == "a"
            yield pb.ImportItemsRequest(items=[pb.Item(item_id="b")])

        first_is_answered = asyncio.Event()
        answers = []
        async for answer in api.catalog.ImportItems(messages()):
            answers.append(answer)
            first_is_answered.set()
        assert [answer.created_count for answer in answers] == [1, 1]

    async def test_what_was_answered_stays_when_a_later_chunk_is_refused(self, api: Api) -> None:
        async def messages() -> AsyncIterator[pb.ImportItemsRequest]:
            yield pb.ImportItemsRequest(items=[pb.Item(item_id="a")])
            yield pb.ImportItemsRequest(items=[pb.Item(item_id=str(number)) for number in range(10_001)])

        failed = await stream_failure(api.catalog.ImportItems(messages()))
        assert (failed.code, list(failed.fields)) == ("INVALID_ARGUMENT", ["items"])
        assert await _listed(api) == ["a"]


class TestLists:
    """Pages by key, in any order, at any size of the values that they are ordered by."""

    @pytest.mark.parametrize("page_size", [1, 2, 3])
    @pytest.mark.parametrize(
        "order_by", ["publish_time", "publish_time desc", "publish_time desc, title, item_id desc"]
    )
    async def test_items_without_a_time_stand_last_and_every_item_once(
        self, api: Api, order_by: str, page_size: int
    ) -> None:
        seconds = [30, None, 10, 30, None, 20, None]
        items = [
            pb.Item(item_id=str(number), title="t", publish_time={"seconds": second} if second else None)
            for number, second in enumerate(seconds)
        ]
        await _upsert(api, items)
        found = [int(item_id) for item_id in await _listed(api, order_by=order_by, page_size=page_size)]
        assert sorted(found) == list(range(7))
        descending = "publish_time desc" in order_by
        times = [seconds[number] for number in found]
        assert times == [*sorted((time for time in times if time), reverse=descending), None, None, None]

    @pytest.mark.parametrize("character", ["映", "\x01", "😀", '"'])
    async def test_the_longest_titles_can_be_paged(self, api: Api, character: str) -> None:
        await _upsert(api, [pb.Item(item_id=f"{n}" * 128, title=character * 1000) for n in range(3)])
        assert await _listed(api, order_by="title desc", page_size=1) == [f"{n}" * 128 for n in range(3)]

    async def test_a_token_is_of_no_use_to_another_tenant_list_or_order(self, service: Service, api: Api) -> None:
        await _upsert(api, [pb.Item(item_id=str(number)) for number in range(3)])
        token = (await api.catalog.ListItems(pb.ListItemsRequest(page_size=1))).next_page_token
        other_order = pb.ListItemsRequest(page_token=token, order_by="item_id desc")
        assert (await failure(api.catalog.ListItems(other_order))).reason == "INVALID_PAGE_TOKEN"
        other_list = user_pb.ListUsersRequest(page_token=token)
        assert (await failure(api.users.ListUsers(other_list))).reason == "INVALID_PAGE_TOKEN"
        async with stranger_api(service) as other:
            other_tenant = pb.ListItemsRequest(page_size=1, page_token=token)
            assert (await failure(other.catalog.ListItems(other_tenant))).reason == "INVALID_PAGE_TOKEN"

    async def test_the_page_size_may_change_and_zero_means_a_hundred(self, api: Api) -> None:
        await _upsert(api, [pb.Item(item_id=f"{number:03}") for number in range(150)])
        first = await api.catalog.ListItems(pb.ListItemsRequest())
        assert len(first.items) == 100
        rest = await api.catalog.ListItems(pb.ListItemsRequest(page_size=1000, page_token=first.next_page_token))
        assert [item.item_id for item in rest.items] == [f"{number:03}" for number in range(100, 150)]

    @pytest.mark.parametrize(
        "filter_text",
        [
            'title = "nul\x00"',
            "attributes.price > 1e999",
            "attributes.price > -1e-999",
            'create_time > "0001-01-01T00:00:00Z"',
            'create_time < "9999-12-31T23:59:59.999999999Z"',
            "create_age < 99999999999999999d",
            'attributes.a.b.c.d = "x"',
            'title = "' + "\\" * 2000 + '"',
            "(" * 500 + "available" + ")" * 500,
            "NOT " * 900 + "available",
            " AND ".join(["available"] * 400),
        ],
    )
    async def test_no_filter_is_an_internal_error(self, api: Api, filter_text: str) -> None:
        await api.catalog.CreateItem(pb.CreateItemRequest(item=_struct_item("a", {"price": 1}, title="t")))
        try:
            await api.catalog.ListItems(pb.ListItemsRequest(filter=filter_text))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017

    async def test_what_the_schema_allows_holds_at_once(self, api: Api) -> None:
        await api.catalog.CreateItem(pb.CreateItemRequest(item=_struct_item("a", {"price": 1})))
        assert await _listed(api, filter="attributes.price = 1") == ["a"]
        schema = pb.AttributeSchema(
            attributes=[{"key": "price", "type": pb.ATTRIBUTE_TYPE_NUMBER, "filterable": False}]
        )
        await api.catalog.UpdateAttributeSchema(pb.UpdateAttributeSchemaRequest(schema=schema))
        failed = await failure(api.catalog.ListItems(pb.ListItemsRequest(filter="attributes.price = 1")))
        assert failed.reason == "INVALID_FILTER"
        failed = await stream_failure(api.catalog.ExportItems(pb.ExportItemsRequest(filter="attributes.price = 1")))
        assert failed.reason == "INVALID_FILTER"


class TestExport:
    """A consistent snapshot, and what changed since."""

    async def test_writes_during_an_export_are_not_in_it(self, api: Api) -> None:
        before = [pb.Item(item_id=f"{number:05}", title="before") for number in range(5000)]
        await _import(api, before)
        export = api.catalog.ExportItems(pb.ExportItemsRequest())
        parts = [await anext(aiter(export))]
        await _import(api, [pb.Item(item_id=f"{number:05}", title="after") for number in range(2500, 7500)])
        await api.catalog.BatchDeleteItems(pb.BatchDeleteItemsRequest(item_ids=["00001", "04999"]))
        parts += [part async for part in export]
        items = [item for part in parts for item in part.items]
        assert {item.title for item in items} == {"before"}
        assert sorted(item.item_id for item in items) == [item.item_id for item in before]
        assert len({part.snapshot_time.ToNanoseconds() for part in parts}) == 1
        assert max(len(part.items) for part in parts) <= 1000

    async def test_an_incremental_export_brings_a_write_that_was_under_way_at_the_snapshot(
        self, api: Api, database: Database, tenant: TenantKey
    ) -> None:
        async with database.tenant_transaction(tenant) as slow:
            await run(slow, tenant, b"INSERT INTO items (tenant_key, item_id) VALUES (%(tenant)s, 'slow')")
            await run(slow, tenant, b"INSERT INTO deleted_items (tenant_key, item_id) VALUES (%(tenant)s, 'gone')")
            await asyncio.sleep(0.05)
            parts = [part async for part in api.catalog.ExportItems(pb.ExportItemsRequest())]
            assert not [item for part in parts for item in part.items]
        items, deleted = await _exported(api, modified_after=parts[0].snapshot_time)
        assert ([item.item_id for item in items], deleted) == (["slow"], ["gone"])

    async def test_a_deletion_is_told_until_the_item_is_there_again(self, api: Api) -> None:
        yesterday = datetime.now(UTC) - timedelta(days=1)
        item = await _create(api, "a")
        await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a"))
        assert (await _exported(api, modified_after=yesterday))[1] == ["a"]
        # A refused write is no reason to forget the deletion.
        await _upsert(api, [pb.Item(item_id="a", etag=item.etag)])
        assert (await _exported(api, modified_after=yesterday))[1] == ["a"]
        await _create(api, "a")
        items, deleted = await _exported(api, modified_after=yesterday)
        assert ([item.item_id for item in items], deleted) == (["a"], [])

    async def test_a_full_export_of_nothing_has_a_moment_all_the_same(self, api: Api) -> None:
        (part,) = [part async for part in api.catalog.ExportItems(pb.ExportItemsRequest(filter='item_type = "x"'))]
        assert part.snapshot_time.seconds

    async def test_exports_that_are_given_up_leave_no_connection_behind(self, service: Service, api: Api) -> None:
        await _import(api, [pb.Item(item_id=f"{n:05}", description="x" * 2000) for n in range(1500)])
        for _ in range(service.storage.settings.postgres.pool_size + 5):
            export = api.catalog.ExportItems(pb.ExportItemsRequest())
            await anext(aiter(export))
            export.cancel()
        async with asyncio.timeout(10):
            assert len(await _listed(api, page_size=1000)) == 1500
            await until_idle(service.storage.database)


class TestDeletion:
    """What hangs on an item goes with it; nothing else does."""

    async def test_nothing_of_a_deleted_item_is_left(self, api: Api, database: Database, tenant: TenantKey) -> None:
        await _upsert(api, [pb.Item(item_id="a"), pb.Item(item_id="b")])
        await _record(api, _view("1", "a"), _view("2", "a", "v"), _view("3", "b"))
        await rows(
            database,
            tenant,
            b"INSERT INTO item_neighbors (tenant_key, model_key, item_key, neighbor_keys, weights)"
            b" SELECT tenant_key, 1, item_key, '{}', '{}' FROM items WHERE tenant_key = %(tenant)s",
        )
        await rows(
            database,
            tenant,
            b"INSERT INTO item_factors (tenant_key, model_key, shard, item_key, fold_in_scale, vector)"
            b" SELECT tenant_key, 1, 0, item_key, 1, '[1,2]' FROM items WHERE tenant_key = %(tenant)s",
        )
        await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a"))
        for table in ("items", "events", "event_ids", "item_stats", "item_neighbors", "item_factors"):
            query = sql.SQL("SELECT count(*) AS rows FROM {}").format(sql.Identifier(table)).as_bytes()
            (row,) = await rows(database, tenant, query)
            assert (table, row["rows"]) == (table, 1)
        assert await _record(api, _view("1", "b")) == [0]
        (listed,) = (await api.ingestion.ListEvents(ingestion_pb.ListEventsRequest(filter='event_id = "1"'))).events
        assert listed.item_id == "b"

    async def test_those_who_touched_it_are_announced(
        self, database: Database, replicas: Replicas, api: Api, tenant: TenantKey, changes: RecordedChanges
    ) -> None:
        items = ItemRepository(database, replicas, changes)
        await items.upsert_many(tenant, [Item(ItemId("a")), Item(ItemId("b"))])
        await _record(api, _view("1", "a", "u"), _view("2", "b", "v"))
        touched = await rows(
            database, tenant, b"SELECT user_key FROM users WHERE tenant_key = %(tenant)s AND user_id = 'u'"
        )
        changes.tenants.clear()
        assert await items.delete(tenant, [ItemId("a"), ItemId("nope")]) == {"a"}
        assert [announced for announced, _ in changes.tenants] == [tenant]
        assert changes.users == [(tenant, {touched[0]["user_key"]: 2})]

    async def test_a_batch_of_bad_and_good_ids_deletes_the_good_ones(self, api: Api) -> None:
        await _upsert(api, [pb.Item(item_id="a"), pb.Item(item_id="b")])
        response = await api.catalog.BatchDeleteItems(
            pb.BatchDeleteItemsRequest(item_ids=["", "a", "x" * 129, "a\x00", "b"])
        )
        assert [result.status.code for result in response.results] == [3, 0, 3, 3, 0]
        assert list(failure_of(response.results[2].status, "").fields) == ["item_ids[2]"]
        assert await _listed(api) == []


class TestAnnouncements:
    """No cached list outlives a change of the catalogue: every write raises the version, and only after its commit."""

    async def test_every_write_announces_a_higher_version(
        self, database: Database, replicas: Replicas, tenant: TenantKey, changes: RecordedChanges
    ) -> None:
        items = ItemRepository(database, replicas, changes)
        await items.create(tenant, Item(ItemId("a")))
        await items.upsert_many(tenant, [Item(ItemId("b"))])
        await items.change(tenant, ItemId("a"), lambda present: present or Item(ItemId("a")))
        await items.delete(tenant, [ItemId("a")])
        versions = [version for _, version in changes.tenants]
        assert len(versions) == 4
        assert versions == sorted(set(versions))

    async def test_a_refused_write_announces_nothing(
        self, database: Database, replicas: Replicas, tenant: TenantKey, changes: RecordedChanges
    ) -> None:
        def refuse(present: Item | None) -> Item:
            raise ItemNotFound("a")

        with pytest.raises(ItemNotFound):
            await ItemRepository(database, replicas, changes).change(tenant, ItemId("a"), refuse)
        assert not changes.tenants


class TestActivity:
    """Live counters."""

    async def test_presence_and_window_are_independent(self, api: Api) -> None:
        await _create(api, "a")
        now = datetime.now(UTC)
        ages = {"u1": 10, "u2": 100, "u3": 1000}
        events = []
        for user, age in ages.items():
            event = _view(user, "a", user)
            event.event_time.FromDatetime(now - timedelta(seconds=age))
            events.append(event)
        await _record(api, *events)

        async def counted(window: int, presence: int) -> tuple[int, int, int]:
            request = pb.GetItemActivityRequest(
                item_ids=["a"], window={"seconds": window}, presence={"seconds": presence}
            )
            (activity,) = (await api.catalog.GetItemActivity(request)).activities
            return activity.event_counts.get("view", 0), activity.user_count, activity.viewers_now

        assert await counted(60, 3600) == (1, 1, 3)
        assert await counted(3600, 60) == (3, 3, 1)
        assert await counted(300, 300) == (2, 2, 2)

    async def test_sessions_count_as_viewers_and_repeated_ids_once(self, api: Api) -> None:
        await _upsert(api, [pb.Item(item_id="a"), pb.Item(item_id="quiet")])
        await _record(api, _view("1", "a"), _view("2", "a", "", session_id="s"), _view("3", "a", "", session_id="s"))
        response = await api.catalog.GetItemActivity(pb.GetItemActivityRequest(item_ids=["quiet", "a", "nope", "a"]))
        assert [(found.item_id, found.viewers_now, dict(found.event_counts)) for found in response.activities] == [
            ("quiet", 0, {}),
            ("a", 2, {"view": 3}),
        ]


class TestIsolation:
    """Tenants never meet: by the predicate of every statement, and by row-level security without it."""

    async def test_the_same_ids_live_side_by_side(self, service: Service, api: Api) -> None:
        await _create(api, "a", title="mine")
        async with stranger_api(service) as other:
            assert await _listed(other) == []
            assert await _exported(other) == ([], [])
            await _upsert(other, [pb.Item(item_id="a", title="theirs")])
            await other.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a"))
            gone = await other.catalog.BatchGetItems(pb.BatchGetItemsRequest(item_ids=["a"]))
            assert gone.results[0].status.code == 5
        assert (await _get(api, "a")).title == "mine"

    async def test_row_level_security_guards_every_table_with_a_tenant(self, database: Database) -> None:
        async with database.connection() as connection:
            cursor = await connection.execute(
                b"SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
                b" WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')"
                b" AND a.attname = 'tenant_key' AND NOT c.relispartition AND NOT c.relrowsecurity"
            )
            assert await cursor.fetchall() == []

    async def test_a_partition_cannot_be_read_past_its_table(self, database: Database) -> None:
        async with database.connection() as connection:
            cursor = await connection.execute(
                b"SELECT c.relname FROM pg_class c WHERE c.relispartition AND c.relkind = 'r'"
                b" AND has_table_privilege('recsvc_app', c.oid, 'SELECT')"
            )
            assert await cursor.fetchall() == []

    async def test_statements_without_a_tenant_touch_only_ones_own(
        self, service: Service, api: Api, database: Database, tenant: TenantKey
    ) -> None:
        await _create(api, "a", title="mine")
        other = (await new_stranger(service)).tenant_key
        assert await rows(database, other, b"SELECT * FROM items") == []
        await rows(database, other, b"UPDATE items SET title = 'theirs'")
        await rows(database, other, b"DELETE FROM items")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await rows(
                database,
                other,
                b"INSERT INTO items (tenant_key, item_id) VALUES (%(stranger)s, 'b')",
                stranger=tenant,
            )
        assert [(item.item_id, item.title) for item in (await _exported(api))[0]] == [("a", "mine")]


async def test_many_items_are_written_through_the_repository_by_copy(
    database: Database, replicas: Replicas, tenant: TenantKey, changes: RecordedChanges
) -> None:
    items = ItemRepository(database, replicas, changes)
    batch = [Item(ItemId(f"{number:06}"), title=f"{number}", categories=("x", "y")) for number in range(20_000)]
    outcomes = await items.upsert_many(tenant, batch)
    assert _created(outcomes) == 20_000
    outcomes = await items.upsert_many(tenant, batch)
    assert _created(outcomes) == 0
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert len(changes.tenants) == 2


def _created(outcomes: Iterable[object]) -> int:
    return sum(isinstance(outcome, Written) and outcome.created for outcome in outcomes)
