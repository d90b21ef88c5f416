"""``trio-nats context``: list and show contexts."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated

import typer

from trio_nats import (
    ConfigurationError,
    Context,
    CredentialsError,
    Server,
    list_contexts,
    load_context,
)
from trio_nats._printable import printable
from trio_nats.contexts import selected_context
from trio_nats.servers import parse_servers

from ..connection_options import named_context
from ..output import print_table
from ..runner import Commands, debug_wanted, note, plain_errors

__all__ = ["contexts"]

contexts: typer.Typer = typer.Typer(
    cls=Commands, help="Show the contexts of the nats command.", rich_markup_mode="markdown"
)
_SECRETS = {"password", "token", "user_jwt", "user_seed"}
# Paths, or the secret itself.
_REFERENCES = {"creds", "nkey"}
_MASK = "*****"


@contexts.callback(invoke_without_command=True)
def root(typer_context: typer.Context) -> None:
    """Show the contexts of the nats command. Use that command to manage them."""
    if typer_context.invoked_subcommand is None:
        typer.echo(typer_context.get_help())


@contexts.command("ls")
def list_all(
    typer_context: typer.Context,
    names_only: Annotated[bool, typer.Option("--names", "-n", help="Print names only.")] = False,
) -> None:
    """List the contexts. A star marks the selected one."""
    with plain_errors(debug_wanted(typer_context)):
        names = list_contexts()
        if names_only:
            for name in names:
                print(printable(name))
        elif not names:
            print("no contexts; make one with `nats context add`", file=sys.stderr)
        else:
            _print_list(names)


@contexts.command("show")
def show(
    typer_context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Name. Default: NATS_CONTEXT, or the selected one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", "-j", help="Print JSON.")] = False,
) -> None:
    """Show a context, without its secrets."""
    with plain_errors(debug_wanted(typer_context)):
        context = load_context() if name is None else named_context(name)
        fields = _shown(context)
        if as_json:
            print(json.dumps(fields, indent=2))
            return
        width = max(map(len, fields), default=0)
        for key, value in fields.items():
            print(f"{key:>{width}}: {printable(str(value))}")
        _print_problems(context)


def _print_list(names: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "name", "servers", "description")
    selected = selected_context()
    for name in names:
        try:
            context = load_context(name)
            servers = ", ".join(map(str, parse_servers(context.url))) if context.url else ""
            description = context.description
        except ConfigurationError as error:
            servers, description = "", f"({error})"
        cells = ("*" if name == selected else "", name, servers, description)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    print_table(table)


def _shown(context: Context) -> dict[str, object]:
    """Return the fields that are set, with secrets masked."""
    shown: dict[str, object] = {}
    for field in dataclasses.fields(context):
        value = getattr(context, field.name)
        if not value:
            continue
        if field.name == "url":
            value = ",".join(_masked(server) for server in parse_servers(value))
        elif field.name in _SECRETS or (field.name in _REFERENCES and value.startswith("data:")):
            value = _MASK
        elif field.name == "path":
            value = str(value)
        shown[field.name] = value
    return shown


def _masked(server: Server) -> str:
    hidden = f"{_MASK}@" if server.has_userinfo else ""
    return f"{server.scheme}://{hidden}{server.address}"


def _print_problems(context: Context) -> None:
    """Print why connecting with it would fail."""
    for check in (context.check_supported, lambda: context.servers, context.auth, context.tls):
        try:
            check()
        except (ConfigurationError, CredentialsError) as error:
            note(f"cannot be used: {error}", style="yellow")
