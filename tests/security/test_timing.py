"""Whether the clock tells why a key was refused.

Calls of all kinds are mixed, so that whatever else the machine does falls on all of them alike. For each kind: in which
share of pairs with a call of an unknown id it took longer (the Mann-Whitney statistic, 0.5 = the clock tells nothing),
and how much longer its quickest calls took, which a busy machine disturbs least.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

import grpc
from scipy.stats import ks_2samp, mannwhitneyu

from recsvc.app import Service
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.rpc.key_hasher import FreshKey, KeyHasher
from recsvc.settings import Settings
from tests.api import Api
from tests.e2e.servers import another_server

_ROUNDS = int(os.environ.get("RECSVC_SECURITY_ROUNDS", "1"))
_CALLS = 40 * _ROUNDS
# Four standard deviations of the statistic for 40 calls of a kind, and as many for more of them, down to what matters.
_TOLERANCE = max(0.05, 0.25 / math.sqrt(_ROUNDS))
_QUICKEST = 0.2
# One hash more or less makes a difference of 1.4 and more.
_RATIO = 1.3
# A machine that does something else at the wrong time may spoil a sample, not three.
_SAMPLES = 3
_BASE = "unknown id"


async def _sample(api: Api, texts: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """Seconds of each call, by kind."""
    order = [(kind, text) for kind, of_kind in texts.items() for text in of_kind]
    random.shuffle(order)
    seconds: dict[str, list[float]] = {kind: [] for kind in texts}
    for kind, text in order:
        start = time.perf_counter()
        call = api.catalog.ListItems(catalog_pb.ListItemsRequest(), metadata=(("x-api-key", text),))
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        seconds[kind].append(time.perf_counter() - start)
    return seconds


def _telling(seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """The kinds whose calls took another time than those of an unknown id; the figures are printed."""
    telling, base = [], seconds[_BASE]
    for kind, of_kind in seconds.items():
        share = float(mannwhitneyu(of_kind, base).statistic) / (len(of_kind) * len(base))
        ratio = _quickest(of_kind) / _quickest(base)
        distance = ks_2samp(of_kind, base)
        print(
            f"{kind:32} median {statistics.median(of_kind) * 1000:6.2f} ms  longer in {share:.3f} of pairs"
            f"  quickest {ratio:.2f} times as long  KS {distance.statistic:.3f} (p {distance.pvalue:.2f})"
        )
        if abs(share - 0.5) >= _TOLERANCE or not 1 / _RATIO < ratio < _RATIO:
            telling.append(kind)
    return telling


def _quickest(seconds: Sequence[float]) -> float:
    return statistics.mean(sorted(seconds)[: math.ceil(len(seconds) * _QUICKEST)])


async def test_the_clock_does_not_tell_why_a_key_is_refused(
    service: Service, settings: Settings, new_tenant: Tenant
) -> None:
    # Cheap enough for many calls, and dear enough for one hash more or less to stand out.
    auth = settings.auth.model_copy(update={"argon2_memory_kib": 8192})
    keys, hasher = service.storage.keys, KeyHasher(auth)

    async def made() -> FreshKey:
        fresh = await hasher.make()
        scopes = frozenset({Scope.CATALOG_READ})
        await keys.insert(new_tenant.tenant_key, fresh.key_id, fresh.secret_hash, "", scopes, None)
        return fresh

    trusted, unused, rotated, revoked = [await made() for _ in range(4)]
    again = await hasher.make(rotated.key_id)
    await keys.rotate(new_tenant.tenant_key, again.key_id, again.secret_hash, timedelta(hours=1))
    await keys.revoke(new_tenant.tenant_key, revoked.key_id)

    def wrong(key_id: str) -> list[str]:
        return [f"rk_{key_id}_{_secret()}" for _ in range(_CALLS)]

    texts = {
        _BASE: [f"rk_{_id()}_{_secret()}" for _ in range(_CALLS)],
        "wrong secret": wrong(unused.key_id),
        "wrong secret of a trusted key": wrong(trusted.key_id),
        "wrong secret of a rotated key": wrong(rotated.key_id),
        "wrong secret of a revoked key": wrong(revoked.key_id),
        "right secret of a revoked key": [revoked.text] * _CALLS,
    }
    async with another_server(settings, new_tenant, auth=auth) as (other, _), Api.connected(other.port, "") as api:
        await api.catalog.ListItems(catalog_pb.ListItemsRequest(), metadata=(("x-api-key", trusted.text),))
        for number in range(_SAMPLES):
            print(f"\nsample {number + 1}, {_CALLS} calls of each kind:")
            if not (telling := _telling(await _sample(api, texts))):
                break
    assert not telling


def _id() -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=12))


def _secret() -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", k=43))
