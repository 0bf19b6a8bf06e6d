"""A model of random vectors that serves: what folds users in need not have learned anything."""

from __future__ import annotations

import numpy as np

from recsvc.app import Storage
from recsvc.domain.ids import TenantKey
from recsvc.domain.tenancy import ServingModel
from recsvc.storage.models import ItemWeights, TrainedModel

DIMENSION = 16


async def activate_random_model(storage: Storage, tenant_key: TenantKey, seed: int) -> ServingModel:
    """For all items of a tenant; strength, order and dislikes count in it."""
    async with storage.database.tenant_transaction(tenant_key) as connection:
        cursor = await connection.execute(
            b"SELECT item_key FROM items WHERE tenant_key = %s ORDER BY item_key", [tenant_key]
        )
        item_keys = np.array([row["item_key"] for row in await cursor.fetchall()], dtype=np.int64)
    rng = np.random.default_rng(seed)
    trained = TrainedModel(
        item_keys=item_keys,
        vectors=rng.standard_normal((len(item_keys), DIMENSION), dtype=np.float32),
        fold_in_scales=rng.uniform(0.5, 2.0, len(item_keys)).astype(np.float32),
        neighbors=ItemWeights(
            indptr=np.zeros(len(item_keys) + 1, dtype=np.int64),
            positions=np.array([], dtype=np.int64),
            weights=np.array([], dtype=np.float32),
        ),
        transitions=None,
        algorithm="random",
        blend_weights={"collaborative": 1.0},
        recency={"collaborative": 0.9},
        signal_power=0.5,
        disliked_strength=0.1,
        hyperparameters={},
        metrics={},
        user_count=1,
        event_count=1,
    )
    model = await storage.models.publish(
        tenant_key, trained, exact_search_items=5000, progress=lambda _stage, _share: None
    )
    await storage.models.activate(tenant_key, model.model_id)
    profile = await storage.tenants.profile(tenant_key)
    assert profile.model is not None
    return profile.model
