"""How many users a second BulkRecommend answers in one stream, against calls of Recommend one after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import grpc
from rich.table import Table

from bench.load import load
from recsvc.gen.v1 import recommendation_service_pb2 as pb

_SERVICE = "/recsvc.v1.RecommendationService"
_COUNT = 10
_ROUNDS = 5
# A stream of fewer users ends before it has found its pace.
_PASSES = 3
_CALLS = 500


@dataclass(frozen=True, slots=True)
class BulkRates:
    """Of each round, users a second of a stream, and uncached calls a second of one caller."""

    users_per_s: Sequence[float]
    calls_per_s: Sequence[float]

    def ratios(self) -> list[float]:
        """How many times as fast a user of a stream is answered, round by round."""
        return [users / calls for users, calls in zip(self.users_per_s, self.calls_per_s, strict=True)]

    def figures(self) -> Mapping[str, float]:
        """Medians, and the lowest ratio."""
        return {
            "bulk users/s": statistics.median(self.users_per_s),
            "bulk to single calls": statistics.median(self.ratios()),
            "bulk to single calls, lowest": min(self.ratios()),
        }

    def table(self) -> Table:
        """The figures for people."""
        table = Table("", "lists/s", "to single calls of the round (target 10)")
        table.title = f"lists of many users, median of {_ROUNDS} rounds"
        ratios = self.ratios()
        table.add_row("Recommend, uncached, 1 caller", f"{statistics.median(self.calls_per_s):,.0f}", "1.0")
        table.add_row(
            "BulkRecommend, 1 stream",
            f"{statistics.median(self.users_per_s):,.0f}",
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
        )
        return table


async def measure(
    target: str, user_ids: Sequence[str], uncached: Sequence[bytes], metadata: tuple[tuple[str, str], ...]
) -> BulkRates:
    """Both in turn, since a machine is not as fast in one second as in the next. uncached: requests of Recommend.

    Raises RuntimeError unless all users of a stream get a full list.
    """
    await _one_stream(target, user_ids, metadata)
    rounds = [
        (
            await _one_stream(target, user_ids, metadata),
            await load(target, f"{_SERVICE}/Recommend", uncached, callers=1, calls=_CALLS, metadata=metadata),
        )
        for _ in range(_ROUNDS)
    ]
    return BulkRates([users for users, _ in rounds], [single.calls_per_s for _, single in rounds])


async def _one_stream(target: str, user_ids: Sequence[str], metadata: tuple[tuple[str, str], ...]) -> float:
    """Users a second, from the first element to the last answer."""
    messages = [
        pb.BulkRecommendRequest(
            key=user_id, request=pb.RecommendRequest(user_id=user_id, count=_COUNT)
        ).SerializeToString()
        for user_id in [*user_ids] * _PASSES
    ]

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async with grpc.aio.insecure_channel(target) as channel:
        await channel.channel_ready()
        start = time.perf_counter()
        call = channel.stream_stream(f"{_SERVICE}/BulkRecommend")(sent(), metadata=metadata, timeout=600)
        answers = [answer async for answer in call]
        elapsed = time.perf_counter() - start
    found = map(pb.BulkRecommendResponse.FromString, answers)
    listed = sum(answer.status.code == 0 and len(answer.response.items) == _COUNT for answer in found)
    if listed != len(messages):
        raise RuntimeError(f"{len(messages) - listed} of {len(messages)} users got no list of {_COUNT} items")
    return len(answers) / elapsed
