"""A circuit breaker around awaited calls: a dependency that fails is left alone for a while.

pybreaker keeps the state (closed, open, half-open) and opens after failures in a row. What it does not know is added
here: calls that are awaited and given up, the share of bad calls among the last ones, and one probe at a time. Answers
that come, but slowly, are no failures: `slowness` is about them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pybreaker

_LOOKED_BACK, _LEAST_CALLS = 50, 20
_BAD_SHARE = 0.5
_JITTER = 0.25
"""So that many processes do not probe a dependency in the same moment."""


class BreakerOpen(Exception):
    """Occurs when a dependency is being left alone because it failed too often."""


class _GaveUp(Exception):
    """Occurs inside when a caller was cancelled that had waited for too long."""

    def __init__(self, cancelled: asyncio.CancelledError) -> None:
        super().__init__()
        self.cancelled = cancelled


class Breaker:
    """Opens after `failures` in a row, or when half of the last calls failed.

    patience_s: a caller who gives up counts as a failure after waiting so long, or if nobody was answered for so long,
    though somebody was waiting all the time: else a dependency that is silent would never be left alone by callers who
    give up sooner.
    reset_s: how long the dependency is left alone, give or take a quarter; after that one call at a time probes it.
    probed_apart: only calls that say they are probes do so, so that nobody who wants an answer waits for a probe.
    is_failure: whether an exception speaks against the dependency, rather than against what it was asked.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int,
        reset_s: float,
        patience_s: float = float("inf"),
        probed_apart: bool = False,
        is_failure: Callable[[BaseException], bool] = lambda _error: True,
        on_change: Callable[[str], None] = lambda _state: None,
    ) -> None:
        """on_change: told "open", "half-open" or "closed"."""
        self._reset_s, self._patience_s = reset_s, patience_s
        self._probed_apart = probed_apart
        self._is_failure = is_failure
        self._bad: deque[bool] = deque(maxlen=_LOOKED_BACK)
        self._probing = False
        self._in_flight = 0
        self._unanswered_since_s = 0.0
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures,
            reset_timeout=reset_s,
            name=name,
            # The call that opens it sees its own failure.
            throw_new_error_on_trip=False,
            exclude=[self._is_harmless],
            listeners=[_Listener(self._changed, on_change)],
        )

    @property
    def is_open(self) -> bool:
        """Whether calls are refused at present."""
        return bool(self._breaker.current_state == pybreaker.STATE_OPEN)

    @property
    def is_closed(self) -> bool:
        """Whether all calls are let through at present."""
        return bool(self._breaker.current_state == pybreaker.STATE_CLOSED)

    @property
    def is_silent(self) -> bool:
        """Whether nobody was answered for as long as patience lasts, though somebody was waiting all the time."""
        return self._in_flight > 0 and time.monotonic() - self._unanswered_since_s > self._patience_s

    @contextmanager
    def guard(self, *, probe: bool = False) -> Iterator[None]:
        """Bracket one call. Raises BreakerOpen instead of entering."""
        if self._probing or (self._probed_apart and not probe and not self.is_closed):
            raise BreakerOpen(self._breaker.name)
        start = time.monotonic()
        entered = probing = is_bad = False
        try:
            with self._breaker.calling():
                entered = True
                if not self._in_flight:
                    self._unanswered_since_s = start
                self._in_flight += 1
                probing = self._probing = self._breaker.current_state == pybreaker.STATE_HALF_OPEN
                try:
                    yield
                except asyncio.CancelledError as error:
                    # Whoever gave up on a quick answer says nothing of the dependency, but a probe has to end well.
                    has_waited = time.monotonic() - start > self._patience_s
                    is_bad = probing or probe or has_waited or self.is_silent
                    if is_bad:
                        raise _GaveUp(error) from error
                    raise
                except BaseException as error:
                    is_bad = self._is_failure(error)
                    raise
                else:
                    self._unanswered_since_s = time.monotonic()
        except _GaveUp as gave_up:
            raise gave_up.cancelled from None
        except pybreaker.CircuitBreakerError:
            raise BreakerOpen(self._breaker.name) from None
        finally:
            if entered:
                self._in_flight -= 1
                self._judge(is_bad, probing)

    def _judge(self, is_bad: bool, probing: bool) -> None:
        if probing:
            self._probing = False
        self._bad.append(is_bad)
        too_many = len(self._bad) >= _LEAST_CALLS and sum(self._bad) >= _BAD_SHARE * len(self._bad)
        if is_bad and (probing or too_many) and not self.is_open:
            self._breaker.open()

    def _is_harmless(self, error: BaseException) -> bool:
        if isinstance(error, _GaveUp):
            return False
        return isinstance(error, asyncio.CancelledError) or not self._is_failure(error)

    def _changed(self, state: str) -> None:
        if state == pybreaker.STATE_OPEN:
            self._breaker.reset_timeout = self._reset_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
        self._bad.clear()


class _Listener(pybreaker.CircuitBreakerListener):
    """Passes changes of the state on."""

    def __init__(self, *told: Callable[[str], None]) -> None:
        self._told = told

    def state_change(self, cb: object, old_state: object, new_state: pybreaker.CircuitBreakerState) -> None:  # noqa: ARG002
        """Called by pybreaker."""
        for tell in self._told:
            tell(str(new_state.name))
