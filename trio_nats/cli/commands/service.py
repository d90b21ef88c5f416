"""``trio-nats service``: find services, show their statistics, and run one for trials."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec
import trio
import typer

import trio_nats
from trio_nats import ConfigurationError, Connection
from trio_nats._nursery import open_nursery
from trio_nats._printable import printable, printable_lines
from trio_nats.services import (
    EndpointStats,
    Service,
    ServiceInfo,
    ServicePing,
    ServiceRequest,
    Services,
    ServiceStats,
)

from ..connection_options import ConnectionOptions, connected, connects, leave_if_lost
from ..durations import parse_wait
from ..output import Output, message_text, print_table
from ..payloads import HeaderOption
from ..reply_templates import header_templates, headers_of
from ..runner import Commands, Program, note, run

__all__ = ["services"]

S = TypeVar("S")

services: typer.Typer = typer.Typer(
    cls=Commands, help="Find services, read their statistics, run one.", rich_markup_mode="markdown"
)

NameArgument = Annotated[str | None, typer.Argument(help="Only instances of this service.")]
OneNameArgument = Annotated[str, typer.Argument(help="The service.")]
IdArgument = Annotated[str | None, typer.Argument(help="Only this instance of the service.")]
JSONOption = Annotated[bool, typer.Option("--json", "-j", help="Print JSON.")]
StallOption = Annotated[
    float,
    typer.Option(
        "--reply-timeout",
        parser=parse_wait,
        metavar="DURATION",
        help="Time to wait after each response for another one.",
    ),
]


@services.callback(invoke_without_command=True)
def root(typer_context: typer.Context) -> None:
    """Find services and show their statistics.

    Shows all that respond within --timeout. The exit code is 1 if none does.
    """
    if typer_context.invoked_subcommand is None:
        typer.echo(typer_context.get_help())


@services.command("ls")
@services.command("list", hidden=True)
@services.command("l", hidden=True)
@connects
def list_all(
    options: ConnectionOptions,
    name: NameArgument = None,
    stall: StallOption = 0.3,
    as_json: JSONOption = False,
) -> None:
    """List services, instance by instance."""

    async def main(program: Program) -> None:
        async with connected(program, options) as nc:
            found = _some(await _asker(nc, options, stall).info(name), name)
        if as_json:
            _print_json(found)
            return
        rows = [[one.name, one.version, one.id, one.description] for one in found]
        _print_rows(["name", "version", "id", "description"], rows)

    run(main, debug=options.debug)


@services.command("ping")
@connects
def ping(
    options: ConnectionOptions,
    name: NameArgument = None,
    stall: StallOption = 0.3,
    as_json: JSONOption = False,
) -> None:
    """Ping services, and show how long each took to respond."""

    async def main(program: Program) -> None:
        async with connected(program, options) as nc:
            found = _some(await _asker(nc, options, stall).ping(name), name)
        if as_json:
            _print_json(found)
            return
        for one in sorted(found, key=_rtt):
            print(printable(f"{f'{one.name} {one.id}':50} rtt={one.rtt * 1000:.2f}ms"))

    run(main, debug=options.debug)


@services.command("info")
@services.command("i", hidden=True)
@connects
def info(
    options: ConnectionOptions,
    name: OneNameArgument,
    id: IdArgument = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", "-e", metavar="REGEX", help="Only endpoints that match."),
    ] = None,
    stall: StallOption = 0.3,
    as_json: JSONOption = False,
) -> None:
    """Show everything about one instance of a service."""

    async def main(program: Program) -> None:
        wanted = _pattern(endpoint)
        async with connected(program, options) as nc:
            asker = _asker(nc, options, stall)
            found = _some(await asker.info(name, id), name, id)
            one = found[0]
            (stats,) = _some(await asker.stats(name, one.id), name, one.id)
        one.endpoints[:] = [each for each in one.endpoints if wanted.search(each.name)]
        stats.endpoints[:] = [each for each in stats.endpoints if wanted.search(each.name)]
        if as_json:
            print(_as_json({"info": one, "stats": stats}))
        else:
            _print_info(one, stats)
        if len(found) > 1:
            note(f"one of {len(found)} instances; pass the id of another to see it")

    run(main, debug=options.debug)


@services.command("stats")
@connects
def stats(
    options: ConnectionOptions,
    name: OneNameArgument,
    id: IdArgument = None,
    stall: StallOption = 0.3,
    as_json: JSONOption = False,
) -> None:
    """Show statistics of a service's endpoints, instance by instance."""

    async def main(program: Program) -> None:
        async with connected(program, options) as nc:
            found = _some(await _asker(nc, options, stall).stats(name, id), name, id)
        if as_json:
            _print_json(found)
        else:
            _print_stats(found)

    run(main, debug=options.debug)


