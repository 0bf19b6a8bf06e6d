"""Turns whatever a call raises into a status that is safe to show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from recsvc.domain.errors import DeadlinePassed, DomainError
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.errors import InternalError, abort, unforeseen


class ErrorMapping:
    """Ends failed calls with a canonical code and its details."""

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Map errors; cancellation and aborts that are under way pass."""
        try:
            yield
        except DomainError as error:
            call.code = error.code.name
            await abort(context, error)
        except TimeoutError:
            call.code = "DEADLINE_EXCEEDED"
            await abort(context, DeadlinePassed())
        except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:
            call.code = InternalError.code.name
            await abort(context, unforeseen(call))
