"""What an evaluation is asked to do, as the command line or a test says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recsvc.datasets import Dataset
from recsvc.domain.recommendations import Strategy
from recsvc.training.evaluation import DEFAULT_KS
from recsvc.training.protocols import SplitKind


class NothingToAsk(Exception):
    """Occurs when a split leaves nothing to be found."""

    def __init__(self, split: SplitKind) -> None:
        super().__init__(f"the {split.value} split leaves no user with something known and something to be found")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate, and how. test_part: a data set of its own that is held out, with SplitKind.GIVEN.

    users: judge a sample of so many; exact: recompute AUTO without what makes serving fast; live: with
    SplitKind.NEXT_ITEM, record what happens after training as time goes on, instead of sending it along; learn_every_s:
    how often baselines are fitted anew while that goes on; address: of a server on the same database, None to start one
    in this process.
    """

    name: str
    data: Dataset
    split: SplitKind
    test_part: Dataset | None = None
    test_share: float = 0.2
    users: int | None = None
    ks: Sequence[int] = DEFAULT_KS
    strategies: Sequence[Strategy] = (Strategy.AUTO,)
    baselines: Sequence[str] = ()
    dimension: int | None = None
    tune_budget_s: float | None = None
    seed: int = 0
    exact: bool = False
    live: bool = False
    learn_every_s: float | None = None
    through_server: bool = False
    address: str | None = None
    keep: bool = False
    command: str = ""

    def served_name(self, strategy: Strategy) -> str:
        """What the lists of a strategy are called."""
        return f"{strategy.value}, {'gRPC' if self.through_server else 'served'}"
