"""When a dependency that answers is too slow to be waited for, and when it is no more."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from recsvc.resilience.slowness import Slowness


@dataclass
class Watched:
    """Slowness by a clock of the test's own; a second needs one trivial answer to count, or five reads."""

    now_s: float = 1000.0
    states: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slowness = Slowness({"trivial": 1, "read": 5}, on_change=self.states.append, now_s=lambda: self.now_s)

    def second(self, *, slow: int = 0, quick: int = 0, kind: str = "trivial") -> None:
        """A second with so many answers, and the first one of the next."""
        for slowly in (True,) * slow + (False,) * quick:
            self.slowness.answered(kind, slowly=slowly)
        self.now_s += 1

    def seconds(self, count: int, *, slow: int = 0, quick: int = 0, kind: str = "trivial") -> None:
        """The same some times."""
        for _ in range(count):
            self.second(slow=slow, quick=quick, kind=kind)
        self.slowness.answered(kind, slowly=False)

    def probes_until_it_ends(self) -> int:
        """How many good probes it takes."""
        probes = 0
        while self.slowness.is_slow:
            self.slowness.probed(slowly=False)
            probes += 1
        return probes


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_three_seconds_of_slow_answers_are_enough(watched: Watched) -> None:
    watched.seconds(3, slow=1, quick=1)
    assert watched.states == ["open"]


def test_one_pause_says_nothing_however_many_it_meets(watched: Watched) -> None:
    watched.seconds(2, slow=1000)
    watched.seconds(1, quick=1000)
    watched.seconds(2, slow=1000)
    assert not watched.slowness.is_slow


def test_answers_most_of_which_are_quick_are_not_slow(watched: Watched) -> None:
    watched.seconds(10, slow=4, quick=6)
    assert not watched.slowness.is_slow


def test_slow_reads_count_beside_quick_trivial_answers(watched: Watched) -> None:
    for _ in range(3):
        watched.slowness.answered("trivial", slowly=False)
        watched.second(slow=5, kind="read")
    watched.slowness.answered("read", slowly=False)
    assert watched.slowness.is_slow


def test_a_few_slow_reads_speak_of_what_they_ask_for(watched: Watched) -> None:
    watched.seconds(10, slow=4, kind="read")
    assert not watched.slowness.is_slow


def test_seconds_with_too_few_answers_neither_count_nor_begin_anew(watched: Watched) -> None:
    for _ in range(3):
        watched.second(slow=1)
        watched.second(quick=4, kind="read")
        watched.now_s += 5
    watched.slowness.answered("trivial", slowly=False)
    assert watched.slowness.is_slow


def test_three_good_probes_in_a_row_end_it_and_quick_answers_do_not(watched: Watched) -> None:
    watched.seconds(3, slow=1)
    watched.seconds(10, quick=10)
    for slowly in (False, False, True, False, False):
        watched.slowness.probed(slowly=slowly)
    assert watched.slowness.is_slow
    watched.slowness.probed(slowly=False)
    assert watched.states == ["open", "closed"]


def test_each_time_that_it_ended_too_early_it_takes_twice_the_probes_up_to_a_bound(watched: Watched) -> None:
    taken = []
    for _ in range(6):
        watched.seconds(3, slow=1)
        taken.append(watched.probes_until_it_ends())
    assert taken == [3, 6, 12, 24, 48, 48]


def test_after_a_quiet_minute_three_probes_are_enough_again(watched: Watched) -> None:
    for _ in range(2):
        watched.seconds(3, slow=1)
        watched.probes_until_it_ends()
    watched.now_s += 60
    watched.seconds(3, slow=1)
    assert watched.probes_until_it_ends() == 3
