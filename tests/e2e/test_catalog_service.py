"""CatalogService over a real socket."""

from __future__ import annotations

import pytest

from recsvc.gen.v1 import catalog_service_pb2 as pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from tests.api import Api, failure


async def _create(api: Api, item_id: str, **fields: object) -> pb.Item:
    return (await api.catalog.CreateItem(pb.CreateItemRequest(item=pb.Item(item_id=item_id, **fields)))).item


async def _get(api: Api, item_id: str) -> pb.Item:
    return (await api.catalog.GetItem(pb.GetItemRequest(item_id=item_id))).item


async def _ids(api: Api, **fields: object) -> list[str]:
    """All ids of a list, page by page."""
    found: list[str] = []
    token = ""
    while True:
        page = await api.catalog.ListItems(pb.ListItemsRequest(page_token=token, **fields))
        found += [item.item_id for item in page.items]
        token = page.next_page_token
        if not token:
            return found


async def test_an_item_comes_back_as_it_was_stored(api: Api) -> None:
    item = pb.Item(
        item_id="film/1",
        item_type="film",
        title="Ein schöner Film – 映画",
        description="text",
        categories=["Drama", "Krimi"],
        tags=["new"],
        embedding=[0.1, -2.5, 3.0],
        available=False,
        hidden=True,
        publish_time={"seconds": 1_700_000_000, "nanos": 123_456_000},
        expire_time={"seconds": 1_800_000_000},
    )
    item.attributes.update(
        {"price": 9.5, "year": 1999, "sizes": ["s", "m"], "maker": {"name": "x", "big": True}, "n": None}
    )
    stored = (await api.catalog.CreateItem(pb.CreateItemRequest(item=item))).item
    assert stored.etag
    assert stored.create_time.seconds
    found = await _get(api, "film/1")
    assert found == stored
    for name in ("etag", "create_time", "update_time"):
        found.ClearField(name)
    assert found == item


async def test_an_id_can_be_taken_once(api: Api) -> None:
    await _create(api, "a")
    failed = await failure(_create(api, "a"))
    assert (failed.code, failed.reason) == ("ALREADY_EXISTS", "ALREADY_EXISTS")


async def test_only_what_the_mask_names_is_updated(api: Api) -> None:
    before = await _create(api, "a", title="old", description="kept", categories=["x"])
    request = pb.UpdateItemRequest(
        item={"item_id": "a", "title": "new"}, update_mask={"paths": ["title", "categories"]}
    )
    after = (await api.catalog.UpdateItem(request)).item
    assert (after.title, after.description, list(after.categories)) == ("new", "kept", [])
    assert after.etag != before.etag
    assert after.create_time == before.create_time


async def test_one_attribute_can_be_set_and_removed_alone(api: Api) -> None:
    item = pb.Item(item_id="a")
    item.attributes.update({"price": 1, "colour": "red"})
    await api.catalog.CreateItem(pb.CreateItemRequest(item=item))
    change = pb.Item(item_id="a")
    change.attributes.update({"price": 2})
    request = pb.UpdateItemRequest(item=change, update_mask={"paths": ["attributes.price", "attributes.colour"]})
    after = (await api.catalog.UpdateItem(request)).item
    assert dict(after.attributes.items()) == {"price": 2}


async def test_a_stale_etag_aborts_the_write(api: Api) -> None:
    first = await _create(api, "a", title="one")
    await api.catalog.UpdateItem(pb.UpdateItemRequest(item={"item_id": "a", "title": "two"}))
    for etag in (first.etag, "nonsense"):
        late = pb.UpdateItemRequest(item={"item_id": "a", "title": "three", "etag": etag})
        failed = await failure(api.catalog.UpdateItem(late))
        assert (failed.code, failed.reason) == ("ABORTED", "STALE_ETAG")
    failed = await failure(api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a", etag=first.etag)))
    assert (failed.code, failed.reason) == ("ABORTED", "STALE_ETAG")
    assert (await _get(api, "a")).title == "two"


async def test_a_batch_write_with_a_stale_etag_fails_alone(api: Api) -> None:
    first = await _create(api, "a", title="one")
    await api.catalog.UpdateItem(pb.UpdateItemRequest(item={"item_id": "a", "title": "two"}))
    items = [pb.Item(item_id="a", title="three", etag=first.etag), pb.Item(item_id="b")]
    response = await api.catalog.BatchUpsertItems(pb.BatchUpsertItemsRequest(items=items))
    assert [result.status.code for result in response.results] == [10, 0]
    assert (await _get(api, "a")).title == "two"


async def test_update_creates_only_when_allowed(api: Api) -> None:
    failed = await failure(api.catalog.UpdateItem(pb.UpdateItemRequest(item={"item_id": "a", "title": "t"})))
    assert failed.code == "NOT_FOUND"
    request = pb.UpdateItemRequest(item={"item_id": "a", "title": "t"}, allow_missing=True)
    assert (await api.catalog.UpdateItem(request)).item.title == "t"


async def test_deleting_takes_the_events_along(api: Api) -> None:
    await _create(api, "a")
    await _create(api, "b")
    events = [ingestion_pb.Event(event_id=item, event_type="view", user_id="u", item_id=item) for item in ("a", "b")]
    await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a"))
    assert (await failure(_get(api, "a"))).code == "NOT_FOUND"
    listed = await api.ingestion.ListEvents(ingestion_pb.ListEventsRequest())
    assert [event.item_id for event in listed.events] == ["b"]


async def test_deleting_what_is_not_there_is_ok_only_when_allowed(api: Api) -> None:
    assert (await failure(api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a")))).code == "NOT_FOUND"
    await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="a", allow_missing=True))


async def test_batches_answer_in_the_order_of_the_request(api: Api) -> None:
    await _create(api, "a", title="A")
    await _create(api, "b", title="B")
    got = await api.catalog.BatchGetItems(pb.BatchGetItemsRequest(item_ids=["b", "nope", "a"]))
    assert [(result.status.code, result.item.title) for result in got.results] == [(0, "B"), (5, ""), (0, "A")]
    gone = await api.catalog.BatchDeleteItems(pb.BatchDeleteItemsRequest(item_ids=["a", "nope", "a", "b"]))
    assert [result.status.code for result in gone.results] == [0, 5, 3, 0]


async def test_pages_hold_every_item_once_while_others_write(api: Api) -> None:
    items = [pb.Item(item_id=f"{number:03}") for number in range(25)]
    await api.catalog.BatchUpsertItems(pb.BatchUpsertItemsRequest(items=items))
    first = await api.catalog.ListItems(pb.ListItemsRequest(page_size=10))
    await _create(api, "000-inserted-before-the-next-page")
    await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="003"))
    rest = await api.catalog.ListItems(pb.ListItemsRequest(page_size=100, page_token=first.next_page_token))
    assert [item.item_id for item in rest.items] == [f"{number:03}" for number in range(10, 25)]
    assert not rest.next_page_token


