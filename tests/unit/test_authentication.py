"""When a key is hashed, when it is only looked at, and when it is trusted; with stored keys that a test can change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from recsvc.domain.errors import CredentialsInvalid, Overloaded, StorageUnavailable
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import ApiKey, Scope
from recsvc.rpc.authentication import Authenticator
from recsvc.rpc.key_hasher import FreshKey, KeyHasher
from recsvc.settings import AuthSettings
from recsvc.storage.api_keys import StoredKey
from recsvc.telemetry.metrics import Metrics

CHEAP = AuthSettings(argon2_time_cost=1, argon2_memory_kib=64)
NOW = datetime.now(UTC)


class CountingHasher(KeyHasher):
    """Counts the verifications, and holds them up while it is told to."""

    def __init__(self) -> None:
        super().__init__(CHEAP)
        self.verified = 0
        self.open = asyncio.Event()
        self.open.set()

    async def match(self, secret: str, secret_hashes: Sequence[str]) -> str | None:
        await self.open.wait()
        return await super().match(secret, secret_hashes)

    def _is_of(self, secret: str, secret_hash: str) -> bool:
        self.verified += 1
        return super()._is_of(secret, secret_hash)


@dataclass
class Keys:
    """Stored keys by id, how often they were looked at, and which uses were noted."""

    stored: dict[str, StoredKey] = field(default_factory=dict)
    looked_at: int = 0
    noted: list[str] = field(default_factory=list)
    is_away: bool = False
    is_silent: bool = False
    answer_s: float = 0.0

    async def find(self, key_id: str) -> StoredKey | None:
        self.looked_at += 1
        if self.is_silent:
            await asyncio.sleep(60)
        await asyncio.sleep(self.answer_s)
        if self.is_away:
            raise StorageUnavailable
        return self.stored.get(key_id)

    async def note_use(self, key_id: str, at_most_every: timedelta) -> None:
        self.noted.append(key_id)

    def add(self, fresh: FreshKey, **changes: object) -> None:
        """Store a key; changes: of the ApiKey."""
        key = replace(ApiKey(fresh.key_id, "", frozenset({Scope.CATALOG_READ}), NOW), **changes)  # type: ignore[arg-type]
        self.stored[fresh.key_id] = StoredKey(key, TenantKey(1), TenantId("shop"), fresh.secret_hash, None, None)

    def revoke(self, key_id: str) -> None:
        stored = self.stored[key_id]
        self.stored[key_id] = replace(stored, key=replace(stored.key, revoke_time=NOW))

    def rotate(self, fresh: FreshKey, overlap: timedelta) -> None:
        before = self.stored[fresh.key_id]
        self.stored[fresh.key_id] = replace(
            before,
            secret_hash=fresh.secret_hash,
            previous_secret_hash=before.secret_hash,
            previous_expire_time=datetime.now(UTC) + overlap,
        )


@dataclass
class Door:
    """An authenticator with its surroundings."""

    keys: Keys = field(default_factory=Keys)
    hasher: CountingHasher = field(default_factory=CountingHasher)
    is_heard: bool = True
    is_slow: bool = False
    settings: AuthSettings = CHEAP

    def __post_init__(self) -> None:
        self.authenticator = Authenticator(
            self.keys,  # type: ignore[arg-type]
            self.hasher,
            lambda: self.is_heard,
            self.settings,
            Metrics(),
            lambda: self.is_slow,
        )

    async def enters(self, text: str) -> bool:
        """Whether the key is let in."""
        try:
            await self.authenticator.authenticate(text)
        except CredentialsInvalid:
            return False
        return True

    async def verifications(self, text: str) -> int:
        """How many hashes are computed for a key that is refused."""
        before = self.hasher.verified
        assert not await self.enters(text)
        return self.hasher.verified - before


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_key_is_hashed_once_and_then_neither_hashed_nor_looked_at(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    for _ in range(5):
        assert await door.enters(fresh.text)
    assert (door.hasher.verified, door.keys.looked_at) == (1, 1)


@pytest.mark.parametrize("prefix", ["RK_", "xyz", "rk-"])
async def test_what_is_a_trusted_key_but_for_its_first_letters_is_not_let_in(door: Door, prefix: str) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    assert await door.enters(fresh.text)
    altered = prefix + fresh.text.removeprefix("rk_")
    assert door.authenticator.at_hand(altered) is None
    assert not await door.enters(altered)


async def test_a_trusted_key_is_at_hand(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    assert door.authenticator.at_hand(fresh.text) is None
    assert await door.enters(fresh.text)
    principal = door.authenticator.at_hand(fresh.text)
    assert principal is not None
    assert principal.key_id == fresh.key_id


async def test_first_calls_at_once_share_one_verification(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    assert all(await asyncio.gather(*(door.enters(fresh.text) for _ in range(50))))
    assert (door.hasher.verified, door.keys.looked_at) == (1, 1)


async def test_whoever_gives_up_does_not_take_the_verification_of_others_along(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    door.hasher.open.clear()
    impatient, patient = (asyncio.create_task(door.enters(fresh.text)) for _ in range(2))
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.wait([impatient])
    door.hasher.open.set()
    assert await patient


async def test_every_refusal_costs_the_same_verifications(door: Door) -> None:
    known, revoked, expired, rotated = [await door.hasher.make() for _ in range(4)]
    unknown = await door.hasher.make()
    for fresh in (known, revoked, rotated):
        door.keys.add(fresh)
    door.keys.add(expired, expire_time=NOW - timedelta(seconds=1))
    door.keys.revoke(revoked.key_id)
    door.keys.rotate(await door.hasher.make(rotated.key_id), timedelta(hours=1))
    wrong = unknown.text[16:]
    costs = [
        await door.verifications(text)
        for text in (
            unknown.text,
            known.text[:16] + wrong,
            rotated.text[:16] + wrong,
            revoked.text[:16] + wrong,
            revoked.text,
            expired.text,
        )
    ]
    assert costs == [2] * 6


async def test_text_that_is_no_key_costs_nothing(door: Door) -> None:
    for text in ("", "rk_", "rk_aaaaaaaaaaaa_short", "RK_aaaaaaaaaaaa_" + "b" * 43, "rk_aaaaaaaaaaaa_" + "b" * 100_000):
        assert await door.verifications(text) == 0
    assert door.keys.looked_at == 0


async def test_a_wrong_secret_stays_wrong_beside_a_trusted_one(door: Door) -> None:
    fresh, other = await door.hasher.make(), await door.hasher.make()
    door.keys.add(fresh)
    wrong = fresh.text[:16] + other.text[16:]
    for _ in range(2):
        assert not await door.enters(wrong)
        assert await door.enters(fresh.text)
    assert not await door.enters(wrong)


async def test_a_revoked_key_is_refused_as_soon_as_that_is_announced(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    assert await door.enters(fresh.text)
    door.keys.revoke(fresh.key_id)
    assert await door.enters(fresh.text)
    door.authenticator.forget(fresh.key_id)
    assert not await door.enters(fresh.text)


async def test_a_revocation_during_the_verification_is_not_overlooked(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    door.hasher.open.clear()
    first = asyncio.create_task(door.enters(fresh.text))
    await asyncio.sleep(0.01)
    door.keys.revoke(fresh.key_id)
    door.authenticator.forget(fresh.key_id)
    door.hasher.open.set()
    await first
    assert not await door.enters(fresh.text)


async def test_after_a_gap_keys_are_looked_at_again_and_not_hashed_again(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.authenticator.forget_all()
    assert await door.enters(fresh.text)
    assert (door.hasher.verified, door.keys.looked_at) == (1, 2)


async def test_while_changes_are_unheard_of_a_revocation_holds_after_a_second(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.is_heard = False
    door.keys.revoke(fresh.key_id)
    assert await door.enters(fresh.text)
    await asyncio.sleep(1.05)
    assert not await door.enters(fresh.text)


IMPATIENT = CHEAP.model_copy(update={"cache_ttl_s": 0.05, "outage_ttl_s": 0.3})


async def test_while_storage_is_away_a_trusted_key_is_good_for_a_bounded_time() -> None:
    door = Door(settings=IMPATIENT)
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.keys.is_away = True
    await asyncio.sleep(0.1)
    assert await door.enters(fresh.text)
    looked_at = door.keys.looked_at
    assert await door.enters(fresh.text)
    assert door.keys.looked_at == looked_at
    await asyncio.sleep(1.05)
    with pytest.raises(StorageUnavailable):
        await door.authenticator.authenticate(fresh.text)


async def test_a_storage_that_says_nothing_is_not_waited_for_long() -> None:
    door = Door(settings=CHEAP.model_copy(update={"cache_ttl_s": 0.05}))
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.keys.is_silent = True
    await asyncio.sleep(0.1)
    async with asyncio.timeout(4):
        assert await door.enters(fresh.text)


@pytest.mark.parametrize("trouble", ["gap", "unheard"])
async def test_while_storage_is_away_a_key_stays_good_although_changes_may_be_missed(trouble: str) -> None:
    # Else whoever loses both would answer nobody, however much is in its memory.
    door = Door(settings=IMPATIENT)
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.keys.is_away = True
    if trouble == "gap":
        door.authenticator.forget_all()
    else:
        door.is_heard = False
    await asyncio.sleep(0.1)
    assert await door.enters(fresh.text)


async def test_a_slow_storage_is_not_waited_for_and_what_it_says_holds_once_it_has_said_it() -> None:
    door = Door(settings=CHEAP.model_copy(update={"cache_ttl_s": 0.05}), is_slow=True)
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.keys.answer_s = 0.2
    door.keys.revoke(fresh.key_id)
    await asyncio.sleep(0.1)
    assert await door.enters(fresh.text)
    await asyncio.sleep(0.3)
    assert not await door.enters(fresh.text)


@pytest.mark.parametrize("doubt", ["announced", "gap", "unheard"])
async def test_a_slow_storage_is_waited_for_when_a_key_may_have_changed(doubt: str) -> None:
    door = Door(is_slow=True)
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.keys.answer_s = 0.2
    door.keys.revoke(fresh.key_id)
    if doubt == "announced":
        door.authenticator.forget(fresh.key_id)
    elif doubt == "gap":
        door.authenticator.forget_all()
    else:
        door.is_heard = False
        await asyncio.sleep(1.05)
    assert not await door.enters(fresh.text)


@pytest.mark.parametrize("doubt", ["announced", "expired"])
async def test_while_storage_is_away_a_key_in_doubt_is_not_good(doubt: str) -> None:
    door = Door(settings=IMPATIENT)
    fresh = await door.hasher.make()
    door.keys.add(fresh, expire_time=datetime.now(UTC) + timedelta(seconds=0.09) if doubt == "expired" else None)
    await door.enters(fresh.text)
    door.keys.is_away = True
    if doubt == "announced":
        door.authenticator.forget(fresh.key_id)
    await asyncio.sleep(0.1)
    with pytest.raises(StorageUnavailable):
        await door.authenticator.authenticate(fresh.text)


async def test_both_secrets_of_a_rotated_key_are_remembered_until_the_overlap_ends(door: Door) -> None:
    old = await door.hasher.make()
    door.keys.add(old)
    new = await door.hasher.make(old.key_id)
    door.keys.rotate(new, timedelta(seconds=1))
    for text in (old.text, new.text):
        assert await door.enters(text)
    hashed = door.hasher.verified
    for text in (old.text, new.text, old.text):
        assert await door.enters(text)
    assert door.hasher.verified == hashed
    await asyncio.sleep(1.05)
    assert not await door.enters(old.text)
    assert await door.enters(new.text)


async def test_a_key_expires_while_it_is_trusted(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh, expire_time=datetime.now(UTC) + timedelta(seconds=0.5))
    assert await door.enters(fresh.text)
    await asyncio.sleep(0.55)
    assert not await door.enters(fresh.text)


async def test_changed_scopes_hold_as_soon_as_the_key_is_looked_at_again(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    door.keys.add(fresh, scopes=frozenset({Scope.USERS_READ}))
    door.authenticator.forget(fresh.key_id)
    assert (await door.authenticator.authenticate(fresh.text)).scopes == {Scope.USERS_READ}


async def test_too_many_verifications_are_refused_and_trusted_keys_are_not() -> None:
    door = Door(settings=CHEAP.model_copy(update={"verifications_waiting": 3}))
    fresh = await door.hasher.make()
    door.keys.add(fresh)
    await door.enters(fresh.text)
    unknown = [await door.hasher.make() for _ in range(4)]
    door.hasher.open.clear()
    waiting = [asyncio.create_task(door.enters(each.text)) for each in unknown[:3]]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await door.authenticator.authenticate(unknown[3].text)
    assert await door.enters(fresh.text)
    door.hasher.open.set()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert not await door.enters(unknown[3].text)


async def test_use_is_noted_only_for_keys_that_are_let_in_and_not_on_every_call(door: Door) -> None:
    fresh, lately = await door.hasher.make(), await door.hasher.make()
    door.keys.add(fresh)
    door.keys.add(lately, last_used_time=datetime.now(UTC) - timedelta(seconds=30))
    await door.enters(fresh.text[:16] + lately.text[16:])
    assert door.keys.noted == []
    for text in (fresh.text, fresh.text, lately.text):
        await door.enters(text)
    assert door.keys.noted == [fresh.key_id]


async def test_a_key_that_stays_trusted_has_its_use_noted_when_it_is_looked_at_again(door: Door) -> None:
    fresh = await door.hasher.make()
    door.keys.add(fresh, last_used_time=datetime.now(UTC))
    await door.enters(fresh.text)
    door.keys.add(fresh, last_used_time=datetime.now(UTC) - timedelta(seconds=61))
    door.authenticator.forget_all()
    await door.enters(fresh.text)
    assert door.keys.noted == [fresh.key_id]


async def test_the_memory_of_keys_is_bounded() -> None:
    door = Door(settings=CHEAP.model_copy(update={"cache_size": 2}))
    keys = [await door.hasher.make() for _ in range(3)]
    for fresh in keys:
        door.keys.add(fresh)
        await door.enters(fresh.text)
    hashed = door.hasher.verified
    assert await door.enters(keys[2].text)
    assert door.hasher.verified == hashed
    assert await door.enters(keys[0].text)
    assert door.hasher.verified == hashed + 1
