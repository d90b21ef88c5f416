"""``trio-nats events``: show advisories of a stream or a consumer."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated

import msgspec
import trio
import typer

from trio_nats import ConfigurationError
from trio_nats._printable import printable

from ..connection_options import ConnectionOptions, connected, connects
from ..durations import parse_wait
from ..output import Output
from ..runner import Program, note, run

if TYPE_CHECKING:
    # Imported when it is used, because no other command needs it.
    from trio_nats.jetstream.advisories import Advisory, AdvisoryListener

__all__ = ["events"]

_COMMON = frozenset({"type", "id", "timestamp", "stream", "consumer", "account"})
_MAX_SHOWN = 4_000


@connects
def events(
    options: ConnectionOptions,
    stream: Annotated[str, typer.Argument(help="The stream.")],
    consumer: Annotated[str | None, typer.Argument(help="Only this consumer of it.")] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", "-k", metavar="KIND", help="Only this kind, such as max_deliver."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N advisories.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            parser=parse_wait, metavar="DURATION", help="End after this time without an advisory."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", "-j", help="A JSON object per line.")] = False,
) -> None:
    """Show advisories of a stream and its consumers, or of one consumer, until Ctrl-C.

    Servers send them when a message reaches max_deliver, a leader changes, a consumer is created
    and so on. They are not stored.
    """

    async def main(program: Program) -> None:
        wanted = [_kind(name) for name in kinds or ()]
        context = options.context
        async with connected(program, options) as nc:
            js = nc.jetstream(
                domain=(context and context.jetstream_domain) or None,
                prefix=_api_prefix(options),
                event_prefix=(context and context.jetstream_event_prefix) or None,
            )
            found = await js.stream(stream)
            listener: AdvisoryListener
            if consumer is None:
                listener = found.advisories(*wanted)
            else:
                listener = (await found.consumer(consumer)).advisories(*wanted)
            left = math.inf if count is None else count
            async with listener as channel:
                await nc.flush()
                source = stream if consumer is None else f"{stream} > {consumer}"
                note(f"Listening to advisories of {source}")
                output, dropped = Output(), 0
                with program.until_stopped() as scope:
                    while left > 0:
                        scope.deadline = trio.current_time() + (math.inf if wait is None else wait)
                        advisory = await channel.receive()
                        scope.deadline = math.inf
                        text = _as_json(advisory) if as_json else _as_text(advisory)
                        await output.write(text.encode() + b"\n")
                        left -= 1
                        if channel.dropped != dropped:
                            note(f"{channel.dropped - dropped} advisories dropped", style="yellow")
                            dropped = channel.dropped

    run(main, debug=options.debug)


def _kind(name: str) -> type[Advisory]:
    from trio_nats.jetstream import advisories

    classes = (getattr(advisories, each) for each in advisories.__all__)
    kinds: dict[str, type[Advisory]] = {
        kind.TYPE: kind for kind in classes if getattr(kind, "TYPE", "")
    }
    if name not in kinds:
        raise ConfigurationError(f"--kind must be one of {', '.join(kinds)}, not {name!r}")
    return kinds[name]


def _api_prefix(options: ConnectionOptions) -> str | None:
    context = options.context
    if context is None or context.jetstream_domain:
        return None  # As in jsm.go, the domain takes precedence.
    return context.jetstream_api_prefix or None


def _as_json(advisory: Advisory) -> str:
    # Only ASCII, without control characters.
    return json.dumps(msgspec.to_builtins(advisory)).replace("\x7f", "\\u007f")


def _as_text(advisory: Advisory) -> str:
    when = advisory.timestamp
    kind = type(advisory).TYPE or advisory.type.rpartition(".")[2]
    consumer = getattr(advisory, "consumer", "")
    source = f"{advisory.stream} > {consumer}" if consumer else advisory.stream
    words = [f"{when:%Y-%m-%d %H:%M:%S}" if when else "-", kind, source]
    fields = msgspec.to_builtins(advisory)
    words += [
        f"{name}={_value(value)}"
        for name, value in fields.items()
        if name not in _COMMON and value not in ("", None, [])
    ]
    return printable("  ".join(words), _MAX_SHOWN)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
