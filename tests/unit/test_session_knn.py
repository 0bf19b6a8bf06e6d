"""Session neighbours against a naive implementation of the formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsvc.training.algorithms.sequences import Sequences
from recsvc.training.algorithms.session_knn import SessionKnn, SessionKnnConfig

Event = tuple[int, int, float]

SESSIONS, ITEMS = 7, 6
DAY = 86_400.0

some_events = st.lists(
    st.tuples(
        st.integers(0, SESSIONS - 1), st.integers(0, ITEMS - 1), st.integers(0, 9).map(lambda day: float(day) * DAY)
    ),
    max_size=40,
)
some_configs = st.builds(
    SessionKnnConfig,
    k=st.integers(1, 4),
    sample_size=st.integers(1, 6),
    last_steps=st.sampled_from([1, 3, 50]),
    half_life_days=st.sampled_from([None, 2.0]),
)


def scores(events: list[Event], config: SessionKnnConfig) -> np.ndarray:
    columns = np.array(events, dtype=np.float64).reshape(-1, 3)
    sequences = Sequences.of(columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64), columns[:, 2], ITEMS)
    return SessionKnn.of(sequences, SESSIONS, config).scores(np.arange(SESSIONS))


def naive_scores(events: list[Event], config: SessionKnnConfig) -> np.ndarray:
    """The formula of the module's docstring, session by session and item by item."""
    steps_back: dict[int, dict[int, int]] = {}
    ended: dict[int, float] = {}
    for session in {session for session, _, _ in events}:
        times = sorted({time for other, _, time in events if other == session}, reverse=True)
        ended[session] = times[0]
        steps_back[session] = {
            item: min(times.index(time) + 1 for other, i, time in events if (other, i) == (session, item))
            for item in {item for other, item, _ in events if other == session}
        }
    newest = max(ended.values(), default=0.0)
    recency = {session: rank for rank, session in enumerate(sorted(ended, key=lambda s: (ended[s], s)))}
    result = np.zeros((SESSIONS, ITEMS))
    for session, all_of_it in steps_back.items():
        mine = {item: step for item, step in all_of_it.items() if step <= config.last_steps}
        length = max(mine.values())
        candidates = [other for other in steps_back if other != session and steps_back[other].keys() & mine.keys()]
        sample = sorted(candidates, key=lambda other: -recency[other])[: config.sample_size]
        similarity = {
            other: sum((length - mine[item] + 1) / length for item in steps_back[other].keys() & mine.keys())
            for other in sample
        }
        neighbors = sorted(sample, key=lambda other: (-round(similarity[other], 9), -recency[other]))[: config.k]
        for other in neighbors:
            decay = max(1 / mine[item] for item in steps_back[other].keys() & mine.keys())
            age = (newest - ended[other]) / DAY
            worth = 1.0 if config.half_life_days is None else 0.5 ** (age / config.half_life_days)
            for item in steps_back[other]:
                result[session, item] += similarity[other] * decay * worth
    return result


@settings(max_examples=200)
@given(some_events, some_configs)
def test_scores_are_those_of_the_formula(events: list[Event], config: SessionKnnConfig) -> None:
    assert np.allclose(scores(events, config), naive_scores(events, config), atol=1e-5)


def test_a_neighbour_that_shares_the_last_item_counts_most() -> None:
    events = [(0, 0, 0.0), (0, 1, 1.0), (1, 0, 0.0), (1, 2, 1.0), (2, 1, 0.0), (2, 3, 1.0)]
    ours = scores(events, SessionKnnConfig())[0]
    assert (ours[2], ours[3]) == (pytest.approx(0.5 * 0.5), pytest.approx(1.0))


def test_sessions_without_events_or_without_neighbours_score_nothing() -> None:
    events = [(0, 0, 0.0), (1, 1, 0.0), (2, 1, 0.0)]
    everybody = scores(events, SessionKnnConfig())
    assert not everybody[0].any()
    assert not everybody[3].any()
    assert everybody[1].tolist() == [0, 1, 0, 0, 0, 0]


def test_the_order_in_which_events_are_given_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    events = [(int(s), int(i), float(t)) for s, i, t in rng.integers(0, ITEMS, (50, 3))]
    shuffled = [events[place] for place in rng.permutation(len(events))]
    assert np.array_equal(scores(events, SessionKnnConfig(k=2)), scores(shuffled, SessionKnnConfig(k=2)))
