"""Which tokens a session of the Python client brings along with its reads."""

from __future__ import annotations

from grpc.aio import Metadata

from recsvc_client.consistency import Session


def _answered(token: str) -> Metadata:
    return Metadata(("x-consistency-token", token))


def _written(session: Session, token: str) -> None:
    session.end(session.begin(), _answered(token))


def test_a_session_that_wrote_nothing_may_read_what_is_old() -> None:
    assert Session("session").of_reads == (("x-consistency", "eventual"),)


def test_a_later_write_takes_the_place_of_an_earlier_one() -> None:
    session = Session("session")
    for token in ("first", "second", "third"):
        _written(session, token)
    assert session.of_reads == (("x-consistency-token", "third"),)


def test_writes_at_the_same_time_all_count_in_whatever_order_they_end() -> None:
    session = Session("session")
    slow, quick = session.begin(), session.begin()
    session.end(quick, _answered("quick"))
    session.end(slow, _answered("slow"))
    assert session.of_reads == (("x-consistency-token", "quick,slow"),)
    _written(session, "after both")
    assert session.token == "after both"


def test_with_more_tokens_than_the_service_takes_the_newest_is_read() -> None:
    session = Session("session")
    begun = [session.begin() for _ in range(17)]
    for number, each in enumerate(begun):
        session.end(each, _answered(str(number)))
    assert session.of_reads == ()


def test_only_a_session_asks_for_tokens() -> None:
    assert Session("session").of_writes == (("x-consistency", "token"),)
    assert Session("strong").of_writes == Session("eventual").of_writes == ()


def test_a_client_that_wants_the_newest_says_nothing() -> None:
    session = Session("strong")
    session.see("a token")
    assert session.of_reads == ()
