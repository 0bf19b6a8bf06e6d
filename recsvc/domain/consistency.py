"""How new what a read sees must be, and the tokens by which a caller says that it must see its own writes.

A token holds a position of the primary's log. It is encrypted and bound to its tenant, since positions would tell how
much all tenants together write; it chooses a server and decides nothing else. Encryption is AES-SIV (RFC 5297), which
stays safe even where a nonce comes twice.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from recsvc.domain.errors import InvalidField
from recsvc.domain.ids import TenantKey

WISH = "x-consistency"
TOKEN = "x-consistency-token"
MAX_TOKENS = 16
_NONCE_BYTES = 8
_POSITION_BYTES = 8
NO_REPLICA = 2 ** (8 * _POSITION_BYTES) - 1
"""A position that no replica comes to: what names it is read from the primary."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """What a read must see.

    position: of the primary's log, which a replica must have replayed to be asked, 0 for any replica that is fresh
    enough; None for the newest, which only the primary has.
    """

    position: int | None


STRONG = Consistency(None)
EVENTUAL = Consistency(0)


class ConsistencyTokens:
    """Makes and reads tokens with one key for all processes of the service."""

    def __init__(self, key: bytes) -> None:
        """key: 32 bytes."""
        self._cipher = AESSIV(key)

    def encode(self, tenant_key: TenantKey, position: int) -> str:
        """The token of a position: what was committed up to there is seen by reads that bring it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(position.to_bytes(_POSITION_BYTES), [_bound(tenant_key), nonce])
        return base64.urlsafe_b64encode(nonce + sealed).decode().rstrip("=")

    def decode(self, tenant_key: TenantKey, text: str) -> int:
        """The highest position of one or more tokens with commas between.

        Raises InvalidField for what `encode` did not make for this tenant.
        """
        tokens = text.split(",")
        if len(tokens) > MAX_TOKENS:
            raise InvalidField(TOKEN, f"must be {MAX_TOKENS} tokens at most, has {len(tokens)}")
        return max(self._position(tenant_key, token.strip()) for token in tokens)

    def _position(self, tenant_key: TenantKey, token: str) -> int:
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
            sealed, nonce = raw[_NONCE_BYTES:], raw[:_NONCE_BYTES]
            return int.from_bytes(self._cipher.decrypt(sealed, [_bound(tenant_key), nonce]))
        except (binascii.Error, UnicodeEncodeError, ValueError, InvalidTag):
            raise InvalidField(TOKEN, "is not a token that this service gave this tenant") from None


def _bound(tenant_key: TenantKey) -> bytes:
    return tenant_key.to_bytes(8)
