"""Questions of an evaluation as requests, and when two answers count as the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsvc.cli.answers import Answers, agreement
from recsvc.cli.questioning import query_for
from recsvc.domain.evaluation import EMPTY
from recsvc.domain.recommendations import Strategy
from recsvc.training.protocols import SplitKind, split_table
from tests.unit.test_protocols import table_of


def _answers(items: list[int], scores: list[float]) -> Answers:
    return Answers(np.array([items]), np.array([scores]), 0, 1.0)


@pytest.mark.parametrize(
    ("items", "scores", "same"),
    [
        ([1, 2, 3], [0.9, 0.5, 0.1], True),
        ([1, 2, 3], [0.90001, 0.5, 0.1], True),
        ([2, 1, 3], [0.9, 0.5, 0.1], False),
        ([1, 2, 3], [0.9, 0.6, 0.1], False),
        ([1, 4, 3], [0.9, 0.5, 0.1], False),
        ([1, 2, 4], [0.9, 0.5, 0.1], True),
        ([1, 2, 4], [0.9, 0.5, 0.2], False),
        ([1, 2, EMPTY], [0.9, 0.5, float("nan")], False),
    ],
)
def test_lists_are_equal_up_to_ties(items: list[int], scores: list[float], same: bool) -> None:
    base = _answers([1, 2, 3], [0.9, 0.5, 0.1])
    assert agreement(base, _answers(items, scores), [0]) == same
    assert agreement(_answers(items, scores), base, [0]) == same


def test_equal_scores_may_come_in_any_order() -> None:
    assert agreement(_answers([1, 2, 3], [0.9, 0.5, 0.5]), _answers([1, 3, 2], [0.9, 0.5, 0.5]), [0]) == 1.0


def test_empty_lists_are_the_same() -> None:
    empty = _answers([EMPTY, EMPTY], [float("nan")] * 2)
    assert agreement(empty, empty, [0]) == 1.0


def test_a_session_without_a_user_is_asked_by_its_id() -> None:
    log = [(who, item, day) for who in ("u", "s-1") for day, item in enumerate("abcd")]
    task = split_table(table_of(log), SplitKind.LEAVE_LAST_OUT)
    by_user, by_session = (query_for(task, row, Strategy.AUTO, 5) for row in range(2))
    assert (by_user.user_id, by_user.session_id) == ("u", None)
    assert (by_session.user_id, by_session.session_id) == (None, "s-1")
    assert by_session.session_item_ids == ()


def test_what_came_after_training_is_sent_with_the_question() -> None:
    log = [("u", f"i{day}", day) for day in range(300)]
    task = split_table(table_of(log), SplitKind.NEXT_ITEM, test_share=0.6)
    first, last = (query_for(task, row, Strategy.AUTO, 5) for row in (1, len(task.questions) - 1))
    assert first.session_item_ids == ("i121",)
    assert last.session_item_ids == tuple(f"i{day}" for day in range(199, 299))
    # Too long ago to be sent, but still no news.
    assert set(last.exclude_item_ids) == {f"i{day}" for day in range(121, 199)}
    assert replace(last, session_item_ids=(), exclude_item_ids=()).user_id == "u"
