"""From the command's options to a printed report."""

from __future__ import annotations

import sys

from rich.console import Console

from ...options import TLSOptions
from ..connecting import ConnectionOptions
from .as_json import as_json
from .client import Client
from .examine import examine_all
from .render import report

__all__ = ["examine_and_print"]

_DEFAULT_SERVER = "nats://localhost:4222"


async def examine_and_print(servers: str | None, options: ConnectionOptions, *, json: bool) -> bool:
    """Examine and report. Whether a client with these options connects."""
    client = Client(
        tls=options.tls or TLSOptions(),
        auth=options.auth,
        name=options.name,
        connect_timeout=options.timeout,
        inbox_prefix=options.inbox_prefix or "_INBOX",
    )
    facts = await examine_all(servers or _DEFAULT_SERVER, client)
    if json:
        sys.stdout.write(as_json(facts).decode() + "\n")
    else:
        report(Console(highlight=False), facts)
    return any(one.live.connected for one in facts)
