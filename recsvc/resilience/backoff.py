"""How long to wait before another try: exponential with full jitter and a cap (Brooker, "Exponential Backoff and
Jitter", AWS Architecture Blog, 2015), so that those who failed together do not come back together."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """first_s: the longest pause after the first failure; it doubles with each further one, up to longest_s."""

    first_s: float
    longest_s: float

    def pause_s(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, 1 or more: uniform between none and the longest."""
        # The exponent is bounded, so that years of failures do not overflow a float.
        return random.uniform(0, min(self.longest_s, self.first_s * 2 ** min(failures - 1, 60)))  # noqa: S311  (jitter)
