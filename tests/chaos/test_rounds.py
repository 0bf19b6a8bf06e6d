"""kill -9 of servers, PostgreSQL and Redis at random moments under load, round after round.

RECSVC_CHAOS_ROUNDS says how many rounds (`make chaos` takes sixty), RECSVC_CHAOS_SEED which; the seed is printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time

import psycopg
import pytest

from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.settings import EngineSettings
from tests.api import Api
from tests.chaos.installation import HEARTBEAT_S, Installation, installed
from tests.chaos.load import Load, a_question, running_load
from tests.from_scratch import assert_same, read_events, read_formula, read_states, state

_ROUNDS = int(os.environ.get("RECSVC_CHAOS_ROUNDS", "4"))
_SEED = int(os.environ.get("RECSVC_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
_CALM_S = 60.0
_LONGEST_SILENCE_S = 30.0
_HISTORY_ITEMS = EngineSettings().history_items

pytestmark = pytest.mark.timeout(300 + 60 * _ROUNDS)


async def test_whatever_is_killed_nothing_acknowledged_is_lost_or_doubled_and_all_states_come_right() -> None:
    dice = random.Random(_SEED)
    print(f"\nseed {_SEED}, {_ROUNDS} rounds")
    async with installed(_SEED) as installation, running_load(installation, dice) as load:
        for number in range(1, _ROUNDS + 1):
            start = time.monotonic()
            load.on.set()
            await asyncio.sleep(dice.uniform(0.3, 1.5))
            victims = dice.sample(sorted(installation.victims), dice.choice((1, 1, 2, 3)))
            for victim in victims:
                installation.victims[victim](dice)
                await asyncio.sleep(dice.choice((0.0, 0.0, 0.3)))
            await asyncio.sleep(dice.uniform(0.0, 0.5))
            await installation.start_what_is_down()
            await asyncio.sleep(dice.uniform(0.2, 0.6))
            load.on.clear()
            await _until_acknowledged(load)
            _assert_stored_once(installation, load)
            await _until_states_are_right(installation)
            await _until_watchers_see_the_present(load)
            print(
                f"round {number}: killed {', '.join(victims)}; {len(load.ledger.sent)} events so far,"
                f" {time.monotonic() - start:.1f} s",
                flush=True,
            )
    ledger = load.ledger
    print(
        f"{len(ledger.acknowledged)} events acknowledged, {ledger.repeated_calls} calls repeated,"
        f" {ledger.broken_streams} streams and {ledger.broken_watches} watches broken,"
        f" longest silence of a watch {ledger.longest_silence_s:.1f} s"
    )
    assert ledger.acknowledged == set(ledger.sent)
    assert ledger.longest_silence_s < _LONGEST_SILENCE_S


async def _until_acknowledged(load: Load) -> None:
    async with asyncio.timeout(_CALM_S):
        while load.busy:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _assert_stored_once(installation: Installation, load: Load) -> None:
    with psycopg.connect(installation.postgres.url) as connection:
        found = connection.execute(
            "SELECT event_id, count(*) FROM events WHERE tenant_key = %s GROUP BY event_id", [installation.tenant_key]
        ).fetchall()
    assert {event_id: count for event_id, count in found if count > 1} == {}
    assert load.ledger.acknowledged - {event_id for event_id, _ in found} == set()


async def _until_states_are_right(installation: Installation) -> None:
    """Nobody is dirty, every state is what the events add up to, and so are the counters."""
    async with asyncio.timeout(_CALM_S):
        while await asyncio.to_thread(_backlog, installation.postgres, installation.tenant_key):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await asyncio.to_thread(_assert_states, installation)


def _backlog(postgres: EmbeddedPostgres, tenant_key: int) -> int:
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM user_state WHERE tenant_key = %(tenant)s AND folded_version < version)"
            " + (SELECT count(*) FROM dirty_users WHERE tenant_key = %(tenant)s)"
            " + (SELECT count(*) FROM item_signals WHERE tenant_key = %(tenant)s)",
            {"tenant": tenant_key},
        ).fetchone()
    assert row is not None
    return int(row[0])


def _assert_states(installation: Installation) -> None:
    tenant_key = installation.tenant_key
    with psycopg.connect(installation.postgres.url) as connection:
        formula = read_formula(connection, tenant_key, _HISTORY_ITEMS)
        events = read_events(connection, tenant_key)
        states = read_states(connection, tenant_key)
        assert set(states) == set(events)
        for user_key, (found, fold_time) in states.items():
            assert_same(found, state(events[user_key], formula, fold_time))
        counted = dict(
            connection.execute(
                "SELECT item_key, event_count FROM item_stats WHERE tenant_key = %s", [tenant_key]
            ).fetchall()
        )
        told = [event for of_user in events.values() for event in of_user]
        positive = [event.item_key for event in told if event.signal(event.time) > 0]
        assert counted == {item: positive.count(item) for item in set(positive)}


async def _until_watchers_see_the_present(load: Load) -> None:
    async with asyncio.timeout(_CALM_S):
        for watch in load.watches:
            while not await _sees_the_present(watch.api, watch.user_id, watch.present):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert all(watch.silence_s() < _LONGEST_SILENCE_S + HEARTBEAT_S for watch in load.watches)


async def _sees_the_present(api: Api, user_id: str, shown: list[str] | None) -> bool:
    answer = await api.recommendations.Recommend(a_question(user_id), timeout=10)
    return shown == [item.item_id for item in answer.items]
