"""How many users a second BulkRecommend answers in one stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import grpc

from recsvc.gen.v1 import recommendation_service_pb2 as pb

_METHOD = "/recsvc.v1.RecommendationService/BulkRecommend"


async def one_bulk_stream(target: str, user_ids: Sequence[str], metadata: tuple[tuple[str, str], ...]) -> float:
    """Users a second, from the first element to the last answer. Raises RuntimeError unless all get a list."""
    messages = [
        pb.BulkRecommendRequest(key=user_id, request=pb.RecommendRequest(user_id=user_id, count=10)).SerializeToString()
        for user_id in user_ids
    ]

    async def sent() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    answered = 0
    async with grpc.aio.insecure_channel(target) as channel:
        await channel.channel_ready()
        start = time.perf_counter()
        async for answer in channel.stream_stream(_METHOD)(sent(), metadata=metadata, timeout=600):
            answered += pb.BulkRecommendResponse.FromString(answer).status.code == 0
        elapsed = time.perf_counter() - start
    if answered != len(messages):
        raise RuntimeError(f"{len(messages) - answered} of {len(messages)} users got no list")
    return answered / elapsed
