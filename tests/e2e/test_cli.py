"""The command line against the test servers."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from recsvc.domain.bootstrap_keys import parse
from recsvc.settings import Settings


def _run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert settings.database_url is not None
    assert settings.redis_url is not None
    environment = {
        **os.environ,
        "RECSVC_DATABASE_URL": settings.database_url.get_secret_value(),
        "RECSVC_REDIS_URL": settings.redis_url.get_secret_value(),
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "recsvc.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_seeding_twice_changes_nothing_and_the_data_can_be_learned_from(settings: Settings) -> None:
    tenant = f"cli-{uuid.uuid4().hex[:8]}"
    seed = ("seed", "--items", "60", "--users", "40", "--events-per-user", "15", "--tenant", tenant)
    first, again = _run(settings, *seed), _run(settings, *seed)
    assert first.returncode == 0, first.stderr
    assert "60 items, 40 users" in first.stderr
    assert " 0 events, " in again.stderr
    trained = _run(settings, "train", "--tenant", tenant)
    assert trained.returncode == 0, trained.stderr
    assert "ndcg_at_20" in trained.stderr
    assert tenant in _run(settings, "tenants", "list").stdout
    assert _run(settings, "tenants", "delete", tenant, "--yes").returncode == 0
    assert tenant not in _run(settings, "tenants", "list").stdout


def test_a_key_is_shown_once_and_listed_without_its_secret(settings: Settings) -> None:
    tenant = f"cli-{uuid.uuid4().hex[:8]}"
    _run(settings, "tenants", "create", tenant)
    key = _run(settings, "keys", "create", "--tenant", tenant).stdout.strip()
    assert key.startswith("rk_")
    listed = _run(settings, "keys", "list", "--tenant", tenant).stdout
    assert key[3:15] in listed
    assert key[16:] not in listed


def test_files_are_imported_and_a_wrong_line_is_named(settings: Settings, tmp_path: Path) -> None:
    tenant = f"cli-{uuid.uuid4().hex[:8]}"
    (tmp_path / "items.csv").write_text("item_id,title\n1,One\n2,Two\n", encoding="utf-8")
    (tmp_path / "events.csv").write_text(
        "event_id,event_type,user_id,item_id,event_time\na,view,u,1,2026-01-01T00:00:00Z\n", encoding="utf-8"
    )
    done = _run(settings, "import", "csv", str(tmp_path), "--tenant", tenant)
    assert done.returncode == 0, done.stderr
    assert "2 items, 0 users, 1 events" in done.stderr
    (tmp_path / "events.csv").write_text(
        "event_id,event_type,user_id,item_id,event_time\na,view,u,1,never\n", encoding="utf-8"
    )
    failed = _run(settings, "import", "csv", str(tmp_path), "--tenant", tenant)
    assert failed.returncode == 1
    assert "line 2" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_too_little_data_is_a_clear_error(settings: Settings) -> None:
    tenant = f"cli-{uuid.uuid4().hex[:8]}"
    _run(settings, "tenants", "create", tenant)
    failed = _run(settings, "train", "--tenant", tenant)
    assert failed.returncode == 1
    assert "training needs at least" in failed.stderr


def test_settings_are_explained_and_secrets_masked(settings: Settings) -> None:
    shown = _run(settings, "settings").stdout
    assert "RECSVC_POSTGRES__POOL_SIZE" in shown
    assert "RECSVC_DATABASE_URL" in shown
    assert "postgresql://" not in shown


def test_migrating_a_current_schema_does_nothing(settings: Settings) -> None:
    assert "the schema is current" in _run(settings, "migrate").stdout


def test_a_rotated_key_is_printed_once_and_an_unknown_one_is_told(settings: Settings) -> None:
    tenant = f"cli-{uuid.uuid4().hex[:8]}"
    _run(settings, "tenants", "create", tenant)
    old = _run(settings, "keys", "create", "--tenant", tenant).stdout.strip()
    new = _run(settings, "keys", "rotate", "--tenant", tenant, old[3:15], "--overlap", "0").stdout.strip()
    assert new[:16] == old[:16]
    assert new != old
    failed = _run(settings, "keys", "rotate", "--tenant", tenant, "a" * 12)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "does not exist" in failed.stderr


def test_a_key_is_hashed_without_a_database(settings: Settings) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "recsvc.cli.main", "keys", "hash", "--tenant", "shop", "--scope", "catalog:read"],
        env={
            **os.environ,
            "RECSVC_DATABASE_URL": "postgresql://nowhere.invalid/",
            "RECSVC_REDIS_URL": "redis://nowhere",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    key, line = made.stdout.splitlines()
    assert parse(line)[0].key_id == key[3:15]
    assert key[16:] not in line
