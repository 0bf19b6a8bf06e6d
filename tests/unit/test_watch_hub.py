"""Which questions watchers ask, with a recommender that counts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from recsvc.cache.change_feed import ChangeFeed
from recsvc.cache.versions import changes_channel, tenant_version_key, user_version_key
from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.ids import ItemId, SessionId, TenantKey, UserId, UserKey
from recsvc.domain.recommendations import Recommendations, RecommendedItem, RecommendQuery, Source, Strategy
from recsvc.domain.users import Identity, UserKind
from recsvc.engine.watch_hub import Update, WatchHub
from recsvc.settings import WatchSettings
from recsvc.telemetry.metrics import Metrics
from tests.subscription import Subscription, until

SHOP, OTHER = TenantKey(1), TenantKey(2)
ANN = RecommendQuery(user_id=UserId("ann"))


@dataclass
class FakeRecommender:
    """Gives a list that differs each time, once it may."""

    asked: list[tuple[TenantKey, RecommendQuery]] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0
    answer_s: float = 0.0

    async def find(self, tenant_key: TenantKey, query: RecommendQuery) -> Recommendations:
        self.asked.append((tenant_key, query))
        number = len(self.asked)
        await self.may_answer.wait()
        await asyncio.sleep(self.answer_s)
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable
        item = RecommendedItem(ItemId(str(number)), 1.0, Source.POPULAR)
        return Recommendations((item,), Strategy.AUTO, "", datetime.now(UTC))

    async def tell(self, tenant_key: TenantKey, query: RecommendQuery, found: Recommendations) -> Recommendations:
        return found


@dataclass
class FakeStates:
    """Users with their keys."""

    keys: dict[Identity, UserKey] = field(default_factory=dict)
    identified: list[Sequence[UserKey]] = field(default_factory=list)

    async def user_key(self, tenant_key: TenantKey, kind: UserKind, user_id: str) -> UserKey | None:
        return self.keys.get((kind, user_id))

    async def identities(self, tenant_key: TenantKey, user_keys: Sequence[UserKey]) -> Mapping[UserKey, Identity]:
        self.identified.append(user_keys)
        return {key: identity for identity, key in self.keys.items() if key in user_keys}


@dataclass
class House:
    """A hub among fakes, and the updates that its watchers got."""

    hub: WatchHub
    redis: Subscription
    recommender: FakeRecommender
    states: FakeStates
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def watch(self, query: RecommendQuery, tenant_key: TenantKey = SHOP) -> list[Update]:
        updates: list[Update] = []

        async def read() -> None:
            async with aclosing(self.hub.updates(tenant_key, query, min_interval_s=0.0)) as found:
                async for update in found:
                    updates.append(update)  # noqa: PERF401  (read while it grows)

        self.tasks.append(asyncio.create_task(read()))
        return updates

    def user_changed(self, user_key: UserKey) -> None:
        self.redis.publish(changes_channel(SHOP), user_version_key(SHOP, user_key))

    def catalogue_changed(self) -> None:
        self.redis.publish(changes_channel(SHOP), tenant_version_key(SHOP))


@asynccontextmanager
async def house(known: Mapping[Identity, UserKey] | None = None, slots: int = 4) -> AsyncIterator[House]:
    redis, recommender, states = Subscription(), FakeRecommender(), FakeStates(dict(known or {}))
    settings = WatchSettings(questions_in_flight=slots)
    feed = ChangeFeed(redis)  # type: ignore[arg-type]
    hub = WatchHub(recommender, states, feed, asyncio.Event(), settings, Metrics())  # type: ignore[arg-type]
    async with feed, hub:
        built = House(hub, redis, recommender, states)
        await until(lambda: redis.opened == 1)
        try:
            yield built
        finally:
            for task in built.tasks:
                task.cancel()
            await asyncio.gather(*built.tasks, return_exceptions=True)


async def test_watchers_of_one_question_share_a_computation() -> None:
    async with house({(UserKind.USER, "ann"): UserKey(1)}, slots=1) as at:
        first = at.watch(RecommendQuery(user_id=UserId("bob")))
        await until(lambda: len(at.recommender.asked) == 1)
        of_ann = [at.watch(ANN) for _ in range(20)]
        await asyncio.sleep(0.05)
        at.recommender.may_answer.set()
        await until(lambda: bool(first) and all(of_ann))
        assert len(at.recommender.asked) == 2


async def test_a_change_during_a_computation_asks_for_another() -> None:
    async with house({(UserKind.USER, "ann"): UserKey(1)}) as at:
        at.recommender.may_answer.set()
        updates = at.watch(ANN)
        await until(lambda: len(updates) == 1)
        at.recommender.may_answer.clear()
        at.user_changed(UserKey(1))
        await until(lambda: len(at.recommender.asked) == 2)
        at.user_changed(UserKey(1))
        await asyncio.sleep(0.05)
        at.recommender.may_answer.set()
        await until(lambda: len(at.recommender.asked) == 3)


async def test_whoever_leaves_does_not_take_the_answer_of_others_along() -> None:
    async with house({(UserKind.USER, "ann"): UserKey(1)}) as at:
        at.watch(ANN)
        updates = at.watch(ANN)
        await until(lambda: len(at.recommender.asked) == 1)
        at.tasks[0].cancel()
        at.recommender.may_answer.set()
        await until(lambda: len(updates) == 1)


async def test_what_strangers_do_asks_nothing_for_somebody_unknown() -> None:
    async with house({(UserKind.USER, "bob"): UserKey(2)}) as at:
        at.recommender.may_answer.set()
        updates = at.watch(RecommendQuery(session_id=SessionId("new")))
        await until(lambda: len(updates) == 1)
        for _ in range(100):
            at.user_changed(UserKey(2))
        await until(lambda: bool(at.states.identified))
        await asyncio.sleep(0.25)
        assert len(at.recommender.asked) == 1
        assert len(at.states.identified) <= 3


async def test_somebody_unknown_is_recognised_by_the_first_change() -> None:
    async with house() as at:
        at.recommender.may_answer.set()
        updates = at.watch(RecommendQuery(session_id=SessionId("new")))
        await until(lambda: len(updates) == 1)
        at.states.keys[UserKind.SESSION, "new"] = UserKey(7)
        for wanted in (2, 3):
            at.user_changed(UserKey(7))
            await until(lambda wanted=wanted: len(updates) == wanted)


async def test_somebody_unknown_is_asked_for_as_anybody() -> None:
    async with house() as at:
        at.recommender.may_answer.set()
        updates = at.watch(ANN)
        await until(lambda: len(updates) == 1)
        assert at.recommender.asked == [(SHOP, RecommendQuery())]


async def test_somebody_erased_who_comes_back_is_followed_again() -> None:
    async with house({(UserKind.USER, "ann"): UserKey(1)}) as at:
        at.recommender.may_answer.set()
        updates = at.watch(ANN)
        await until(lambda: len(updates) == 1)
        del at.states.keys[UserKind.USER, "ann"]
        at.user_changed(UserKey(1))
        await until(lambda: len(updates) == 2)
        at.states.keys[UserKind.USER, "ann"] = UserKey(9)
        at.user_changed(UserKey(9))
        await until(lambda: len(updates) == 3)


async def test_a_tenant_is_not_kept_waiting_by_the_catalogue_of_another() -> None:
    known = {(UserKind.USER, str(number)): UserKey(number) for number in range(100)}
    async with house(known, slots=1) as at:
        at.recommender.may_answer.set()
        crowd = [at.watch(RecommendQuery(user_id=UserId(str(number)))) for number in range(100)]
        await until(lambda: all(crowd))
        at.recommender.asked.clear()
        at.recommender.answer_s = 0.02
        at.catalogue_changed()
        await until(lambda: len(at.recommender.asked) == 1)
        calm = at.watch(ANN, OTHER)
        await until(lambda: bool(calm))
        assert len(at.recommender.asked) < 20


async def test_a_list_that_cannot_be_had_is_tried_again() -> None:
    async with house({(UserKind.USER, "ann"): UserKey(1)}) as at:
        at.recommender.may_answer.set()
        updates = at.watch(ANN)
        await until(lambda: len(updates) == 1)
        at.recommender.failures = 1
        at.user_changed(UserKey(1))
        await until(lambda: len(updates) == 2)
