"""Answering a stream in sets: bounded both ways, nothing lost, nobody held up by who is slow, nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.rpc.together import answered_together
from tests.stream_source import Source, settle


async def _nothing_together(numbers: Sequence[int]) -> Sequence[int | None]:
    return [None] * len(numbers)


async def _all_together(numbers: Sequence[int]) -> Sequence[int | None]:
    return numbers


async def _unasked(number: int) -> int:
    raise AssertionError(f"{number} was asked for alone")


def _one_by_one(
    source: AsyncIterator[int], answer: Callable[[int], Awaitable[int]], in_flight: int
) -> AsyncIterator[int]:
    return answered_together(source, _nothing_together, answer, in_flight)


@given(st.integers(0, 60), st.integers(1, 20), st.sets(st.integers(0, 60)))
def test_every_request_is_answered_once(size: int, in_flight: int, apart: set[int]) -> None:
    async def together(numbers: Sequence[int]) -> Sequence[int | None]:
        await asyncio.sleep(0)
        return [None if number in apart else number for number in numbers]

    async def alone(number: int) -> int:
        assert number in apart
        return number

    async def collected() -> list[int]:
        return [number async for number in answered_together(aiter(Source(size)), together, alone, in_flight)]

    assert sorted(asyncio.run(collected())) == list(range(size))


async def test_what_comes_while_a_set_is_under_way_is_the_next_one() -> None:
    sets: list[int] = []
    gates = [asyncio.Event() for _ in range(10)]

    async def together(numbers: Sequence[int]) -> Sequence[int | None]:
        sets.append(len(numbers))
        await gates[len(sets) - 1].wait()
        return numbers

    stream = answered_together(aiter(Source(28)), together, _unasked, 40)
    first = asyncio.create_task(anext(stream))
    await settle()
    # A quarter of what may be in flight is a whole set, of which two are under way; the first had nothing to wait for.
    assert sets == [1, 10]
    gates[1].set()
    await settle()
    assert sets == [1, 10, 10]
    gates[2].set()
    await settle()
    # What is left is no whole set.
    assert sets == [1, 10, 10]
    gates[0].set()
    gates[3].set()
    assert sorted([await first, *[number async for number in stream]]) == list(range(28))
    assert sets == [1, 10, 10, 7]


async def test_while_answers_wait_to_be_taken_no_small_set_begins() -> None:
    sets: list[int] = []

    async def together(numbers: Sequence[int]) -> Sequence[int | None]:
        sets.append(len(numbers))
        return numbers

    taken = []
    async for number in answered_together(aiter(Source(400)), together, _unasked, 40):
        taken.append(number)
        await settle()
    assert sorted(taken) == list(range(400))
    # The first had nothing to wait for, and the last gets no more.
    assert sets == [1, *[10] * 39, 9]


@pytest.mark.parametrize("in_flight", [1, 3])
async def test_no_more_is_read_than_may_be_in_flight(in_flight: int) -> None:
    source, gate = Source(100), asyncio.Event()

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    stream = _one_by_one(aiter(source), answer, in_flight)
    first = asyncio.create_task(anext(stream))
    await settle()
    assert source.taken == in_flight
    gate.set()
    await first
    await stream.aclose()


@pytest.mark.parametrize("together", [_all_together, _nothing_together])
async def test_nothing_is_read_while_nobody_takes_answers(
    together: Callable[[Sequence[int]], Awaitable[Sequence[int | None]]],
) -> None:
    source = Source(100)

    async def answer(number: int) -> int:
        return number

    stream = answered_together(aiter(source), together, answer, 4)
    await anext(stream)
    await settle()
    # One was handed out; what is read beyond it fits into the four places.
    assert source.taken <= 1 + 4
    await stream.aclose()


async def test_a_slow_request_does_not_hold_its_neighbours() -> None:
    gate = asyncio.Event()

    async def answer(number: int) -> int:
        if number == 0:
            await gate.wait()
        return number

    stream = _one_by_one(aiter(Source(20)), answer, 2)
    others = [await anext(stream) for _ in range(19)]
    assert sorted(others) == list(range(1, 20))
    gate.set()
    assert [number async for number in stream] == [0]


async def test_only_so_many_are_answered_alone_at_once() -> None:
    under_way, gate = 0, asyncio.Event()

    async def answer(number: int) -> int:
        nonlocal under_way
        under_way += 1
        await gate.wait()
        under_way -= 1
        return number

    stream = _one_by_one(aiter(Source(200)), answer, 200)
    first = asyncio.create_task(anext(stream))
    for _ in range(20):
        await settle()
    assert under_way == 32
    gate.set()
    assert sorted([await first, *[number async for number in stream]]) == list(range(200))


@pytest.mark.parametrize("in_sets", [True, False])
async def test_leaving_cancels_what_is_under_way(in_sets: bool) -> None:
    gate, cancelled = asyncio.Event(), []

    async def answer(number: int) -> int:
        try:
            await (gate.wait() if number == 0 else asyncio.sleep(60))
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    async def together(numbers: Sequence[int]) -> Sequence[int | None]:
        return [await answer(number) for number in numbers] if in_sets else [None] * len(numbers)

    stream = answered_together(aiter(Source(100)), together, answer, 4)
    first = asyncio.create_task(anext(stream))
    await settle()
    gate.set()
    assert await first == 0
    await stream.aclose()
    assert set(cancelled) >= ({1} if in_sets else {1, 2, 3})


async def _broken() -> AsyncIterator[int]:
    yield 1
    raise ConnectionResetError


async def _endless(number: int) -> int:
    await asyncio.sleep(60)
    return number


async def test_a_broken_source_ends_the_stream() -> None:
    with pytest.raises(ConnectionResetError):
        [number async for number in _one_by_one(_broken(), _endless, 2)]


async def test_a_set_that_fails_ends_the_stream() -> None:
    async def together(numbers: Sequence[int]) -> Sequence[int | None]:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        [number async for number in answered_together(aiter(Source(5)), together, _endless, 2)]
