"""The report of an evaluation: what was found and how, as rows, Markdown and JSON. Pure: prints and writes nothing."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

from recsvc.domain.significance import Interval
from recsvc.training.evaluation import Comparison, Judged, Judgement

_PACKAGES = ("recsvc", "numpy", "scipy")
_SIGNIFICANT = 0.01


@dataclass(frozen=True, slots=True)
class Served:
    """How the lists of a served strategy were had. seconds: asking all questions; degraded: answers that said so."""

    name: str
    seconds: float
    questions: int
    degraded: int = 0
    agreement: float | None = None
    """Through a server: the share of lists equal to those computed in this process, up to ties."""

    @property
    def per_second(self) -> float:
        """Questions answered in a second."""
        return self.questions / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """All that is told of one evaluation.

    exact: by the name of a served model the name of the same without index and half precision; seconds: by stage;
    facts: anything else worth knowing, by its name.
    """

    dataset: str
    split: str
    command: str
    seed: int
    test_share: float | None
    subjects: int
    questions: int
    judged: Judged
    served: Sequence[Served]
    exact: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What was evaluated, in one line."""
        asked = f", {self.questions:,} questions" if self.questions != self.subjects else ""
        return f"{self.dataset}, {self.split} split, {self.subjects:,} users{asked}"


@dataclass(frozen=True, slots=True)
class Loss:
    """What the vector index and half precision cost. relative: of the exact figure, 0.01 = one per cent lost."""

    model: str
    metric: str
    exact: float
    relative: float


def versions() -> Mapping[str, str]:
    """Of Python and the packages that figures depend on."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def losses(report: Report) -> list[Loss]:
    """For each served model with an exact twin, what serving lost of it."""
    by_name = {judgement.name: judgement for judgement in report.judged.judgements}
    found = []
    for served, exact in report.exact.items():
        for metric in _compared_metrics(report.judged):
            was, should = by_name[served].figures[metric].mean, by_name[exact].figures[metric].mean
            found.append(Loss(served, metric, should, (should - was) / should if should else 0.0))
    return found


def figure_rows(judged: Judged, *, intervals: bool = True) -> list[tuple[str, ...]]:
    """One row for each figure: its name, then what each model has."""
    names = list(dict.fromkeys(name for model in judged.judgements for name in (*model.figures, *model.totals)))
    return [(name, *(_cell(model, name, intervals) for model in judged.judgements)) for name in names]


def comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """One row for each comparison: model, against, metric, difference with its interval, p."""
    return [
        (
            comparison.model,
            comparison.against,
            comparison.metric,
            _interval(comparison.difference.interval, signed=True),
            _p(comparison.difference.p),
        )
        for comparison in comparisons
    ]


def notes(report: Report) -> list[str]:
    """What stands below the figures: how they came about."""
    lines = [
        f"95 % bootstrap intervals over users; seed {report.seed}"
        + (f", test share {report.test_share:g}" if report.test_share is not None else "")
    ]
    for served in report.served:
        line = f"{served.name}: {served.per_second:,.0f} lists/s"
        if served.agreement is not None:
            line += f", {served.agreement:.2%} equal to those computed in the process"
        if served.degraded:
            line += f"; {served.degraded:,} DEGRADED answers"
        lines.append(line)
    lines += [
        f"{loss.model}: {loss.metric} {loss.relative:+.2%} lost against exact search ({loss.exact:.4f})"
        for loss in losses(report)
    ]
    if report.facts:
        lines.append(", ".join(f"{name} {_fact(value)}" for name, value in report.facts.items()))
    took = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    lines.append(f"{took}; peak memory of this process {report.peak_memory_bytes / 2**30:.2f} GiB")
    lines.append(", ".join(f"{name} {number}" for name, number in report.versions.items()))
    return lines


def as_markdown(report: Report) -> str:
    """The report as a section of a document."""
    judged = report.judged
    lines = [f"## {report.title}", f"`{report.command}`", ""]
    lines += _markdown_table(["", *(model.name for model in judged.judgements)], figure_rows(judged))
    if judged.comparisons:
        lines += ["", "Paired bootstrap over users, two-sided:", ""]
        lines += _markdown_table(["model", "against", "metric", "difference", "p"], comparison_rows(judged.comparisons))
    lines += ["", *(f"- {note}" for note in notes(report))]
    return "\n".join(lines) + "\n"


def as_json(report: Report) -> dict[str, object]:
    """The report as a JSON object."""
    return {
        "dataset": report.dataset,
        "split": report.split,
        "command": report.command,
        "seed": report.seed,
        "test_share": report.test_share,
        "users": report.subjects,
        "questions": report.questions,
        "models": {
            model.name: {
                **{name: asdict(interval) for name, interval in model.figures.items()},
                **{name: {"mean": value} for name, value in model.totals.items()},
            }
            for model in report.judged.judgements
        },
        "comparisons": [
            {
                "model": comparison.model,
                "against": comparison.against,
                "metric": comparison.metric,
                **asdict(comparison.difference.interval),
                "p": comparison.difference.p,
            }
            for comparison in report.judged.comparisons
        ],
        "served": [{**asdict(served), "per_second": served.per_second} for served in report.served],
        "losses": [asdict(loss) for loss in losses(report)],
        "curves": {
            model.name: {"k": list(model.lengths), **model.by_k, "lorenz": list(model.lorenz)}
            for model in report.judged.judgements
        },
        "facts": dict(report.facts),
        "seconds": dict(report.seconds),
        "peak_memory_bytes": report.peak_memory_bytes,
        "versions": dict(report.versions),
    }


def is_significant(comparison: Comparison) -> bool:
    """Whether the first model is better, and not by chance."""
    return comparison.difference.p < _SIGNIFICANT and comparison.difference.interval.mean > 0


def _compared_metrics(judged: Judged) -> list[str]:
    figures = judged.judgements[0].figures if judged.judgements else {}
    return [name for name in figures if name.startswith(("recall@", "ndcg@", "mrr@")) and " " not in name]


def _cell(model: Judgement, name: str, intervals: bool) -> str:
    if name in model.figures:
        return _interval(model.figures[name]) if intervals else f"{model.figures[name].mean:.4f}"
    return f"{model.totals[name]:.4f}" if name in model.totals else ""


def _interval(interval: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{interval.mean:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _p(p: float) -> str:
    return f"{p:.4f}"


def _fact(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        "|" + "---|" * len(header),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
