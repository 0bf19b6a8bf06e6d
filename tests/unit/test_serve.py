"""How a service that fails for a reason that nobody foresaw ends: at its start with a traceback, later without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Self

import pytest
import structlog
import typer

from recsvc.cli import serve
from recsvc.cli.signals import Signals
from recsvc.settings import Settings


class _StoppedOnceStarted(Signals):
    """Those of the process of the tests stay as they are."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def has_started(self) -> None:
        super().has_started()
        self.stop.set()


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes no signals, and collects its garbage as ever."""
    monkeypatch.setattr(serve, "Signals", _StoppedOnceStarted)
    monkeypatch.setattr(serve, "_collect_garbage_seldom", lambda: None)


def _failing(*, at_start: bool) -> Any:
    @asynccontextmanager
    async def running(settings: Settings, *, expose_metrics: bool) -> AsyncIterator[Any]:
        if at_start:
            raise ValueError("of the settings")
        yield SimpleNamespace(port=1, metrics_port=None)
        raise ValueError("of alice")

    return running


async def test_a_failure_at_the_start_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "running_service", _failing(at_start=True))
    with pytest.raises(ValueError, match="of the settings"):
        await serve.serve_until_stopped(Settings())


async def test_a_later_failure_is_logged_and_ends_the_process_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "running_service", _failing(at_start=False))
    with structlog.testing.capture_logs() as lines, pytest.raises(typer.Exit) as ended:
        await serve.serve_until_stopped(Settings())
    assert ended.value.exit_code == 1
    assert ended.value.__suppress_context__
    assert lines[-1]["event"] == "service.failed"
