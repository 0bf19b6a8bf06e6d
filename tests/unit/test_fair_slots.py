"""Slots shared by lanes: in turn, never more than there are, none lost."""

from __future__ import annotations

import asyncio

from recsvc.engine.fair_slots import FairSlots


async def in_order(slots: FairSlots, lanes: str) -> str:
    """The order in which askers of these lanes are served, all of whom ask while the only slot is held."""
    served: list[str] = []

    async def ask(lane: str) -> None:
        async with slots.held(lane):
            served.append(lane)

    async with asyncio.TaskGroup() as group, slots.held("holder"):
        for lane in lanes:
            group.create_task(ask(lane))
        await asyncio.sleep(0)
    return "".join(served)


async def test_lanes_are_served_in_turn() -> None:
    assert await in_order(FairSlots(1), "aaaaabb") == "ababaaa"


async def test_no_more_are_held_than_there_are() -> None:
    slots, held, most = FairSlots(2), 0, 0

    async def ask(lane: int) -> None:
        nonlocal held, most
        async with slots.held(lane % 3):
            held += 1
            most = max(most, held)
            await asyncio.sleep(0)
            held -= 1

    await asyncio.gather(*(ask(lane) for lane in range(20)))
    assert most == 2


async def test_a_slot_given_to_somebody_who_leaves_goes_to_the_next() -> None:
    slots = FairSlots(1)
    served = asyncio.Event()

    async def ask() -> None:
        async with slots.held("lane"):
            served.set()

    async with slots.held("holder"):
        leaving = asyncio.create_task(ask())
        await asyncio.sleep(0)
        staying = asyncio.create_task(ask())
        await asyncio.sleep(0)
    # The slot has been given to the first, who has not run since.
    leaving.cancel()
    await asyncio.wait_for(staying, 1.0)
    assert leaving.cancelled()
    assert served.is_set()


async def test_whoever_leaves_while_waiting_is_passed_over() -> None:
    slots = FairSlots(1)

    async def ask() -> None:
        async with slots.held("lane"):
            pass

    async with slots.held("holder"):
        leaving, staying = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
    await asyncio.wait_for(staying, 1.0)
