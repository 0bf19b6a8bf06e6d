"""All baselines keep the promise of their interface, and find an obvious pattern."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from recsvc.training.baselines import BASELINES, TrainPart

GROUP = 5
DAY = 86_400.0


def train_part(users: int = 40, item_count: int = 10) -> TrainPart:
    """Users like four of five items of their half of the catalogue, one after the other: 0 1 2 3 4 0 … in the first."""
    entries = []
    for user in range(users):
        first = GROUP * (user % 2)
        entries += [(user, first + (user // 2 + step) % GROUP, step * DAY) for step in range(GROUP - 1)]
    return part_of(entries, users, item_count)


def part_of(entries: list[tuple[int, int, float]], user_count: int, item_count: int) -> TrainPart:
    columns = np.array(entries, dtype=np.float64).reshape(-1, 3)
    users, items = columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64)
    interactions = sparse.csr_matrix(
        (np.ones(len(users), dtype=np.float32), (users, items)), shape=(user_count, item_count)
    )
    return TrainPart(interactions, users, items, columns[:, 2])


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_scores_every_item_for_the_users_asked(name: str) -> None:
    baseline = BASELINES[name]()
    part = train_part()
    baseline.fit(part)
    asked = np.array([7, 0, 7])
    scores = baseline.scores(asked)
    assert baseline.name == name
    assert scores.shape == (3, 10)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert np.array_equal(scores[0], scores[2])
    assert np.allclose(scores[1], baseline.scores(np.arange(40))[0], atol=1e-6)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "popularity"])
def test_the_missing_item_of_a_group_comes_first(name: str) -> None:
    baseline = BASELINES[name]()
    part = train_part()
    baseline.fit(part)
    scores = np.where(part.interactions.toarray() > 0, -np.inf, baseline.scores(np.arange(40)))
    missing = [GROUP * (user % 2) + (user // 2 + GROUP - 1) % GROUP for user in range(40)]
    assert scores.argmax(axis=1).tolist() == missing


def test_popularity_is_the_same_for_everybody() -> None:
    baseline = BASELINES["popularity"]()
    baseline.fit(part_of([(0, 1, 0.0), (1, 1, 0.0), (1, 2, 0.0)], 3, 4))
    assert baseline.scores(np.array([2, 0])).tolist() == [[0, 2, 1, 0], [0, 2, 1, 0]]


def test_transitions_ask_only_for_what_follows_the_last_step() -> None:
    baseline = BASELINES["transitions"]()
    entries = [(0, 0, 0.0), (0, 1, 1.0), (1, 1, 0.0), (1, 2, 1.0), (2, 0, 0.0), (2, 3, 0.0)]
    baseline.fit(part_of(entries, 4, 4))
    assert baseline.scores(np.array([0, 2, 1, 3])).tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("entries", [[], [(0, 1, 5.0)]])
def test_users_with_one_event_or_none_are_scored_too(name: str, entries: list[tuple[int, int, float]]) -> None:
    baseline = BASELINES[name]()
    shares: list[float] = []
    baseline.fit(part_of(entries, 3, 4), shares.append)
    scores = baseline.scores(np.arange(3))
    assert scores.shape == (3, 4)
    assert np.isfinite(scores).all()
    assert shares[-1] == 1.0
