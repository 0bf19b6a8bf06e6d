"""Every limit of the contract, over a real socket: the canonical code, the field's name, and nothing half-written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from recsvc.app import Service
from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from tests.api import Api, Failure, failure, failure_of, stream_failure


def _struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def _nested(depth: int) -> Struct:
    value: dict[str, Any] = {"leaf": 1}
    for _ in range(depth - 1):
        value = {"level": value}
    return _struct(**value)


async def _create(api: Api, **fields: Any) -> Failure:
    return await failure(api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=catalog_pb.Item(**fields))))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"item_id": ""}, "item.item_id"),
        ({"item_id": "x" * 129}, "item.item_id"),
        ({"item_id": "a\nb"}, "item.item_id"),
        ({"item_id": "a", "title": "t" * 1001}, "item.title"),
        ({"item_id": "a", "title": "nul\x00"}, "item.title"),
        ({"item_id": "a", "categories": ["ok", ""]}, "item.categories[1]"),
        ({"item_id": "a", "categories": ["c"] * 101}, "item.categories"),
        ({"item_id": "a", "embedding": [0.1, float("nan")]}, "item.embedding[1]"),
        ({"item_id": "a", "embedding": [float("inf")]}, "item.embedding[0]"),
        ({"item_id": "a", "embedding": [0.0] * 4001}, "item.embedding"),
        ({"item_id": "a", "attributes": _nested(4)}, "item.attributes.level.level.level"),
        ({"item_id": "a", "attributes": _struct(**{f"k{n}": 1 for n in range(65)})}, "item.attributes"),
        ({"item_id": "a", "attributes": _struct(text="x" * 17_000)}, "item.attributes"),
        ({"item_id": "a", "attributes": _struct(price=float("inf"))}, "item.attributes.price"),
        ({"item_id": "a", "attributes": _struct(text="nul\x00")}, "item.attributes.text"),
        ({"item_id": "a", "publish_time": {"seconds": 10**13}}, "item.publish_time"),
    ],
)
async def test_a_wrong_field_of_an_item_is_named(api: Api, fields: dict[str, Any], named: str) -> None:
    failed = await _create(api, **fields)
    assert failed.code == "INVALID_ARGUMENT"
    assert named in failed.fields
    assert not (await api.catalog.ListItems(catalog_pb.ListItemsRequest())).items


async def test_an_item_must_expire_after_it_is_published(api: Api) -> None:
    failed = await _create(api, item_id="a", publish_time={"seconds": 2000}, expire_time={"seconds": 1000})
    assert "item.expire_time" in failed.fields


async def test_an_embedding_must_have_the_length_of_the_first(api: Api) -> None:
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a", "embedding": [1.0, 2.0]}))
    failed = await _create(api, item_id="b", embedding=[1.0, 2.0, 3.0])
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "EMBEDDING_DIMENSION_MISMATCH")
    assert "item.embedding" in failed.fields


async def test_attributes_must_keep_to_the_schema(api: Api) -> None:
    schema = catalog_pb.AttributeSchema(
        attributes=[{"key": "price", "type": catalog_pb.ATTRIBUTE_TYPE_NUMBER, "required": True}]
    )
    await api.catalog.UpdateAttributeSchema(catalog_pb.UpdateAttributeSchemaRequest(schema=schema))
    unknown = await _create(api, item_id="a", attributes=_struct(price=1, colour="red"))
    assert (unknown.reason, *unknown.fields) == ("ATTRIBUTE_NOT_ALLOWED", "item.attributes.colour")
    wrong = await _create(api, item_id="a", attributes=_struct(price="cheap"))
    assert (wrong.reason, *wrong.fields) == ("ATTRIBUTE_NOT_ALLOWED", "item.attributes.price")
    missing = await _create(api, item_id="a")
    assert (missing.reason, *missing.fields) == ("ATTRIBUTE_NOT_ALLOWED", "item.attributes.price")


async def test_one_bad_item_of_a_batch_fails_alone(api: Api) -> None:
    items = [
        catalog_pb.Item(item_id="good"),
        catalog_pb.Item(item_id=""),
        catalog_pb.Item(item_id="good"),
        catalog_pb.Item(item_id="also good"),
    ]
    response = await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    outcomes = [failure_of(result.status, str(result.status.code)) for result in response.results]
    assert [outcome.code for outcome in outcomes] == ["0", "3", "3", "0"]
    assert "items[1].item_id" in outcomes[1].fields
    assert (outcomes[2].reason, *outcomes[2].fields) == ("DUPLICATE_IN_BATCH", "items[2].item_id")
    listed = await api.catalog.ListItems(catalog_pb.ListItemsRequest())
    assert [item.item_id for item in listed.items] == ["also good", "good"]


async def test_a_batch_has_at_most_a_thousand_elements(api: Api) -> None:
    request = catalog_pb.BatchGetItemsRequest(item_ids=[str(number) for number in range(1001)])
    failed = await failure(api.catalog.BatchGetItems(request))
    assert (failed.code, *failed.fields) == ("INVALID_ARGUMENT", "item_ids")


async def test_a_message_beyond_the_limit_is_refused(api: Api) -> None:
    items = [catalog_pb.Item(item_id=str(number), description="d" * 20_000) for number in range(250)]
    failed = await failure(api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items)))
    assert failed.code == "RESOURCE_EXHAUSTED"


async def test_an_empty_update_mask_is_refused(api: Api) -> None:
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a"}))
    for mask in ({"paths": []}, {"paths": ["nope"]}, {"paths": ["item_id"]}, {"paths": ["etag"]}):
        request = catalog_pb.UpdateItemRequest(item={"item_id": "a"}, update_mask=mask)
        failed = await failure(api.catalog.UpdateItem(request))
        assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "INVALID_UPDATE_MASK")
        assert "update_mask" in failed.fields


@pytest.mark.parametrize("page_token", ["nonsense", "AAAA", "ä", "x" * 4097])
async def test_a_page_token_that_we_did_not_make_is_refused(api: Api, page_token: str) -> None:
    failed = await failure(api.catalog.ListItems(catalog_pb.ListItemsRequest(page_token=page_token)))
    assert failed.code == "INVALID_ARGUMENT"
    assert "page_token" in failed.fields


async def test_a_page_token_serves_only_its_own_list(api: Api) -> None:
    items = [catalog_pb.Item(item_id=str(number)) for number in range(3)]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    page = await api.catalog.ListItems(catalog_pb.ListItemsRequest(page_size=1))
    other = catalog_pb.ListItemsRequest(page_size=1, page_token=page.next_page_token, filter='item_id != "1"')
    failed = await failure(api.catalog.ListItems(other))
    assert failed.reason == "INVALID_PAGE_TOKEN"


async def test_a_page_size_beyond_the_limit_is_refused(api: Api) -> None:
    failed = await failure(api.catalog.ListItems(catalog_pb.ListItemsRequest(page_size=1001)))
    assert "page_size" in failed.fields


async def test_an_unknown_order_is_refused(api: Api) -> None:
    failed = await failure(api.catalog.ListItems(catalog_pb.ListItemsRequest(order_by="colour desc")))
    assert "order_by" in failed.fields


@pytest.mark.parametrize(
    ("filter_text", "column"), [("item_id =", "10"), ('title = "x" AND (', "18"), ("nope = 1", "1"), ("title > 3", "9")]
)
async def test_a_bad_filter_tells_its_column(api: Api, filter_text: str, column: str) -> None:
    failed = await failure(api.catalog.ListItems(catalog_pb.ListItemsRequest(filter=filter_text)))
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "INVALID_FILTER")
    assert failed.metadata["column"] == column


def _event(**fields: Any) -> ingestion_pb.Event:
    return ingestion_pb.Event(**{"event_type": "view", "user_id": "u", "item_id": "a", **fields})


async def _record(api: Api, event: ingestion_pb.Event) -> Failure:
    return await failure(api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event)))


@pytest.fixture
async def with_item(api: Api) -> Api:
    """A catalogue with the item `a`."""
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a"}))
    return api


async def test_an_event_of_an_unknown_item_is_not_found(with_item: Api) -> None:
    failed = await _record(with_item, _event(item_id="nope"))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "ITEM_NOT_FOUND")
    assert any(name.endswith("item_id") for name in failed.fields)


async def test_an_event_of_an_unknown_type_is_refused(with_item: Api) -> None:
    failed = await _record(with_item, _event(event_type="stare"))
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "EVENT_TYPE_UNKNOWN")
    assert any(name.endswith("event_type") for name in failed.fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_an_event_value_must_be_finite(with_item: Api, value: float) -> None:
    failed = await _record(with_item, _event(value=value))
    assert (failed.code, *failed.fields) == ("INVALID_ARGUMENT", "event.value")


async def test_an_event_needs_a_user_or_a_session(with_item: Api) -> None:
    failed = await _record(with_item, _event(user_id=""))
    assert (failed.code, *failed.fields) == ("INVALID_ARGUMENT", "event.user_id")


async def test_an_event_far_in_the_future_is_refused(with_item: Api) -> None:
    event = _event()
    event.event_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    failed = await _record(with_item, event)
    assert (failed.reason, *failed.fields) == ("EVENT_TIME_OUT_OF_RANGE", "event.event_time")


async def test_refused_events_leave_nothing_behind(with_item: Api) -> None:
    events = [
        _event(event_id="good"),
        _event(event_id="bad", item_id="nope"),
        _event(event_id="worse", value=float("nan")),
    ]
    response = await with_item.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    assert [result.status.code for result in response.results] == [0, 5, 3]
    assert "events[2].value" in failure_of(response.results[2].status, "").fields
    listed = await with_item.ingestion.ListEvents(ingestion_pb.ListEventsRequest())
    assert [event.event_id for event in listed.events] == ["good"]


async def test_stream_numbers_must_rise(with_item: Api) -> None:
    async def messages() -> AsyncIterator[ingestion_pb.StreamEventsRequest]:
        for sequence in (2, 1):
            yield ingestion_pb.StreamEventsRequest(sequence=sequence, events=[_event()])

    failed = await stream_failure(with_item.ingestion.StreamEvents(messages()))
    assert (failed.code, *failed.fields) == ("INVALID_ARGUMENT", "sequence")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"count": 0}, "count"),
        ({"count": 501}, "count"),
        ({"novelty": 1.5}, "novelty"),
        ({"exploration": -0.1}, "exploration"),
        ({"diversity": {"lambda": 2.0}}, "diversity.lambda"),
        ({"diversity": {"max_per_category": 1, "category_field": "price"}}, "diversity.category_field"),
        ({"diversity": {"max_per_category": 1, "category_field": "attributes.\x00"}}, "diversity.category_field"),
        ({"boosts": [{"filter": "available", "factor": float("nan")}]}, "boosts[0].factor"),
        ({"boosts": [{"filter": "(", "factor": 2.0}]}, "boosts[0].filter"),
        ({"item_mask": {"paths": ["price"]}}, "item_mask"),
        ({"user_id": "u", "session_id": "s"}, "session_id"),
        ({"session_item_ids": ["a"] * 101}, "session_item_ids"),
    ],
)
async def test_a_wrong_option_of_recommend_is_named(api: Api, fields: dict[str, Any], named: str) -> None:
    failed = await failure(api.recommendations.Recommend(recommend_pb.RecommendRequest(**fields)))
    assert failed.code == "INVALID_ARGUMENT"
    assert named in failed.fields


async def test_a_candidate_that_stands_twice_is_refused(api: Api) -> None:
    failed = await failure(api.recommendations.RankItems(recommend_pb.RankItemsRequest(item_ids=["a", "a"])))
    assert (failed.code, *failed.fields) == ("INVALID_ARGUMENT", "item_ids[1]")


async def test_unknown_ids_are_not_found(api: Api) -> None:
    item = await failure(api.catalog.GetItem(catalog_pb.GetItemRequest(item_id="nope")))
    assert (item.code, item.reason) == ("NOT_FOUND", "ITEM_NOT_FOUND")
    user = await failure(api.users.GetUser(user_pb.GetUserRequest(user_id="nope")))
    assert (user.code, user.reason) == ("NOT_FOUND", "USER_NOT_FOUND")


async def test_an_error_about_something_long_still_tells_its_reason(api: Api) -> None:
    long = "é" * 100_000
    name = await _create(api, item_id="a", attributes=_struct(**{long[:5000]: float("nan")}))
    assert (name.code, name.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    mask = catalog_pb.UpdateItemRequest(item={"item_id": "a"}, update_mask={"paths": [long]})
    path = await failure(api.catalog.UpdateItem(mask))
    assert (path.reason, *path.fields) == ("INVALID_UPDATE_MASK", "update_mask")
    many = await failure(
        api.recommendations.Recommend(recommend_pb.RecommendRequest(session_item_ids=[""] * 90, count=0, novelty=9))
    )
    assert many.reason == "INVALID_FIELD"


async def test_bytes_that_are_no_message_are_refused_after_the_key_is_checked(service: Service, key: str) -> None:
    for used, code in ((key, "INVALID_ARGUMENT"), ("", "UNAUTHENTICATED")):
        async with Api.connected(service.port, used) as api:
            for path, kind in (("GetItem", api.channel.unary_unary), ("ExportItems", api.channel.unary_stream)):
                call = kind(f"/recsvc.v1.CatalogService/{path}")(b"\xff")
                failed = await (failure(call) if path == "GetItem" else stream_failure(call))
                assert failed.code == code

            async def messages() -> AsyncIterator[bytes]:
                yield b"\xff"

            imported = api.channel.stream_stream("/recsvc.v1.CatalogService/ImportItems")(messages())
            assert (await stream_failure(imported)).code == code


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"event_retention": {"seconds": 2**53}}, "tenant.settings.event_retention"),
        ({"event_retention": {"seconds": 90_000, "nanos": -1}}, "tenant.settings"),
        ({"defaults": {"item_mask": {"paths": ["Title"]}}}, "tenant.settings.defaults.item_mask"),
        ({"placements": {"a\x00": {}}}, "tenant.settings.placements"),
    ],
)
async def test_a_wrong_setting_is_named(api: Api, new_tenant: Tenant, fields: dict[str, Any], named: str) -> None:
    tenant = {"tenant_id": new_tenant.tenant_id, "settings": fields}
    failed = await failure(api.admin.UpdateTenant(admin_pb.UpdateTenantRequest(tenant=tenant)))
    assert failed.code == "INVALID_ARGUMENT"
    assert named in failed.fields


async def test_a_half_life_that_no_calendar_holds_is_refused(api: Api) -> None:
    request = ingestion_pb.UpdateEventTypeRequest(event_type={"event_type": "view", "half_life": {"seconds": 2**53}})
    failed = await failure(api.ingestion.UpdateEventType(request))
    assert (failed.code, *failed.fields) == ("INVALID_ARGUMENT", "event_type.half_life")


async def test_a_weight_too_small_to_be_kept_counts_as_nothing(api: Api) -> None:
    request = ingestion_pb.UpdateEventTypeRequest(event_type={"event_type": "view", "weight": 1e-300})
    assert (await api.ingestion.UpdateEventType(request)).event_type.weight == 0
