"""Held-out cases: what a model is chosen by never contains what it has learned, and is asked as serving would be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.training.dataset import Dataset, Pairs
from recsvc.training.validation import (
    ValidationKind,
    ages_by_time,
    has_informative_times,
    hold_out,
    hold_out_folds,
)

_BY_TIME = (ValidationKind.NEXT_ITEM, ValidationKind.TEMPORAL)


def a_dataset(users: int = 80, items: int = 60, per_user: int = 12, *, timed: bool = True, seed: int = 0) -> Dataset:
    """Users who each touch different items, one after another or all at once."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(users), per_user)
    columns = np.concatenate([rng.choice(items, per_user, replace=False) for _ in range(users)])
    times = rng.permutation(len(rows)).astype(np.float64) if timed else np.full(len(rows), 7.0)
    return Dataset(np.arange(users), np.arange(items), rows, columns, times, rng.uniform(0.5, 4.0, len(rows)))


def with_dislikes(dataset: Dataset, strength: float, seed: int = 1) -> Dataset:
    """The same users dislike some of what they have not touched, at any time."""
    rng = np.random.default_rng(seed)
    untouched = np.argwhere(dataset.interactions().toarray() == 0)
    pairs = untouched[rng.random(len(untouched)) < 0.2]
    times = rng.uniform(dataset.times.min(), dataset.times.max(), len(pairs))
    return replace(dataset, disliked=Pairs(pairs[:, 0], pairs[:, 1], times), disliked_strength=strength)


@pytest.mark.parametrize("kind", list(ValidationKind))
def test_disliked_items_are_asked_with_and_never_for(kind: ValidationKind) -> None:
    plain = a_dataset()
    counted = with_dislikes(plain, 0.5)
    disliked = counted.interactions().toarray() == 0.5
    for user, (before, after) in enumerate(zip(plain.interactions(), counted.interactions(), strict=True)):
        assert after.nnz == before.nnz + disliked[user].sum()
    without, held = hold_out(plain, kind), hold_out(counted, kind)
    assert (held.cases.wanted != without.cases.wanted).nnz == 0
    assert (held.fitting == without.fitting).all()
    history = held.cases.history(1.0)
    assert set(np.unique(history.data)) == {np.float32(0.5), np.float32(1.0)}
    assert ((history == 1.0) != (without.cases.history(1.0) == 1.0)).nnz == 0
    assert (replace(held.cases, disliked_strength=0.0).history(1.0) != without.cases.history(1.0)).nnz == 0


def test_by_time_no_later_dislike_is_known_or_learned_from() -> None:
    dataset = with_dislikes(a_dataset(), 0.5)
    held = hold_out(dataset, ValidationKind.TEMPORAL)
    assert held.until < dataset.disliked.times.max()
    latest = dataset.disliked.times[dataset.disliked.times <= held.until]
    assert (dataset.interactions(held.fitting, held.until).data == np.float32(0.5)).sum() == len(latest)


@pytest.mark.parametrize("kind", list(ValidationKind))
def test_what_is_wanted_is_neither_known_nor_learned(kind: ValidationKind) -> None:
    dataset = a_dataset()
    held = hold_out(dataset, kind)
    assert len(held.cases) > 0
    assert held.cases.ages.multiply(held.cases.wanted).nnz == 0
    learned = set(zip(dataset.users[held.fitting], dataset.items[held.fitting], strict=True))
    owners = {tuple(sorted(dataset.items[dataset.users == user])): user for user in range(80)}
    for row in range(len(held.cases)):
        wanted = held.cases.wanted[[row]].indices
        history = held.cases.ages[[row]].indices
        touched = set(wanted) | set(history)
        (user,) = [user for items, user in owners.items() if touched <= set(items)]
        assert not {(user, item) for item in wanted} & learned


@pytest.mark.parametrize("kind", _BY_TIME)
def test_by_time_nothing_later_than_the_question_is_known(kind: ValidationKind) -> None:
    dataset = a_dataset()
    held = hold_out(dataset, kind)
    assert held.kind is kind
    time_of = {(user, item): time for user, item, time in zip(dataset.users, dataset.items, dataset.times, strict=True)}
    for row, moment in enumerate(held.cases.moments):
        history, wanted = set(held.cases.ages[[row]].indices), set(held.cases.wanted[[row]].indices)
        (user,) = [u for u in range(80) if all((u, item) in time_of for item in history | wanted)]
        assert all(time_of[user, item] <= moment for item in history)
        assert all(time_of[user, item] >= moment for item in wanted)
    assert (np.diff(held.cases.moments) >= 0).all()
    assert dataset.times[held.fitting].max() < dataset.times[~held.fitting].min()


