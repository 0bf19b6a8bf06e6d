"""Sequential rules and transitions against their definition, pair by pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsvc.training.algorithms import sequences as module
from recsvc.training.algorithms.sequences import MarkovTransitions, Sequences, SequentialRules, SequentialRulesConfig

Event = tuple[int, int, float]

ITEMS = 6
DAY = 86_400.0
PLAIN = SequentialRulesConfig(source_degree_exponent=0.0)

some_events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, ITEMS - 1), st.integers(0, 8).map(lambda day: day * DAY)), max_size=30
)
some_configs = st.builds(
    SequentialRulesConfig,
    window=st.integers(1, 4),
    source_degree_exponent=st.sampled_from([0.0, 0.5, 1.0]),
    target_degree_exponent=st.sampled_from([0.0, 0.3]),
    longest_pause_s=st.sampled_from([None, 1.5 * DAY]),
    half_life_days=st.sampled_from([None, 3.0]),
    links_same_step=st.booleans(),
)


def sequences(events: list[Event], item_count: int = ITEMS) -> Sequences:
    columns = np.array(events, dtype=np.float64).reshape(-1, 3)
    return Sequences.of(columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64), columns[:, 2], item_count)


def visits(*items: int) -> list[Event]:
    """One user, one item a day."""
    return [(0, item, day * DAY) for day, item in enumerate(items)]


def weights(events: list[Event], config: SequentialRulesConfig = PLAIN) -> np.ndarray:
    return SequentialRules(config).fit(sequences(events)).matrix().toarray()


def naive_weights(events: list[Event], config: SequentialRulesConfig) -> np.ndarray:
    """The definition, one pair of events after the other."""
    rules = np.zeros((ITEMS, ITEMS))
    occurrences = np.zeros(ITEMS)
    newest = max((time for _, _, time in events), default=0.0)
    for user in {user for user, _, _ in events}:
        times = sorted({time for other, _, time in events if other == user})
        steps = [sorted({item for other, item, at in events if (other, at) == (user, time)}) for time in times]
        for later, time in enumerate(times):
            age = (newest - time) / DAY
            worth = 1.0 if config.half_life_days is None else 0.5 ** (age / config.half_life_days)
            for item in steps[later]:
                occurrences[item] += 1
            for earlier in range(max(0, later - config.window), later + 1):
                distance = later - earlier
                pauses = np.diff(times[earlier : later + 1])
                if config.longest_pause_s is not None and (pauses > config.longest_pause_s).any():
                    continue
                if distance == 0 and not config.links_same_step:
                    continue
                for source in steps[earlier]:
                    for target in steps[later]:
                        rules[source, target] += worth / max(distance, 1) * (source != target)
    sources = rules.sum(axis=1, keepdims=True)
    rules /= np.where(sources > 0, sources, 1.0) ** config.source_degree_exponent
    return rules / np.where(occurrences > 0, occurrences, 1.0) ** config.target_degree_exponent


@settings(max_examples=150)
@given(some_events, some_configs)
def test_rules_weigh_as_the_definition_says(events: list[Event], config: SequentialRulesConfig) -> None:
    assert np.allclose(weights(events, config), naive_weights(events, config), atol=1e-5)


@settings(max_examples=60)
@given(st.data(), some_events, some_configs)
def test_the_order_in_which_events_are_given_does_not_matter(
    data: st.DataObject, events: list[Event], config: SequentialRulesConfig
) -> None:
    shuffled = data.draw(st.permutations(events))
    assert np.array_equal(weights(events, config), weights(shuffled, config))


def test_a_later_item_counts_by_one_over_its_distance() -> None:
    expected = np.zeros((ITEMS, ITEMS))
    expected[0, 1], expected[0, 2], expected[0, 3] = 1, 1 / 2, 1 / 3
    expected[1, 2], expected[1, 3], expected[2, 3] = 1, 1 / 2, 1
    assert np.allclose(weights(visits(0, 1, 2, 3)), expected)


def test_beyond_the_window_nothing_follows() -> None:
    assert weights(visits(0, 1, 2, 3), replace(PLAIN, window=2))[0].tolist() == [0, 1, 0.5, 0, 0, 0]


def test_what_happened_at_once_follows_from_each_other_at_distance_one() -> None:
    events = [(0, 0, 0.0), (0, 1, 5.0), (0, 2, 5.0), (0, 3, 9.0)]
    linked = weights(events)
    assert (linked[1, 2], linked[2, 1]) == (1, 1)
    assert (linked[0, 1], linked[0, 2], linked[0, 3]) == (1, 1, 0.5)
    apart = weights(events, replace(PLAIN, links_same_step=False))
    assert (apart[1, 2], apart[2, 1]) == (0, 0)
    assert apart[0].tolist() == linked[0].tolist()


def test_a_pause_ends_a_sequence() -> None:
    events = [(0, 0, 0.0), (0, 1, 10.0), (0, 2, 100.0), (0, 3, 110.0)]
    cut = weights(events, replace(PLAIN, longest_pause_s=50.0))
    assert (cut[0, 1], cut[2, 3]) == (1, 1)
    assert not cut[:2, 2:].any()


def test_old_evidence_counts_less() -> None:
    events = [(0, 0, 0.0), (0, 1, 1 * DAY), (1, 0, 10 * DAY), (1, 2, 11 * DAY)]
    aged = weights(events, replace(PLAIN, half_life_days=10.0))
    assert (aged[0, 1], aged[0, 2]) == (0.5, 1)


def test_users_without_a_second_step_say_nothing() -> None:
    assert not weights([]).any()
    assert not weights([(0, 1, 3.0)]).any()
    assert not weights([(0, 1, 3.0), (1, 2, 4.0), (1, 2, 5.0)]).any()


def test_transitions_are_the_shares_of_what_came_next() -> None:
    events = [*visits(0, 1, 2), (1, 0, 0.0), (1, 1, 1.0), (2, 0, 0.0), (2, 3, 1.0), (2, 4, 1.0)]
    transitions = MarkovTransitions().fit(sequences(events)).matrix().toarray()
    assert np.allclose(transitions[0], [0, 0.5, 0, 0.25, 0.25, 0])
    assert transitions[1].tolist() == [0, 0, 1, 0, 0, 0]
    assert not transitions[3].any()


def test_only_the_strongest_k_are_kept() -> None:
    fitted = SequentialRules(replace(PLAIN, k=2)).fit(sequences(visits(0, 1, 2, 3)))
    assert fitted.indices[fitted.indptr[0] : fitted.indptr[1]].tolist() == [1, 2]


@pytest.mark.parametrize("block_entries", [1, 7])
def test_blocks_change_nothing(block_entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    events = [(int(u), int(i), float(t)) for u, i, t in zip(*rng.integers(0, ITEMS, (3, 60)), strict=True)]
    whole = weights(events)
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", block_entries)
    assert np.array_equal(weights(events), whole)


def test_a_sequence_is_sorted_and_numbers_the_distinct_times_of_each_user() -> None:
    ordered = sequences([(1, 2, 9.0), (0, 3, 5.0), (1, 1, 9.0), (1, 5, 2.0), (1, 2, 9.0)])
    assert ordered.users.tolist() == [0, 1, 1, 1]
    assert ordered.items.tolist() == [3, 5, 1, 2]
    assert ordered.steps.tolist() == [0, 0, 1, 1]


def test_progress_rises_to_one() -> None:
    for events in ([], visits(0, 1, 2)):
        shares: list[float] = []
        SequentialRules().fit(sequences(events), shares.append)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
