"""Of what a training process says of its error, the log gets types and places, not what a message quotes."""

from __future__ import annotations

from recsvc.training.runner import error_lines

_TRACEBACK = """\
train    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━   0% 0:00:01
Traceback (most recent call last):
  File "/srv/recsvc/storage/models.py", line 12, in publish
    await connection.execute(insert, {"user_id": "alice"})
psycopg.errors.UniqueViolation: duplicate key value violates unique constraint "users_pkey"
DETAIL:  Key (user_id)=(alice@example.com) already exists.
alice: is not there
"""


def test_a_traceback_is_told_by_its_types_and_places() -> None:
    assert error_lines(_TRACEBACK) == [
        '  File "/srv/recsvc/storage/models.py", line 12, in publish',
        "psycopg.errors.UniqueViolation",
    ]


def test_the_line_that_a_command_ends_with_is_told() -> None:
    assert error_lines("fit  80%\nerror: training needs at least 2 items\n") == [
        "error: training needs at least 2 items"
    ]


def test_a_long_traceback_is_told_by_its_end() -> None:
    said = error_lines("".join(f'  File "a.py", line {number}, in f\n' for number in range(1000)))
    assert said[-1] == '  File "a.py", line 999, in f'
    assert len(said) == 20
