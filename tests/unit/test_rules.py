"""The rules of deploy/prometheus: valid, tested, explained, and about metrics that there are."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsvc.telemetry.log_events import LOG_EVENTS
from tests.prometheus import PROMTOOL, needs_prometheus
from tests.promql import is_series, mistakes

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "deploy" / "prometheus"


def _rules() -> Iterator[dict[str, Any]]:
    for file in sorted(_FOLDER.glob("*.rules.yml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


_ALERTS = [rule for rule in _rules() if "alert" in rule]
_RECORDED = {rule["record"] for rule in _rules() if "record" in rule}
_TESTS = sorted(_FOLDER.glob("*.test.yml"))
_CASES = [case for file in _TESTS for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]]


def _promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=_FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_configuration_and_rules_are_valid() -> None:
    _promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")


@needs_prometheus
@pytest.mark.parametrize("cases", _TESTS, ids=lambda file: file.name)
def test_alerts_fire_and_keep_silent_as_their_cases_say(cases: Path) -> None:
    _promtool("test", "rules", cases.name)


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_firing_and_a_silent_case(alert: dict[str, Any]) -> None:
    looks = [look for case in _CASES for look in case["alert_rule_test"] if look["alertname"] == alert["alert"]]
    assert {bool(look["exp_alerts"]) for look in looks} == {True, False}


@pytest.mark.parametrize("alert", _ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_it_is_and_leads_to_its_section_of_the_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description", "runbook"} == alert["annotations"].keys()
    page, anchor = alert["annotations"]["runbook"].split("#")
    assert anchor == alert["alert"].lower()
    assert f"\n### {alert['alert']}\n" in (_ROOT / page).read_text(encoding="utf-8")


def test_the_runbook_has_no_section_without_an_alert() -> None:
    sections = re.findall(r"^### (\w+)$", (_ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted(alert["alert"] for alert in _ALERTS)


@pytest.mark.parametrize("page", ["runbook.md", "operations.md"])
def test_guides_name_metrics_that_there_are(page: str) -> None:
    text = (_ROOT / "docs" / page).read_text(encoding="utf-8")
    names = set(re.findall(r"\brecsvc_\w+", text)) - {"recsvc_app"}  # a role in PostgreSQL
    assert {name for name in names if not is_series(name) and not is_series(f"{name}_count")} == set()


def test_the_runbook_names_log_events_that_there_are() -> None:
    text = (_ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([a-z_]+\.[a-z_]+)`", text)) <= LOG_EVENTS.keys()


@pytest.mark.parametrize("rule", list(_rules()), ids=lambda rule: rule.get("alert") or rule.get("record"))
def test_rules_ask_for_metrics_that_there_are_and_use_them_as_what_they_are(rule: dict[str, Any]) -> None:
    assert mistakes(rule["expr"], _RECORDED) == []


@pytest.mark.parametrize(
    ("query", "mistake"),
    [
        ("rate(recsvc_call_second_count[5m])", "recsvc_call_second_count is no metric"),
        ("rate(recsvc_ready[5m])", "rate(recsvc_ready), which is a gauge"),
        ("recsvc_shown_dropped_total", "recsvc_shown_dropped_total is a counter: without"),
        ("sum by (tenent) (recsvc_ready)", "recsvc_ready has no label tenent"),
        ('recsvc_ready{tenent="x"}', "recsvc_ready has no label tenent"),
        ('recsvc_dependency_up{dependency="postgres"}', "dependency is never 'postgres'"),
        ('rate(recsvc_call_seconds_count{code=~"INTERNAL|UNKNWON"}[5m])', "code is never 'UNKNWON'"),
        ('rate(recsvc_call_seconds_bucket{le="0.11"}[5m])', "recsvc_call_seconds_bucket has no bucket le=0.11"),
    ],
)
def test_a_mistaken_query_is_found(query: str, mistake: str) -> None:
    assert [found for found in mistakes(query) if found.startswith(mistake)]
