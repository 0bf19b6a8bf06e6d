"""WatchRecommendations over a real socket: the present list, then each changed one and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import Settings, WatchSettings
from tests.api import Api, failure, stream_failure
from tests.cinema import an_event, open_cinema, train
from tests.e2e.servers import another_server

_SOON_S = 30.0
_QUIET_S = 0.6


@pytest.fixture
async def cinema(api: Api) -> Api:
    """A trained cinema of the test's own."""
    await open_cinema(api)
    await train(api)
    return api


@asynccontextmanager
async def watching(api: Api, token: str = "", **fields: Any) -> AsyncIterator[Any]:
    """A watch of a request, cancelled in the end; with the options of the watch among the fields."""
    options = {name: fields.pop(name) for name in ("min_interval",) if name in fields}
    request = pb.RecommendRequest(**{"count": 5, **fields})
    call = api.recommendations.WatchRecommendations(
        pb.WatchRecommendationsRequest(request=request, resume_token=token, **options)
    )
    try:
        yield call
    finally:
        call.cancel()


async def the_next(call: Any) -> pb.WatchRecommendationsResponse:
    """What comes next, heartbeats too."""
    return await asyncio.wait_for(call.read(), _SOON_S)


async def next_list(call: Any) -> list[str]:
    """The items of the next list."""
    while not (update := await the_next(call)).HasField("recommendation"):
        pass
    return [item.item_id for item in update.recommendation.items]


async def lists_until(call: Any, wanted: list[str]) -> list[list[str]]:
    """The lists up to the wanted one."""
    found = [await next_list(call)]
    while found[-1] != wanted:
        found.append(await next_list(call))
    return found


async def is_quiet(call: Any) -> bool:
    """Whether nothing comes for a while. Ends the call."""
    try:
        await asyncio.wait_for(call.read(), _QUIET_S)
    except TimeoutError:
        return True
    return False


async def recommended(api: Api, **fields: Any) -> list[str]:
    answer = await api.recommendations.Recommend(pb.RecommendRequest(**{"count": 5, **fields}))
    return [item.item_id for item in answer.items]


async def record(api: Api, user_id: str, *item_ids: str) -> None:
    events = [an_event(user_id, item_id) for item_id in item_ids]
    answer = await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    assert not any(result.status.code for result in answer.results)


async def test_the_first_list_is_that_of_recommend(standing_cinema: Api) -> None:
    async with watching(standing_cinema, user_id="u1") as call:
        update = await the_next(call)
        assert [item.item_id for item in update.recommendation.items] == await recommended(
            standing_cinema, user_id="u1"
        )
        assert update.recommendation.recommendation_id
        assert update.resume_token
        assert await is_quiet(call)


async def test_an_event_brings_the_changed_list(cinema: Api) -> None:
    async with watching(cinema, user_id="u1") as call:
        first = await next_list(call)
        await record(cinema, "u1", first[0])
        wanted = await recommended(cinema, user_id="u1")
        assert first[0] not in wanted
        assert (await lists_until(call, wanted))[-1] == wanted


async def test_what_others_do_brings_nothing(standing_cinema: Api) -> None:
    async with watching(standing_cinema, user_id="u1") as call:
        await next_list(call)
        await record(standing_cinema, "u2", "Drama-1", "Drama-2")
        assert await is_quiet(call)


async def test_what_changes_no_list_brings_nothing(standing_cinema: Api) -> None:
    async with watching(standing_cinema, user_id="u1") as call:
        await next_list(call)
        event = an_event("u1", "Western-3", "impression")
        await standing_cinema.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))
        assert await is_quiet(call)


async def test_a_change_of_the_catalogue_brings_the_changed_list(cinema: Api) -> None:
    async with watching(cinema, user_id="u1") as call:
        first = await next_list(call)
        await cinema.catalog.DeleteItem(catalog_pb.DeleteItemRequest(item_id=first[2]))
        assert first[2] not in await next_list(call)


async def test_somebody_new_is_watched_from_the_first_event_on(standing_cinema: Api) -> None:
    async with watching(standing_cinema, session_id="new") as call:
        await next_list(call)
        event = ingestion_pb.Event(event_id="1", event_type="view", session_id="new", item_id="Horror-3")
        await standing_cinema.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))
        wanted = await recommended(standing_cinema, session_id="new")
        assert (await lists_until(call, wanted))[-1] == wanted


