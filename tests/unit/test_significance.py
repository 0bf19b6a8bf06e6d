"""Intervals and paired comparisons: what they hold, how often, and what is resampled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.significance import Bootstrap, bootstrap_interval

values = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(np.array)


def _means(bootstrap: Bootstrap, *columns: np.ndarray) -> list[tuple[float, np.ndarray]]:
    table = np.column_stack(columns)
    observed, resampled = bootstrap.estimates(table, np.ones_like(table))
    return [(float(observed[at]), resampled[:, at]) for at in range(len(columns))]


def test_the_interval_holds_the_mean_and_narrows_with_more_users() -> None:
    sample = np.random.default_rng(3).random(400)
    few, many = bootstrap_interval(sample[:40]), bootstrap_interval(sample)
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert bootstrap_interval(sample) == many


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    intervals = [bootstrap_interval(rng.random(60), 0.9, resamples=200, seed=trial) for trial in range(300)]
    assert np.mean([i.low <= 0.5 <= i.high for i in intervals]) == pytest.approx(0.9, abs=0.06)


@given(values)
def test_an_interval_lies_within_the_values(sample: np.ndarray) -> None:
    interval = bootstrap_interval(sample, resamples=50)
    assert sample.min() - 1e-12 <= interval.low <= interval.high <= sample.max() + 1e-12
    assert interval.mean == pytest.approx(sample.mean())


def test_nobody_gives_zero() -> None:
    interval = bootstrap_interval(np.zeros(0))
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_users_are_resampled_and_not_their_questions() -> None:
    per_user = np.random.default_rng(5).random(30)
    once = _means(Bootstrap(np.arange(30)), per_user)[0]
    often = _means(Bootstrap(np.repeat(np.arange(30), 50)), np.repeat(per_user, 50))[0]
    assert often[0] == pytest.approx(once[0])
    assert np.allclose(often[1], once[1])
    as_if_independent = _means(Bootstrap(np.arange(1500)), np.repeat(per_user, 50))[0]
    assert as_if_independent[1].std() < 0.3 * often[1].std()


def test_a_user_with_more_questions_counts_more() -> None:
    observed, _ = _means(Bootstrap(np.array([7, 7, 7, 2])), np.array([1.0, 1.0, 1.0, 0.0]))[0]
    assert observed == 0.75


def test_a_ratio_leaves_out_who_has_no_denominator() -> None:
    bootstrap = Bootstrap(np.arange(3), resamples=100)
    observed, resampled = bootstrap.estimates(np.array([[1.0], [0.0], [0.0]]), np.array([[1.0], [1.0], [0.0]]))
    assert observed[0] == 0.5
    assert set(resampled[:, 0].tolist()) <= {i / n if n else 0.0 for n in range(4) for i in range(n + 1)}


def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = np.random.default_rng(1).random(20)
    whole = bootstrap_interval(sample, resamples=30)
    monkeypatch.setattr("recsvc.domain.significance._BLOCK_COUNTS", 45)
    assert bootstrap_interval(sample, resamples=30) == whole


def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    rng = np.random.default_rng(2)
    base = rng.random(200)
    bootstrap = Bootstrap(np.arange(200))
    better, same, noise = _means(bootstrap, base + 0.1, base, base + rng.normal(0, 0.05, 200))
    clear = bootstrap.difference(better, same)
    assert clear.interval.mean == pytest.approx(0.1)
    assert clear.p == pytest.approx(1 / 2001)
    assert bootstrap.difference(same, same).p == 1.0
    assert bootstrap.difference(noise, same).p > 0.01


def test_pairing_sees_what_two_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(8)
    base = rng.random(100)
    bootstrap = Bootstrap(np.arange(100))
    better, worse = _means(bootstrap, base + 0.02 + rng.normal(0, 0.02, 100), base)
    assert bootstrap.interval(*worse).high > bootstrap.interval(*better).low
    difference = bootstrap.difference(better, worse)
    assert difference.p < 0.01
    assert difference.interval.low > 0


def test_the_difference_has_the_same_p_either_way() -> None:
    rng = np.random.default_rng(4)
    bootstrap = Bootstrap(np.arange(50))
    one, other = _means(bootstrap, rng.random(50), rng.random(50))
    there, back = bootstrap.difference(one, other), bootstrap.difference(other, one)
    assert there.p == back.p
    assert there.interval.mean == pytest.approx(-back.interval.mean)
    assert there.interval.low == pytest.approx(-back.interval.high)


def test_p_is_about_uniform_when_there_is_no_difference() -> None:
    rng = np.random.default_rng(6)
    ps = []
    for trial in range(300):
        bootstrap = Bootstrap(np.arange(50), resamples=200, seed=trial)
        ps.append(bootstrap.difference(*_means(bootstrap, rng.random(50), rng.random(50))).p)
    assert np.mean(np.array(ps) < 0.05) == pytest.approx(0.05, abs=0.035)
