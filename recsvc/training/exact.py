"""A published model without what makes serving fast: no vector index, no half precision, every item a candidate.

What it lists against what is served tells what speed costs in accuracy. The model is fitted again from its own
hyper-parameters, which is exact because training is deterministic for the same events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Interactions
from recsvc.domain.models import Model
from recsvc.training.dataset import Dataset
from recsvc.training.pipeline import recipe_of
from recsvc.training.selection import Choice, blended_lists
from recsvc.training.sources import Counters, Sources, fit_sources
from recsvc.training.validation import Cases, ages_by_time


@dataclass(frozen=True, slots=True)
class ExactModel:
    """The fitted sources of a model and how it mixes them."""

    dataset: Dataset
    sources: Sources
    choice: Choice

    @classmethod
    def of(cls, dataset: Dataset, model: Model) -> ExactModel:
        """Fit a model again. dataset: what it was trained on."""
        dataset = replace(dataset, signal_power=model.signal_power, disliked_strength=model.disliked_strength)
        recipe = recipe_of(model)
        sources = fit_sources(dataset, recipe)
        everything = np.ones(len(dataset.users), dtype=np.bool_)
        choice = Choice(
            dimension=model.dimension,
            singular_value_power=recipe.spectral.singular_value_power,
            neighbor_algorithm=recipe.neighbor_algorithms[0],
            recency=model.recency,
            weights=model.blend_weights,
        )
        return cls(dataset, replace(sources, counters=Counters.of(dataset, everything)), choice)

    def lists(
        self, user_keys: NDArray[np.int64], k: int, moment: float, seen: Interactions | None = None
    ) -> NDArray[np.int64]:
        """(users, k) item keys, −1 past the end, for users that the data set knows.

        moment: seconds since 1970 at which is asked, for what is trending. seen: (users, items of the data set), what
        must not come; default: what the data set says they like.
        """
        rows = np.searchsorted(self.dataset.user_keys, user_keys)
        case_of = np.full(len(self.dataset.user_keys), -1)
        case_of[rows] = np.arange(len(rows))
        counted, strengths = self.dataset.counted
        entries = np.flatnonzero(case_of[counted.users] >= 0)
        asked = case_of[counted.users[entries]]
        shape = (len(rows), len(self.dataset.item_keys))
        ages = ages_by_time(asked, counted.times[entries]).astype(np.float32)
        history = sparse.csr_matrix((ages, (asked, counted.items[entries])), shape=shape)
        none = np.zeros(0, dtype=np.int64)
        nothing: Interactions = sparse.csr_matrix((np.zeros(0, dtype=np.float32), (none, none)), shape=shape)
        signals = sparse.csr_matrix(
            (strengths[entries].astype(np.float32), (asked, counted.items[entries])), shape=shape
        )
        cases = Cases(
            history,
            nothing,
            np.full(len(rows), moment),
            signals,
            self.dataset.signal_power,
            self.dataset.disliked_strength,
        )
        codes = blended_lists(self.sources, cases, self.choice, k, seen)
        return np.where(codes < 0, -1, self.dataset.item_keys[codes])
