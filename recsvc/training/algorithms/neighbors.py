"""Item–item weights from random walks over the bipartite graph: RP3beta with free degree exponents.

    S_ji = d_j^-α · Σ_u r_uj · d_u^-γ · r_ui · d_i^-β

is the walk j → u → i with its transition probabilities raised to powers, damped by the popularity of where it ends
(Paudel, Christoffel, Newell, Bernstein 2017: α = γ; β their beta). Only the best `k` of each item are kept. The product
is made in blocks of items, so that memory stays bounded however dense the co-occurrence is.
"""

from __future__ import annotations

from dataclasses import dataclass

from recsvc.domain.arrays import Interactions
from recsvc.training.algorithms.cooccurrence import StrongestWeights, product_sizes, row_blocks
from recsvc.training.algorithms.interface import ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, positive, power_or_zero, scaled

_BLOCK_ENTRIES = 16_000_000
"""Upper bound on the entries of one block's product: about 200 MB while it is made."""


@dataclass(frozen=True, slots=True)
class NeighborsConfig:
    """Hyper-parameters of the item–item weights."""

    k: int = 300
    """Neighbours kept per item; serving reads this many for every item that the user touched."""

    source_degree_exponent: float = 0.6
    """α: how much a popular item is damped as evidence."""

    user_degree_exponent: float = 0.6
    """γ: how much a user with a long history is damped."""

    target_degree_exponent: float = 0.3
    """β: how much a popular item is damped as a suggestion."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The algorithm; `fit` has no state."""

    config: NeighborsConfig = NeighborsConfig()

    def fit(self, interactions: Interactions, progress: Progress = no_progress) -> ItemNeighbors:
        """Weights of `interactions` (users × items); entries ≤ 0 are ignored."""
        config = self.config
        signals = positive(interactions)
        item_count = signals.shape[1]
        user_degrees, item_degrees = degrees(signals)
        source = power_or_zero(item_degrees, -config.source_degree_exponent)
        user = power_or_zero(user_degrees, -config.user_degree_exponent / 2)
        target = power_or_zero(item_degrees, -config.target_degree_exponent)
        to_users = scaled(signals, user, source).T.tocsr()
        to_items = scaled(signals, user, target)

        kept = StrongestWeights(config.k)
        for start, stop in row_blocks(product_sizes(signals), _BLOCK_ENTRIES):
            kept.add_rows((to_users[start:stop] @ to_items).tocsr())
            progress(stop / item_count)
        progress(1.0)
        return kept.neighbors()
