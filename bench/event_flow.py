"""A process that sends events at a steady rate until its input is closed; then it prints how many a second it sent."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
import uuid

import grpc

from recsvc.gen.v1 import ingestion_service_pb2 as pb

_RECORD = "/recsvc.v1.IngestionService/RecordEvent"
_TICK_S = 0.02
_IN_FLIGHT = 256


async def _flow(target: str, rate: float, key: str, user_ids: list[str], item_ids: list[str]) -> float:
    rng = random.Random(1)
    room = asyncio.Semaphore(_IN_FLIGHT)
    stopped = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    metadata = (("authorization", f"Bearer {key}"),)
    async with grpc.aio.insecure_channel(target) as channel, asyncio.TaskGroup() as group:
        record = channel.unary_unary(_RECORD)

        async def send(user_id: str) -> None:
            event = pb.Event(
                event_id=uuid.uuid4().hex, event_type="view", user_id=user_id, item_id=rng.choice(item_ids)
            )
            try:
                await record(pb.RecordEventRequest(event=event).SerializeToString(), metadata=metadata, timeout=30)
            finally:
                room.release()

        start, sent = time.perf_counter(), 0
        users = itertools.cycle(user_ids)
        while not stopped.done():
            while sent < rate * (time.perf_counter() - start) and not stopped.done():
                await room.acquire()
                group.create_task(send(next(users)))
                sent += 1
            await asyncio.sleep(_TICK_S)
        elapsed = time.perf_counter() - start
    return sent / elapsed


if __name__ == "__main__":
    line = json.loads(sys.stdin.readline())
    print(asyncio.run(_flow(line["target"], line["rate"], line["key"], line["user_ids"], line["item_ids"])))
