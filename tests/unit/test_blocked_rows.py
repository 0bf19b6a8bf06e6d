"""Rows cut into blocks add up to what the matrix that they were cut from says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain import blocked_rows
from recsvc.domain.blocked_rows import BlockedRows


def _matrix(rng: np.random.Generator, lengths: np.ndarray, columns: int) -> sparse.csr_matrix[np.float32]:
    dense = np.zeros((len(lengths), columns), dtype=np.float32)
    for row, length in enumerate(lengths):
        dense[row, rng.permutation(columns)[:length]] = rng.random(length) + 0.1
    return sparse.csr_matrix(dense)


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(0, 6), st.integers(1, 40), st.integers(1, 300))
def test_sums_of_groups_are_those_of_the_matrix(
    seed: int, longest: int, groups: int, rows: int, entries_at_once: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = _matrix(rng, rng.integers(0, longest + 1, rows), 300)
    sizes = rng.integers(0, 8, groups)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    asked, factors = rng.integers(0, rows, bounds[-1]), rng.random(bounds[-1]).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_rows, "_ENTRIES", entries_at_once)
        sums = BlockedRows.of(matrix).sums(bounds, asked, factors)
    dense = matrix.toarray()
    expected = [
        (dense[asked[start:end]] * factors[start:end, None]).sum(axis=0) for start, end in itertools.pairwise(bounds)
    ]
    np.testing.assert_allclose(sums, np.reshape(expected, (groups, 300)), rtol=1e-5)


def test_the_sum_of_a_group_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(7)
    blocked = BlockedRows.of(_matrix(rng, rng.integers(0, 200, 50), 200))
    asked, factors = rng.integers(0, 50, 1000), rng.random(1000).astype(np.float32)
    together = blocked.sums(np.arange(0, 1001, 100), asked, factors)
    alone = [
        blocked.sums(np.array([0, 100]), asked[at : at + 100], factors[at : at + 100]) for at in range(0, 1000, 100)
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(
    ("lengths", "width"),
    [
        pytest.param([300] * 9, 300, id="alike"),
        pytest.param([300] * 9 + [0] * 90, 300, id="those without any take no room"),
        pytest.param([300] + [60] * 99, 64, id="one is long"),
        pytest.param([3] * 99 + [300], 16, id="nearly all are short"),
        pytest.param([0, 0], 1, id="nothing"),
    ],
)
def test_filling_up_takes_little_room(lengths: list[int], width: int) -> None:
    blocked = BlockedRows.of(_matrix(np.random.default_rng(1), np.array(lengths), 300))
    assert blocked.columns.shape[1] == width
