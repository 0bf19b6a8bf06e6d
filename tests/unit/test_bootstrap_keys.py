"""Keys in the configuration: what a line may say, and how a wrong one is named."""

from __future__ import annotations

import pytest

from recsvc.domain.bootstrap_keys import BootstrapKey, parse
from recsvc.domain.errors import InvalidField
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope

HASH = "$argon2id$v=19$m=19456,t=2,p=1$UJOZ+0CqAg7EFhQ6Lj4SCw$BfI5t4M9LVT+TLmsEvYbOiMfoH/zG7nm3UzhI5NLlrY"
KEY = BootstrapKey("abcdefghijk1", HASH, TenantId("shop"), frozenset({Scope.ADMIN_TENANT, Scope.CATALOG_READ}))


def test_a_line_that_was_written_is_read() -> None:
    assert parse(KEY.line) == [KEY]


def test_blanks_lines_and_comments_separate_keys() -> None:
    assert parse(f"# first\n{KEY.line} {KEY.line}  # twice\n\n{KEY.line}\n") == [KEY] * 3


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("abcdefghijk1", "line 2 is not key_id:hash:tenant:scopes"),
        (f"SHORT:{HASH}:shop:catalog:read", "line 2: the key id must be"),
        ("abcdefghijk1:rk_abcdefghijk1_secret:shop:catalog:read", "line 2: the hash of key abcdefghijk1"),
        (f"abcdefghijk1:{HASH}::catalog:read", "line 2: key abcdefghijk1 has no tenant"),
        (f"abcdefghijk1:{HASH}:shop:everything", "line 2: 'everything' is no scope"),
        (f"abcdefghijk1:{HASH}:shop:", "line 2: '' is no scope"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(line: str, complaint: str) -> None:
    with pytest.raises(InvalidField, match=f"auth.bootstrap_keys: {complaint}"):
        parse(f"\n{line}")


def test_a_complaint_never_repeats_what_stands_for_the_hash() -> None:
    with pytest.raises(InvalidField) as raised:
        parse("abcdefghijk1:a-secret-by-mistake:shop:catalog:read")
    assert "a-secret-by-mistake" not in str(raised.value)


def test_the_hash_does_not_show_in_logs() -> None:
    assert "argon2id" not in repr(KEY)