async def test_changes_within_the_interval_become_one_list(cinema: Api) -> None:
    async with watching(cinema, user_id="u1", min_interval={"seconds": 1}) as call:
        await next_list(call)
        for number in range(20):
            await record(cinema, "u1", f"Comedy-{number % 16}", f"Western-{number % 16}")
        wanted = await recommended(cinema, user_id="u1")
        assert len(await lists_until(call, wanted)) <= 4


async def test_a_watch_resumes_with_what_has_changed_since(cinema: Api) -> None:
    async with watching(cinema, user_id="u1") as call:
        update = await the_next(call)
    async with watching(cinema, update.resume_token, user_id="u1") as call:
        again = await the_next(call)
        assert again.HasField("heartbeat")
        assert await is_quiet(call)
    await record(cinema, "u1", update.recommendation.items[0].item_id)
    async with watching(cinema, again.resume_token, user_id="u1") as call:
        assert await next_list(call) == await recommended(cinema, user_id="u1")


@pytest.mark.parametrize("token", ["forged", "of another request"])
async def test_a_token_of_something_else_is_refused(standing_cinema: Api, token: str) -> None:
    if token != "forged":
        async with watching(standing_cinema, user_id="u1") as call:
            token = (await the_next(call)).resume_token
    async with watching(standing_cinema, token, user_id="u2") as call:
        failed = await stream_failure(call)
    assert (failed.code, set(failed.fields)) == ("INVALID_ARGUMENT", {"resume_token"})


async def test_a_wrong_request_is_refused(standing_cinema: Api) -> None:
    async with watching(standing_cinema, user_id="u1", filter="colour =") as call:
        assert (await failure(call.read())).reason == "INVALID_FILTER"


async def test_a_change_at_one_server_reaches_the_watchers_of_another(
    cinema: Api, settings: Settings, new_tenant: Tenant
) -> None:
    async with another_server(settings, new_tenant) as (_, elsewhere), watching(elsewhere, user_id="u1") as call:
        first = await next_list(call)
        await record(cinema, "u1", first[0])
        wanted = await recommended(cinema, user_id="u1")
        assert (await lists_until(call, wanted))[-1] == wanted


async def test_without_redis_lists_are_looked_at_from_time_to_time(
    cinema: Api, settings: Settings, new_tenant: Tenant
) -> None:
    nowhere = SecretStr("redis://127.0.0.1:1/0")
    watch = WatchSettings(poll_s=0.1)
    async with (
        another_server(settings, new_tenant, redis_url=nowhere, watch=watch) as (_, alone),
        watching(alone, user_id="u1") as call,
    ):
        first = await next_list(call)
        await record(cinema, "u1", first[0])
        wanted = await recommended(cinema, user_id="u1")
        assert (await lists_until(call, wanted))[-1] == wanted


async def test_heartbeats_come_while_nothing_changes(cinema: Api, settings: Settings, new_tenant: Tenant) -> None:
    watch = WatchSettings(heartbeat_s=0.2)
    async with another_server(settings, new_tenant, watch=watch) as (_, api), watching(api, user_id="u1") as call:
        token = (await the_next(call)).resume_token
        for _ in range(3):
            beat = await the_next(call)
            assert beat.HasField("heartbeat")
            assert beat.resume_token == token


async def test_a_server_has_so_many_watchers_at_most(cinema: Api, settings: Settings, new_tenant: Tenant) -> None:
    watch = WatchSettings(watchers=1)
    async with another_server(settings, new_tenant, watch=watch) as (_, api):
        async with watching(api, user_id="u1") as call:
            await next_list(call)
            async with watching(api, user_id="u2") as one_too_many:
                failed = await failure(one_too_many.read())
            assert (failed.code, failed.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        await asyncio.sleep(0.2)
        async with watching(api, user_id="u2") as call:
            await next_list(call)


async def test_a_server_that_stops_sends_its_watchers_elsewhere(
    cinema: Api, settings: Settings, new_tenant: Tenant
) -> None:
    async with another_server(settings, new_tenant) as (service, api), watching(api, user_id="u1") as call:
        await next_list(call)
        stopping = asyncio.create_task(service.server.drain())
        failed = await stream_failure(call)
        assert (failed.code, failed.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
        await stopping
