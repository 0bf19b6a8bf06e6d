"""What signals ask of a service: SIGTERM and Ctrl-C the end, a second of them the end at once, SIGHUP new settings.

It is the same for one process and for the parent of several, which has them hear of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Self

import structlog

from recsvc.telemetry.logging import flush

_log = structlog.get_logger("recsvc")
_BY_SIGNAL = 128
"""Exit codes above it tell a shell which signal ended a process."""


class Signals:
    """A context manager inside which signals become events; a start that is under way is cut short."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self._starting = asyncio.current_task()
        self._others: Callable[[signal.Signals], None] = lambda _number: None

    def __enter__(self) -> Self:
        """Take the signals over. SIGHUP is left as it is on a terminal, where it means that the terminal is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        if not sys.stdin.isatty():
            loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> bool:
        """Give them back. A start that was cut short from here is no error."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)
        if kind is not asyncio.CancelledError or self._starting is None or not self.stop.is_set():
            return False
        self._starting.uncancel()
        return True

    def has_started(self) -> None:
        """From now on whoever awaits `stop` ends the service."""
        self._starting = None

    @property
    def is_starting(self) -> bool:
        """Whether the service has not started yet."""
        return self._starting is not None

    def pass_on_to(self, others: Callable[[signal.Signals], None]) -> None:
        """Have others get SIGHUP, too, and SIGKILL before this process ends at once; an orderly end is the business of
        whoever awaits `stop`."""
        self._others = others

    def end(self) -> None:
        """Ask for the end as a first signal does."""
        self.stop.set()
        if self._starting is not None:
            self._starting.cancel()

    def _asked_to_reload(self) -> None:
        self._others(signal.SIGHUP)
        self.reload.set()

    def _asked_to_stop(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            self._others(signal.SIGKILL)
            _log.warning("service.stopped_at_once", signal=number.name)
            flush()
            # Whatever keeps the orderly end from coming would keep any other from coming, too.
            os._exit(_BY_SIGNAL + number)
        self.end()
