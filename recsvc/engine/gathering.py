"""Asks once for what many want to know: while one question is under way, those of others gather for the next.

An answer is never older than the request for it: whoever comes while a question is under way waits for the next one.
A question that nobody waits for any more is given up, so that one that hangs holds up those who come later no longer
than those who asked it waited.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context, copy_context
from typing import Generic, TypeAlias, TypeVar

# After a question of so many keys, more are to be expected soon.
_COMPANY = 4
_GATHER_S = 0.002

_Key = TypeVar("_Key", bound=Hashable)
_Answer = TypeVar("_Answer")
_Asked: TypeAlias = tuple[_Key, asyncio.Future[_Answer], Context]


class Gathering(Generic[_Key, _Answer]):
    """One kind of question."""

    def __init__(self, ask: Callable[[Sequence[_Key]], Awaitable[Sequence[_Answer]]], at_most: int) -> None:
        """ask: answers keys in their order; what it raises, all who asked get. at_most: keys of one question."""
        self._ask = ask
        self._at_most = at_most
        self._waiting: deque[_Asked[_Key, _Answer]] = deque()
        self._asking: asyncio.Task[None] | None = None

    async def answer(self, key: _Key) -> _Answer:
        """The answer to one key, as of now or later."""
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future, copy_context()))
        if self._asking is None:
            self._asking = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            # Whoever comes in the same turn of the loop is part of it.
            await asyncio.sleep(0)
            while self._waiting:
                count = min(self._at_most, len(self._waiting))
                await self._once([self._waiting.popleft() for _ in range(count)])
                if count >= _COMPANY:
                    # Those who were answered have work to do, and ask again once it is done.
                    await asyncio.sleep(_GATHER_S)
        finally:
            self._asking = None

    async def _once(self, asked: Sequence[_Asked[_Key, _Answer]]) -> None:
        # Whose call has ended wants nothing any more.
        asked = [each for each in asked if not each[1].done()]
        if not asked:
            return
        # A question belongs to the call that asked first, and not to whichever one began all this.
        answers_of = self._answers([key for key, _, _ in asked])
        asking = asyncio.create_task(answers_of, context=asked[0][2])
        left = len(asked)

        def leave(_: asyncio.Future[_Answer]) -> None:
            nonlocal left
            left -= 1
            if not left:
                asking.cancel()

        for _, future, _ in asked:
            future.add_done_callback(leave)
        try:
            answers = await asking
        except BaseException as error:
            if not left and asking.cancelled():
                return
            for _, future, _ in asked:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else ConnectionAbortedError())
            if not isinstance(error, Exception):
                raise
            return
        for (_, future, _), answer in zip(asked, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _answers(self, keys: Sequence[_Key]) -> Sequence[_Answer]:
        return await self._ask(keys)
