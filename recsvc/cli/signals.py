"""What signals ask of a service: SIGTERM and Ctrl-C the end, a second of them the end at once, SIGHUP new settings."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
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

    def __enter__(self) -> Self:
        """Take the signals over. SIGHUP is left as it is on a terminal, where it means that the terminal is gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        if not sys.stdin.isatty():
            loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        return self

    def __exit__(self, *exc: object) -> None:
        """Give them back."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)

    def has_started(self) -> None:
        """From now on whoever awaits `stop` ends the service."""
        self._starting = None

    def took_back_cancellation(self) -> bool:
        """Whether the start was cancelled from here; then that is undone, so that the task may end as it likes."""
        if self._starting is None or not self.stop.is_set():
            return False
        self._starting.uncancel()
        return True

    def _asked_to_stop(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            _log.warning("service.stopped_at_once", signal=number.name)
            flush()
            # Whatever keeps the orderly end from coming would keep any other from coming, too.
            os._exit(_BY_SIGNAL + number)
        self.stop.set()
        if self._starting is not None:
            self._starting.cancel()
