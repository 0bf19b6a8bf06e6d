"""When a dependency is left alone, and when it is tried again."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress

import pytest

from recsvc.resilience.breaker import Breaker, BreakerOpen

_RESET_S = 0.05
_LONG_ENOUGH_S = 0.1


class _Away(Exception):
    """Speaks against the dependency."""


class _BadQuestion(Exception):
    """Does not."""


def a_breaker(states: list[str] | None = None, patience_s: float = float("inf")) -> Breaker:
    """Opens after three failures in a row."""
    told = states if states is not None else []
    return Breaker(
        "test",
        failures=3,
        reset_s=_RESET_S,
        patience_s=patience_s,
        is_failure=lambda error: isinstance(error, _Away),
        on_change=told.append,
    )


async def call(
    breaker: Breaker, error: BaseException | None = None, takes_s: float = 0.0, *, probe: bool = False
) -> None:
    """One call that ends like this."""
    with breaker.guard(probe=probe):
        await asyncio.sleep(takes_s)
        if error is not None:
            raise error


async def opened(states: list[str] | None = None) -> Breaker:
    """A breaker that has just opened."""
    breaker = a_breaker(states)
    for _ in range(3):
        with pytest.raises(_Away):
            await call(breaker, _Away())
    return breaker


async def test_failures_in_a_row_open_it_and_each_caller_sees_their_own_failure() -> None:
    breaker = await opened()
    assert breaker.is_open
    with pytest.raises(BreakerOpen):
        await call(breaker)


async def test_what_speaks_against_the_question_does_not_open_it() -> None:
    breaker = a_breaker()
    for _ in range(100):
        with pytest.raises(_BadQuestion):
            await call(breaker, _BadQuestion())
    assert not breaker.is_open


async def test_half_of_the_last_calls_failing_opens_it_though_none_follow_each_other() -> None:
    breaker = a_breaker()
    for _ in range(10):
        assert not breaker.is_open
        await call(breaker)
        with pytest.raises(_Away):
            await call(breaker, _Away())
    assert breaker.is_open


async def test_answers_that_come_late_do_not_open_it() -> None:
    breaker = a_breaker(patience_s=0.001)
    await asyncio.gather(*(call(breaker, takes_s=0.01) for _ in range(20)))
    assert breaker.is_closed


async def test_callers_that_give_up_on_a_slow_answer_open_it_and_impatient_ones_do_not() -> None:
    for patience_s, opens in ((0.001, True), (10.0, False)):
        breaker = a_breaker(patience_s=patience_s)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await call(breaker, takes_s=1.0)
        assert breaker.is_open is opens


class Clock:
    """Time as the breaker sees it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def asked(breaker: Breaker) -> AbstractContextManager[None]:
    """A call that waits for its answer."""
    waiting = breaker.guard()
    waiting.__enter__()
    return waiting


def given_up(waiting: AbstractContextManager[None]) -> None:
    with suppress(asyncio.CancelledError):
        error = asyncio.CancelledError()
        waiting.__exit__(type(error), error, None)


@pytest.mark.parametrize(
    ("overlap", "is_one_answered", "opens"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_silence_opens_it_though_each_caller_gives_up_early(
    monkeypatch: pytest.MonkeyPatch, overlap: bool, is_one_answered: bool, opens: bool
) -> None:
    clock, breaker = Clock(), a_breaker(patience_s=1.0)
    monkeypatch.setattr("recsvc.resilience.breaker.time", clock)
    waiting = asked(breaker)
    while clock.now_s < 1.75:
        assert breaker.is_closed
        clock.now_s += 0.25
        if not overlap:
            given_up(waiting)
        following = asked(breaker)
        if overlap:
            given_up(waiting)
        if is_one_answered and clock.now_s == 1.0:
            with breaker.guard():
                pass
        waiting = following
    assert breaker.is_open is opens


async def test_a_probe_that_is_given_up_speaks_against_a_dependency_that_nobody_else_asks() -> None:
    breaker = a_breaker(patience_s=10.0)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await call(breaker, takes_s=1.0, probe=True)
    assert breaker.is_open


async def test_after_the_pause_one_probe_closes_it() -> None:
    states: list[str] = []
    breaker = await opened(states)
    await asyncio.sleep(_LONG_ENOUGH_S)
    await call(breaker)
    await call(breaker)
    assert states == ["open", "half-open", "closed"]


async def test_a_failing_probe_opens_it_again() -> None:
    breaker = await opened()
    await asyncio.sleep(_LONG_ENOUGH_S)
    with pytest.raises(_Away):
        await call(breaker, _Away())
    with pytest.raises(BreakerOpen):
        await call(breaker)


async def test_a_probe_that_is_cut_off_proves_nothing() -> None:
    breaker = await opened()
    await asyncio.sleep(_LONG_ENOUGH_S)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await call(breaker, takes_s=1.0)
    assert breaker.is_open


async def test_while_one_probes_all_others_are_refused() -> None:
    breaker = await opened()
    await asyncio.sleep(_LONG_ENOUGH_S)
    outcomes = await asyncio.gather(*(call(breaker, takes_s=0.01) for _ in range(10)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] + [BreakerOpen] * 9


async def test_where_probes_are_made_apart_no_other_call_makes_one() -> None:
    breaker = Breaker("test", failures=1, reset_s=_RESET_S, probed_apart=True)
    with pytest.raises(_Away):
        await call(breaker, _Away())
    await asyncio.sleep(_LONG_ENOUGH_S)
    with pytest.raises(BreakerOpen):
        await call(breaker)
    with breaker.guard(probe=True):
        pass
    await call(breaker)
