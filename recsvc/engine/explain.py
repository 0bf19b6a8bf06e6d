"""Why an item is in a list: the score taken apart into typed reasons whose contributions add up to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsvc.domain.ids import ItemKey
from recsvc.domain.recommendations import Reason, ReasonKind, Source
from recsvc.engine.ranking import Ranked
from recsvc.storage.candidates import Candidates, Evidence

_MOST_REASONS = 3
_MOST_LABELS = 5
# Sources that speak for an item because of single items of the history.
_BEHAVIOR = frozenset({Source.COLLABORATIVE, Source.NEIGHBORS, Source.SEQUENCE})


def reasons(
    candidates: Candidates,
    ranked: Ranked,
    position: int,
    because: Sequence[Evidence],
    labels: Mapping[ItemKey, Sequence[str]],
) -> tuple[Reason, ...]:
    """The reasons for one candidate, largest first.

    because: what the items of the user's history say for this candidate. labels: what candidates share with that
    history, weightiest first, for reasons of content. What a source of behaviour contributed is shared out among the
    items of `because` in proportion to what they say for it; without any it stands as one reason without an item.
    """
    boost = float(ranked.boosts[position]) or 1.0
    found: list[Reason] = []
    behavior: dict[str, float] = {}
    for name, contributions in ranked.contributions.items():
        # Boosts stand as a reason of their own, so the sources are told without them.
        contribution = float(contributions[position]) / boost
        if contribution == 0.0:
            continue
        if name in _BEHAVIOR:
            behavior[name] = contribution
        else:
            found.append(_reason(name, contribution, candidates, position, labels))
    if behavior:
        found += _similar(behavior, because)
    score = float(ranked.scores[position])
    if boost != 1.0 or float(candidates.boosts[position]) == 0.0:
        factor = float(candidates.boosts[position])
        unboosted = sum(reason.contribution for reason in found)
        found.append(Reason(ReasonKind.BOOSTED, score - unboosted, strength=factor))
    return tuple(sorted(found, key=lambda reason: -abs(reason.contribution)))


def _similar(contributions: Mapping[str, float], because: Sequence[Evidence]) -> list[Reason]:
    shares = dict.fromkeys((evidence.item_id for evidence in because), 0.0)
    for source, contribution in contributions.items():
        total = sum(max(0.0, evidence.parts.get(source, 0.0)) for evidence in because)
        for evidence in because:
            if total > 0:
                shares[evidence.item_id] += contribution * max(0.0, evidence.parts.get(source, 0.0)) / total
    speaking = [(item_id, share) for item_id, share in shares.items() if share > 0]
    strongest = sorted(speaking, key=lambda pair: (-pair[1], pair[0]))[:_MOST_REASONS]
    told = sum(share for _, share in strongest)
    whole = sum(contributions.values())
    if not strongest:
        return [Reason(ReasonKind.SIMILAR_TO_INTERACTED, whole)]
    return [
        Reason(
            ReasonKind.SIMILAR_TO_INTERACTED, whole * share / told, item_id=item_id, strength=share / strongest[0][1]
        )
        for item_id, share in strongest
    ]


def _reason(
    name: str, contribution: float, candidates: Candidates, position: int, labels: Mapping[ItemKey, Sequence[str]]
) -> Reason:
    if name == Source.CONTENT:
        names = tuple(labels.get(candidates.item_keys[position], ())[:_MOST_LABELS])
        return Reason(ReasonKind.MATCHES_ATTRIBUTES, contribution, names=names)
    component = candidates.components[name]
    known = component[component == component]
    strongest = float(known.max()) if len(known) else 0.0
    if name == Source.TRENDING:
        return Reason(ReasonKind.TRENDING, contribution, strength=_relative(float(component[position]), strongest))
    if name == Source.POPULAR:
        return Reason(
            ReasonKind.POPULAR_IN_CATEGORY, contribution, strength=_relative(float(component[position]), strongest)
        )
    return Reason(ReasonKind.MATCHES_ATTRIBUTES, contribution, names=(name,))


def _relative(log2_count: float, log2_strongest: float) -> float:
    return float(2.0 ** (log2_count - log2_strongest)) if log2_count == log2_count else 0.0
