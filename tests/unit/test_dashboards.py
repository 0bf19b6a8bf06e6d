"""The dashboards of deploy/grafana: about metrics that there are, of the instances that were chosen."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.promql import labels_of, mistakes, selectors

_ROOT = Path(__file__).parents[2]
_BOARDS = [
    json.loads(file.read_text(encoding="utf-8"))
    for file in sorted((_ROOT / "deploy/grafana/dashboards").glob("*.json"))
]
_RECORDED = {
    rule["record"]
    for group in yaml.safe_load((_ROOT / "deploy/prometheus/recording.rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}


def _targets() -> list[Any]:
    return [
        pytest.param(target, id=f"{board['uid']}: {panel['title']} {target['refId']}")
        for board in _BOARDS
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.mark.parametrize("target", _targets())
def test_graphs_ask_for_metrics_that_there_are_and_use_them_as_what_they_are(target: dict[str, Any]) -> None:
    assert mistakes(target["expr"], _RECORDED) == []


@pytest.mark.parametrize("target", _targets())
def test_graphs_heed_the_chosen_instances(target: dict[str, Any]) -> None:
    for selector in selectors(target["expr"]):
        chosen = [matcher.value for matcher in selector.matchers.matchers if matcher.name == "instance"]
        assert chosen == ["$instance"] or selector.name in _RECORDED


@pytest.mark.parametrize("target", _targets())
def test_legends_name_labels_that_the_series_have(target: dict[str, Any]) -> None:
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels_of(target["expr"])


@pytest.mark.parametrize("board", _BOARDS, ids=lambda board: board["uid"])
def test_what_a_dashboard_refers_to_is_unambiguous(board: dict[str, Any]) -> None:
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance"}
    ids = Counter(panel["id"] for panel in board["panels"])
    assert ids.most_common(1)[0][1] == 1
    sources = {target["datasource"]["uid"] for panel in board["panels"] for target in panel.get("targets", ())}
    assert sources == {"${datasource}"}
    for panel in board["panels"]:
        legends = [target["legendFormat"] for target in panel.get("targets", ())]
        assert len(legends) == len(set(legends)), panel["title"]


def test_every_dashboard_has_a_name_of_its_own() -> None:
    assert len(_BOARDS) == len({board["uid"] for board in _BOARDS}) == len({board["title"] for board in _BOARDS})
    assert _BOARDS
