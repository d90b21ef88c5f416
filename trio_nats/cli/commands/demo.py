"""``trio-nats demo``: every TLS mode against every kind of server, then messages."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

from trio_nats import (
    ConnectError,
    Connection,
    NoRespondersError,
    TLSMode,
    TLSOptions,
    open_nats,
)
from trio_nats._nursery import open_nursery
from trio_nats.testing import NatsServer, ServerTLS

from ..throwaway_certificates import Certificates

__all__ = ["run_demo"]


@dataclass(frozen=True)
class Outcome:
    """The result of one attempt."""

    text: str
    error: str = ""


Row = Mapping[TLSMode, Outcome]


async def run_demo() -> None:
    """Print a table of modes and servers, then send a few messages."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="trio-nats-demo-") as folder:
        certificates = Certificates.make(Path(folder))
        kinds: dict[str, ServerTLS | None] = {
            "no TLS": None,
            "TLS required": certificates.server(),
            "TLS available": certificates.server(allow_non_tls=True),
            "TLS first": certificates.server(handshake_first=True),
            # Not "auto", whose 50 ms may be too short on a busy machine.
            "TLS first: 1 s": certificates.server(handshake_first="1s"),
        }
        console.print("Starting a real nats-server of each kind, with a temporary CA ...")
        rows = await _try_all(kinds, certificates)
        _print_table(console, rows)
        await _messages(console, certificates)


async def _try_all(
    kinds: Mapping[str, ServerTLS | None], certificates: Certificates
) -> dict[str, Row]:
    rows: dict[str, Row] = {}

    async def row(kind: str, tls: ServerTLS | None) -> None:
        async with NatsServer(tls=tls) as server:
            rows[kind] = await _try_modes(server.port, certificates)

    async with open_nursery() as nursery:
        for kind, tls in kinds.items():
            nursery.start_soon(row, kind, tls)
    return {kind: rows[kind] for kind in kinds}


async def _try_modes(port: int, certificates: Certificates) -> Row:
    outcomes: dict[TLSMode, Outcome] = {}

    async def attempt(mode: TLSMode) -> None:
        ca_file = None if mode is TLSMode.DISABLE else certificates.ca_file
        options = TLSOptions(mode=mode, ca_file=ca_file)
        try:
            async with open_nats(f"nats://localhost:{port}", tls=options) as nc:
                tls = nc.tls_info
                outcomes[mode] = Outcome(tls.version if tls else "plaintext")
        except ConnectError as error:
            failed = error.attempts[0]
            why = str(failed.error).replace(failed.server, "the server")
            outcomes[mode] = Outcome("error", why)

    async with open_nursery() as nursery:
        for mode in TLSMode:
            nursery.start_soon(attempt, mode)
    return outcomes


def _print_table(console: Console, rows: Mapping[str, Row]) -> None:
    table = Table("server", *(str(mode) for mode in TLSMode), title="What each TLS mode does")
    notes: dict[str, int] = {}
    for kind, row in rows.items():
        cells = [row[mode] for mode in TLSMode]
        table.add_row(kind, *(_cell(cell, notes) for cell in cells))
    console.print(table)
    console.print("With a CA file, as here, AUTO acts as REQUIRE. The errors:")
    for why, number in notes.items():
        console.print(f"  {number}. {why}", highlight=False, soft_wrap=True)


def _cell(outcome: Outcome, notes: dict[str, int]) -> str:
    if not outcome.error:
        return outcome.text
    return f"{outcome.text} ({notes.setdefault(outcome.error, len(notes) + 1)})"


async def _messages(console: Console, certificates: Certificates) -> None:
    console.print("\nNow some messages, over TLS:")
    options = TLSOptions(ca_file=certificates.ca_file)
    async with (
        NatsServer(tls=certificates.server()) as server,
        open_nats(f"tls://localhost:{server.port}", tls=options, name="demo") as nc,
    ):
        async with nc.subscribe("greet.*") as greetings:
            await nc.publish("greet.joe", b"hello", headers={"Lang": "en"})
            msg = await greetings.receive()
            console.print(f"  subscription got {msg.subject} {msg.data!r} {msg.headers.pairs()}")
        async with open_nursery() as nursery:
            await nursery.start(_shout, nc)
            reply = await nc.request("shout", b"is anybody there?")
            console.print(f"  request got {reply.data!r}")
            nursery.cancel_scope.cancel()
        try:
            await nc.request("nobody", b"hello?")
        except NoRespondersError as error:
            console.print(f"  request without responders: {error}", soft_wrap=True)
        tls = nc.tls_info
        assert tls is not None
        console.print(f"  all encrypted with {tls.version}, {tls.cipher}")
        console.print(f"  to {tls.verified_name}, certified by {tls.peer_chain[0].issuer}")
        console.print(f"  round trip: {await nc.rtt() * 1000:.2f} ms")


async def _shout(
    nc: Connection, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with nc.subscribe("shout", queue="shouters") as requests:
        task_status.started()
        async for msg in requests:
            await msg.respond(msg.data.upper())