@pytest.mark.parametrize("kind", _BY_TIME)
def test_periods_follow_one_another_and_none_knows_a_later_one(kind: ValidationKind) -> None:
    dataset = a_dataset()
    folds = hold_out_folds(dataset, kind)
    assert len(folds) == 3
    time_of = {(user, item): time for user, item, time in zip(dataset.users, dataset.items, dataset.times, strict=True)}
    end = dataset.times.max()
    for fold in folds:
        assert fold.kind is kind
        assert dataset.times[fold.fitting].max() <= fold.until
        assert fold.cases.moments.max() <= end
        for row in range(len(fold.cases)):
            history, wanted = set(fold.cases.ages[[row]].indices), set(fold.cases.wanted[[row]].indices)
            (user,) = [u for u in range(80) if all((u, item) in time_of for item in history | wanted)]
            assert all(fold.until < time_of[user, item] <= end for item in wanted)
        end = fold.until


def test_a_period_with_cases_enough_stands_alone() -> None:
    assert len(hold_out_folds(a_dataset(users=4000, per_user=20), ValidationKind.NEXT_ITEM, max_cases=9000)) == 1


def test_next_item_asks_with_all_that_came_before() -> None:
    dataset = a_dataset()
    held = hold_out(dataset, ValidationKind.NEXT_ITEM)
    for row, moment in enumerate(held.cases.moments):
        (position,) = np.flatnonzero(dataset.times == moment)
        user = dataset.users[position]
        before = dataset.items[(dataset.users == user) & (dataset.times < moment)]
        assert set(held.cases.ages[[row]].indices) == set(before)
        assert held.cases.wanted[[row]].indices.tolist() == [dataset.items[position]]


def test_blocks_hold_out_items_that_are_alike() -> None:
    # Every user likes two of ten groups; a block should lie within one of them.
    rng = np.random.default_rng(1)
    rows, columns = [], []
    for user in range(200):
        for group in rng.choice(10, 2, replace=False):
            chosen = rng.choice(20, 10, replace=False) + 20 * group
            rows += [user] * 10
            columns += chosen.tolist()
    dataset = Dataset(
        np.arange(200), np.arange(200), np.array(rows), np.array(columns), np.zeros(len(rows)), np.ones(len(rows))
    )
    held = hold_out(dataset, ValidationKind.BLOCKED, share=0.25)
    groups = [len(set(held.cases.wanted[[row]].indices // 20)) for row in range(len(held.cases))]
    assert np.mean(groups) < 1.1
    drawn = hold_out(dataset, ValidationKind.RANDOM, share=0.25)
    assert np.mean([len(set(drawn.cases.wanted[[row]].indices // 20)) for row in range(len(drawn.cases))]) > 1.5


def test_blocks_are_of_two_sizes_however_many_cases_there_are() -> None:
    many, few = a_dataset(users=5000, per_user=10, timed=False), a_dataset(users=200, per_user=10, timed=False)
    for dataset, folds in ((many, 2), (few, 5)):
        held = hold_out_folds(dataset, ValidationKind.BLOCKED, max_cases=5000)
        shares = [np.mean(~fold.fitting) for fold in held]
        assert np.allclose(shares, [0.1, 0.2, 0.1, 0.2, 0.1][:folds], atol=0.01)
        assert len({fold.fitting.tobytes() for fold in held}) == folds


def test_without_times_blocks_are_held_out_and_with_them_the_next_item() -> None:
    assert not has_informative_times(a_dataset(timed=False))
    assert hold_out(a_dataset(timed=False), ValidationKind.AUTO).kind is ValidationKind.BLOCKED
    assert hold_out(a_dataset(), ValidationKind.AUTO).kind is ValidationKind.NEXT_ITEM


def test_too_few_cases_by_time_are_drawn_at_random_instead() -> None:
    assert hold_out(a_dataset(users=4), ValidationKind.TEMPORAL).kind is ValidationKind.RANDOM


def test_at_most_so_many_cases_are_asked() -> None:
    assert len(hold_out(a_dataset(), ValidationKind.RANDOM, max_cases=10).cases) == 10


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=30))
def test_age_counts_the_distinct_times_after_an_entry(entries: list[tuple[int, int]]) -> None:
    groups = np.array([group for group, _ in entries], dtype=np.int64)
    times = np.array([time for _, time in entries], dtype=np.float64)
    ages = ages_by_time(groups, times)
    for position, (group, time) in enumerate(entries):
        assert ages[position] == 1 + len({later for other, later in entries if other == group and later > time})


def test_recency_weighs_by_age_and_forgets_what_is_too_old() -> None:
    cases = hold_out(a_dataset(), ValidationKind.NEXT_ITEM).cases
    assert np.allclose(
        cases.history(0.5).toarray(), np.where(cases.ages.toarray() > 0, 0.5 ** (cases.ages.toarray() - 1), 0)
    )
    assert cases.history(1.0, at_most=2).nnz == int((cases.ages.data <= 2).sum())


def test_signals_weigh_by_their_power() -> None:
    cases = replace(hold_out(a_dataset(), ValidationKind.NEXT_ITEM).cases, signal_power=0.5)
    plain = replace(cases, signal_power=0.0)
    expected = plain.history(0.8).multiply(cases.signals.sqrt()).toarray()
    assert np.allclose(cases.history(0.8).toarray(), expected)
    assert np.allclose(cases.take(slice(3, 9)).history(0.8).toarray(), expected[3:9])
