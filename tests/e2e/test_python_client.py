"""The Python client against the real service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseError

from recsvc.app import Service
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Tenant, TenantSettings
from recsvc.settings import Settings, WatchSettings
from recsvc_client import Client, RecsvcError
from recsvc_client.gen.v1 import ingestion_service_pb2 as pb
from recsvc_client.gen.v1.ingestion_service_pb2_grpc import (
    IngestionServiceServicer,
    add_IngestionServiceServicer_to_server,
)
from tests.e2e.relay import Relay
from tests.e2e.servers import another_server

_SOON_S = 10.0
# Longer than the client's first pauses, so that a list that is sent again would have come.
_QUIET_S = 1.0


@pytest.fixture
async def client(service: Service, key: str):
    """A client with the test's key."""
    async with Client(f"127.0.0.1:{service.port}", key, timeout_s=30) as connected:
        yield connected


async def test_items_and_events_become_a_list(client: Client) -> None:
    items = [{"item_id": str(n), "title": f"Film {n}", "attributes": {"year": 1990 + n}} for n in range(5)]
    stored = await client.upsert_items(items)
    assert all(result.created for result in stored.results)
    recorded = await client.record_event("view", "0", user_id="u")
    assert not recorded.duplicate
    found = await client.recommend(user_id="u", fields=["title"], strategy="STRATEGY_NEW")
    assert {item.item.title for item in found.items} == {f"Film {n}" for n in range(1, 5)}


async def test_an_import_reports_every_chunk(client: Client) -> None:
    items = ({"item_id": str(n)} for n in range(2500))
    assert [answer.created_count async for answer in client.import_items(items)] == [1000, 1000, 500]


async def test_an_error_says_what_is_wrong(client: Client) -> None:
    with pytest.raises(RecsvcError) as raised:
        await client.recommend(user_id="u", filter="nope = 1")
    assert (raised.value.code, raised.value.reason) == ("INVALID_ARGUMENT", "INVALID_FILTER")
    assert "filter" in raised.value.fields
    assert raised.value.request_id


async def test_a_bulk_takes_user_ids_or_requests_of_ones_own(client: Client) -> None:
    await client.upsert_items({"item_id": str(n), "title": f"Film {n}"} for n in range(5))
    users = (f"u{n}" for n in range(50))
    answers = [answer async for answer in client.bulk_recommend(users, count=3, strategy="STRATEGY_NEW")]
    assert sorted(answer.key for answer in answers) == sorted(f"u{n}" for n in range(50))
    assert {len(answer.response.items) for answer in answers} == {3}

    async def own():
        yield "a", {"user_id": "u", "count": 1}
        yield "b", {"user_id": "u", "count": 0}
        yield "c", {"session_item_ids": ["1"]}

    found = {
        answer.key: answer
        async for answer in client.bulk_recommend(own(), count=4, fields=["title"], strategy="STRATEGY_NEW")
    }
    assert {key: answer.status.code for key, answer in found.items()} == {"a": 0, "b": 3, "c": 0}
    assert [len(found[key].response.items) for key in "ac"] == [1, 4]
    assert found["c"].response.items[0].item.title


async def test_a_bulk_that_is_refused_says_why(service: Service) -> None:
    async with Client(f"127.0.0.1:{service.port}", "nonsense") as stranger:
        with pytest.raises(RecsvcError) as raised:
            [answer async for answer in stranger.bulk_recommend(["u"])]
    assert raised.value.code == "UNAUTHENTICATED"


async def test_what_is_missing_is_told(client: Client) -> None:
    with pytest.raises(RecsvcError) as raised:
        await client.similar_users("nobody")
    assert raised.value.reason == "USER_NOT_FOUND"
    await client.upsert_items([{"item_id": "1"}])
    await client.record_event("view", "1", user_id="u")
    with pytest.raises(RecsvcError) as raised:
        await client.similar_users("u")
    assert raised.value.reason == "NO_MODEL"
    assert (await client.explain("u", "1")).score > 0
    with pytest.raises(RecsvcError) as raised:
        await client.explain("u", "2")
    assert raised.value.reason == "ITEM_NOT_FOUND"


