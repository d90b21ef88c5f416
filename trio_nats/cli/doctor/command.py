"""Run ``trio-nats doctor``: examine the servers and print a report."""

from __future__ import annotations

import sys

from rich.console import Console

from ...contexts import DEFAULT_SERVER
from ...options import TLSOptions
from ..connection_options import ConnectionOptions
from .as_json import as_json
from .client import Client
from .examine import examine, servers_of
from .render import print_facts, print_heading, print_summary
from .report import Report

__all__ = ["examine_and_print"]


async def examine_and_print(servers: str | None, options: ConnectionOptions, *, json: bool) -> bool:
    """Examine and print a report. Returns whether a client with these options connects."""
    client = Client(
        tls=options.tls or TLSOptions(),
        auth=options.auth,
        name=options.name,
        connect_timeout=options.timeout,
        inbox_prefix=options.inbox_prefix or "_INBOX",
    )
    found: list[Report] = []
    console = Console(highlight=False)
    for server in servers_of(servers or DEFAULT_SERVER):
        if not json:
            if found:
                console.print()
            print_heading(console, server.url)
        found.append(await examine(server, client))
        if not json:
            print_facts(console, found[-1])
    if json:
        sys.stdout.write(as_json(found).decode() + "\n")
    else:
        print_summary(console, found)
    return any(one.live.connected for one in found)
