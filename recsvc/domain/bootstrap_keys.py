"""Keys that the configuration brings along, so that a new installation can be reached before anybody has a shell on it.

A line is `key_id:argon2id-hash:tenant:scopes`, the scopes separated by commas. Only the hash of a secret is ever
configured: `recsvc keys hash` makes both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recsvc.domain.errors import InvalidField
from recsvc.domain.ids import MAX_ID_LENGTH, TenantId
from recsvc.domain.tenancy import Scope

_KEY_ID = re.compile(r"[a-z0-9]{12}")
_HASH = re.compile(r"\$argon2id\$v=19\$m=\d{1,8},t=\d{1,4},p=\d{1,3}\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,171}")
_FIELD = "auth.bootstrap_keys"


@dataclass(frozen=True, slots=True)
class BootstrapKey:
    """A key to be there, unless one of its id is there already."""

    key_id: str
    secret_hash: str
    tenant_id: TenantId
    scopes: frozenset[Scope]

    def __repr__(self) -> str:
        """Keep the hash out of logs and tracebacks."""
        return f"BootstrapKey({self.key_id})"

    @property
    def line(self) -> str:
        """As `parse` reads it."""
        return f"{self.key_id}:{self.secret_hash}:{self.tenant_id}:{','.join(sorted(self.scopes))}"


def parse(text: str) -> Sequence[BootstrapKey]:
    """The keys of a text: one a line, or separated by blanks; `#` begins a comment. Raises InvalidField."""
    lines = [line.partition("#")[0] for line in text.splitlines()]
    return [_key(entry, number) for number, line in enumerate(lines, 1) for entry in line.split()]


def _key(entry: str, number: int) -> BootstrapKey:
    parts = entry.split(":", 3)
    if len(parts) != 4:
        raise InvalidField(_FIELD, f"line {number} is not key_id:hash:tenant:scopes")
    key_id, secret_hash, tenant_id, scopes = parts
    if not _KEY_ID.fullmatch(key_id):
        raise InvalidField(_FIELD, f"line {number}: the key id must be 12 of a-z and 0-9")
    if not _HASH.fullmatch(secret_hash):
        raise InvalidField(_FIELD, f"line {number}: the hash of key {key_id} is not one of argon2id")
    if not 1 <= len(tenant_id) <= MAX_ID_LENGTH:
        raise InvalidField(_FIELD, f"line {number}: key {key_id} has no tenant of 1 to {MAX_ID_LENGTH} characters")
    known = {scope.value for scope in Scope}
    for scope in scopes.split(","):
        if scope not in known:
            raise InvalidField(_FIELD, f"line {number}: {scope!r} is no scope; known are {', '.join(sorted(known))}")
    return BootstrapKey(key_id, secret_hash, TenantId(tenant_id), frozenset(map(Scope, scopes.split(","))))
