"""The command line application with all its commands."""

from __future__ import annotations

import typer

import trio_nats

from ._extras import explain_missing
from .commands.bench import bench
from .commands.context import contexts
from .commands.events import events
from .commands.pub import pub
from .commands.reply import reply
from .commands.request import request
from .commands.rtt import rtt
from .commands.server import server
from .commands.service import services
from .commands.sub import sub
from .connection_options import root_connects
from .doctor import doctor
from .runner import Commands, debug_wanted, run

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    name="trio-nats",
    cls=Commands,
    add_completion=False,
    rich_markup_mode="markdown",
    # Typer's tracebacks show the values of variables, including secrets.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
@root_connects
def root(
    typer_context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """NATS from the command line, with the Trio-native client.

    Commands that connect accept the flags, variables and contexts of the nats command. You may also
    write the flags here, before the command; see `trio-nats pub --help`.
    """
    if version:
        typer.echo(trio_nats.__version__)
        raise typer.Exit
    if typer_context.invoked_subcommand is None:
        typer.echo(typer_context.get_help())


app.command("pub")(pub)
app.command("sub")(sub)
app.command("request")(request)
app.command("reply")(reply)
app.command("rtt")(rtt)
app.command("events")(events)
app.command("bench")(bench)
app.command("server")(server)
app.command("doctor")(doctor)
app.add_typer(contexts, name="context")
app.add_typer(services, name="service")

# Aliases, as in the nats command.
app.command("publish", hidden=True)(pub)
app.command("subscribe", hidden=True)(sub)
app.command("req", hidden=True)(request)
app.add_typer(services, name="micro", hidden=True)


@app.command()
def demo(typer_context: typer.Context) -> None:
    """Start real servers with a temporary CA, and show what each TLS mode does with them."""
    try:
        from .commands.demo import run_demo
    except ModuleNotFoundError as error:
        explain_missing(error)
        raise
    run(lambda program: run_demo(), debug=debug_wanted(typer_context))
