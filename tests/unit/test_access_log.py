"""Which calls the access log tells of, and how many."""

from __future__ import annotations

import random
from typing import Any

import pytest
import structlog

from recsvc.domain.errors import DomainError, UserNotFound
from recsvc.rpc.calls import Call
from recsvc.rpc.interceptors import access_log
from recsvc.rpc.interceptors.access_log import AccessLog
from recsvc.rpc.methods import policies
from recsvc.rpc.server import FILES
from recsvc.settings import AccessLogSettings, ServerSettings

_POLICIES = policies(FILES, ServerSettings())
_UNARY = "/recsvc.v1.RecommendationService/Recommend"
_STREAM = "/recsvc.v1.RecommendationService/WatchRecommendations"


class _Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def perf_counter(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """The access log's."""
    clock = _Clock()
    monkeypatch.setattr(access_log, "time", clock)
    return clock


def _lines(
    log: AccessLog,
    clock: _Clock,
    *,
    method: str = _UNARY,
    code: str = "OK",
    took_s: float = 0.0,
    error: DomainError | None = None,
    times: int = 1,
) -> list[Any]:
    """What is told of such calls that end now."""
    with structlog.testing.capture_logs() as lines:
        for _ in range(times):
            call = Call(method, _POLICIES[method], "r-1", {}, clock.now_s - took_s, code=code)
            log.leave(call, error)
            assert call.has_ended
    return lines


def test_a_call_that_went_well_is_not_told_of(clock: _Clock) -> None:
    assert _lines(AccessLog(AccessLogSettings()), clock, took_s=0.99, times=1000) == []


def test_a_share_of_the_calls_that_went_well_is_told_of(clock: _Clock) -> None:
    random.seed(1)
    log = AccessLog(AccessLogSettings(ok_share=0.25, lines_per_second=10_000))
    assert 900 < len(_lines(log, clock, times=4000)) < 1100


def test_a_call_that_failed_is_told_of_with_its_reason(clock: _Clock) -> None:
    (line,) = _lines(AccessLog(AccessLogSettings()), clock, code="NOT_FOUND", took_s=0.25, error=UserNotFound("u"))
    assert (line["event"], line["code"], line["reason"]) == ("call.ended", "NOT_FOUND", "USER_NOT_FOUND")
    assert (line["method"], line["duration_ms"]) == (_UNARY, 250.0)


def test_a_slow_call_is_told_of(clock: _Clock) -> None:
    (line,) = _lines(AccessLog(AccessLogSettings(slow_s=0.5)), clock, took_s=0.5)
    assert line["code"] == "OK"


def test_a_call_whose_caller_went_away_is_told_of(clock: _Clock) -> None:
    assert len(_lines(AccessLog(AccessLogSettings()), clock, code="CANCELLED")) == 1


@pytest.mark.parametrize("code", ["OK", "CANCELLED"])
def test_a_stream_that_lasts_and_ends_as_streams_do_is_not_told_of(clock: _Clock, code: str) -> None:
    assert _lines(AccessLog(AccessLogSettings()), clock, method=_STREAM, code=code, took_s=3600.0) == []


def test_a_stream_that_failed_is_told_of(clock: _Clock) -> None:
    (line,) = _lines(AccessLog(AccessLogSettings()), clock, method=_STREAM, code="UNAVAILABLE")
    assert line["responses"] == 0


def test_a_storm_of_failures_is_told_of_within_bounds_and_the_rest_is_counted(clock: _Clock) -> None:
    log = AccessLog(AccessLogSettings(lines_per_second=3))
    assert len(_lines(log, clock, code="INTERNAL", times=10)) == 3
    clock.now_s += 1.0
    first, second = _lines(log, clock, code="INTERNAL", times=2)
    assert (first["untold"], second["untold"]) == (7, None)


def test_new_settings_are_in_force_at_once(clock: _Clock) -> None:
    log = AccessLog(AccessLogSettings())
    log.reload(AccessLogSettings(ok_share=1.0))
    assert len(_lines(log, clock)) == 1