@asynccontextmanager
async def watched(client: Client, **fields: Any) -> AsyncIterator[list[list[str]]]:
    """The items of each list that a watch of a user has brought so far; the watch goes on in the background."""
    seen: list[list[str]] = []

    async def watch() -> None:
        async with aclosing(client.watch(user_id="u", strategy="STRATEGY_NEW", **fields)) as lists:
            async for found in lists:
                seen.append([item.item_id for item in found.items])  # noqa: PERF401  (one by one, as they come)

    task = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.wait([task])


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON_S):
        while not holds():  # noqa: ASYNC110  (nothing tells of what a list has grown by)
            await asyncio.sleep(0.02)


async def stock(client: Client) -> None:
    await client.upsert_items({"item_id": str(n), "title": f"Film {n}"} for n in range(5))


async def test_a_watch_brings_each_changed_list(client: Client) -> None:
    await stock(client)
    async with watched(client) as seen:
        await eventually(lambda: len(seen) == 1)
        assert sorted(seen[0]) == list("01234")
        await client.record_event("view", "0", user_id="u")
        await eventually(lambda: sorted(seen[-1]) == list("1234"))


async def test_a_watch_resumes_after_a_broken_connection(service: Service, key: str) -> None:
    async with Relay(service.port) as relay, Client(f"127.0.0.1:{relay.port}", key, timeout_s=30) as client:
        await stock(client)
        async with watched(client) as seen:
            await eventually(lambda: len(seen) == 1)
            relay.cut()
            await eventually(lambda: relay.accepted == 2)
            await asyncio.sleep(_QUIET_S)
            assert len(seen) == 1, "an unchanged list came again"
            await client.record_event("view", "0", user_id="u")
            await eventually(lambda: sorted(seen[-1]) == list("1234"))


async def test_a_watch_brings_what_changed_while_it_was_cut_off(service: Service, key: str, client: Client) -> None:
    await stock(client)
    async with (
        Relay(service.port) as relay,
        Client(f"127.0.0.1:{relay.port}", key) as cut_off,
        watched(cut_off) as seen,
    ):
        await eventually(lambda: len(seen) == 1)
        relay.target = 1
        relay.cut()
        await client.record_event("view", "0", user_id="u")
        await eventually(lambda: relay.accepted > 1)
        relay.target = service.port
        await eventually(lambda: sorted(seen[-1]) == list("1234"))


async def test_a_watch_goes_on_elsewhere_when_its_server_drains(
    service: Service, key: str, client: Client, settings: Settings, new_tenant: Tenant
) -> None:
    await stock(client)
    async with (
        another_server(settings, new_tenant) as (stopping, _),
        Relay(stopping.port) as relay,
        Client(f"127.0.0.1:{relay.port}", key) as moved,
        watched(moved) as seen,
    ):
        await eventually(lambda: len(seen) == 1)
        relay.target = service.port
        await stopping.server.drain()
        await eventually(lambda: relay.accepted > 1)
        await asyncio.sleep(_QUIET_S)
        assert len(seen) == 1, "an unchanged list came again"
        await client.record_event("view", "0", user_id="u")
        await eventually(lambda: sorted(seen[-1]) == list("1234"))


async def test_a_watch_begins_anew_where_its_token_is_refused(
    service: Service, key: str, client: Client, settings: Settings, new_tenant: Tenant
) -> None:
    await stock(client)
    async with (
        Relay(service.port) as relay,
        Client(f"127.0.0.1:{relay.port}", key) as moved,
        watched(moved) as seen,
    ):
        await eventually(lambda: len(seen) == 1)
        diverse = TenantSettings('{"defaults": {"novelty": 0.5}}')
        await service.storage.tenants.update(
            TenantId(new_tenant.tenant_id), lambda tenant: replace(tenant, settings=diverse)
        )
        async with another_server(settings, new_tenant) as (elsewhere, _):
            relay.target = elsewhere.port
            relay.cut()
            await eventually(lambda: len(seen) == 2)


async def test_a_watch_of_a_wrong_request_is_refused_at_once(client: Client) -> None:
    with pytest.raises(RecsvcError) as raised:
        await asyncio.wait_for(anext(client.watch(user_id="u", filter="nope = 1")), _SOON_S)
    assert (raised.value.code, raised.value.reason) == ("INVALID_ARGUMENT", "INVALID_FILTER")


