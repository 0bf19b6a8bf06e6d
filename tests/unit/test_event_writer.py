"""Group commit: batches grow with the load, nobody's failure is another's, and what waits is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import pytest

from recsvc.domain.errors import ItemNotFound, Overloaded, StorageUnavailable
from recsvc.domain.events import Event, Recorded
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId
from recsvc.engine.event_writer import EventWriter
from recsvc.settings import WriterSettings
from recsvc.storage.events import EventRepository, Outcome
from recsvc.telemetry.metrics import Metrics

_TENANT = TenantKey(1)
_NOW = datetime.now(UTC)


class Table:
    """Writes when it is let to; an event named "bad" cannot be written, "refused" has no item, "away" no database."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[tuple[TenantKey, list[str]]] = []
        self.stored: set[str] = set()
        self.counted_at_once: list[bool] = []
        self.is_slow = False

    async def write(self, tenant_key: TenantKey, events: Sequence[Event], *, count_at_once: bool) -> list[Outcome]:
        self.counted_at_once.append(count_at_once)
        names = [str(event.event_id) for event in events]
        self.batches.append((tenant_key, names))
        await self.open.wait()
        if "bad" in names:
            raise ValueError("invalid input syntax")
        if "away" in names:
            raise StorageUnavailable
        outcomes: list[Outcome] = [
            Recorded(event.event_id, event.event_id in self.stored)
            if event.event_id != "refused"
            else ItemNotFound("i", field="item_id")
            for event in events
        ]
        self.stored.update(names)
        return outcomes


def an_event(name: str) -> Event:
    return Event(EventId(name), "view", ItemId("i"), _NOW, user_id=UserId("u"))


def a_writer(table: Table, metrics: Metrics | None = None, **settings: float) -> EventWriter:
    model = WriterSettings.model_validate(settings)
    return EventWriter(cast(EventRepository, table), model, metrics or Metrics(), is_slow=lambda: table.is_slow)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_callers_that_come_while_a_batch_is_written_share_the_next_one() -> None:
    table = Table()
    table.open.clear()
    writer = a_writer(table, batches_in_flight=1)
    calls = [asyncio.create_task(writer.write(_TENANT, [an_event("first")]))]
    await _settle()
    calls += [asyncio.create_task(writer.write(_TENANT, [an_event(str(number))])) for number in range(50)]
    await _settle()
    table.open.set()
    outcomes = await asyncio.gather(*calls)
    assert [len(names) for _, names in table.batches] == [1, 50]
    assert [found.event_id for (found,) in outcomes] == ["first", *(str(number) for number in range(50))]  # type: ignore[union-attr]


async def test_a_batch_holds_at_most_so_many_events_and_never_part_of_a_call() -> None:
    table = Table()
    writer = a_writer(table, batch=10, batches_in_flight=1)
    calls = [[an_event(f"{call}/{number}") for number in range(4)] for call in range(5)]
    calls.append([an_event(f"large/{number}") for number in range(25)])
    await asyncio.gather(*(writer.write(_TENANT, events) for events in calls))
    assert [len(names) for _, names in table.batches] == [8, 8, 4, 25]


async def test_beside_a_batch_that_is_written_only_a_full_one_sets_out() -> None:
    table = Table()
    table.open.clear()
    writer = a_writer(table, batch=3, batches_in_flight=2)
    calls = []
    for name in ("under way", "a", "b"):
        calls.append(asyncio.create_task(writer.write(_TENANT, [an_event(name)])))
        await _settle()
    assert [names for _, names in table.batches] == [["under way"]]
    calls.append(asyncio.create_task(writer.write(_TENANT, [an_event("c")])))
    await _settle()
    assert [names for _, names in table.batches] == [["under way"], ["a", "b", "c"]]
    table.open.set()
    await asyncio.gather(*calls)


async def _write_some(writer: EventWriter, count: int) -> None:
    await asyncio.gather(*(writer.write(_TENANT, [an_event(str(number))]) for number in range(count)))


async def test_while_many_write_a_batch_waits_a_moment_for_those_who_are_missing() -> None:
    table = Table()
    writer = a_writer(table, gather_s=0.1)
    await _write_some(writer, 20)
    early = asyncio.create_task(_write_some(writer, 1))
    await _settle()
    await asyncio.gather(early, _write_some(writer, 1))
    assert [len(names) for _, names in table.batches] == [20, 2]


async def test_a_batch_sets_out_as_soon_as_all_who_wrote_before_wait_again() -> None:
    table = Table()
    writer = a_writer(table, gather_s=60)
    async with asyncio.timeout(5):
        for _ in range(3):
            await _write_some(writer, 20)
    assert [len(names) for _, names in table.batches] == [20, 20, 20]


async def test_a_batch_sets_out_once_most_of_those_who_wrote_before_wait_again() -> None:
    table = Table()
    writer = a_writer(table, gather_s=60)
    await _write_some(writer, 20)
    fewer = asyncio.create_task(_write_some(writer, 15))
    await asyncio.sleep(0.1)
    assert len(table.batches) == 1
    async with asyncio.timeout(5):
        await asyncio.gather(fewer, _write_some(writer, 1))
    assert [len(names) for _, names in table.batches] == [20, 16]


async def test_nobody_waits_for_callers_once_a_batch_is_full() -> None:
    table = Table()
    writer = a_writer(table, gather_s=60, batch=20)
    async with asyncio.timeout(5):
        await _write_some(writer, 20)
        await writer.write(_TENANT, [an_event(str(number)) for number in range(20)])
    assert [len(names) for _, names in table.batches] == [20, 20]


