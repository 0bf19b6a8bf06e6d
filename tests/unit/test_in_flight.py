"""Answering a stream several elements at a time: bounded both ways, nothing lost, nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from recsvc.rpc.in_flight import answered


class Source:
    """Numbers from 0, counting how many were taken."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[int]:
        while self.taken < self.size:
            self.taken += 1
            yield self.taken - 1


async def _settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_every_request_is_answered_once_in_any_order() -> None:
    async def answer(number: int) -> int:
        await asyncio.sleep(0.001 * (number % 7))
        return number

    found = [number async for number in answered(aiter(Source(100)), answer, 5)]
    assert sorted(found) == list(range(100))
    assert found != sorted(found)


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_no_more_is_read_than_may_be_in_flight(in_flight: int) -> None:
    source, gate = Source(100), asyncio.Event()

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    stream = answered(aiter(source), answer, in_flight)
    first = asyncio.create_task(anext(stream))
    await _settle()
    assert source.taken == in_flight
    gate.set()
    await first
    await stream.aclose()


async def test_nothing_is_read_while_nobody_takes_answers() -> None:
    source = Source(100)

    async def answer(number: int) -> int:
        return number

    stream = answered(aiter(source), answer, 4)
    await anext(stream)
    await _settle()
    # One was handed out; what is read beyond it fits into the four places.
    assert source.taken <= 1 + 4
    await stream.aclose()


async def test_a_slow_request_does_not_hold_its_neighbours() -> None:
    gate = asyncio.Event()

    async def answer(number: int) -> int:
        if number == 0:
            await gate.wait()
        return number

    stream = answered(aiter(Source(20)), answer, 2)
    others = [await anext(stream) for _ in range(19)]
    assert sorted(others) == list(range(1, 20))
    gate.set()
    assert [number async for number in stream] == [0]


async def test_leaving_cancels_what_is_under_way() -> None:
    gate, cancelled = asyncio.Event(), []

    async def answer(number: int) -> int:
        try:
            await (gate.wait() if number == 0 else asyncio.sleep(60))
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    stream = answered(aiter(Source(100)), answer, 4)
    first = asyncio.create_task(anext(stream))
    await _settle()
    gate.set()
    assert await first == 0
    await stream.aclose()
    assert sorted(cancelled) == [1, 2, 3]


async def test_a_broken_source_ends_the_stream() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        raise ConnectionResetError

    async def answer(number: int) -> int:
        await asyncio.sleep(60)
        return number

    with pytest.raises(ConnectionResetError):
        [number async for number in answered(source(), answer, 2)]
