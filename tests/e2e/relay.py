"""A TCP relay between a client and a server, so that a test can break connections or lead them elsewhere."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Relay:
    """An async context manager around a listening socket.

    target: the port on this machine where the next connections lead. accepted: how many there have been.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more, and break what is open."""
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections, as a failing network does."""
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, onward_writer}
        self._open |= ends
        await asyncio.wait(
            [asyncio.create_task(_pump(reader, onward_writer)), asyncio.create_task(_pump(onward_reader, writer))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        self._open -= ends
        for end in ends:
            end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while received := await reader.read(65536):
            writer.write(received)
            await writer.drain()
    except OSError:
        pass
