"""Answering a stream several elements at a time: bounded both ways, nothing lost, nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.rpc.in_flight import answered_in_order
from tests.stream_source import Source, settle


def in_order(source: AsyncIterator[int], answer: Callable[[int], Awaitable[int]], in_flight: int = 4, **options: Any):  # type: ignore[no-untyped-def]
    return answered_in_order(source, answer, in_flight, **{"idle_s": 5.0, "stop": asyncio.Event(), **options})


async def collect(stream: AsyncIterator[list[int]], found: list[int]) -> None:
    async for ready in stream:
        found += ready


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_answers_come_in_order_however_long_each_takes(turns: list[int], in_flight: int) -> None:
    async def answer(number: int) -> int:
        for _ in range(turns[number]):
            await asyncio.sleep(0)
        return number

    async def collected() -> list[int]:
        stream = in_order(aiter(Source(len(turns))), answer, in_flight)
        return [number async for ready in stream for number in ready]

    assert asyncio.run(collected()) == list(range(len(turns)))


async def test_in_order_no_more_is_read_than_may_be_in_flight() -> None:
    source, gate = Source(100), asyncio.Event()

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    stream = in_order(aiter(source), answer, 3)
    first = asyncio.create_task(anext(stream))
    await settle()
    assert source.taken == 3
    gate.set()
    assert await first == [0, 1, 2]
    await stream.aclose()


async def test_a_failed_answer_ends_the_stream_after_those_before_it() -> None:
    async def answer(number: int) -> int:
        if number == 3:
            raise ConnectionResetError
        return number

    found: list[int] = []
    with pytest.raises(ConnectionResetError):
        await collect(in_order(aiter(Source(10)), answer), found)
    assert found == [0, 1, 2]


async def test_a_broken_source_ends_the_stream_after_what_was_read() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ConnectionResetError

    async def answer(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    found: list[int] = []
    with pytest.raises(ConnectionResetError):
        await collect(in_order(source(), answer), found)
    assert found == [1, 2]


async def test_a_source_that_says_nothing_for_too_long_ends_the_stream() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(60)
        yield 2

    async def answer(number: int) -> int:
        await asyncio.sleep(0.05)
        return number

    found: list[int] = []
    with pytest.raises(TimeoutError):
        await collect(in_order(source(), answer, idle_s=0.01), found)
    assert found == [1]


async def test_once_stopped_nothing_more_is_read_and_what_was_read_is_answered() -> None:
    source, gate, stop = Source(100), asyncio.Event(), asyncio.Event()

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    stream = in_order(aiter(source), answer, 3, stop=stop)
    first = asyncio.create_task(anext(stream))
    await settle()
    stop.set()
    gate.set()
    assert [*await first, *[number async for ready in stream for number in ready]] == [0, 1, 2]
    assert source.taken == 3


async def test_a_silent_source_does_not_keep_a_stopped_stream() -> None:
    async def source() -> AsyncIterator[int]:
        await asyncio.sleep(60)
        yield 1

    async def answer(number: int) -> int:
        return number

    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    async with asyncio.timeout(1):
        assert [ready async for ready in in_order(source(), answer, stop=stop)] == []