async def test_a_watch_that_reaches_nobody_in_time_says_so() -> None:
    async with Client("127.0.0.1:1", "key") as stranded:
        with pytest.raises(RecsvcError) as raised:
            await asyncio.wait_for(anext(stranded.watch(user_id="u", give_up_after_s=0.5)), _SOON_S)
    assert raised.value.code == "UNAVAILABLE"


async def test_a_watch_that_is_left_ends_at_the_service(
    key: str, client: Client, settings: Settings, new_tenant: Tenant
) -> None:
    await stock(client)
    watch = WatchSettings(watchers=1)
    async with (
        another_server(settings, new_tenant, watch=watch) as (only_one, _),
        Client(f"127.0.0.1:{only_one.port}", key) as here,
    ):
        for _ in range(2):
            async with aclosing(here.watch(user_id="u", strategy="STRATEGY_NEW")) as lists:
                async with asyncio.timeout(_SOON_S):
                    assert (await anext(lists)).items


def viewed(number: int) -> dict[str, Any]:
    return {"event_type": "view", "item_id": str(number % 5), "user_id": f"u{number % 7}", "event_id": f"e{number}"}


async def stored_ids(client: Client) -> list[str]:
    return [event.event_id async for event in client.list_events()]


async def test_a_stream_stores_all_events_of_its_source(client: Client) -> None:
    await stock(client)
    answers = [answer async for answer in client.stream_events(viewed(n) for n in range(1200))]
    assert sum(answer.stored_count for answer in answers) == 1200
    assert sorted(await stored_ids(client)) == sorted(f"e{n}" for n in range(1200))


async def test_a_stream_takes_events_as_messages_and_gives_them_ids(client: Client) -> None:
    await stock(client)
    event = pb.Event(event_type="view", item_id="1", user_id="u")
    at = {"event_type": "view", "item_id": "2", "user_id": "u", "event_time": datetime.now(UTC) - timedelta(hours=1)}
    (answer,) = [answer async for answer in client.stream_events([event, event, at])]
    assert answer.stored_count == 3
    assert event.event_id == "", "the caller's message was changed"
    found = [event async for event in client.list_events()]
    assert [event.item_id for event in found] == ["1", "1", "2"]
    assert len({event.event_id for event in found if event.event_id}) == 3


async def test_a_stream_sends_what_there_is_while_its_source_goes_on(client: Client) -> None:
    await stock(client)
    source: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def endless() -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await source.get()

    async with aclosing(client.stream_events(endless())) as answers, asyncio.timeout(_SOON_S):
        for number in range(3):
            source.put_nowait(viewed(number))
            assert (await anext(answers)).stored_count == 1


async def test_a_stream_names_what_was_refused(client: Client) -> None:
    await stock(client)
    events = [viewed(0), viewed(1) | {"item_id": "nope"}, viewed(2)]
    (answer,) = [answer async for answer in client.stream_events(events)]
    assert answer.stored_count == 2
    assert [(refused.index, refused.event_id) for refused in answer.rejections] == [(1, "e1")]


async def test_a_stream_loses_and_doubles_nothing_when_connections_break(service: Service, key: str) -> None:
    count = 20_000
    async with Relay(service.port) as relay, Client(f"127.0.0.1:{relay.port}", key, timeout_s=30) as client:
        await stock(client)
        stored, cuts = 0, 0
        async for answer in client.stream_events(viewed(n) for n in range(count)):
            stored += answer.stored_count + answer.duplicate_count
            if stored > count * (cuts + 1) / 5 and cuts < 3:
                relay.cut()
                cuts += 1
        assert cuts == 3
        assert relay.accepted > 1
    async with Client(f"127.0.0.1:{service.port}", key, timeout_s=30) as client:
        assert sorted(await stored_ids(client)) == sorted(f"e{n}" for n in range(count))


async def test_a_stream_goes_on_elsewhere_when_its_server_drains(
    service: Service, key: str, client: Client, settings: Settings, new_tenant: Tenant
) -> None:
    await stock(client)
    left: asyncio.Event = asyncio.Event()

    async def source() -> AsyncIterator[dict[str, Any]]:
        yield viewed(0)
        await left.wait()
        yield viewed(1)

    async with (
        another_server(settings, new_tenant) as (stopping, _),
        Relay(stopping.port) as relay,
        Client(f"127.0.0.1:{relay.port}", key) as moved,
        aclosing(moved.stream_events(source())) as answers,
    ):
        assert (await anext(answers)).stored_count == 1
        relay.target = service.port
        await stopping.server.drain()
        left.set()
        async with asyncio.timeout(_SOON_S):
            assert (await anext(answers)).stored_count == 1


