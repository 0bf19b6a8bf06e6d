"""Models to publish without training: what folds users in need not have learned anything."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsvc.app import Storage
from recsvc.domain.arrays import Float32
from recsvc.domain.ids import TenantKey
from recsvc.domain.tenancy import ServingModel
from recsvc.storage.models import ItemWeights, TrainedModel

DIMENSION = 16


def a_trained_model(item_keys: NDArray[np.int64], vectors: Float32, **fields: Any) -> TrainedModel:
    """One of vectors only: of whatever else `fields` does not give there is nothing, or nothing is done by it."""
    count = len(item_keys)
    nothing = ItemWeights(np.zeros(count + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    given = {
        "fold_in_scales": np.ones(count, dtype=np.float32),
        "neighbors": nothing,
        "transitions": None,
        "algorithm": "test",
        "blend_weights": {"collaborative": 1.0},
        "recency": {},
        "signal_power": 0.0,
        "disliked_strength": 0.0,
        "hyperparameters": {},
        "metrics": {},
        "user_count": 1,
        "event_count": 1,
    }
    return TrainedModel(item_keys=item_keys, vectors=vectors, **{**given, **fields})


async def activate_random_model(storage: Storage, tenant_key: TenantKey, seed: int) -> ServingModel:
    """For all items of a tenant; strength, order and dislikes count in it."""
    async with storage.database.tenant_transaction(tenant_key) as connection:
        cursor = await connection.execute(
            b"SELECT item_key FROM items WHERE tenant_key = %s ORDER BY item_key", [tenant_key]
        )
        item_keys = np.array([row["item_key"] for row in await cursor.fetchall()], dtype=np.int64)
    rng = np.random.default_rng(seed)
    trained = a_trained_model(
        item_keys,
        rng.standard_normal((len(item_keys), DIMENSION), dtype=np.float32),
        fold_in_scales=rng.uniform(0.5, 2.0, len(item_keys)).astype(np.float32),
        recency={"collaborative": 0.9},
        signal_power=0.5,
        disliked_strength=0.1,
    )
    model = await storage.models.publish(
        tenant_key, trained, exact_search_items=5000, progress=lambda _stage, _share: None
    )
    await storage.models.activate(tenant_key, model.model_id)
    profile = await storage.tenants.profile(tenant_key)
    assert profile.model is not None
    return profile.model
