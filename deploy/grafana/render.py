"""Writes the dashboards as Grafana reads them, or with --check proves that they are what `boards` says.

python -m deploy.grafana.render [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
)

from deploy.grafana.boards import BOARDS
from deploy.grafana.boards.graph import Board, Graph

_FOLDER = Path(__file__).resolve().parent / "dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 8, 8
_INSTANCES = 'instance=~"$instance"'


def rendered() -> Mapping[Path, str]:
    """The text of each file."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {_FOLDER / f"{board.uid}.json": f"{encoder.encode(_built(board).build())}\n" for board in BOARDS}


def _built(board: Board) -> dashboard.Dashboard:
    instances = (
        dashboard.QueryVariable("instance")
        .label("Instance")
        .datasource(_SOURCE)
        .query("label_values(recsvc_ready, instance)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["recsvc"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(instances)
    )
    ids = count(1)
    for title, graphs in board.rows.items():
        built = built.with_row(dashboard.Row(title).id(next(ids)))
        for graph in graphs:
            built = built.with_panel(_panel(graph).id(next(ids)))
    return built


def _panel(graph: Graph) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(graph.title)
        .description(graph.description)
        .datasource(_SOURCE)
        .unit(graph.unit)
        .min(0)
        .span(_WIDTH)
        .height(_HEIGHT)
        .fill_opacity(20 if graph.is_stacked else 0)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL if graph.is_stacked else StackingMode.NONE))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    for letter, (legend, query) in zip("ABCDEF", graph.queries.items(), strict=False):
        panel = panel.with_target(
            prometheus.Dataquery()
            .ref_id(letter)
            .datasource(_SOURCE)
            .expr(query.replace("$at", _INSTANCES))
            .legend_format(legend)
            .exemplar("_bucket" in query)
        )
    return panel


def main() -> int:
    parser = argparse.ArgumentParser(description="Write Grafana's dashboards.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is not fresh")
    files = rendered()
    stale = [path for path in _FOLDER.glob("*.json") if path not in files]
    stale += [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if parser.parse_args().check:
        print("\n".join(f"stale: {path.name} (make docs)" for path in stale) or "the dashboards are fresh")
        return 1 if stale else 0
    for path in stale:
        path.unlink(missing_ok=True)
    _FOLDER.mkdir(exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