async def test_lists_are_filtered_and_ordered(api: Api) -> None:
    for number, title in enumerate(["pear", "apple", "fig", "apple"]):
        await _create(api, str(number), title=title, item_type="fruit" if number else "other")
    assert await _ids(api, order_by="title desc, item_id", page_size=1) == ["0", "2", "1", "3"]
    assert await _ids(api, filter='item_type = "fruit" AND title = "apple"') == ["1", "3"]


async def test_an_export_is_whole_and_the_next_one_brings_what_changed(api: Api) -> None:
    items = [pb.Item(item_id=f"{number:04}") for number in range(1500)]
    for start in (0, 1000):
        await api.catalog.BatchUpsertItems(pb.BatchUpsertItemsRequest(items=items[start : start + 1000]))
    parts = [part async for part in api.catalog.ExportItems(pb.ExportItemsRequest())]
    assert sorted(item.item_id for part in parts for item in part.items) == [item.item_id for item in items]
    await api.catalog.UpdateItem(pb.UpdateItemRequest(item={"item_id": "0007", "title": "changed"}))
    await api.catalog.DeleteItem(pb.DeleteItemRequest(item_id="0008"))
    request = pb.ExportItemsRequest(modified_after=parts[0].snapshot_time)
    later = [part async for part in api.catalog.ExportItems(request)]
    assert "changed" in {item.title for part in later for item in part.items}
    assert [item_id for part in later for item_id in part.deleted_item_ids] == ["0008"]


async def test_activity_counts_events_and_viewers(api: Api) -> None:
    await _create(api, "a")
    events = [
        ingestion_pb.Event(event_type=kind, user_id=user, item_id="a")
        for kind, user in (("view", "u1"), ("view", "u2"), ("view", "u2"), ("purchase", "u1"))
    ]
    await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    response = await api.catalog.GetItemActivity(pb.GetItemActivityRequest(item_ids=["a", "nope"]))
    (activity,) = response.activities
    assert dict(activity.event_counts) == {"view": 3, "purchase": 1}
    assert (activity.viewers_now, activity.user_count) == (2, 2)


async def test_the_attribute_schema_is_replaced_as_a_whole(api: Api) -> None:
    for key in ("price", "colour"):
        schema = pb.AttributeSchema(attributes=[{"key": key, "type": pb.ATTRIBUTE_TYPE_STRING, "filterable": False}])
        await api.catalog.UpdateAttributeSchema(pb.UpdateAttributeSchemaRequest(schema=schema))
    found = (await api.catalog.GetAttributeSchema(pb.GetAttributeSchemaRequest())).schema
    assert [definition.key for definition in found.attributes] == ["colour"]
    twice = pb.AttributeSchema(attributes=[{"key": "a", "type": pb.ATTRIBUTE_TYPE_STRING}] * 2)
    failed = await failure(api.catalog.UpdateAttributeSchema(pb.UpdateAttributeSchemaRequest(schema=twice)))
    assert list(failed.fields) == ["schema.attributes[1].key"]


@pytest.mark.parametrize("title", ["' OR 1=1 --", "%s", "%(tenant)s", "{filter}", '"; DROP TABLE items; --'])
async def test_text_is_never_taken_for_sql(api: Api, title: str) -> None:
    await _create(api, title.replace("/", ""), title=title)
    quoted = '"' + title.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert await _ids(api, filter=f"title = {quoted}") == [title]