async def test_a_caller_who_is_alone_waits_for_nobody() -> None:
    table = Table()
    writer = a_writer(table, gather_s=60)
    for name in ("a", "b", "c"):
        async with asyncio.timeout(5):
            await writer.write(_TENANT, [an_event(name)])
    assert [names for _, names in table.batches] == [["a"], ["b"], ["c"]]


async def test_only_the_events_of_who_writes_alone_are_counted_before_they_are_acknowledged() -> None:
    table = Table()
    writer = a_writer(table)
    await writer.write(_TENANT, [an_event("alone")])
    await asyncio.gather(*(writer.write(_TENANT, [an_event(f"one of two/{at}")]) for at in range(2)))
    await writer.write(_TENANT, [an_event("just after them")])
    await writer.write(_TENANT, [an_event("alone again"), an_event("of the same caller")])
    await writer.write(_TENANT, [an_event(f"many of one/{at}") for at in range(1000)])
    await writer.write(_TENANT, [an_event("alone after all")])
    assert table.counted_at_once == [True, False, False, True, False, True]


async def test_while_the_database_is_slow_no_event_waits_until_it_is_counted() -> None:
    table = Table()
    table.is_slow = True
    await a_writer(table).write(_TENANT, [an_event("alone")])
    assert table.counted_at_once == [False]


async def test_tenants_never_share_a_batch() -> None:
    table = Table()
    writer = a_writer(table)
    tenants = [TenantKey(number % 3) for number in range(30)]
    await asyncio.gather(*(writer.write(key, [an_event(f"{key}/{at}")]) for at, key in enumerate(tenants)))
    assert all(name.startswith(f"{key}/") for key, names in table.batches for name in names)
    assert sum(len(names) for _, names in table.batches) == 30


async def test_an_event_that_cannot_be_written_fails_its_own_call_only() -> None:
    table = Table()
    writer = a_writer(table)
    names = ["a", "bad", "b"]
    found = await asyncio.gather(*(writer.write(_TENANT, [an_event(name)]) for name in names), return_exceptions=True)
    assert isinstance(found[1], ValueError)
    assert table.stored == {"a", "b"}


async def test_without_a_database_everybody_is_told_and_nothing_is_tried_again() -> None:
    table = Table()
    writer = a_writer(table)
    names = ["a", "away"]
    found = await asyncio.gather(*(writer.write(_TENANT, [an_event(name)]) for name in names), return_exceptions=True)
    assert all(isinstance(error, StorageUnavailable) for error in found)
    assert len(table.batches) == 1


async def test_what_waits_is_bounded_and_room_comes_back() -> None:
    table = Table()
    table.open.clear()
    writer = a_writer(table, queue=3)
    calls = [asyncio.create_task(writer.write(_TENANT, [an_event(str(number))])) for number in range(3)]
    await _settle()
    with pytest.raises(Overloaded) as refused:
        await writer.write(_TENANT, [an_event("one too many")])
    assert refused.value.retry_after_s
    table.open.set()
    await asyncio.gather(*calls)
    await writer.write(_TENANT, [an_event("later")])
    assert "one too many" not in table.stored


async def test_metrics_tell_what_waits_and_what_became_of_it() -> None:
    table, metrics = Table(), Metrics()
    table.open.clear()
    writer = a_writer(table, metrics)
    read = metrics.registry.get_sample_value
    calls = [asyncio.create_task(writer.write(_TENANT, [an_event(name)])) for name in ("a", "b")]
    await _settle()
    assert read("recsvc_events_waiting") == 2
    table.open.set()
    await asyncio.gather(*calls)
    await writer.write(_TENANT, [an_event("b"), an_event("refused")])
    assert read("recsvc_events_waiting") == 0
    counted = [read("recsvc_events_total", {"outcome": outcome}) for outcome in ("stored", "duplicate", "refused")]
    assert counted == [2, 1, 1]


async def test_streams_wait_for_room_and_leave_some_for_others() -> None:
    table = Table()
    table.open.clear()
    writer = a_writer(table, queue=10, stream_queue=4)
    streams = [
        asyncio.create_task(writer.write(_TENANT, [an_event(f"{at}/{n}") for n in range(2)], patiently=True))
        for at in range(6)
    ]
    await _settle()
    alone = asyncio.create_task(writer.write(_TENANT, [an_event("alone")]))
    await _settle()
    assert not alone.done()
    assert sum(len(names) for _, names in table.batches) <= 4 + 1
    table.open.set()
    await asyncio.gather(*streams, alone)
    assert len(table.stored) == 13


async def test_a_caller_who_gives_up_takes_nothing_from_the_others() -> None:
    table = Table()
    table.open.clear()
    writer = a_writer(table, batches_in_flight=1, queue=3)
    calls = []
    for name in ("first", "gone", "stays"):
        calls.append(asyncio.create_task(writer.write(_TENANT, [an_event(name)])))
        await _settle()
    calls[1].cancel()
    await _settle()
    table.open.set()
    await asyncio.gather(calls[0], calls[2])
    assert table.stored == {"first", "stays"}
    await writer.write(_TENANT, [an_event(name) for name in ("x", "y", "z")])


async def test_leaving_waits_for_what_was_taken_in() -> None:
    table = Table()
    table.open.clear()
    async with a_writer(table, batches_in_flight=1) as writer:
        calls = [asyncio.create_task(writer.write(_TENANT, [an_event(str(number))])) for number in range(3)]
        await _settle()
        asyncio.get_running_loop().call_later(0.01, table.open.set)
    await asyncio.gather(*calls)
    assert len(table.stored) == 3


async def test_a_late_writer_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsvc.engine.event_writer._STOP_S", 0.01)
    table = Table()
    table.open.clear()
    async with a_writer(table) as writer:
        call = asyncio.create_task(writer.write(_TENANT, [an_event("a")]))
        await _settle()
    with pytest.raises(StorageUnavailable):
        await call
