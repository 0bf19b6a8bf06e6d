"""`recsvc evaluate`: its options, and what it prints and writes. The work is in `evaluation_run`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable

from recsvc.cli.evaluation_plan import NothingToAsk, Plan
from recsvc.cli.evaluation_run import run
from recsvc.cli.places import data_place
from recsvc.cli.questioning import AnswerFailed
from recsvc.cli.running import run_async
from recsvc.datasets import FORMATS, Dataset, open_dataset
from recsvc.domain.recommendations import Strategy
from recsvc.settings import Settings
from recsvc.telemetry.logging import configure
from recsvc.training.baselines import BASELINES
from recsvc.training.evaluation import DEFAULT_KS
from recsvc.training.leakage import Leakage
from recsvc.training.plots import PlottingUnavailable, check_available, plot
from recsvc.training.protocols import SplitKind
from recsvc.training.report import Report, as_json, as_markdown, comparison_rows, figure_rows, is_significant, notes


@dataclass(frozen=True, slots=True)
class _Preset:
    data_format: str
    folder: str
    split: SplitKind
    train_file: str | None = None
    test_file: str | None = None


_PRESETS = {
    "gowalla": _Preset("lightgcn", "gowalla", SplitKind.GIVEN, "train.txt", "test.txt"),
    "movielens": _Preset("movielens", "ml-100k", SplitKind.TEMPORAL),
    "movielens-ua": _Preset("movielens", "ml-100k", SplitKind.GIVEN, "ua.base", "ua.test"),
    "goodbooks": _Preset("goodbooks", "goodbooks-10k", SplitKind.RANDOM),
    "deskdrop": _Preset("deskdrop", "deskdrop", SplitKind.TEMPORAL),
    "online-retail": _Preset("online-retail", "online-retail", SplitKind.TEMPORAL),
}
_MOST_WITH_INTERVALS = 3
"""So many models fit beside one another with their intervals."""

_DATA, _JUDGING, _LEARNING, _OUTPUT = "Data and protocol", "What is judged", "Training", "Output"
_EXAMPLES = """
Protocols (--split):

  given            the data set's own test part (--test-file, --test-path)

  temporal         the last share of all events; everything in it is to be found at its beginning

  leave-last-out   the last event of each user

  random           a random share of each user's events

  user-held-out    users kept out of training and told of afterwards (strong generalisation)

  next-item        the last share of all events, step by step, each from all that came before it (sessions)

Examples:

  recsvc evaluate gowalla --baseline popularity --baseline item-knn --plots plots/

  recsvc evaluate csv --path my-data/ --split temporal --baseline popularity --json figures.json

  recsvc evaluate movielens --path ml-100k/ --train-file u1.base --test-file u1.test --k 10

  recsvc evaluate online-retail --split next-item --baseline transitions --through-server
