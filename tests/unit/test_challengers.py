"""Lists of baselines: the same questions, the same history, the same exclusions, whoever is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsvc.domain.evaluation import EMPTY, rank_metrics
from recsvc.training.baselines import BASELINES
from recsvc.training.challengers import baseline_lists
from recsvc.training.protocols import SplitKind, Task, split_table
from tests.unit.test_protocols import table_of

_TASTES, _ITEMS_PER_TASTE = 3, 12


def _a_task(kind: SplitKind, share: float = 0.25) -> Task:
    """Users who go round the items of one of three tastes, two days apart, and begin somewhere else each."""
    log = [
        (f"u{user}", f"{user % _TASTES}-{(user // _TASTES + step) % _ITEMS_PER_TASTE}", 2 * step + user % 2)
        for user in range(45)
        for step in range(8)
    ]
    return split_table(table_of(log), kind, test_share=share, seed=2)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("kind", list(SplitKind)[1:])
def test_no_list_holds_what_its_subject_has_or_an_item_twice(kind: SplitKind, name: str) -> None:
    task = _a_task(kind)
    lists = baseline_lists(name, task, 10)
    assert lists.shape == (len(task.questions), 10)
    for row, seen in zip(lists, task.questions.seen, strict=True):
        shown = row[row != EMPTY]
        assert len(set(shown.tolist())) == len(shown)
        assert not set(shown.tolist()) & set(seen.indices.tolist())


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "popularity"])
@pytest.mark.parametrize("kind", [SplitKind.RANDOM, SplitKind.USER_HELD_OUT, SplitKind.NEXT_ITEM])
def test_every_baseline_finds_more_than_popularity_where_taste_is_all(kind: SplitKind, name: str) -> None:
    task = _a_task(kind)
    found = {
        each: rank_metrics(baseline_lists(each, task, 5), task.questions.wanted).recall.mean()
        for each in (name, "popularity")
    }
    assert found[name] > found["popularity"]


@pytest.mark.parametrize("name", BASELINES)
def test_a_history_that_was_trained_on_is_answered_the_same_however_it_is_told(name: str) -> None:
    rng = np.random.default_rng(3)
    log = [(f"u{user}", f"i{item}", day) for user in range(40) for day, item in enumerate(rng.permutation(25)[:8])]
    task = split_table(table_of(log), SplitKind.TEMPORAL, test_share=0.25)
    told = replace(task, kind=SplitKind.NEXT_ITEM)
    by_user, by_history = (
        rank_metrics(baseline_lists(name, each, 5), task.questions.wanted).ndcg for each in (task, told)
    )
    if name == "vsknn":
        # Told apart, the subject's own session is one of its neighbours.
        assert by_history.mean() == pytest.approx(by_user.mean(), abs=0.1)
    else:
        assert np.allclose(by_user, by_history)


def test_a_list_goes_on_with_what_is_popular() -> None:
    log = [("u", "a", 0), ("u", "b", 1), ("v", "a", 0), ("v", "b", 1), ("w", "a", 0), ("w", "c", 1)]
    log += [(f"x{number}", "popular", 0) for number in range(5)]
    log += [(f"x{number}", "less popular", 0) for number in range(3)]
    log += [("w", "z", 9)]
    task = split_table(table_of(log), SplitKind.TEMPORAL, test_share=0.1)
    lists = baseline_lists("transitions", task, 4)
    names = [task.table.item_ids[item] for item in lists[0] if item != EMPTY]
    assert names == ["popular", "less popular", "b"]


def test_it_is_told_how_far_the_lists_are() -> None:
    task = _a_task(SplitKind.RANDOM)
    told: list[int] = []
    baseline_lists("popularity", task, 5, told.append)
    assert sum(told) == len(task.questions)


_DAY_S = 86_400.0


def _news(days: int = 30) -> Task:
    """Every day has its own items, and everybody reads two of them, one after the other."""
    log = [
        (f"u{user}", f"day{day}-{(user + step) % 3}", day + (10 * step + user) / 100)
        for day in range(days)
        for user in range(10)
        for step in range(2)
    ]
    return split_table(table_of(log), SplitKind.NEXT_ITEM, test_share=0.4)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "popularity"])
def test_what_learns_anew_finds_items_that_came_after_training(name: str) -> None:
    task = _news()
    once, anew = (
        rank_metrics(baseline_lists(name, task, 3, learn_every_s=every), task.questions.wanted).recall.mean()
        for every in (None, _DAY_S / 20)
    )
    # The day in which training ends is known in part.
    assert once < 0.05 < anew


@pytest.mark.parametrize("every_s", [_DAY_S / 20, _DAY_S, 7 * _DAY_S])
@pytest.mark.parametrize("name", BASELINES)
def test_what_learns_anew_knows_nothing_of_what_comes_later(name: str, every_s: float) -> None:
    task = _news()
    first_seen = np.full(len(task.table.item_ids), np.inf)
    np.minimum.at(first_seen, task.table.items, task.table.times)
    lists = baseline_lists(name, task, 50, learn_every_s=every_s)
    listed = np.where(lists == EMPTY, -np.inf, first_seen[lists]).max(axis=1)
    assert (listed < task.questions.moments).all()
