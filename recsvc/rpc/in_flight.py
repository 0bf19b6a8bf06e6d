"""Answers a stream of requests several at a time, in their order, without buffering either way.

What is in flight is all that is held: a request is read only when there is room for its answer, and while the caller
takes no answers nothing more is read, so that flow control holds back whoever is too fast. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")
_Argument = TypeVar("_Argument")


async def answered_in_order(
    requests: AsyncIterator[_Request],
    answer: Callable[[_Request], Awaitable[_Answer]],
    in_flight: int,
    *,
    idle_s: float,
    stop: asyncio.Event,
) -> AsyncIterator[list[_Answer]]:
    """The answers of all requests in the order of the requests: whatever is ready by then, at least one at a time.

    in_flight: how many requests may be read and not yet handed out as answers. stop: once set, nothing more is read.
    However reading ends, what was read before is answered first. Raises what `requests` or `answer` raises, and
    TimeoutError when no request comes for idle_s seconds while nothing is being answered.
    """
    iterator = aiter(requests)
    answers: deque[asyncio.Task[_Answer]] = deque()
    reading: asyncio.Task[_Request] | None = None
    ended: Exception | None = None

    stopping = asyncio.create_task(stop.wait())
    try:
        while True:
            if stop.is_set() and ended is None:
                ended = StopAsyncIteration()
            if reading is None and ended is None and len(answers) < in_flight:
                reading = asyncio.create_task(_called(anext, iterator))
            if not answers and (reading is None or ended is not None):
                break
            waiting = {*([answers[0]] if answers else ()), *([reading] if reading and ended is None else ())}
            done, _ = await asyncio.wait(
                {*waiting, *(() if stop.is_set() else (stopping,))},
                timeout=None if answers else idle_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                raise TimeoutError
            if reading is not None and reading.done():
                finished, reading = reading, None
                try:
                    answers.append(asyncio.create_task(_called(answer, finished.result())))
                except Exception as error:
                    ended = error
            ready: list[_Answer] = []
            while answers and answers[0].done():
                if (failed := answers[0].exception()) is not None:
                    if ready:
                        yield ready
                    raise failed
                ready.append(answers.popleft().result())
            if ready:
                yield ready
        if ended is not None and not isinstance(ended, StopAsyncIteration):
            raise ended
    finally:
        await _cancelled([*answers, stopping, *([reading] if reading else ())])


async def _called(function: Callable[[_Argument], Awaitable[_Answer]], argument: _Argument) -> _Answer:
    """The call as the coroutine that a task wants; nothing is called before the task begins."""
    return await function(argument)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their ends, whatever those are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
