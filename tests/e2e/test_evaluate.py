"""`recsvc evaluate` as people run it, on files of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsvc.settings import Settings
from tests.e2e.test_cli import _run


def _write(folder: Path, steps: range) -> Path:
    """Users who go round the items of one of three tastes, a step a day; no catalogue."""
    folder.mkdir()
    lines = ["event_type,user_id,item_id,event_time"]
    lines += [
        f"view,u{user},{user % 3}-{(user // 3 + step) % 12},2026-01-{step + 1:02}T00:{user:02}:00Z"
        for step in steps
        for user in range(45)
    ]
    (folder / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_any_csv_can_be_evaluated_and_reported(settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = _write(tmp_path / "data", range(8))
    figures, section, plots = tmp_path / "figures.json", tmp_path / "section.md", tmp_path / "plots"
    done = _run(
        settings,
        *("evaluate", "csv", "--path", str(folder), "--split", "temporal", "--baseline", "popularity"),
        *("--baseline", "item-knn", "--k", "3", "--k", "5", "--seed", "7", "--through-server"),
        *("--json", str(figures), "--markdown", str(section), "--plots", str(plots)),
    )
    assert done.returncode == 0, done.stderr
    assert "recall@5" in done.stdout
    assert "equal to those computed in the process" in done.stdout
    document = json.loads(figures.read_text(encoding="utf-8"))
    assert document["seed"] == 7
    assert document["command"].startswith("recsvc evaluate csv --path")
    assert set(document["models"]) == {"AUTO, gRPC", "popularity", "item-knn"}
    assert document["served"][0]["agreement"] == 1.0
    assert document["peak_memory_bytes"] > 0
    assert set(document["seconds"]) >= {"load", "train", "judge"}
    assert "| recall@5 |" in section.read_text(encoding="utf-8")
    assert len(list(plots.glob("*.svg"))) == 4


def test_a_test_part_of_ones_own_is_held_out(settings: Settings, tmp_path: Path) -> None:
    train, test = _write(tmp_path / "train", range(6)), _write(tmp_path / "test", range(6, 8))
    figures = tmp_path / "figures.json"
    arguments = ("evaluate", "csv", "--path", str(train), "--test-path", str(test), "--json", str(figures))
    done = _run(settings, *arguments, "--baseline", "none", "--k", "5")
    assert done.returncode == 0, done.stderr
    document = json.loads(figures.read_text(encoding="utf-8"))
    assert document["split"] == "given"
    assert document["users"] == 45
    assert document["facts"]["train events"] == 45 * 6
    assert document["facts"]["validation"] == "temporal"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "name one of"),
        (("csv", "--split", "given"), "--test-path"),
        (("csv", "--baseline", "magic"), "is none of"),
        (("csv", "--split", "leave-last-out"), "leaves no user"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_line(
    settings: Settings, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    folder = _write(tmp_path / "data", range(1))
    failed = _run(settings, "evaluate", arguments[0], "--path", str(folder), *arguments[1:])
    assert failed.returncode != 0
    assert message in " ".join(failed.stderr.replace("│", " ").split())
    assert "Traceback" not in failed.stderr


def test_help_explains_every_protocol(settings: Settings) -> None:
    shown = _run(settings, "evaluate", "--help").stdout
    for protocol in ("given", "temporal", "leave-last-out", "random", "user-held-out", "next-item"):
        assert f"  {protocol} " in shown
    assert "--through-server" in shown
