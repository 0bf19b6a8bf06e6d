"""Turns whatever a call raises into a status that is safe to show. The only `except Exception` on the call's path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog

from recsvc.domain.errors import DeadlinePassed, DomainError
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.errors import InternalError, abort

_log = structlog.get_logger(__name__)


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
            _log.exception("call.failed", method=call.method, request_id=call.request_id)
            call.code = InternalError.code.name
            await abort(context, InternalError(call.request_id))
