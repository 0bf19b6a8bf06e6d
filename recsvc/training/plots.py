"""Plots of an evaluation, as PNG and SVG. matplotlib is an optional extra and is imported only when a plot is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recsvc.domain.exposure import Stratum
from recsvc.training.evaluation import Judgement
from recsvc.training.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMATS = ("png", "svg")
_SIZE = (7.0, 4.5)


class PlottingUnavailable(Exception):
    """Occurs when plots are wanted and matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("plots need matplotlib, which is not installed: pip install 'recsvc[plots]'")


def check_available() -> None:
    """Raise PlottingUnavailable at once rather than after an hour."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise PlottingUnavailable from None


def plot(report: Report, folder: Path) -> list[Path]:
    """Draw every plot of the report into the folder, and say which files were written."""
    check_available()
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[Axes, Sequence[Judgement]], None]] = {
        "ndcg-by-k": _by_k("ndcg", "NDCG@k"),
        "recall-by-k": _by_k("recall", "recall@k"),
        "recall-by-popularity": _by_stratum,
        "exposure": _lorenz,
    }
    written = []
    for name, draw in drawings.items():
        # A figure of its own, not pyplot's: nothing stays in memory, and no display is looked for.
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        draw(axes, report.judged.judgements)
        axes.set_title(report.title, fontsize="medium")
        axes.legend(fontsize="small")
        for kind in _FORMATS:
            path = folder / f"{name}.{kind}"
            figure.savefig(path, dpi=150)
            written.append(path)
    return written


def _by_k(metric: str, label: str) -> Callable[[Axes, Sequence[Judgement]], None]:
    def draw(axes: Axes, judgements: Sequence[Judgement]) -> None:
        for model in judgements:
            axes.plot(model.lengths, model.by_k[metric], marker="o", markersize=3, label=model.name)
        axes.set_xlabel("k")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)

    return draw


def _by_stratum(axes: Axes, judgements: Sequence[Judgement]) -> None:
    places = np.arange(len(Stratum), dtype=np.float64)
    width = 0.8 / max(len(judgements), 1)
    for number, model in enumerate(judgements):
        k = model.lengths[-1]
        found = [model.figures[f"recall@{k} {stratum.name.lower()}"] for stratum in Stratum]
        means = np.array([interval.mean for interval in found])
        errors = np.array([[interval.mean - interval.low, interval.high - interval.mean] for interval in found]).T
        axes.bar(places + number * width, means, width, yerr=np.maximum(errors, 0.0), capsize=2, label=model.name)
        axes.set_ylabel(f"recall@{k}")
    axes.set_xticks(places + 0.4 - width / 2, [stratum.name.lower() for stratum in Stratum])
    axes.set_xlabel("thirds of all interactions, by the popularity of the item")


def _lorenz(axes: Axes, judgements: Sequence[Judgement]) -> None:
    for model in judgements:
        axes.plot(np.linspace(0.0, 1.0, len(model.lorenz)), model.lorenz, label=model.name)
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="all items alike")
    axes.set_xlabel("share of the catalogue, least shown first")
    axes.set_ylabel("share of all exposure")
