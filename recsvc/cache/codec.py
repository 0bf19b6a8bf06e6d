"""Lists of recommendations as bytes. JSON, because what comes out of Redis must never be able to run as code."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId
from recsvc.domain.recommendations import (
    Degradation,
    DegradationLevel,
    Reason,
    ReasonKind,
    Recommendations,
    RecommendedItem,
    Source,
    Strategy,
)


def encode(value: Recommendations) -> dict[str, Any]:
    """The list as JSON values."""
    return {
        "items": [_encode_item(item) for item in value.items],
        "strategy": value.strategy.value,
        "model": value.model_id,
        "time": value.generate_time.isoformat(),
        "degradation": [int(value.degradation.level), value.degradation.reason],
    }


def decode(document: dict[str, Any]) -> Recommendations:
    """The list in JSON values."""
    level, reason = document["degradation"]
    return Recommendations(
        items=tuple(_decode_item(item) for item in document["items"]),
        strategy=Strategy(document["strategy"]),
        model_id=document["model"],
        generate_time=datetime.fromisoformat(document["time"]),
        degradation=Degradation(DegradationLevel(level), reason),
    )


def dumps(document: dict[str, Any]) -> bytes:
    """JSON values as bytes; times as ISO 8601."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, default=datetime.isoformat).encode()


def _encode_item(item: RecommendedItem) -> list[Any]:
    reasons = [
        [reason.kind.value, reason.contribution, reason.item_id, reason.strength, reason.names]
        for reason in item.reasons
    ]
    return [item.item_id, item.score, item.source.value, reasons, asdict(item.item) if item.item else None]


def _decode_item(encoded: list[Any]) -> RecommendedItem:
    item_id, score, source, reasons, item = encoded
    return RecommendedItem(
        item_id=ItemId(item_id),
        score=score,
        source=Source(source),
        reasons=tuple(
            Reason(ReasonKind(kind), contribution, because, strength, tuple(names))
            for kind, contribution, because, strength, names in reasons
        ),
        item=_decode_catalog_item(item) if item else None,
    )


def _decode_catalog_item(fields: dict[str, Any]) -> Item:
    for name in ("publish_time", "expire_time", "create_time", "update_time"):
        if fields[name] is not None:
            fields[name] = datetime.fromisoformat(fields[name])
    for name in ("categories", "tags"):
        fields[name] = tuple(fields[name])
    if fields["embedding"] is not None:
        fields["embedding"] = tuple(fields["embedding"])
    return Item(**fields)