"""


def evaluate(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(_PRESETS)}; or a format: {', '.join(FORMATS)}.")],
    path: Annotated[
        Path | None,
        typer.Option(exists=True, help="Where the data set is; needed for a format.", rich_help_panel=_DATA),
    ] = None,
    split: Annotated[
        SplitKind | None,
        typer.Option(help="The protocol, as above; default: what fits the data set.", rich_help_panel=_DATA),
    ] = None,
    test_share: Annotated[
        float,
        typer.Option(
            min=0.01, max=0.9, help="Share of the events, with user-held-out of the users.", rich_help_panel=_DATA
        ),
    ] = 0.2,
    train_file: Annotated[
        str | None,
        typer.Option(help="Which of the set's files is the train part (movielens, lightgcn).", rich_help_panel=_DATA),
    ] = None,
    test_file: Annotated[
        str | None, typer.Option(help="Which of them is the test part, for --split given.", rich_help_panel=_DATA)
    ] = None,
    test_path: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="A data set in the same format that is the test part, for --split given.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, help="Ask for a sample of so many users; default: all.", rich_help_panel=_DATA)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of split, sample, tuning and bootstrap.", rich_help_panel=_DATA)] = 0,
    k: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=500,
            help="Length of the lists; repeat for several. Default: 10 and 20.",
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    strategy: Annotated[
        list[Strategy] | None, typer.Option(help="Repeat for several; default AUTO.", rich_help_panel=_JUDGING)
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Compare with it; repeat for several: {', '.join(BASELINES)}, all, none. Default: popularity.",
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Recompute AUTO without vector index and half precision: what speed costs. Fits the model again.",
            rich_help_panel=_JUDGING,
        ),
    ] = False,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--frozen",
            help="With next-item: record what happens as time goes on, as a live service does (default), or record"
            " nothing after training and send the items of the running session along.",
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    learn_every: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="With --live: days after which baselines are fitted anew on all that has happened, as a nightly job"
            " does it. Default: 1.",
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    through_server: Annotated[
        bool,
        typer.Option(
            "--through-server",
            help="Ask by BulkRecommend through gRPC; says how far that equals the lists of this process.",
            rich_help_panel=_JUDGING,
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="host:port of a running server on the same database; default: one is started.",
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    dimension: Annotated[
        int | None,
        typer.Option(min=2, max=4000, help="Length of item vectors at most.", rich_help_panel=_LEARNING),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search hyper-parameters on the train part.", rich_help_panel=_LEARNING)
    ] = False,
    budget: Annotated[float, typer.Option(min=1, help="Seconds for the search.", rich_help_panel=_LEARNING)] = 600.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures there.", rich_help_panel=_OUTPUT)
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write a section for a document there.", rich_help_panel=_OUTPUT)
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Draw plots (PNG, SVG) into this folder; needs the extra `plots`.", rich_help_panel=_OUTPUT),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the tenant that was made for it.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Train on a part of a data set and say how well the served lists find the rest, beside baselines."""
    try:
        if plots is not None:
            check_available()
        data, test_part, kind = _opened(dataset, path, split, train_file, test_file, test_path)
        if live and kind is not SplitKind.NEXT_ITEM:
            raise typer.BadParameter("is for --split next-item", param_hint="--live")
        live = kind is SplitKind.NEXT_ITEM and live is not False
        if learn_every is not None and not live:
            raise typer.BadParameter("is for --live", param_hint="--learn-every")
        plan = Plan(
            name=dataset,
            data=data,
            split=kind,
            test_part=test_part,
            test_share=test_share,
            users=users,
            ks=sorted(set(k or DEFAULT_KS)),
            strategies=list(dict.fromkeys(strategy or [Strategy.AUTO])),
            baselines=_baselines(baseline),
            dimension=dimension,
            tune_budget_s=budget if tune else None,
            seed=seed,
            exact=exact,
            live=live,
            learn_every_s=(learn_every or 1.0) * 86_400 if live else None,
            through_server=through_server or address is not None,
            address=address,
            keep=keep,
            command=shlex.join(["recsvc", *sys.argv[1:]]),
        )
        settings = Settings()
        # The server's lines about calls would stand between the figures.
        configure("WARNING", settings.log_format)
        report = run_async(run(plan, settings, Console(stderr=True)))
        written = plot(report, plots) if plots is not None else []
    except (Leakage, NothingToAsk, AnswerFailed, PlottingUnavailable) as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from None
    _print(report)
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    if markdown is not None:
        markdown.write_text(as_markdown(report), encoding="utf-8")
    for file in written:
        typer.echo(f"wrote {file}", err=True)


evaluate.__doc__ = f"{evaluate.__doc__}\n{_EXAMPLES}"


def _opened(
    dataset: str,
    path: Path | None,
    split: SplitKind | None,
    train_file: str | None,
    test_file: str | None,
    test_path: Path | None,
) -> tuple[Dataset, Dataset | None, SplitKind]:
    """The data set, its test part if that is asked for, and the protocol."""
    preset = _PRESETS.get(dataset)
    if preset is None:
        if dataset not in FORMATS or path is None:
            raise typer.BadParameter(f"name one of {', '.join(_PRESETS)}, or a format with --path")
        preset = _Preset(dataset, "", SplitKind.TEMPORAL)
    place = data_place(preset.folder, path)
    has_own_test = test_file is not None or test_path is not None
    kind = split or (SplitKind.GIVEN if has_own_test else preset.split)
    chosen_test_file = test_file or (preset.test_file if test_path is None else None)
    data = open_dataset(preset.data_format, place, train_file or preset.train_file)
    if kind is not SplitKind.GIVEN:
        if has_own_test:
            raise typer.BadParameter("a test part is for --split given", param_hint="--split")
        return data, None, kind
    if chosen_test_file is None and test_path is None:
        raise typer.BadParameter("name the test part with --test-file or --test-path", param_hint="--split")
    return data, open_dataset(preset.data_format, test_path or place, chosen_test_file), kind


def _baselines(names: list[str] | None) -> list[str]:
    chosen = names or ["popularity"]
    if chosen == ["none"]:
        return []
    if "all" in chosen:
        return list(BASELINES)
    if unknown := [name for name in chosen if name not in BASELINES]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(BASELINES)}", param_hint="--baseline")
    return list(dict.fromkeys(chosen))


def _print(report: Report) -> None:
    console = Console()
    models = report.judged.judgements
    is_wide = len(models) > _MOST_WITH_INTERVALS
    caption = "with intervals: --json, --markdown" if is_wide else ""
    table = RichTable("", *(model.name for model in models), title=report.title, caption=caption)
    for row in figure_rows(report.judged, intervals=not is_wide):
        table.add_row(*row)
    console.print(table)
    if report.judged.comparisons:
        compared = RichTable("model", "against", "metric", "difference", "p", title="paired bootstrap over users")
        for comparison, row in zip(report.judged.comparisons, comparison_rows(report.judged.comparisons), strict=True):
            compared.add_row(*row, style="bold" if is_significant(comparison) else "")
        console.print(compared)
    for note in notes(report):
        console.print(note, style="dim", highlight=False)
