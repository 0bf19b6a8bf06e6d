"""Processes that tests kill."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = entry.read_text(encoding="utf-8", errors="replace").rpartition(") ")[2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after_name.split()[1]) == pid:
            children.append(int(entry.parent.name))
    return [pid, *children]


def kill_9(*pids: int | None) -> None:
    """Kill processes at once; those that have just ended are no error."""
    for pid in pids:
        assert pid is not None
        # PostgreSQL's own children end by themselves once they see that the first of them is gone.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
