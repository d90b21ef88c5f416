"""``trio-nats rtt``: measure round trips to each server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Annotated, Any

import trio
import typer

from trio_nats import (
    Auth,
    NatsError,
    ReconnectPolicy,
    Server,
    TLSOptions,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats._printable import printable
from trio_nats.contexts import DEFAULT_SERVER
from trio_nats.servers import over_tls, parse_servers, with_userinfo

from ..connection_options import ConnectionOptions, connects
from ..output import print_table
from ..runner import Program, note, run

__all__ = ["rtt"]


@connects
def rtt(
    options: ConnectionOptions,
    iterations: Annotated[int, typer.Argument(min=1, help="Round trips to each address.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", "-j", help="Print JSON.")] = False,
) -> None:
    """Measure round trips to each server, at each of its addresses.

    The exit code is 1 if a server could not be reached at any address.
    """

    async def main(program: Program) -> None:
        measured = [
            await _measure(target, options, iterations) async for target in _targets(options)
        ]
        if as_json:
            print(json.dumps([one.as_json() for one in measured], indent=2))
        else:
            _print_table(measured)
        reached = {one.server for one in measured if not one.error}
        if any(one.server not in reached for one in measured):
            raise typer.Exit(1)

    run(main, debug=options.debug)


@dataclass
class _Target:
    server: Server
    address: str
    """The host to dial: the server's name, or one of its addresses."""
    connect: float = 0.0
    trips: list[float] = field(default_factory=list)
    error: str = ""

    def as_json(self) -> dict[str, object]:
        shown: dict[str, object] = {"url": self.server.url, "address": self.address}
        if self.error:
            return shown | {"error": self.error}
        return shown | {"connect_seconds": self.connect, "rtt_seconds": self.trips}


async def _targets(options: ConnectionOptions) -> AsyncIterator[_Target]:
    for server in _servers(options):
        for address in await _addresses(server):
            yield _Target(server, address)


def _servers(options: ConnectionOptions) -> list[Server]:
    """Parse the servers as a connection does: URLs without credentials use the first ones."""
    parsed = parse_servers(options.servers or DEFAULT_SERVER)
    first = next((server for server in parsed if server.has_userinfo), None)
    shared = [with_userinfo(server, first) for server in parsed]
    return [over_tls(server) if server.userinfo_needs_tls else server for server in shared]


async def _addresses(server: Server) -> list[str]:
    if server.is_websocket:
        return [server.host]  # It is also the Host of the HTTP request.
    try:
        found = await trio.socket.getaddrinfo(
            server.host, server.port, type=trio.socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return [server.host]  # Connecting will fail as well, and say why.
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _measure(target: _Target, options: ConnectionOptions, iterations: int) -> _Target:
    server, arguments = target.server, options.arguments()
    arguments["servers"] = replace(server, host=target.address).url + server.path
    arguments["auth"] = options.auth or _auth_in_url(server)
    if target.address != server.host:
        tls = options.tls or TLSOptions()
        arguments["tls"] = replace(tls, server_hostname=tls.server_hostname or server.host)
    try:
        begun = trio.current_time()
        more: dict[str, Any] = {
            "ignore_discovered": True,
            "reconnect": ReconnectPolicy(max_attempts=0),
        }
        async with open_nats(**arguments, **more) as nc:
            target.connect = trio.current_time() - begun
            for _ in range(iterations):
                target.trips.append(await nc.rtt(timeout=options.timeout))
    except NatsError as error:
        target.error = str(error)
    return target


def _auth_in_url(server: Server) -> Auth | None:
    if server.token is not None:
        return Token(server.token)
    if server.user is not None:
        return UserPassword(server.user, server.password or "")
    return None


def _print_table(measured: list[_Target]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Round trips, in milliseconds")
    for column in ("server", "address"):
        table.add_column(column, overflow="fold")
    for column in ("connect", "min", "median", "max"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in measured:
        trips = one.trips or [0.0]
        times = [one.connect, min(trips), median(trips), max(trips)]
        cells = ["failed"] if one.error else [f"{seconds * 1000:.2f}" for seconds in times]
        table.add_row(*(Text(printable(cell)) for cell in (one.server.url, one.address, *cells)))
    print_table(table)
    for one in measured:
        if one.error:
            note(f"{one.address}: {one.error}", style="red")