async def test_a_stream_that_was_idle_for_too_long_is_begun_again(
    key: str, client: Client, settings: Settings, new_tenant: Tenant
) -> None:
    await stock(client)

    async def source() -> AsyncIterator[dict[str, Any]]:
        yield viewed(0)
        await asyncio.sleep(_QUIET_S)
        yield viewed(1)

    impatient = settings.server.model_copy(update={"stream_idle_s": 0.2})
    async with (
        another_server(settings, new_tenant, server=impatient) as (here, _),
        Client(f"127.0.0.1:{here.port}", key) as idle,
    ):
        assert [answer.stored_count async for answer in idle.stream_events(source())] == [1, 1]


async def test_events_beyond_what_one_stream_may_have_go_over_another(
    key: str, client: Client, settings: Settings, new_tenant: Tenant
) -> None:
    await stock(client)
    brief = settings.server.model_copy(update={"stream_max_messages": 3})
    async with (
        another_server(settings, new_tenant, server=brief) as (here, _),
        Client(f"127.0.0.1:{here.port}", key) as lengthy,
    ):
        answers = [answer async for answer in lengthy.stream_events(viewed(n) for n in range(5000))]
    assert sum(answer.stored_count + answer.duplicate_count for answer in answers) == 5000
    assert len(await stored_ids(client)) == 5000


async def test_what_ends_the_source_of_a_stream_is_raised_once_all_before_it_is_stored(client: Client) -> None:
    await stock(client)

    def source() -> Iterator[dict[str, Any]]:
        yield viewed(0)
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        [answer async for answer in client.stream_events(source())]
    assert await stored_ids(client) == ["e0"]


async def test_an_event_that_cannot_be_sent_says_which_field_is_wrong(client: Client) -> None:
    with pytest.raises(ParseError, match="colour"):
        [answer async for answer in client.stream_events([viewed(0) | {"colour": "red"}])]


async def test_a_stream_that_is_refused_says_why(service: Service) -> None:
    async with Client(f"127.0.0.1:{service.port}", "nonsense") as stranger:
        with pytest.raises(RecsvcError) as raised:
            [answer async for answer in stranger.stream_events([viewed(0)])]
    assert raised.value.code == "UNAUTHENTICATED"


async def test_a_stream_that_reaches_nobody_in_time_says_so() -> None:
    async with Client("127.0.0.1:1", "key") as stranded:
        with pytest.raises(RecsvcError) as raised:
            async with asyncio.timeout(_SOON_S):
                [answer async for answer in stranded.stream_events([viewed(0)], give_up_after_s=0.5)]
    assert raised.value.code == "UNAVAILABLE"


class Mute(IngestionServiceServicer):
    """Takes events and acknowledges none."""

    async def StreamEvents(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.StreamEventsResponse]:
        async for _ in request_iterator:
            pass
        await asyncio.Event().wait()
        yield pb.StreamEventsResponse()


async def test_a_stream_takes_no_more_from_its_source_than_it_may_hold() -> None:
    taken = 0
    event = pb.Event(event_type="view", item_id="1", user_id="u", event_id="e")

    def source() -> Iterator[pb.Event]:
        nonlocal taken
        while True:
            taken += 1
            yield event

    mute = grpc.aio.server()
    add_IngestionServiceServicer_to_server(Mute(), mute)
    port = mute.add_insecure_port("127.0.0.1:0")
    await mute.start()
    try:
        async with Client(f"127.0.0.1:{port}", "key") as client:
            waiting = asyncio.create_task(anext(client.stream_events(source())))
            before = -1
            async with asyncio.timeout(3 * _SOON_S):
                while before != taken:
                    before = taken
                    await asyncio.sleep(_QUIET_S)
            waiting.cancel()
            await asyncio.wait([waiting])
    finally:
        await mute.stop(0)
    # 64 messages of 500 events, and two that are being filled.
    assert 64 * 500 <= taken <= 66 * 500
