"""Where settings come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from recsvc.settings import Settings


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file that the environment names."""
    path = tmp_path / "settings"
    path.write_text("RECSVC_LOG_LEVEL=debug\nRECSVC_POSTGRES__POOL_SIZE=7\n", encoding="utf-8")
    monkeypatch.setenv("RECSVC_SETTINGS_FILE", str(path))
    return path


def test_the_file_sets_what_the_environment_does_not(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSVC_POSTGRES__POOL_SIZE", "9")
    settings = Settings()
    assert (settings.log_level, settings.postgres.pool_size) == ("DEBUG", 9)


def test_a_name_in_the_file_that_there_is_not_is_refused(file: Path) -> None:
    file.write_text("RECSVC_LOG_LEVLE=INFO\n", encoding="utf-8")
    with pytest.raises(ValidationError, match="recsvc_log_levle"):
        Settings()


def test_a_file_that_is_named_must_be_there(file: Path) -> None:
    file.unlink()
    with pytest.raises(FileNotFoundError, match="RECSVC_SETTINGS_FILE: there is no file"):
        Settings()


@pytest.mark.parametrize(
    "line", ["RECSVC_PAGE_TOKEN_SECRETS=hush", 'RECSVC_POSTGRES={"replica_urls": 1, "pool_size": "hush"}']
)
def test_what_was_set_wrongly_is_named_and_not_repeated(file: Path, line: str) -> None:
    file.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "hush" not in str(refused.value)


def test_where_traces_go_and_what_is_sent_with_them_is_checked_and_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSVC_TRACING__HEADERS", '{"authorization": "Bearer s3cr3t"}')
    assert "s3cr3t" not in repr(Settings())
    assert Settings().tracing.headers["authorization"].get_secret_value() == "Bearer s3cr3t"
    monkeypatch.setenv("RECSVC_TRACING__ENDPOINT", "collector:4317")
    with pytest.raises(ValidationError, match=r"tracing\.endpoint"):
        Settings()
