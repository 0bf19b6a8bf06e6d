"""The service config that the channel is given, and what of it the client does itself.

It says which calls are repeated when the service could not be reached (events too: each gets an id, so that the service
stores it once), how calls go to several servers, and how much repeating is too much.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

SERVICE_CONFIG = (files("recsvc_client") / "service_config.json").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Throttling:
    """The retryThrottling of gRFC A6: each failure costs a token of `most`, each success brings `back` of one; with
    half of them or fewer nothing is repeated."""

    most: float
    back: float


def _throttling(text: str) -> Throttling:
    numbers = json.loads(text)["retryThrottling"]
    return Throttling(float(numbers["maxTokens"]), float(numbers["tokenRatio"]))


THROTTLING = _throttling(SERVICE_CONFIG)
