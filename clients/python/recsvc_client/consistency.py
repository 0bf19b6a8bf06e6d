"""Reads that see one's own writes wherever they are answered: the tokens of the service's `x-consistency` metadata.

`strong` reads the newest, at the primary; `session` sees what this client wrote, and what others wrote whose tokens it
was given, on a replica that has it; `eventual` may be as old as replicas may be.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from grpc.aio import Metadata

Level: TypeAlias = Literal["strong", "session", "eventual"]
_WISH, _TOKEN = "x-consistency", "x-consistency-token"
_EVENTUAL = ((_WISH, "eventual"),)
# What the service takes with one read.
_MOST = 16


class Session:
    """The tokens of the writes so far, as few as say the same as all of them."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self._moments = 0
        self._kept: list[tuple[int, str]] = []

    @property
    def token(self) -> str:
        """What another client must `see` to see these writes; "" before the first one."""
        return ",".join(token for _, token in self._kept)

    def see(self, token: str) -> None:
        """From now on reads see what another client had written when it gave this token."""
        if token:
            self._keep(token)

    @property
    def of_reads(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a read."""
        if self._level == "eventual" or (self._level == "session" and not self._kept):
            return _EVENTUAL
        if self._level == "strong" or self.token.count(",") >= _MOST:
            # Who says nothing reads the newest.
            return ()
        return ((_TOKEN, self.token),)

    @property
    def of_writes(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a write."""
        return ((_WISH, "token"),) if self._level == "session" else ()

    def begin(self) -> int:
        """A write begins; returns what `end` must be told."""
        self._moments += 1
        return self._moments

    def end(self, begun: int, trailing: Metadata | None) -> None:
        """The write succeeded, and answered with this metadata."""
        token = dict(trailing or ()).get(_TOKEN)
        if token is None:
            return
        # The position of a write is read after it began: it is not before those of writes that had ended by then.
        self._kept = [(ended, kept) for ended, kept in self._kept if ended > begun]
        self._keep(str(token))

    def _keep(self, token: str) -> None:
        self._moments += 1
        self._kept.append((self._moments, token))
