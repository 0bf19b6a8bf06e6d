"""Writes lines from a thread of its own, so that a pipe that nobody reads never stops the event loop.

Not logging.handlers.QueueListener: its stop waits for ever, and a buffered stream that a thread hangs in cannot be
closed at the end of the process. Lines wait in a bounded queue; those that find no room are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from contextlib import suppress

import structlog

_log = structlog.get_logger(__name__)
_LINES = 2000
"""A few seconds of a storm; 8 MiB at most."""
_FLUSH_S = 0.5


class LineWriter(logging.Handler):
    """A handler that never waits."""

    def __init__(self, descriptor: int, lines: int = _LINES) -> None:
        """descriptor: of an open file, which stays open; lines: how many may wait."""
        super().__init__()
        self._descriptor = descriptor
        self._waiting: queue.Queue[bytes | threading.Event] = queue.Queue(lines)
        self._dropped = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def createLock(self) -> None:  # noqa: N802
        """None: whoever held it while the pipe is full would have everybody wait; the queue needs none."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Make the line and queue it."""
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
            if threading.current_thread() is self._thread:
                # Nobody else would make room for it.
                self._put(line)
            else:
                self._waiting.put_nowait(line)
        except Exception:
            # No room, or what was told cannot be made a line of; whoever tells it must not fail for that.
            self._drop()

    def flush(self) -> None:
        """Wait, a second at most, until all that was told is written; the end of the process does."""
        written = threading.Event()
        with suppress(queue.Full):
            self._waiting.put(written, timeout=_FLUSH_S)
            written.wait(_FLUSH_S)

    def _write(self) -> None:
        while True:
            waiting = self._waiting.get()
            if isinstance(waiting, threading.Event):
                waiting.set()
            elif not self._put(waiting):
                self._drop()
            elif self._dropped:
                # Only now that one got out: else each failure to tell of failures would be one more.
                with self._counting:
                    dropped, self._dropped = self._dropped, 0
                _log.warning("log.dropped", lines=dropped)

    def _drop(self) -> None:
        with self._counting:
            self._dropped += 1

    def _put(self, line: bytes) -> bool:
        """Whether the line got out."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Some who share a terminal or a pipe make it so.
                select.select([], [self._descriptor], [], 1.0)
            except OSError:
                return False
        return True
