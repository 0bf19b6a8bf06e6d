"""Time and peak memory of a run, stage by stage."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """Seconds and bytes by stage; a stage that comes again adds its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}
        self._last = time.perf_counter()
        _forget_peak()

    def lap(self, stage: str) -> None:
        """The stage ends here, and the next one begins."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self.peak_bytes[stage] = max(self.peak_bytes.get(stage, 0), _peak_bytes())
        self._last = now
        _forget_peak()


def peak_memory_bytes() -> int:
    """The most memory that this process has ever held; servers that it started are not in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_bytes() -> int:
    """The most memory held since the peak was forgotten; where the system cannot forget, ever."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return peak_memory_bytes()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), peak_memory_bytes())


def _forget_peak() -> None:
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return
