"""A few slots that many askers of several lanes share: lanes are served in turn (round robin, as in Nagle's fair
queuing, RFC 970), so that a lane with thousands of askers delays one with a few by one turn only."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairSlots:
    """So many holders at once; within a lane first come, first served."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._lanes: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def held(self, lane: Hashable) -> AsyncIterator[None]:
        """Hold a slot inside. Callers bound the wait by how many of them they let in."""
        await self._take(lane)
        try:
            yield
        finally:
            self._give()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._lanes.values()))

    async def _take(self, lane: Hashable) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lanes.setdefault(lane, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The slot was given and the wait cancelled in one step of the loop.
                self._give()
            raise

    def _give(self) -> None:
        while self._lanes:
            lane, waiting = self._lanes.popitem(last=False)
            turn = waiting.popleft()
            if waiting:
                self._lanes[lane] = waiting
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
