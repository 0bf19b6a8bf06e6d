"""Answers a stream of requests several at a time, in whatever order they are ready, without buffering either way.

What is in flight is all that is held: a request is read only when there is room for its answer, and while the caller
takes no answers nothing more is read, so that flow control holds back whoever is too fast. Knows nothing of gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


async def answered(
    requests: AsyncIterator[_Request], answer: Callable[[_Request], Awaitable[_Answer]], in_flight: int
) -> AsyncIterator[_Answer]:
    """The answers of all requests, each as soon as it is ready.

    in_flight: how many requests may be read and not yet handed out as answers. After the last request the rest is
    answered. What `requests` or `answer` raises ends the stream; whoever leaves it early cancels what is under way.
    """
    iterator = aiter(requests)
    answers: set[asyncio.Task[_Answer]] = set()
    reading: asyncio.Task[_Request] | None = None
    is_over = False

    async def read() -> _Request:
        return await anext(iterator)

    async def make(request: _Request) -> _Answer:
        return await answer(request)

    try:
        while True:
            if reading is None and not is_over and len(answers) < in_flight:
                reading = asyncio.create_task(read())
            waiting = {*answers, *([reading] if reading else ())}
            if not waiting:
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                finished, reading = reading, None
                try:
                    answers.add(asyncio.create_task(make(finished.result())))
                except StopAsyncIteration:
                    is_over = True
            for task in [task for task in answers if task.done()]:
                answers.discard(task)
                yield task.result()
    finally:
        left = [*answers, *([reading] if reading else ())]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
