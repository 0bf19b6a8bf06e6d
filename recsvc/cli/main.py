"""`recsvc`: all commands under one name."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

# Before grpc is imported: its fork handlers only complain about the processes that we start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import typer

from recsvc.cli.audit import audit
from recsvc.cli.call import call
from recsvc.cli.demo import demo
from recsvc.cli.evaluate import evaluate
from recsvc.cli.evaluate_cold import evaluate_cold
from recsvc.cli.evaluate_related import evaluate_related
from recsvc.cli.health import health
from recsvc.cli.importing import import_data, seed
from recsvc.cli.maintenance import migrate, settings, stop
from recsvc.cli.serve import serve
from recsvc.cli.tenants import keys, tenants
from recsvc.cli.train import train

app = typer.Typer(
    help="recsvc, the recommendation service. Settings come from the environment: see `recsvc settings`.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.command()(demo)
app.command()(serve)
app.command()(migrate)
app.command("import")(import_data)
app.command()(seed)
app.command()(train)
app.command()(evaluate)
app.command()(evaluate_related)
app.command()(evaluate_cold)
app.command()(call)
app.add_typer(tenants, name="tenants")
app.add_typer(keys, name="keys")
app.command()(audit)
app.command()(settings)
app.command()(health)
app.command()(stop)


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
