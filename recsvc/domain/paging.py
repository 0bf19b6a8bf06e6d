"""Page tokens: where a list goes on, as text that nobody can read into and nobody can forge.

A token carries the order values of the page's last row and is signed together with the list that it belongs to
(tenant, method, filter, order), so that it is of no use anywhere else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from recsvc.domain.errors import InvalidPageToken

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
_MAC_BYTES = 16

PageValue = str | int | float | datetime | None


@dataclass(frozen=True, slots=True)
class PageTokens:
    """Makes and reads tokens with one key for all processes of the service."""

    key: bytes

    def encode(self, list_name: str, values: Sequence[PageValue]) -> str:
        """The token that goes on after a row with these order values."""
        document = [{"t": value.isoformat()} if isinstance(value, datetime) else value for value in values]
        payload = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        return base64.urlsafe_b64encode(self._mac(list_name, payload) + payload).decode().rstrip("=")

    def decode(self, list_name: str, token: str) -> list[PageValue] | None:
        """The order values in a token, None in an empty one. Raises InvalidPageToken for what `encode` did not make."""
        if not token:
            return None
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        except (binascii.Error, UnicodeEncodeError):
            raise InvalidPageToken from None
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(list_name, payload)):
            raise InvalidPageToken
        return [
            datetime.fromisoformat(value["t"]) if isinstance(value, dict) else value for value in json.loads(payload)
        ]

    def _mac(self, list_name: str, payload: bytes) -> bytes:
        message = len(list_name).to_bytes(4, "big") + list_name.encode() + payload
        return hmac.digest(self.key, message, hashlib.sha256)[:_MAC_BYTES]
