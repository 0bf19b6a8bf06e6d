"""Tuning: searches within its budget, keeps what is not clearly beaten, and never sees what it is judged by."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from recsvc.training.algorithms.spectral import SpectralConfig
from recsvc.training.sources import COLLABORATIVE, EASE, RP3BETA, SEQUENCE, Recipe
from recsvc.training.tuning import Tuned, tune
from recsvc.training.validation import HoldOut, ValidationKind, hold_out
from tests.unit.test_selection import by_taste, in_order

_BAD = Recipe(spectral=SpectralConfig(dimension=80, rows_per_dimension=1, output_exponent=0.6), with_sequence=False)


def _tuned(recipe: Recipe, budget_s: float = 2.0, seed: int = 0) -> Tuned:
    dataset = by_taste(users=600, items=120)
    held = hold_out(dataset, ValidationKind.RANDOM)
    return tune(dataset, [held], recipe, budget_s=budget_s, seed=seed, progress=lambda _share: None)


def test_every_source_is_searched_and_none_gets_worse() -> None:
    tuned = _tuned(_BAD)
    assert set(tuned.gains) == {COLLABORATIVE, RP3BETA, EASE}
    assert all(after >= before for before, after in tuned.gains.values())
    assert tuned.recipe.tuned


def test_the_first_trial_of_each_source_is_the_present_recipe() -> None:
    tuned = _tuned(_BAD)
    first = next(trial for trial in tuned.trials if trial.source == COLLABORATIVE)
    assert first.parameters["output_exponent"] == pytest.approx(_BAD.spectral.output_exponent)
    assert tuned.gains[COLLABORATIVE][0] == first.ndcg


def test_the_recipe_holds_the_best_trial_where_it_is_clearly_better() -> None:
    tuned = _tuned(_BAD, budget_s=4.0)
    before, after = tuned.gains[COLLABORATIVE]
    best = max((trial for trial in tuned.trials if trial.source == COLLABORATIVE), key=lambda trial: trial.ndcg)
    if after > before:
        assert after == best.ndcg
        assert all(getattr(tuned.recipe.spectral, name) == value for name, value in best.parameters.items())
    else:
        assert tuned.recipe.spectral == _BAD.spectral


def test_the_budget_bounds_the_search() -> None:
    begin = time.monotonic()
    _tuned(_BAD, budget_s=1.0)
    assert time.monotonic() - begin < 20.0


def test_where_behaviour_has_an_order_rules_are_searched_too() -> None:
    dataset = in_order()
    held = hold_out(dataset, ValidationKind.NEXT_ITEM)
    recipe = replace(_BAD, with_sequence=True)
    shares: list[float] = []
    tuned = tune(dataset, [held], recipe, budget_s=2.0, seed=0, progress=shares.append)
    assert SEQUENCE in tuned.gains
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_without_cases_the_recipe_stays() -> None:
    dataset = by_taste()
    held = hold_out(dataset, ValidationKind.RANDOM)
    none = HoldOut(held.kind, held.fitting, held.live, held.cases.take(slice(0, 0)))
    assert tune(dataset, [none], _BAD, budget_s=1.0, seed=0, progress=lambda _share: None) == Tuned(_BAD)
