"""What happens to a ranked list besides relevance: diversity, caps per category, novelty, exploration.

Positions are those of the caller's candidate arrays; every function returns a ranking of distinct positions, is
deterministic, and breaks ties by position, so the caller orders candidates by item id to make lists reproducible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from recsvc.domain.arrays import Float64, Mask, Positions, Scores, Vectors

NOVELTY_RANGE = 4.0
"""At novelty ±1 the rarest and the most popular candidate gain and lose this factor."""


class CategoryCap:
    """Counts the categories of what was taken and refuses what would exceed the cap; no category always passes."""

    def __init__(self, categories: Sequence[Sequence[str]], max_per_category: int) -> None:
        self._categories = categories
        self._max_per_category = max_per_category
        self._taken: Counter[str] = Counter()

    def take(self, position: int) -> bool:
        """Whether the candidate still fits in all its categories; if so it is counted."""
        categories = set(self._categories[position])
        if any(self._taken[category] >= self._max_per_category for category in categories):
            return False
        self._taken.update(categories)
        return True


def cap_per_category(order: Positions, categories: Sequence[Sequence[str]], max_per_category: int, k: int) -> Positions:
    """The first k positions of `order` such that no category comes more often than that; fewer if they run out."""
    cap = CategoryCap(categories, max_per_category)
    chosen: list[int] = []
    for position in order.tolist():
        if len(chosen) == k:
            break
        if cap.take(position):
            chosen.append(position)
    return np.array(chosen, dtype=np.int64)


def mmr(
    scores: Scores,
    vectors: Vectors,
    k: int,
    trade_off: float,
    cap: CategoryCap | None = None,
) -> Positions:
    """Order candidates by maximal marginal relevance (Carbonell & Goldstein 1998, eq. 1).

    argmax over what is left of  trade_off · score_i − (1 − trade_off) · max over the chosen j of cos(i, j)

    scores: (n,), relevance scaled so that the best is about 1; vectors: (n, d), of any length, a zero vector is similar
    to nothing; trade_off: 1 = relevance only. With `cap`, a candidate that it refuses is passed over. Returns the first
    k positions, best first; fewer when the candidates or the cap run out. Costs O(k·n·d).
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.asarray(vectors / np.where(norms > 0, norms, 1.0), dtype=np.float32)
    relevance = trade_off * np.asarray(scores, dtype=np.float64)
    redundancy = np.full(len(relevance), -np.inf)
    value = relevance.copy()
    chosen: list[int] = []
    for _ in range(len(relevance)):
        if len(chosen) == k:
            break
        best = int(np.argmax(value))
        value[best] = relevance[best] = -np.inf
        if cap is not None and not cap.take(best):
            continue
        chosen.append(best)
        if trade_off < 1.0:
            np.maximum(redundancy, unit @ unit[best], out=redundancy)
            value = relevance - (1.0 - trade_off) * redundancy
    return np.array(chosen, dtype=np.int64)


def popularity_percentiles(popularity: Scores) -> Float64:
    """(n,) in [0, 1]: 0 the least, 1 the most popular of these candidates; equals share the middle of their ranks."""
    n = len(popularity)
    if n < 2:
        return np.full(n, 0.5)
    ordered = np.sort(popularity)
    below = np.searchsorted(ordered, popularity, side="left")
    not_above = np.searchsorted(ordered, popularity, side="right")
    return np.asarray((below + not_above - 1) / (2.0 * (n - 1)))


def novelty_factors(percentiles: Scores, novelty: float) -> Float64:
    """What to multiply non-negative scores by: NOVELTY_RANGE^(novelty · (1 − 2·percentile)).

    novelty: −1 (familiar) … +1 (novel); 0 changes nothing. Falls with popularity when novelty > 0, rises when < 0, and
    leaves the median candidate alone. A factor, so that contributions scale along and still add up to the score.
    """
    return np.asarray(NOVELTY_RANGE ** (novelty * (1.0 - 2.0 * np.asarray(percentiles, dtype=np.float64))))


def explore(
    order: Positions, k: int, share: float, seed: int, interest: Scores | None = None
) -> tuple[Positions, Mask]:
    """Fill about `share` of the first k places of `order` with draws from the rest of it.

    interest: by position, what the chance of a draw is proportional to, above 0; default: all alike.

    The number of explored places is share·k, rounded up or down by chance so that the expectation is exact; which
    places, and who comes there, follow from `seed` alone. The others keep their order. Returns the k positions and, for
    each, whether it was explored; nothing is explored when nothing is left to draw from.
    """
    rng = np.random.default_rng(seed)
    places = min(k, len(order))
    tail = order[places:]
    count = min(int(share * places + rng.random()), places, len(tail))
    explored = np.zeros(places, dtype=np.bool_)
    explored[rng.choice(places, size=count, replace=False)] = True
    ranking = np.empty(places, dtype=np.int64)
    chances = None
    if interest is not None and len(tail):
        chances = np.asarray(interest, dtype=np.float64)[tail]
        chances = chances / chances.sum()
    ranking[explored] = rng.choice(tail, size=count, replace=False, p=chances)
    ranking[~explored] = order[: places - count]
    return ranking, explored
