"""Item–item weights by cosine: item-based k nearest neighbours (Deshpande & Karypis 2004, section 4.1.1).

    S_ji = Σ_u r_uj r_ui / (|r_j| |r_i| + h)

with |r_j| the length of the item's column and h the shrinkage, which distrusts a similarity that few users support
(Ferrari Dacrema, Cremonesi, Jannach 2019). The rows may be damped by the users' degrees first; with exponent ½ a row of
ones has unit length, as Deshpande & Karypis have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Interactions
from recsvc.training.algorithms.cooccurrence import StrongestWeights, product_sizes, row_blocks
from recsvc.training.algorithms.interface import ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, positive, power_or_zero, scaled

_BLOCK_ENTRIES = 16_000_000
"""Upper bound on the entries of one block's product: about 200 MB while it is made."""


@dataclass(frozen=True, slots=True)
class ItemKnnConfig:
    """Hyper-parameters of the cosine neighbours."""

    k: int = 100
    """Neighbours kept per item."""

    shrinkage: float = 1.0
    """h: added to the denominator; 0 is the plain cosine."""

    user_degree_exponent: float = 0.5
    """How much a user with a long history is damped: each row is divided by its sum raised to this."""


@dataclass(frozen=True, slots=True)
class ItemKnn:
    """The algorithm; `fit` has no state."""

    config: ItemKnnConfig = ItemKnnConfig()

    def fit(self, interactions: Interactions, progress: Progress = no_progress) -> ItemNeighbors:
        """Weights of `interactions` (users × items); entries ≤ 0 are ignored."""
        signals = positive(interactions)
        user_degrees, _ = degrees(signals)
        item_count = signals.shape[1]
        damped = scaled(signals, power_or_zero(user_degrees, -self.config.user_degree_exponent), np.ones(item_count))
        lengths = np.sqrt(
            np.bincount(damped.indices, weights=damped.data.astype(np.float64) ** 2, minlength=item_count)
        )
        by_item = damped.T.tocsr()
        kept = StrongestWeights(self.config.k)
        for start, stop in row_blocks(product_sizes(damped), _BLOCK_ENTRIES):
            product = (by_item[start:stop] @ damped).tocsr()
            own_lengths = np.repeat(lengths[start:stop], np.diff(product.indptr))
            product.data /= (own_lengths * lengths[product.indices] + self.config.shrinkage).astype(np.float32)
            kept.add_rows(product)
            progress(stop / item_count)
        progress(1.0)
        return kept.neighbors()
