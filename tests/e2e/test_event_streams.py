"""StreamEvents over a real socket: acknowledged in order once durable, and resumed without loss."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.settings import Settings
from tests.api import Api, Failure, describe, stream_failure
from tests.cinema import an_event, an_item
from tests.e2e.servers import another_server


@pytest.fixture
async def films(api: Api) -> Api:
    items = [an_item("Drama", number) for number in range(10)]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    return api


def message(sequence: int, users: int = 5, *, item: str = "Drama-0") -> pb.StreamEventsRequest:
    """One event of each of some users, other ones for every number."""
    events = [an_event(f"{sequence}-{user}", item) for user in range(users)]
    return pb.StreamEventsRequest(sequence=sequence, events=events)


async def sent(messages: Sequence[pb.StreamEventsRequest]) -> AsyncIterator[pb.StreamEventsRequest]:
    for each in messages:
        yield each


async def stored_ids(api: Api) -> list[str]:
    parts = [part async for part in api.ingestion.ExportEvents(pb.ExportEventsRequest())]
    return [event.event_id for part in parts for event in part.events]


async def test_acknowledgements_rise_and_cover_every_message(films: Api) -> None:
    answers = [answer async for answer in films.ingestion.StreamEvents(sent([message(n) for n in range(1, 101)]))]
    acked = [answer.acked_through for answer in answers]
    assert acked == sorted(set(acked))
    assert acked[-1] == 100
    assert sum(answer.stored_count for answer in answers) == 500
    assert len(set(await stored_ids(films))) == 500


async def test_what_is_acknowledged_is_there(films: Api) -> None:
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[pb.StreamEventsRequest]:
        yield message(1)
        await go_on.wait()
        yield message(2)

    call = films.ingestion.StreamEvents(slowly())
    answer = await call.read()
    assert answer.acked_through == 1
    assert len(await stored_ids(films)) == 5
    go_on.set()
    assert (await call.read()).acked_through == 2


async def test_rejections_name_the_message_and_the_place(films: Api) -> None:
    bad = message(7)
    bad.events[3].item_id = "nope"
    bad.events[4].event_type = ""
    answers = [answer async for answer in films.ingestion.StreamEvents(sent([message(3), bad, message(8)]))]
    rejections = [rejection for answer in answers for rejection in answer.rejections]
    assert [(rejection.sequence, rejection.index) for rejection in rejections] == [(7, 3), (7, 4)]
    assert answers[-1].acked_through == 8
    assert len(await stored_ids(films)) == 13


async def test_a_number_that_does_not_rise_ends_the_stream_after_what_came_before(films: Api) -> None:
    acked, failed = await to_the_end(films.ingestion.StreamEvents(sent([message(1), message(2), message(2)])))
    assert (failed.code, set(failed.fields)) == ("INVALID_ARGUMENT", {"sequence"})
    assert acked == 2
    assert len(await stored_ids(films)) == 10


async def test_a_broken_stream_is_resumed_without_loss_or_duplicates(films: Api) -> None:
    messages = [message(n) for n in range(1, 60)]
    call = films.ingestion.StreamEvents(sent(messages))
    acked = (await call.read()).acked_through
    call.cancel()
    again = [each for each in messages if each.sequence > acked]
    answers = [answer async for answer in films.ingestion.StreamEvents(sent(again))]
    assert answers[-1].acked_through == 59
    ids = await stored_ids(films)
    assert len(ids) == len(set(ids)) == 5 * 59


async def test_streams_and_single_calls_share_the_way_in(films: Api) -> None:
    async def single(number: int) -> bool:
        event = an_event(f"single-{number}", "Drama-1")
        return (await films.ingestion.RecordEvent(pb.RecordEventRequest(event=event))).duplicate

    async def streamed() -> None:
        messages = [message(n) for n in range(1, 30)]
        assert [answer async for answer in films.ingestion.StreamEvents(sent(messages))][-1].acked_through == 29

    duplicates, _ = await asyncio.gather(asyncio.gather(*(single(number % 40) for number in range(80))), streamed())
    assert sum(duplicates) == 40
    ids = await stored_ids(films)
    assert len(ids) == len(set(ids)) == 40 + 5 * 29


async def to_the_end(call: Any) -> tuple[int, Failure]:
    """The last acknowledgement, 0 without any, and what the call failed with."""
    acked = 0
    try:
        async for answer in call:
            acked = answer.acked_through
    except grpc.aio.AioRpcError as error:
        return acked, describe(error)
    raise AssertionError("the call succeeded")


async def test_a_stream_that_says_nothing_for_too_long_is_ended(
    films: Api, settings: Settings, new_tenant: Tenant
) -> None:
    server = settings.server.model_copy(update={"stream_idle_s": 0.2})

    async def silent() -> AsyncIterator[pb.StreamEventsRequest]:
        yield message(1)
        await asyncio.sleep(20)

    async with another_server(settings, new_tenant, server=server) as (_, api):
        failed = await stream_failure(api.ingestion.StreamEvents(silent()))
        assert (failed.code, failed.reason) == ("DEADLINE_EXCEEDED", "STREAM_IDLE")
    assert len(await stored_ids(films)) == 5


async def test_a_server_that_stops_acknowledges_what_it_read_and_sends_the_stream_elsewhere(
    films: Api, settings: Settings, new_tenant: Tenant
) -> None:
    draining = asyncio.Event()

    async def steadily() -> AsyncIterator[pb.StreamEventsRequest]:
        for number in itertools.takewhile(lambda _: not draining.is_set(), itertools.count(1)):
            yield message(number)
            await asyncio.sleep(0.005)
        # A write that fails takes the place of the status in grpc.aio: what the call ends with would be INTERNAL then.
        await asyncio.sleep(20)

    async with another_server(settings, new_tenant) as (service, api):
        call = api.ingestion.StreamEvents(steadily())
        acked = (await call.read()).acked_through
        stopping = asyncio.create_task(service.server.drain())
        draining.set()
        later, failed = await to_the_end(call)
        acked = max(acked, later)
        assert (failed.code, failed.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
        await stopping
    ids = await stored_ids(films)
    assert len(ids) == len(set(ids)) == 5 * acked
