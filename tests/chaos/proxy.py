"""A TCP proxy that makes the network between a server and what it depends on as bad as it can be.

After Toxiproxy (Shopify, 2014), in the process of the test and with one fault at a time: `Toxic` says what is done to
the bytes that pass. It runs in a thread of its own, so that what the test does costs nobody's calls time.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 64 * 1024
_START_S = 10.0
_LOOK_S = 0.02
_RETRANSMISSION_S = 0.2


@dataclass(frozen=True, slots=True)
class Toxic:
    """What happens to connections; nothing, unless said otherwise.

    request_s, answer_s: delay of each chunk on its way to the server, and back. bytes_per_s: bandwidth of each
    direction. is_partitioned: connections stay open and bytes vanish; once it is over they are reset, because what
    vanished would be missing. is_refusing: new connections are reset at once. loss: the share of chunks that get
    through at a second or later attempt only; the pause is TCP's shortest time-out, and doubles.
    """

    request_s: float = 0.0
    answer_s: float = 0.0
    bytes_per_s: float = float("inf")
    is_partitioned: bool = False
    is_refusing: bool = False
    loss: float = 0.0


class Proxy:
    """Listens on a port of 127.0.0.1 and passes everything on to a unix socket."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._toxic = Toxic()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_START_S)

    def close(self) -> None:
        """Reset all connections and listen no more."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_S)
        self._loop.close()

    @contextmanager
    def poisoned(self, toxic: Toxic) -> Iterator[None]:
        """The fault, inside the block."""
        self._toxic = toxic
        try:
            yield
        finally:
            self._toxic = Toxic()

    def reset_all(self) -> None:
        """Reset the connections that are open; new ones are taken."""
        self._loop.call_soon_threadsafe(self._reset)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        self._server.close()
        self._reset()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._toxic.is_refusing:
                return
            answers, upstream = await asyncio.open_unix_connection(str(self._upstream))
            self._writers.add(upstream)
            ways = {
                asyncio.create_task(self._pump(reader, upstream, is_answer=False)),
                asyncio.create_task(self._pump(answers, writer, is_answer=True)),
            }
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            # Nobody listens behind: the client finds a reset connection, as it would there.
            return
        finally:
            for side in filter(None, (writer, upstream)):
                self._writers.discard(side)
                side.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK_BYTES):
                toxic = self._toxic
                if toxic.is_partitioned:
                    # What comes meanwhile waits in the kernel, and goes the same way.
                    while self._toxic is toxic:  # noqa: ASYNC110  (set by another thread)
                        await asyncio.sleep(_LOOK_S)
                    return
                await self._delayed(toxic, len(chunk), is_answer=is_answer)
                writer.write(chunk)
                await writer.drain()

    async def _delayed(self, toxic: Toxic, size_bytes: int, *, is_answer: bool) -> None:
        delay_s = (toxic.answer_s if is_answer else toxic.request_s) + size_bytes / toxic.bytes_per_s
        retransmission_s = _RETRANSMISSION_S
        while random.random() < toxic.loss:
            delay_s += retransmission_s
            retransmission_s *= 2
        if delay_s:
            await asyncio.sleep(delay_s)
