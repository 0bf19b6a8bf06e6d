"""One question for many: nobody gets an answer that is older than their asking, or another's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from recsvc.engine.gathering import Gathering


class Oracle:
    """Answers with the number of the question; waits when it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[list[str]] = []

    async def __call__(self, keys: Sequence[str]) -> Sequence[tuple[str, int]]:
        self.asked.append(list(keys))
        number = len(self.asked)
        await self.open.wait()
        if "bad" in keys:
            raise ValueError("no such thing")
        return [(key, number) for key in keys]


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_those_who_ask_together_are_answered_together_each_their_own() -> None:
    oracle = Oracle()
    gathering = Gathering(oracle, 10)
    answers = await asyncio.gather(*(gathering.answer(name) for name in "abc"))
    assert answers == [("a", 1), ("b", 1), ("c", 1)]
    assert oracle.asked == [["a", "b", "c"]]


async def test_who_comes_while_a_question_is_under_way_gets_the_answer_of_the_next() -> None:
    oracle = Oracle()
    oracle.open.clear()
    gathering = Gathering(oracle, 10)
    early = asyncio.create_task(gathering.answer("a"))
    await _settle()
    late = [asyncio.create_task(gathering.answer("a")) for _ in range(2)]
    await _settle()
    oracle.open.set()
    assert await early == ("a", 1)
    assert await asyncio.gather(*late) == [("a", 2), ("a", 2)]


async def test_a_question_holds_at_most_so_many_keys() -> None:
    oracle = Oracle()
    gathering = Gathering(oracle, 4)
    await asyncio.gather(*(gathering.answer(str(number)) for number in range(10)))
    assert [len(keys) for keys in oracle.asked] == [4, 4, 2]


async def test_a_failure_is_that_of_those_who_asked_and_of_no_later_ones() -> None:
    gathering = Gathering(Oracle(), 10)
    with pytest.raises(ValueError, match="no such thing"):
        await gathering.answer("bad")
    assert await gathering.answer("good") == ("good", 2)


async def test_who_gives_up_is_no_longer_asked_for() -> None:
    oracle = Oracle()
    oracle.open.clear()
    gathering = Gathering(oracle, 10)
    first = asyncio.create_task(gathering.answer("first"))
    await _settle()
    waiting = asyncio.create_task(gathering.answer("gone"))
    await _settle()
    waiting.cancel()
    oracle.open.set()
    assert await first == ("first", 1)
    assert await gathering.answer("next") == ("next", 2)
    assert oracle.asked == [["first"], ["next"]]


async def test_a_question_that_nobody_waits_for_any_more_holds_up_nobody() -> None:
    oracle = Oracle()
    oracle.open.clear()
    gathering = Gathering(oracle, 10)
    gone = [asyncio.create_task(gathering.answer(name)) for name in "ab"]
    await _settle()
    late = asyncio.create_task(gathering.answer("c"))
    for asker in gone:
        asker.cancel()
    await _settle()
    assert oracle.asked == [["a", "b"], ["c"]]
    oracle.open.set()
    assert await late == ("c", 2)


async def test_a_question_goes_on_while_one_of_its_askers_waits() -> None:
    oracle = Oracle()
    oracle.open.clear()
    gathering = Gathering(oracle, 10)
    gone, patient = (asyncio.create_task(gathering.answer(name)) for name in "ab")
    await _settle()
    gone.cancel()
    await _settle()
    oracle.open.set()
    assert await patient == ("b", 1)
