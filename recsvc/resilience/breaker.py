"""A circuit breaker around an awaited call: after some failures in a row the dependency is left alone for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pybreaker


class BreakerOpen(Exception):
    """Occurs when a dependency is being left alone because it failed too often."""


class Breaker:
    """pybreaker for code that awaits: its `calling` brackets the call instead of making it."""

    def __init__(self, name: str, failures: int, reset_s: float) -> None:
        self._breaker = pybreaker.CircuitBreaker(fail_max=failures, reset_timeout=reset_s, name=name)

    @property
    def is_open(self) -> bool:
        """Whether calls are refused at present."""
        return bool(self._breaker.current_state == pybreaker.STATE_OPEN)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Bracket one call; what is raised inside counts as a failure. Raises BreakerOpen instead of entering."""
        try:
            with self._breaker.calling():
                yield
        except pybreaker.CircuitBreakerError as error:
            if error.__cause__ is not None:
                # The call that opened the breaker: its own failure is what the caller should see.
                raise error.__cause__ from None
            raise BreakerOpen(self._breaker.name) from None
