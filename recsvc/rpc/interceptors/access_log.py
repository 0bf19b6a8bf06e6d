"""The access log: one line for each call that failed or was slow, and for a share of those that went well.

Metrics count every call, so a call that went well is told of only where somebody wants to see single ones. What is told
is bounded per second: a storm of failures would else cost more than the calls. A line holds nothing about persons, and
of a call that is not told of nothing is made.
"""

from __future__ import annotations

import random
import time

import structlog

from recsvc.domain.errors import DomainError
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.settings import AccessLogSettings

_log = structlog.get_logger("recsvc.access")


class AccessLog:
    """The outermost stage: it sees how long a call took in all, and is the last to tell of it."""

    def __init__(self, settings: AccessLogSettings) -> None:
        self._second = 0
        self._left = 0
        self._untold = 0
        self.reload(settings)

    def reload(self, settings: AccessLogSettings) -> None:
        """Go by these settings from now on."""
        self._ok_share = settings.ok_share
        self._slow_s = settings.slow_s
        self._lines_per_second = settings.lines_per_second

    def concerns(self, policy: MethodPolicy) -> bool:
        """All methods."""
        return True

    def enter(self, call: Call, context: Context) -> None:
        """Nothing is told of what begins."""

    def leave(self, call: Call, error: DomainError | None) -> None:
        """Tell of the call, if it is worth it; lines that are logged from now on are none of its own."""
        duration_s = time.perf_counter() - call.started_s
        if self._is_told(call, duration_s) and self._has_room():
            self._tell(call, duration_s, error)
            self._untold = 0
        call.has_ended = True

    def _is_told(self, call: Call, duration_s: float) -> bool:
        is_stream = call.policy.is_stream
        # A stream lasts as long as its caller likes, and ends most often by being cancelled.
        if call.code == "OK" or (is_stream and call.code == "CANCELLED"):
            is_slow = duration_s >= self._slow_s and not is_stream
            return is_slow or (self._ok_share > 0 and random.random() < self._ok_share)  # noqa: S311  (a sample)
        return True

    def _has_room(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, self._lines_per_second
        if self._left:
            self._left -= 1
            return True
        self._untold += 1
        return False

    def _tell(self, call: Call, duration_s: float, error: DomainError | None) -> None:
        deadline_ms = call.deadline_s * 1000 if call.deadline_s is not None else None
        duration_ms = duration_s * 1000
        _log.info(
            "call.ended",
            method=call.method,
            code=call.code,
            reason=error.reason.value if error is not None else None,
            duration_ms=round(duration_ms, 1),
            deadline_left_ms=round(deadline_ms - duration_ms, 1) if deadline_ms is not None else None,
            request_bytes=call.request_bytes,
            response_bytes=call.response.ByteSize() if call.response is not None else None,
            responses=call.responses if call.policy.is_stream else None,
            untold=self._untold or None,
        )
