"""The commands of `recsvc`: each is there, and imported for nothing but itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from recsvc.cli.main import COMMANDS, app

_LOADED = """
import sys
from recsvc.cli.main import app
app({arguments}, standalone_mode=False)
sys.exit("recsvc.app" in sys.modules)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    assert f" {name} [OPTIONS]" in shown.output


def test_an_unknown_command_is_told_which_one_may_be_meant() -> None:
    failed = CliRunner().invoke(app, ["helth"])
    assert failed.exit_code == 2
    assert "Did you mean 'health'?" in failed.output


@pytest.mark.parametrize(("name", "does"), [("health", False), ("call", False), ("serve", True)])
def test_only_what_serves_imports_the_server(name: str, does: bool) -> None:
    code = _LOADED.format(arguments=[name, "--help"])
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == does
