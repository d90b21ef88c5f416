"""``trio-nats bench``: measure throughput and latency with a server."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

import typer

from trio_nats import ConfigurationError

from .. import bench_scenarios
from ..bench_scenarios import Load, Result
from ..connection_options import ConnectionOptions, connected, connects
from ..durations import parse_size
from ..output import print_table
from ..runner import Program, run

__all__ = ["bench"]


@connects
def bench(
    options: ConnectionOptions,
    what: Annotated[
        Literal["all", "pub", "sub", "pubsub", "request"],
        typer.Argument(help="What to measure."),
    ] = "all",
    subject: Annotated[
        str | None, typer.Option(help="Default: 'bench' for pub and sub, else a generated one.")
    ] = None,
    msgs: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Messages. Default: 100000 (10000 requests)."),
    ] = None,
    size: Annotated[
        int, typer.Option(parser=parse_size, metavar="SIZE", help="Size of a body: 512, or 16KB.")
    ] = 128,
    clients: Annotated[int, typer.Option(metavar="N", min=1, help="Number of connections.")] = 1,
    in_flight: Annotated[
        int, typer.Option(metavar="N", min=1, help="Concurrent requests per client.")
    ] = 1,
    responder: Annotated[
        bool, typer.Option("--responder/--no-responder", help="Also answer the requests.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", "-j", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure throughput and the latency of requests.

    `pub` publishes, and `sub` receives what another `bench pub` publishes. `pubsub` does both in
    one process, where every client receives all messages. `request` sends requests to a responder.
    """

    async def main(program: Program) -> None:
        if subject is None and not responder:
            raise ConfigurationError(
                "--no-responder needs --subject, on which another program responds"
            )

        def load(messages: int, default_subject: str) -> Load:
            return Load(
                connect=partial(connected, program, options),
                subject=subject or default_subject,
                messages=msgs or messages,
                payload=secrets.token_bytes(size),
                clients=clients,
                timeout=options.timeout,
                quiet=quiet,
            )

        own = f"bench.{secrets.token_hex(6)}"
        results: list[Result] = []
        if what in ("all", "pub"):
            results += await bench_scenarios.publish(load(100_000, "bench"))
        if what == "sub":
            results += await bench_scenarios.subscribe(load(100_000, "bench"))
        if what in ("all", "pubsub"):
            results += await bench_scenarios.publish_and_subscribe(load(100_000, own))
        if what in ("all", "request"):
            results += await bench_scenarios.request(load(10_000, own), in_flight, responder)
        if as_json:
            print(json.dumps([asdict(result) for result in results], indent=2))
        else:
            _print_table(results)

    run(main, debug=options.debug)


def _print_table(results: list[Result]) -> None:
    from rich.table import Table

    table = Table("", title=f"Bodies of {results[0].size:,} bytes")
    for name in ("clients", "messages", "seconds", "msg/s", "MiB/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in results:
        table.add_row(
            one.what,
            f"{one.clients}",
            f"{one.messages:,}",
            f"{one.seconds:.2f}",
            f"{one.messages_per_second:,.0f}",
            f"{one.bytes_per_second / 2**20:,.1f}",
        )
    notes: list[str] = []
    for one in results:
        if one.p50_seconds is not None:
            times = {"p50": one.p50_seconds, "p99": one.p99_seconds, "max": one.max_seconds}
            parts = [f"{name} {(time or 0) * 1000:.3f} ms" for name, time in times.items()]
            notes.append(f"{one.what}: {', '.join(parts)}")
    print_table(table, *notes)
