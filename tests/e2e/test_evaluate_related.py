"""`recsvc evaluate-related` as people run it, on files of their own."""

from __future__ import annotations

import json
from pathlib import Path

from recsvc.settings import Settings
from tests.e2e.test_cli import _run


def _write(folder: Path) -> Path:
    """Users who go round the items of one of three tastes, buying two neighbours a day; no catalogue."""
    folder.mkdir()
    lines = ["event_type,user_id,item_id,event_time,session_id"]
    lines += [
        f"purchase,u{user},{user % 3}-{(user // 3 + 2 * day + part) % 24},2026-01-{day + 1:02}T00:{user:02}:{part:02}Z,"
        f"{user}/{day}"
        for day in range(10)
        for user in range(45)
        for part in range(2)
    ]
    (folder / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_each_call_is_judged_against_its_baselines(settings: Settings, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    folder = _write(tmp_path / "data")
    done = _run(settings, "evaluate-related", "csv", "--path", str(folder), "--k", "3", "--json", str(figures))
    assert done.returncode == 0, done.stderr
    document = json.loads(figures.read_text(encoding="utf-8"))
    calls = document["calls"]
    assert set(calls) == {"similar-items", "bought-together", "similar-users", "rank-items"}
    for call, figure in (
        ("similar-items", "hit rate@3"),
        ("bought-together", "hit rate@3"),
        ("similar-users", "overlap@3"),
        ("rank-items", "auc"),
    ):
        (served,) = [one for name, one in calls[call].items() if name.endswith("(served)")]
        mean, low, high = served[figure]
        assert low <= mean <= high
        assert mean > calls[call]["random"][figure][0]
        assert call in done.stdout


def test_one_call_alone_can_be_asked_for(settings: Settings, tmp_path: Path) -> None:
    folder, figures = _write(tmp_path / "data"), tmp_path / "figures.json"
    done = _run(
        settings, "evaluate-related", "csv", "--path", str(folder), "--only", "rank-items", "--json", str(figures)
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(figures.read_text(encoding="utf-8"))["calls"]) == {"rank-items"}


def test_a_data_set_that_is_not_there_is_named(settings: Settings, tmp_path: Path) -> None:
    assert _run(settings, "evaluate-related", "nonsense").returncode == 2
    assert _run(settings, "evaluate-related", "csv", "--path", str(tmp_path / "nowhere")).returncode == 2
