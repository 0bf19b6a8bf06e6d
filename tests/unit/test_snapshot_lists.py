"""Lists that are made together are those that would be made one by one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.blocked_rows import BlockedRows
from recsvc.domain.ids import ItemId, ItemKey, ModelKey, UserId, UserKey
from recsvc.domain.recommendations import RecommendQuery, Strategy
from recsvc.domain.tenancy import ServingModel
from recsvc.engine.ranking import rank, weights_for
from recsvc.engine.snapshot_candidates import find_candidates
from recsvc.engine.snapshot_lists import ListWanted, SnapshotList, make_lists
from recsvc.storage.candidates import CandidateQuestion
from recsvc.storage.snapshots import Counters, KeyIndex, ServingSnapshot, SubjectState

_NOW = datetime.now(UTC)
_DIMENSION = 8
_MODEL = ServingModel(
    ModelKey(1), "m", _DIMENSION, 0, {"collaborative": 1.0, "neighbors": 0.5, "sequence": 0.2}, {}, 0.5
)


def _blocked(rng: np.random.Generator, n: int) -> BlockedRows:
    weights = np.where(rng.random((n, n)) < 0.2, rng.random((n, n)), 0)
    return BlockedRows.of(sparse.csr_matrix(weights.astype(np.float32)))


def _unknown_here_and_there(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n))


def _snapshot(rng: np.random.Generator, n: int) -> tuple[ServingSnapshot, Counters]:
    item_keys = [ItemKey(int(key)) for key in rng.permutation(10 * n)[:n]]
    item_ids = [ItemId(f"{number:03}") for number in range(n)]
    expire_s = np.where(rng.random(n) < 0.1, _NOW.timestamp() - 60, np.inf)
    snapshot = ServingSnapshot(
        item_keys=item_keys,
        item_ids=item_ids,
        keys=KeyIndex(item_keys),
        position_of_id={item_id: position for position, item_id in enumerate(item_ids)},
        is_open=rng.random(n) < 0.9,
        publish_s=np.full(n, -np.inf),
        expire_s=expire_s,
        expire_times=[None if np.isinf(at) else datetime.fromtimestamp(at, UTC) for at in expire_s],
        newness=np.floor(rng.random(n) * 4),
        is_derived=rng.random(n) < 0.1,
        derived_event_counts=np.full(n, np.nan),
        has_vector=rng.random(n) < 0.9,
        vectors=rng.normal(size=(n, _DIMENSION)).astype(np.float32),
        neighbors=_blocked(rng, n),
        transitions=_blocked(rng, n),
    )
    trends = {name: _unknown_here_and_there(rng, n) for name in ("trend_day", "trend_week")}
    return snapshot, Counters(np.floor(rng.random(n) * 9), _unknown_here_and_there(rng, n), trends, np.full(n, np.nan))


def _state(rng: np.random.Generator, snapshot: ServingSnapshot, user: int) -> SubjectState:
    size = int(rng.integers(1, 15))
    gone = np.array([-5])
    item_keys = np.concatenate([gone, rng.choice(np.array(snapshot.item_keys), size, replace=False)])
    return SubjectState(
        user_key=UserKey(user),
        version=1,
        folded_version=1,
        model_key=ModelKey(1),
        history_size=size + 1,
        item_keys=item_keys,
        weights=rng.normal(1.0, 1.0, size + 1),
        ages=np.arange(1.0, size + 2),
        seen_keys=item_keys[: size // 2],
        vector=rng.normal(size=_DIMENSION).astype(np.float32) if rng.random() < 0.8 else None,
    )


_QUERIES = (
    RecommendQuery(count=5),
    RecommendQuery(count=40),
    RecommendQuery(strategy=Strategy.COLLABORATIVE),
    RecommendQuery(strategy=Strategy.NEIGHBORS, include_seen=True),
    RecommendQuery(strategy=Strategy.SESSION, exclude_item_ids=(ItemId("003"), ItemId("nothing"))),
    RecommendQuery(time=_NOW + timedelta(days=1)),
)


def _wanted(query: RecommendQuery, state: SubjectState) -> ListWanted:
    question = CandidateQuestion(
        user_id="u",
        limits={"collaborative": 9, "neighbors": 9, "sequence": 5, "popular": 6, "trending": 6, "new": 3},
        include_seen=query.include_seen,
        excluded=query.exclude_item_ids,
        recency={"neighbors": 0.9},
    )
    weights = weights_for(query.strategy, _MODEL.blend_weights)
    return ListWanted(replace(query, user_id=UserId(str(state.user_key))), question, weights, state)


def _listed(found: SnapshotList) -> list[tuple[str, str, object]]:
    return [(item.item_id, item.source, pytest.approx(item.score, rel=1e-12)) for item in found.items]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(20, 90), st.integers(1, 12))
def test_lists_made_together_are_those_made_one_by_one(seed: int, items: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    snapshot, counters = _snapshot(rng, items)
    wanted = [_wanted(_QUERIES[int(rng.integers(len(_QUERIES)))], _state(rng, snapshot, user)) for user in range(users)]
    for each, found in zip(wanted, make_lists(snapshot, counters, _MODEL, wanted), strict=True):
        (alone,) = make_lists(snapshot, counters, _MODEL, [each])
        assert found.subject.user_key == each.state.user_key
        assert _listed(found) == _listed(alone)
        assert found.expire_times == alone.expire_times


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(20, 90))
def test_a_list_is_what_ranking_makes_of_its_candidates(seed: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    snapshot, counters = _snapshot(rng, items)
    for query in _QUERIES:
        each = _wanted(query, _state(rng, snapshot, 1))
        (found,) = make_lists(snapshot, counters, _MODEL, [each])
        now = query.time or datetime.now(UTC)
        candidates = find_candidates(snapshot, counters, _MODEL, [each.state], each.question, now)
        alone = candidates.of(0, want_vectors=False)
        ranked = rank(alone, query, each.weights, seed=0)
        expected = [
            (alone.item_ids[at], ranked.source(at), pytest.approx(ranked.scores[at], abs=1e-6))
            for at in ranked.positions.tolist()
        ]
        assert [(item.item_id, item.source, item.score) for item in found.items] == expected


def test_nobody_is_shown_what_they_have_seen_though_others_have_not() -> None:
    rng = np.random.default_rng(1)
    snapshot, counters = _snapshot(rng, 60)
    states = [_state(rng, snapshot, user) for user in range(10)]
    found = make_lists(snapshot, counters, _MODEL, [_wanted(RecommendQuery(count=60), state) for state in states])
    shown = [{item.item_id for item in each.items} for each in found]
    seen = [
        {snapshot.item_ids[at] for at in snapshot.keys.positions(state.seen_keys).tolist() if at >= 0}
        for state in states
    ]
    assert not any(mine & listed for mine, listed in zip(seen, shown, strict=True))
    assert any(set.union(*seen) & listed for listed in shown)


def test_users_of_an_empty_catalogue_get_empty_lists_together() -> None:
    rng = np.random.default_rng(2)
    filled, _ = _snapshot(rng, 60)
    empty, counters = _snapshot(rng, 0)
    states = [_state(rng, filled, user) for user in range(3)]
    found = make_lists(empty, counters, _MODEL, [_wanted(RecommendQuery(count=10), state) for state in states])
    assert [each.items for each in found] == [()] * 3


def _in_eighths(rng: np.random.Generator, n: int) -> sparse.csr_matrix[np.float32]:
    """Weights whose sums are exact, so that many are equal."""
    return sparse.csr_matrix((np.where(rng.random((n, n)) < 0.3, rng.integers(1, 9, (n, n)), 0) / 8).astype(np.float32))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(20, 90), st.integers(1, 12), st.integers(1, 12))
def test_neighbors_are_the_best_that_are_open_among_twice_as_many_unseen(
    seed: int, items: int, users: int, limit: int
) -> None:
    rng = np.random.default_rng(seed)
    snapshot, counters = _snapshot(rng, items)
    neighbors = _in_eighths(rng, items)
    snapshot = replace(snapshot, neighbors=BlockedRows.of(neighbors))
    states = [_state(rng, snapshot, user) for user in range(users)]
    states = [replace(state, weights=np.ones(len(state.weights))) for state in states]
    question = CandidateQuestion(user_id="u", limits={"neighbors": limit})
    found = find_candidates(snapshot, counters, _MODEL, states, question, _NOW)
    is_open = snapshot.is_open & (snapshot.expire_s > _NOW.timestamp())
    for row, state in enumerate(states):
        history, seen = (snapshot.keys.positions(keys) for keys in (state.item_keys, state.seen_keys))
        said = neighbors.toarray()[history[history >= 0]].sum(axis=0)
        near = [at for at in np.argsort(-said, kind="stable").tolist() if said[at] and at not in set(seen.tolist())]
        expected = [at for at in near[: 2 * limit] if is_open[at]][:limit]
        assert found.positions[row, found.is_there[row]].tolist() == sorted(expected)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_long_histories_are_added_up_to_the_last_bit_as_if_each_came_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    snapshot, counters = _snapshot(rng, 600)
    states = [
        replace(
            _state(rng, snapshot, user),
            item_keys=rng.permutation(np.array(snapshot.item_keys))[: (size := int(rng.integers(0, 600)))],
            weights=rng.random(size),
            ages=np.arange(1.0, size + 1),
        )
        for user in range(20)
    ]
    question = CandidateQuestion(user_id="u", limits={"collaborative": 600, "neighbors": 600, "sequence": 600})
    together = find_candidates(snapshot, counters, _MODEL, states, question, _NOW)
    for row, state in enumerate(states):
        alone = find_candidates(snapshot, counters, _MODEL, [state], question, _NOW).of(0, want_vectors=False)
        mine = together.of(row, want_vectors=False)
        assert mine.item_ids == alone.item_ids
        for name, component in alone.components.items():
            np.testing.assert_array_equal(mine.components[name], component, err_msg=name)
