"""UserService and IngestionService over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from tests.api import Api, failure


@pytest.fixture
async def shop(api: Api) -> Api:
    """A catalogue of five items."""
    items = [catalog_pb.Item(item_id=name, categories=["c"]) for name in "abcde"]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    return api


def _event(event_id: str, item_id: str = "a", **fields: object) -> pb.Event:
    return pb.Event(**{"event_id": event_id, "event_type": "view", "user_id": "u", "item_id": item_id, **fields})


async def _record(api: Api, event: pb.Event) -> pb.RecordEventResponse:
    return await api.ingestion.RecordEvent(pb.RecordEventRequest(event=event))


async def _listed(api: Api, **fields: object) -> list[str]:
    response = await api.ingestion.ListEvents(pb.ListEventsRequest(**fields))
    return [event.event_id for event in response.events]


async def test_the_same_event_again_is_ok_and_changes_nothing(shop: Api) -> None:
    assert not (await _record(shop, _event("1"))).duplicate
    again = await _record(shop, _event("1", "b"))
    assert again.duplicate
    listed = await shop.ingestion.ListEvents(pb.ListEventsRequest())
    assert [(event.event_id, event.item_id) for event in listed.events] == [("1", "a")]


async def test_an_id_that_stands_twice_in_a_batch_is_stored_once(shop: Api) -> None:
    request = pb.BatchRecordEventsRequest(events=[_event("1"), _event("2"), _event("1")])
    response = await shop.ingestion.BatchRecordEvents(request)
    assert [(result.status.code, result.duplicate) for result in response.results] == [
        (0, False),
        (0, False),
        (0, True),
    ]
    assert sorted(await _listed(shop)) == ["1", "2"]


async def test_an_event_without_an_id_gets_one(shop: Api) -> None:
    first, second = await _record(shop, _event("")), await _record(shop, _event(""))
    assert first.event_id
    assert first.event_id != second.event_id


async def test_an_event_comes_back_as_it_was_sent(shop: Api) -> None:
    event = _event("1", value=4.5, session_id="s", recommendation_id="r", event_time={"seconds": 1_600_000_000})
    event.context.update({"device": "phone"})
    event.properties.update({"page": 3})
    await _record(shop, event)
    (found,) = (await shop.ingestion.ListEvents(pb.ListEventsRequest())).events
    assert found.create_time.seconds
    found.ClearField("create_time")
    assert found == event


async def test_events_are_listed_newest_first_page_by_page(shop: Api) -> None:
    events = [_event(str(number), event_time={"seconds": 1_000_000_000 + number}) for number in range(5)]
    await shop.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=events))
    first = await shop.ingestion.ListEvents(pb.ListEventsRequest(page_size=2))
    assert [event.event_id for event in first.events] == ["4", "3"]
    rest = await shop.ingestion.ListEvents(pb.ListEventsRequest(page_size=9, page_token=first.next_page_token))
    assert [event.event_id for event in rest.events] == ["2", "1", "0"]
    assert await _listed(shop, order_by="event_time", page_size=2) == ["0", "1"]


async def test_events_are_filtered(shop: Api) -> None:
    events = [
        _event("1"),
        _event("2", "b"),
        _event("3", user_id="other"),
        _event("4", event_type="purchase", value=9.0),
    ]
    await shop.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=events))
    assert sorted(await _listed(shop, filter='user_id = "u" AND item_id = "a"')) == ["1", "4"]
    assert await _listed(shop, filter='event_type = "purchase" AND value > 5') == ["4"]


async def test_a_stream_is_acknowledged_as_far_as_it_is_durable(shop: Api) -> None:
    async def messages() -> AsyncIterator[pb.StreamEventsRequest]:
        yield pb.StreamEventsRequest(sequence=1, events=[_event("1"), _event("2", "nope")])
        yield pb.StreamEventsRequest(sequence=5, events=[_event("1"), _event("3")])

    answers = [answer async for answer in shop.ingestion.StreamEvents(messages())]
    assert answers[-1].acked_through == 5
    assert sum(answer.stored_count for answer in answers) == 2
    assert sum(answer.duplicate_count for answer in answers) == 1
    (rejection,) = [rejection for answer in answers for rejection in answer.rejections]
    assert (rejection.sequence, rejection.index, rejection.event_id, rejection.status.code) == (1, 1, "2", 5)


async def test_an_export_holds_every_event(shop: Api) -> None:
    events = [_event(str(number)) for number in range(300)]
    await shop.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=events))
    parts = [part async for part in shop.ingestion.ExportEvents(pb.ExportEventsRequest())]
    assert len({event.event_id for part in parts for event in part.events}) == 300
    assert parts[0].snapshot_time.seconds


async def test_event_types_are_the_tenants_own(shop: Api) -> None:
    listed = await shop.ingestion.ListEventTypes(pb.ListEventTypesRequest())
    assert {"view", "click", "like", "add_to_cart", "purchase", "rate", "dislike", "impression"} <= {
        kind.event_type for kind in listed.event_types
    }
    wanted = pb.EventType(event_type="stare", weight=0.5, half_life={"seconds": 3600}, counts_as_seen=True)
    missing = await failure(shop.ingestion.UpdateEventType(pb.UpdateEventTypeRequest(event_type=wanted)))
    assert (missing.code, missing.reason) == ("NOT_FOUND", "EVENT_TYPE_NOT_FOUND")
    stored = await shop.ingestion.UpdateEventType(pb.UpdateEventTypeRequest(event_type=wanted, allow_missing=True))
    assert (stored.event_type.weight, stored.event_type.half_life.seconds) == (0.5, 3600)
    await _record(shop, _event("1", event_type="stare"))
    used = await failure(shop.ingestion.DeleteEventType(pb.DeleteEventTypeRequest(event_type="stare")))
    assert (used.code, used.reason) == ("FAILED_PRECONDITION", "EVENT_TYPE_IN_USE")
    await shop.ingestion.DeleteEventType(pb.DeleteEventTypeRequest(event_type="click"))


async def test_a_changed_event_type_changes_what_stored_events_mean(shop: Api) -> None:
    await _record(shop, _event("1", event_type="impression"))
    request = recommend_pb.RecommendRequest(user_id="u", strategy=recommend_pb.STRATEGY_NEW, count=5)
    assert len((await shop.recommendations.Recommend(request)).items) == 5
    change = pb.UpdateEventTypeRequest(
        event_type={"event_type": "impression", "counts_as_seen": True}, update_mask={"paths": ["counts_as_seen"]}
    )
    await shop.ingestion.UpdateEventType(change)
    assert len((await shop.recommendations.Recommend(request)).items) == 4


async def _user(api: Api, user_id: str, **fields: object) -> user_pb.User:
    request = user_pb.UpdateUserRequest(user=user_pb.User(user_id=user_id, **fields), allow_missing=True)
    return (await api.users.UpdateUser(request)).user


async def test_a_user_is_created_by_the_first_event(shop: Api) -> None:
    await _record(shop, _event("1"))
    assert (await shop.users.GetUser(user_pb.GetUserRequest(user_id="u"))).user.user_id == "u"


async def test_a_profile_is_updated_by_its_mask(shop: Api) -> None:
    await _user(shop, "u", labels=["vip"])
    change = user_pb.User(user_id="u")
    change.attributes.update({"age": 30})
    request = user_pb.UpdateUserRequest(user=change, update_mask={"paths": ["attributes.age"]})
    after = (await shop.users.UpdateUser(request)).user
    assert (list(after.labels), after.attributes["age"]) == (["vip"], 30)
    failed = await failure(shop.users.UpdateUser(user_pb.UpdateUserRequest(user={"user_id": "new"})))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "USER_NOT_FOUND")


async def test_users_are_listed_without_sessions(shop: Api) -> None:
    await _user(shop, "u1", labels=["a"])
    await _user(shop, "u2")
    await _record(shop, _event("1", user_id="", session_id="s"))
    listed = await shop.users.ListUsers(user_pb.ListUsersRequest())
    assert [user.user_id for user in listed.users] == ["u1", "u2"]
    labelled = await shop.users.ListUsers(user_pb.ListUsersRequest(filter='labels:"a"'))
    assert [user.user_id for user in labelled.users] == ["u1"]


async def test_erasure_leaves_nothing_and_tells_what_went(shop: Api) -> None:
    await _user(shop, "u", labels=["vip"])
    await shop.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=[_event("1"), _event("2", "b")]))
    erased = await shop.users.DeleteUser(user_pb.DeleteUserRequest(user_id="u"))
    assert (erased.event_count, erased.profile_count, erased.state_count) == (2, 1, 1)
    assert await _listed(shop) == []
    assert (await failure(shop.users.GetUser(user_pb.GetUserRequest(user_id="u")))).code == "NOT_FOUND"
    assert not (await _record(shop, _event("1"))).duplicate


async def test_all_that_is_held_of_a_user_can_be_exported(shop: Api) -> None:
    await _user(shop, "u", labels=["vip"])
    await _record(shop, _event("1"))
    parts = [part async for part in shop.users.ExportUser(user_pb.ExportUserRequest(user_id="u"))]
    assert list(parts[0].user.labels) == ["vip"]
    assert [event.event_id for part in parts for event in part.events] == ["1"]


async def test_a_session_becomes_a_user_once(shop: Api) -> None:
    await _record(shop, _event("1", user_id="", session_id="s"))
    await _record(shop, _event("2", "b", user_id="known"))
    request = user_pb.MergeUsersRequest(source_session_id="s", user_id="known")
    assert (await shop.users.MergeUsers(request)).moved_event_count == 1
    assert (await shop.users.MergeUsers(request)).moved_event_count == 0
    assert sorted(await _listed(shop, filter='user_id = "known"')) == ["1", "2"]
    recent = recommend_pb.RecommendRequest(user_id="known", strategy=recommend_pb.STRATEGY_RECENTLY_VIEWED)
    response = await shop.recommendations.Recommend(recent)
    assert {item.item_id for item in response.items} == {"a", "b"}


async def test_merging_the_unknown_is_refused(shop: Api) -> None:
    nobody = user_pb.MergeUsersRequest(source_user_id="x", user_id="y")
    assert (await failure(shop.users.MergeUsers(nobody))).code == "NOT_FOUND"
    itself = user_pb.MergeUsersRequest(source_user_id="y", user_id="y")
    assert (await failure(shop.users.MergeUsers(itself))).code == "INVALID_ARGUMENT"


async def test_an_event_older_than_events_are_kept_is_refused(shop: Api) -> None:
    own = (await shop.admin.GetTenant(admin_pb.GetTenantRequest())).tenant
    own.settings.event_retention.FromTimedelta(timedelta(days=30))
    mask = {"paths": ["settings.event_retention"]}
    await shop.admin.UpdateTenant(admin_pb.UpdateTenantRequest(tenant=own, update_mask=mask))
    await asyncio.sleep(1.1)  # profiles are trusted for a second
    ages = {"young": timedelta(days=29), "old": timedelta(days=31)}
    events = [_event(name, event_time=datetime.now(UTC) - age) for name, age in ages.items()]
    failed = await failure(_record(shop, events[1]))
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "EVENT_TIME_OUT_OF_RANGE")
    assert failed.fields == {"event.event_time": "is older than the 30 days that events are kept"}
    batch = await shop.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=events))
    assert [result.status.code for result in batch.results] == [0, 3]
    assert await _listed(shop) == ["young"]
