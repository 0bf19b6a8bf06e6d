"""Questions and figures of the calls beside Recommend, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.evaluation import EMPTY
from recsvc.training import related_evaluation as related
from recsvc.training.protocols import Subject, Table


def _table(*entries: tuple[int, int, float], liked: list[bool] | None = None) -> Table:
    """Entries of (user, item, time)."""
    users, items, times = (np.array(column) for column in zip(*entries, strict=True))
    return Table(
        subjects=[Subject(f"u{user}") for user in range(int(users.max()) + 1)],
        item_ids=[f"i{item}" for item in range(int(items.max()) + 1)],
        users=users.astype(np.int64),
        items=items.astype(np.int64),
        times=times.astype(np.float64),
        signals=np.ones(len(users)),
        liked=np.array(liked if liked is not None else [True] * len(users)),
        is_given_test=np.zeros(len(users), dtype=np.bool_),
    )


def _before(table: Table, moment: float) -> np.ndarray:
    return table.times < moment


def _rows(matrix: sparse.csr_matrix) -> list[list[int]]:
    return [
        sorted(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]].tolist()) for row in range(matrix.shape[0])
    ]


# What makes items 0–4 known to training.
_PAST = [(9, item, 0.0) for item in range(5)]


def test_the_next_step_is_wanted_of_the_same_user_only() -> None:
    table = _table(*_PAST, (0, 1, 10.0), (1, 4, 11.0), (0, 2, 12.0), (1, 3, 13.0), (0, 0, 14.0))
    asked = related.next_steps(table, _before(table, 5), at_most=100, seed=0)
    assert asked.items.tolist() == [1, 2, 4]
    assert _rows(asked.wanted) == [[2], [0], [3]]
    assert asked.users.tolist() == [0, 0, 1]


def test_what_happens_at_one_time_is_one_step() -> None:
    table = _table(*_PAST, (0, 1, 10.0), (0, 2, 10.0), (0, 2, 12.0), (0, 3, 12.0), (0, 4, 12.0))
    asked = related.next_steps(table, _before(table, 5), at_most=100, seed=0)
    assert asked.items.tolist() == [2]
    assert _rows(asked.wanted) == [[3, 4]]


def test_unknown_and_disliked_items_and_training_itself_are_not_asked_about() -> None:
    table = _table(
        *_PAST, (0, 0, 10.0), (0, 5, 11.0), (0, 1, 12.0), (0, 2, 13.0), (0, 3, 14.0),
        liked=[True] * 5 + [True, True, False, True, True],
    )  # fmt: skip
    asked = related.next_steps(table, _before(table, 5), at_most=100, seed=0)
    assert asked.items.tolist() == [0, 2]
    assert _rows(asked.wanted) == [[2], [3]]


def test_of_a_basket_one_item_is_told_and_the_rest_wanted() -> None:
    table = _table(
        *_PAST, (0, 0, 10.0), (0, 1, 10.0), (0, 2, 11.0), (1, 3, 10.0), (1, 4, 10.0), (1, 2, 11.0), (1, 0, 12.0)
    )
    baskets = np.array([EMPTY] * 5 + [0, 0, 1, 2, 2, 2, EMPTY])
    asked = related.basket_rest(table, baskets, _before(table, 5), at_most=100, seed=3)
    assert len(asked) == 2
    for row, basket in enumerate(({0, 1}, {2, 3, 4})):
        assert {int(asked.items[row]), *_rows(asked.wanted)[row]} == basket
        assert int(asked.items[row]) not in _rows(asked.wanted)[row]
    assert asked.users.tolist() == [0, 1]


def test_questions_are_sampled_alike_with_the_same_seed() -> None:
    table = _table(*_PAST, *((0, number % 5, 10.0 + number) for number in range(50)))
    one, again, other = (related.next_steps(table, _before(table, 5), 10, seed) for seed in (1, 1, 2))
    assert len(one) == 10
    assert one.items.tolist() == again.items.tolist()
    assert one.items.tolist() != other.items.tolist()


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 4))
def test_candidates_hold_what_is_wanted_and_nothing_that_was_seen(seed: int, negatives: int, most_wanted: int) -> None:
    held_out = sparse.csr_matrix(np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]], dtype=np.float32))
    seen = sparse.csr_matrix(np.array([[0, 0, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]], dtype=np.float32))
    for row, asked in enumerate(related.mixed_candidates(held_out, seen, np.arange(8), negatives, most_wanted, seed)):
        wanted = set(_rows(held_out)[row])
        assert set(asked.items[asked.is_wanted]) <= wanted
        assert asked.is_wanted.sum() == min(len(wanted), most_wanted)
        others = asked.items[~asked.is_wanted].tolist()
        assert not set(others) & (wanted | set(_rows(seen)[row]))
        assert len(set(others)) == len(others) == min(negatives, 8 - len(wanted) - len(_rows(seen)[row]))


def test_what_training_does_not_know_is_no_candidate() -> None:
    held_out = sparse.csr_matrix(np.array([[1, 0, 0, 1], [0, 0, 0, 1]], dtype=np.float32))
    seen = sparse.csr_matrix((2, 4), dtype=np.float32)
    (asked,) = related.mixed_candidates(held_out, seen, np.array([0, 1, 2]), 9, 9, seed=0)
    assert asked.row == 0
    assert sorted(asked.items.tolist()) == [0, 1, 2]
    assert asked.items[asked.is_wanted].tolist() == [0]


def test_candidates_do_not_tell_by_their_order() -> None:
    held_out = sparse.csr_matrix(np.eye(200, dtype=np.float32))
    seen = sparse.csr_matrix((200, 200), dtype=np.float32)
    places = [
        int(np.flatnonzero(asked.is_wanted)[0])
        for asked in related.mixed_candidates(held_out, seen, np.arange(200), 9, 1, seed=0)
    ]
    assert set(places) == set(range(10))


@pytest.mark.parametrize(
    ("scores", "wanted", "area"),
    [
        ([3.0, 2.0, 1.0], [True, False, False], 1.0),
        ([1.0, 2.0, 3.0], [True, False, False], 0.0),
        ([2.0, 3.0, 1.0], [True, False, False], 0.5),
        ([1.0, 1.0, 1.0], [True, True, False], 0.5),
        ([2.0, 2.0, 1.0], [True, False, False], 0.75),
        ([2.0, 1.0], [True, True], 0.5),
    ],
)
def test_the_area_is_the_share_of_pairs_in_the_right_order(
    scores: list[float], wanted: list[bool], area: float
) -> None:
    assert related.area_under_curve(np.array(scores), np.array(wanted)) == area


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_the_area_is_what_counting_pairs_gives(pairs: list[tuple[int, bool]]) -> None:
    scores, wanted = np.array([score for score, _ in pairs], float), np.array([is_wanted for _, is_wanted in pairs])
    wins = [1.0 if one > other else 0.5 if one == other else 0.0 for one in scores[wanted] for other in scores[~wanted]]
    assert related.area_under_curve(scores, wanted) == pytest.approx(np.mean(wins) if wins else 0.5)


def test_scores_are_judged_by_the_best_ten() -> None:
    candidates = [related.Candidates(0, np.arange(4), np.array([True, False, False, True]))]
    judged = related.judge_scores("x", [np.array([4.0, 3.0, 2.0, 1.0])], candidates, np.array([0]))
    assert judged.figures["ndcg@10"].mean == pytest.approx((1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3)))
    assert judged.figures["auc"].mean == 0.5


def test_equal_scores_earn_nothing_by_their_order() -> None:
    count = 400
    candidates = [related.Candidates(0, np.arange(20), np.arange(20) == 0)] * count
    judged = related.judge_scores("x", [np.zeros(20)] * count, candidates, np.arange(count))
    by_chance = sum(1 / np.log2(rank + 1) for rank in range(1, 11)) / 20
    assert judged.figures["ndcg@10"].mean == pytest.approx(by_chance, rel=0.15)


def test_overlap_is_the_jaccard_index_of_what_was_held_out() -> None:
    held_out = sparse.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=np.float32))
    found = related.overlap_with(np.array([[1, 2, 3], [0, EMPTY, EMPTY]]), np.array([0, 3]), held_out)
    assert found.tolist() == [[1.0, pytest.approx(1 / 3), 0.0], [0.0, 0.0, 0.0]]


def test_nobody_is_their_own_neighbour() -> None:
    train = sparse.csr_matrix(np.array([[1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=np.float32))
    pool, users = np.arange(4), np.arange(4)
    for neighbors in (
        related.random_neighbors(pool, users, 3, seed=0),
        related.active_neighbors(train, pool, users, 3),
        related.nearest_by_items(train, pool, users, 3),
    ):
        assert neighbors.shape == (4, 3)
        assert [sorted(row) for row in neighbors.tolist()] == [[v for v in range(4) if v != user] for user in range(4)]
    assert related.nearest_by_items(train, pool, users, 1).ravel().tolist() == [1, 0, 0, 1]
    assert related.active_neighbors(train, pool, users, 2)[0].tolist() == [1, 2]


def test_baselines_do_not_answer_with_what_was_told() -> None:
    asked = related.ItemQuestions(np.array([2, 0]), sparse.csr_matrix((2, 4), dtype=np.float32), np.array([0, 1]))
    popular = related.popular_lists(np.array([4.0, 3.0, 2.0, 1.0]), asked, 3)
    assert popular.tolist() == [[0, 1, 3], [1, 2, 3]]
    chance = related.random_lists(np.arange(4), asked, 3, seed=0)
    assert [sorted(row) for row in chance.tolist()] == [[0, 1, 3], [1, 2, 3]]


def test_lists_are_judged_per_question_and_sure_per_user() -> None:
    wanted = sparse.csr_matrix(np.array([[0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]], dtype=np.float32))
    asked = related.ItemQuestions(np.zeros(4, dtype=np.int64), wanted, np.array([0, 0, 0, 1]))
    judged = related.judge_lists("x", np.array([[1], [1], [1], [2]]), asked)
    interval = judged.figures["hit rate@1"]
    assert interval.mean == pytest.approx(0.5)
    # Either user may be drawn twice: all of theirs then is what there is.
    assert (interval.low, interval.high) == (0.0, pytest.approx(2 / 3))