@services.command("serve")
@connects
def serve(
    options: ConnectionOptions,
    name: Annotated[str, typer.Argument(help="The name of the service.")],
    header: HeaderOption = None,
) -> None:
    """Run a service for trials until Ctrl-C. It responds to requests that have arrived by then.

    Its endpoint `echo` has the subject NAME.echo, and responds with the request and its headers. If
    you start the command twice, the two instances share the requests.
    """

    async def main(program: Program) -> None:
        headers = header_templates(header or (), enabled=False)
        output = Output()
        number = size = 0

        async def echo(request: ServiceRequest) -> None:
            nonlocal number, size
            number += 1
            size += len(request.data)
            more = [*request.headers.pairs(), *headers_of(headers, number).pairs()]
            await output.write(message_text(output, request.raw, f"[#{number}] Received"))
            await request.respond(request.data, headers=more or None)

        async with connected(program, options) as nc:
            service = nc.add_service(
                name,
                version="1.0.0",
                description="for trials: responds with the request",
                metadata={"client": f"trio-nats {trio_nats.__version__}"},
                stats_handler=lambda endpoint: {"total_payload": size},
            )
            # Handle one request at a time, so that the output is in order.
            endpoint = await service.group(name).add_endpoint("echo", echo, concurrency=1)
            async with service, open_nursery() as nursery:
                await nc.flush()
                note(f'Listening on "{endpoint.subject}" as {name} {service.id}')
                nursery.start_soon(_stop_when_stopped, program, nc, service)
                await service.wait_stopped()
                nursery.cancel_scope.cancel()

    run(main, debug=options.debug)


async def _stop_when_stopped(program: Program, nc: Connection, service: Service) -> None:
    with program.until_stopped():
        await trio.sleep_forever()
    await leave_if_lost(program, nc)
    service.stop()


# --- asking --------------------------------------------------------------------------------------


def _asker(nc: Connection, options: ConnectionOptions, stall: float) -> Services:
    return nc.services(timeout=options.timeout, stall=stall)


def _some(found: list[S], *whose: str | None) -> list[S]:
    """Return ``found``, or end the program if it is empty."""
    if not found:
        which = " ".join(filter(None, whose))
        note(f"no service {which} responded" if which else "no services responded", style="red")
        raise typer.Exit(1)
    return found


def _pattern(text: str | None) -> re.Pattern[str]:
    try:
        return re.compile(text or "")
    except re.error as error:
        raise ConfigurationError(
            f"--endpoint must be a regular expression, not {text!r}: {error}"
        ) from None


def _rtt(one: ServicePing) -> float:
    return one.rtt


# --- showing -------------------------------------------------------------------------------------


def _as_json(value: object) -> str:
    # Only ASCII, without control characters.
    return json.dumps(msgspec.to_builtins(value), indent=2).replace("\x7f", "\\u007f")


def _print_json(found: Sequence[object]) -> None:
    print(_as_json(found))


def _print_rows(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> None:
    """Print a table whose last ``numbers`` columns are right-aligned."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for place, column in enumerate(columns, 1):
        if place > len(columns) - numbers:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    print_table(table)


def _print_stats(found: list[ServiceStats]) -> None:
    rows: list[list[str]] = []
    for one in found:
        for number, endpoint in enumerate(one.endpoints):
            rows.append([one.id if not number else "", endpoint.name, *_numbers(endpoint)])
    every = [endpoint for one in found for endpoint in one.endpoints]
    requests = sum(endpoint.num_requests for endpoint in every)
    spent = sum(endpoint.processing_time for endpoint in every)
    total = EndpointStats(
        name="",
        subject="",
        queue_group="",
        num_requests=requests,
        num_errors=sum(endpoint.num_errors for endpoint in every),
        processing_time=spent,
        average_processing_time=spent / max(requests, 1),
        last_error="",
    )
    rows.append(["", "all", *_numbers(total)])
    columns = ["id", "endpoint", "group", "requests", "errors", "processing", "average"]
    _print_rows(columns, rows, numbers=4)


def _numbers(endpoint: EndpointStats) -> list[str]:
    return [
        endpoint.queue_group,
        f"{endpoint.num_requests:,}",
        f"{endpoint.num_errors:,}",
        _duration(endpoint.processing_time),
        _duration(endpoint.average_processing_time),
    ]


def _duration(seconds: float) -> str:
    nanoseconds = round(seconds * 10**9)
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:,.2f}{unit}"
    return f"{nanoseconds}ns"


def _print_info(one: ServiceInfo, stats: ServiceStats) -> None:
    _print_pairs(
        "",
        service=f"{one.name} ({one.id})",
        description=printable(one.description),
        version=one.version,
        metadata=_metadata(one.metadata),
        started=f"{stats.started:%Y-%m-%d %H:%M:%S} UTC ({_ago(stats.started)} ago)",
    )
    print("\nEndpoints:")
    remaining = list(stats.endpoints)
    for endpoint in one.endpoints:
        print()
        _print_pairs(
            "  ",
            name=endpoint.name,
            subject=endpoint.subject,
            group=endpoint.queue_group,
            metadata=_metadata(endpoint.metadata),
        )
        # Several may have the same name and subject. Both lists are in the same order.
        for numbers in remaining:
            if (numbers.name, numbers.subject, numbers.queue_group) == (
                endpoint.name,
                endpoint.subject,
                endpoint.queue_group,
            ):
                _print_numbers(numbers)
                remaining.remove(numbers)
                break


def _print_numbers(numbers: EndpointStats) -> None:
    _, requests, errors, spent, average = _numbers(numbers)
    _print_pairs(
        "  ",
        requests=requests,
        errors=errors,
        processing=f"{spent} (average {average})",
        **{"last error": printable(numbers.last_error)},
        data="" if numbers.data is None else json.dumps(numbers.data, ensure_ascii=False),
    )


def _print_pairs(indent: str, **pairs: str) -> None:
    """Print names and values in two columns."""
    for key, value in pairs.items():
        if value:
            lines = printable_lines(value).split("\n")
            print(f"{indent}{key:>11}: " + f"\n{indent}{'':>13}".join(lines))


def _metadata(metadata: Mapping[str, str]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in metadata.items())


def _ago(moment: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
