"""Arrays read as PostgreSQL sends them are what they were."""

from __future__ import annotations

import pytest

from recsvc.app import Storage
from recsvc.storage.arrays import half_vectors, numbers


async def _sent(storage: Storage, expression: bytes) -> bytes | None:
    return await _selected(storage, b"array_send(" + expression + b")")


async def _selected(storage: Storage, expression: bytes) -> bytes | None:
    async with storage.database.connection() as connection:
        cursor = await connection.execute(b"SELECT " + expression + b" AS sent", binary=True)
        row = await cursor.fetchone()
    assert row is not None
    return row["sent"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("expression", "wire", "expected"),
    [
        (b"'{1,-2,1099511627776}'::bigint[]", ">i8", [1, -2, 2**40]),
        (b"'{7}'::integer[]", ">i4", [7]),
        (b"'{0.5,-1e30,NaN}'::real[]", ">f4", [0.5, pytest.approx(-1e30), pytest.approx(float("nan"), nan_ok=True)]),
        (b"('{4,5,6}'::bigint[])[2:9]", ">i8", [5, 6]),
        (b"'{}'::bigint[]", ">i8", []),
        (b"NULL::bigint[]", ">i8", []),
        (b"'{t,f,t}'::boolean[]", "?", [True, False, True]),
        (b"'{2000-01-01 00:00:01+00,1999-12-31 23:59:59+00}'::timestamptz[]", ">i8", [10**6, -(10**6)]),
    ],
)
async def test_numbers_come_as_they_are(storage: Storage, expression: bytes, wire: str, expected: list[object]) -> None:
    assert numbers(await _sent(storage, expression), wire).tolist() == expected


@pytest.mark.parametrize("expression", [b"'{1,NULL}'::bigint[]", b"'{{1},{2}}'::bigint[]", b"'{1,2}'::integer[]"])
async def test_another_array_than_expected_is_refused(storage: Storage, expression: bytes) -> None:
    sent = await _sent(storage, expression)
    with pytest.raises(ValueError, match="not a plain array"):
        numbers(sent, ">i8")


async def test_half_vectors_come_as_they_are(storage: Storage) -> None:
    sent = await _selected(storage, b"halfvec_send('[1,-0.5]') || halfvec_send('[65504,0]')")
    assert half_vectors(sent, 2).tolist() == [[1.0, -0.5], [65504.0, 0.0]]
    assert half_vectors(None, 2).shape == (0, 2)


async def test_half_vectors_of_another_length_are_refused(storage: Storage) -> None:
    sent = await _selected(storage, b"halfvec_send('[1,2]')")
    with pytest.raises(ValueError, match="buffer size"):
        half_vectors(sent, 3)
