"""What a process subscribes to follows who follows what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from recsvc.cache.change_feed import ChangeFeed
from recsvc.cache.versions import KEYS_CHANNEL, changes_channel
from recsvc.domain.ids import TenantKey
from tests.subscription import Subscription, until

SHOP = TenantKey(1)
CHANNEL = changes_channel(SHOP)


@asynccontextmanager
async def listening(redis: Subscription, gaps: list[None] | None = None) -> AsyncIterator[ChangeFeed]:
    """A feed that is connected."""
    feed = ChangeFeed(redis)  # type: ignore[arg-type]
    feed.listen(lambda: (gaps if gaps is not None else []).append(None))
    async with feed:
        await until(lambda: feed.is_connected)
        yield feed


async def test_a_tenant_is_subscribed_to_while_anybody_follows_it() -> None:
    redis = Subscription()
    async with listening(redis) as feed:
        async with feed.following(SHOP):
            async with feed.following(SHOP):
                assert CHANNEL in redis.channels
            assert CHANNEL in redis.channels
        assert CHANNEL not in redis.channels


async def test_it_ends_though_redis_does_not_let_it_go() -> None:
    redis = Subscription()
    redis.fails_to_close = True
    before = _tasks_of_feeds()
    async with listening(redis):
        pass
    assert _tasks_of_feeds() == before


def _tasks_of_feeds() -> set[asyncio.Task[Any]]:
    """Those of a service that other tests have started, too."""
    return {task for task in asyncio.all_tasks() if "ChangeFeed" in str(task.get_coro())}


async def test_whoever_is_cancelled_while_subscribing_is_unfollowed() -> None:
    redis = Subscription()

    async def follow(feed: ChangeFeed) -> None:
        async with feed.following(SHOP):
            pytest.fail("entered before Redis confirmed")

    async with listening(redis) as feed:
        redis.confirms = False
        following = asyncio.create_task(follow(feed))
        await until(lambda: CHANNEL in redis.channels)
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled()
        assert CHANNEL not in redis.channels


@pytest.mark.parametrize("error", [RedisConnectionError(), AttributeError("the client's socket is gone")])
async def test_a_lost_subscription_is_one_gap(error: Exception) -> None:
    redis = Subscription()
    gaps: list[None] = []
    async with listening(redis, gaps) as feed, feed.following(SHOP):
        before = len(gaps)
        redis.fail(error)
        await until(lambda: redis.opened == 2 and feed.is_connected)
        assert len(gaps) - before == 1
        assert CHANNEL in redis.channels


async def test_a_connection_that_fell_silent_is_given_up() -> None:
    redis = Subscription()
    async with listening(redis):
        redis.answers_pings = False
        await until(lambda: redis.opened == 2)


async def test_a_quiet_connection_that_answers_is_kept() -> None:
    redis = Subscription()
    async with listening(redis) as feed:
        await asyncio.sleep(2.5)
        assert (redis.opened, feed.is_connected) == (1, True)


async def test_whoever_follows_while_the_subscription_is_being_made_is_subscribed_to() -> None:
    redis = Subscription()
    may_subscribe = redis.delay_next_subscribe()
    feed = ChangeFeed(redis)  # type: ignore[arg-type]
    async with feed:
        await until(lambda: redis.opened == 1)
        async with feed.following(SHOP):
            may_subscribe.set()
            await until(lambda: CHANNEL in redis.channels)


async def test_changed_keys_are_told_one_by_one_to_everybody_who_listens() -> None:
    redis = Subscription()
    first: list[str] = []
    second: list[str] = []
    async with listening(redis) as feed:
        for heard in (first, second):
            feed.listen(lambda: None, on_key=heard.append)
        redis.publish(KEYS_CHANNEL, "one two")
        await until(lambda: len(second) == 2)
    assert first == second == ["one", "two"]
