"""`recsvc`: all commands under one name."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

# Before grpc is imported: its fork handlers only complain about the processes that we start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

COMMANDS = {
    "demo": "demo:demo",
    "serve": "serve:serve",
    "migrate": "maintenance:migrate",
    "import": "importing:import_data",
    "seed": "importing:seed",
    "train": "train:train",
    "evaluate": "evaluate:evaluate",
    "evaluate-related": "evaluate_related:evaluate_related",
    "evaluate-cold": "evaluate_cold:evaluate_cold",
    "call": "call:call",
    "audit": "audit:audit",
    "settings": "maintenance:settings",
    "health": "health:health",
    "stop": "maintenance:stop",
    "tenants": "tenants:tenants",
    "keys": "tenants:keys",
}
"""By name: the module of this package that a command is in, and what it is there."""


class _Commands(TyperGroup):
    """Imports a command when it is called: a probe of health needs a fifth of what all of them together do."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name; None when there is none."""
        if cmd_name in self.commands and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _imported(cmd_name)
        return super().get_command(ctx, cmd_name)


def _imported(name: str) -> Any:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"recsvc.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        command: Any = get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command()(found)
        command = get_command(alone)
    command.name = name
    return command


app = typer.Typer(
    cls=_Commands,
    help="recsvc, the recommendation service. Settings come from the environment: see `recsvc settings`.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recsvc {version('recsvc')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """recsvc, the recommendation service. Settings come from the environment: see `recsvc settings`."""


if __name__ == "__main__":
    app()
