"""Watchers found by what changed, and by nothing else."""

from __future__ import annotations

from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.users import Identity, UserKind
from recsvc.engine.watch_index import Watcher, WatchIndex

SHOP, OTHER = TenantKey(1), TenantKey(2)
ANN: Identity = (UserKind.USER, "ann")
BOB: Identity = (UserKind.USER, "bob")


def added(index: WatchIndex, tenant_key: TenantKey = SHOP, identity: Identity | None = ANN) -> Watcher:
    watcher = Watcher(tenant_key, identity)
    index.add(watcher)
    return watcher


def test_before_the_first_event_a_watcher_is_found_by_its_identity() -> None:
    index = WatchIndex()
    ann = added(index)
    added(index, identity=BOB)
    added(index, OTHER)
    added(index, identity=(UserKind.SESSION, "ann"))
    assert list(index.of_identity(SHOP, ANN)) == [ann]
    assert list(index.of_users(SHOP, [UserKey(1)])) == []


def test_once_its_key_is_known_a_watcher_is_found_by_that_only() -> None:
    index = WatchIndex()
    ann = added(index)
    index.learn_key(ann, UserKey(1))
    assert list(index.of_users(SHOP, [UserKey(1), UserKey(2)])) == [ann]
    assert list(index.of_users(OTHER, [UserKey(1)])) == []
    assert list(index.of_identity(SHOP, ANN)) == []
    assert not index.has_strangers(SHOP)


def test_a_watcher_whose_key_is_forgotten_waits_for_its_identity_again() -> None:
    index = WatchIndex()
    ann = added(index)
    index.learn_key(ann, UserKey(1))
    index.forget_key(ann)
    assert list(index.of_users(SHOP, [UserKey(1)])) == []
    assert list(index.strangers(SHOP)) == [ann]
    assert not ann.is_key_checked


def test_all_of_a_tenant_are_found_whoever_they_are() -> None:
    index = WatchIndex()
    watchers = {added(index), added(index, identity=None), added(index, identity=BOB)}
    added(index, OTHER)
    assert set(index.of_tenant(SHOP)) == watchers
    assert len(index) == 4


def test_nothing_is_left_of_those_who_left() -> None:
    index = WatchIndex()
    ann, anybody = added(index), added(index, identity=None)
    index.learn_key(ann, UserKey(1))
    for watcher in (ann, anybody):
        index.remove(watcher)
    assert (len(index), list(index)) == (0, [])
    assert list(index.of_users(SHOP, [UserKey(1)])) == []
    assert not index.has_strangers(SHOP)
