"""Whether a dependency answers, but slowly: then nothing is refused, and who has something else need not wait for it.

A breaker refuses everything, which is right for what is away and wrong for what is slow: a write that takes half a
second is still a write. What is slow is told by how long answers take that should take no time, second by second, so
that one pause of either side, however many it meets, says little. Once it is so, only probes end it, and each time that
it was ended too early they have to do well for twice as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SLOW_SECONDS = 3
_SLOW_SHARE = 0.5
_GOOD_PROBES, _MOST_GOOD_PROBES = 3, 48
_TOO_EARLY_S = 60.0


@dataclass(slots=True)
class _Tally:
    answers: int = 0
    slow: int = 0


class Slowness:
    """Begins when for three seconds in which there were answers half of those of one kind were slow.

    least: by kind of answer, how many of them a second must have to count. Ends with three good probes in a row;
    within a minute after an end that came too early with six, then twelve, and so on up to 48.
    """

    def __init__(
        self,
        least: Mapping[str, int],
        *,
        on_change: Callable[[str], None] = lambda _state: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_change: told "open" when it begins and "closed" when it ends, as of a breaker. now_s: the clock."""
        self._least = least
        self._on_change = on_change
        self._now_s = now_s
        self._second = 0
        self._tallies = {kind: _Tally() for kind in least}
        self._slow_seconds = 0
        self._good_probes, self._needed_probes = 0, _GOOD_PROBES
        self._ended_s = float("-inf")
        self.is_slow = False

    def answered(self, kind: str, *, slowly: bool) -> None:
        """Count an answer, or a wait for one that was given up."""
        second = int(self._now_s())
        if second != self._second:
            self._take_stock()
            self._second = second
        tally = self._tallies[kind]
        tally.answers += 1
        tally.slow += slowly

    def probed(self, *, slowly: bool) -> None:
        """Take a probe into account; without an answer it was slow."""
        self._good_probes = 0 if slowly else self._good_probes + 1
        if self.is_slow and self._good_probes >= self._needed_probes:
            self.is_slow = False
            self._ended_s = self._now_s()
            self._on_change("closed")

    def _take_stock(self) -> None:
        """Judge the second that is over."""
        counted = {kind: tally for kind, tally in self._tallies.items() if tally.answers >= self._least[kind]}
        if counted:
            is_slow = any(tally.slow >= _SLOW_SHARE * tally.answers for tally in counted.values())
            self._slow_seconds = self._slow_seconds + 1 if is_slow else 0
        self._tallies = {kind: _Tally() for kind in self._least}
        if self._slow_seconds >= _SLOW_SECONDS and not self.is_slow:
            self._begin()

    def _begin(self) -> None:
        was_early = self._now_s() < self._ended_s + _TOO_EARLY_S
        self._needed_probes = min(2 * self._needed_probes, _MOST_GOOD_PROBES) if was_early else _GOOD_PROBES
        self._good_probes = self._slow_seconds = 0
        self.is_slow = True
        self._on_change("open")
