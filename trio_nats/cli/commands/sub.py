"""``trio-nats sub``: show published messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import trio
import typer

from trio_nats import ConfigurationError, Connection, Msg, Subscription
from trio_nats._nursery import open_nursery
from trio_nats._printable import printable

from ..connection_options import ConnectionOptions, connected, connects, leave_if_lost
from ..durations import parse_wait
from ..output import Output, message_json, message_text
from ..runner import Program, note, run

__all__ = ["sub"]

_BATCH = 256


@connects
def sub(
    options: ConnectionOptions,
    subjects: Annotated[list[str], typer.Argument(help="Subjects; * and > are wildcards.")],
    queue: Annotated[str | None, typer.Option(help="Join this queue group.")] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N messages.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            parser=parse_wait, metavar="DURATION", help="End after this time without a message."
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", "-r", help="Bodies only.")] = False,
    headers_only: Annotated[bool, typer.Option("--headers-only", help="Without bodies.")] = False,
    subjects_only: Annotated[bool, typer.Option("--subjects-only", help="Subjects only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", "-j", help="A JSON object per line.")] = False,
    dump: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each message to a file N.json.")
    ] = None,
) -> None:
    """Show published messages until Ctrl-C.

    Messages that have arrived by then are still shown. On a terminal, control characters are
    escaped; in files and pipes, bodies are written unchanged.
    """

    async def main(program: Program) -> None:
        output = Output()
        show = _choose(output, raw, headers_only, subjects_only, as_json, dump)
        viewer = _Viewer(show, output, count, math.inf if wait is None else wait)
        async with connected(program, options) as nc, AsyncExitStack() as stack:
            for subject in subjects:
                limit = count if len(subjects) == 1 else None
                one = nc.subscribe(subject, queue=queue, stop_after=limit)
                viewer.subscriptions.append(await stack.enter_async_context(one))
            await nc.flush()
            listed = ", ".join(f'"{subject}"' for subject in subjects)
            note(f"Subscribed to {listed}" + (f' in group "{queue}"' if queue else ""))
            await viewer.run(program, nc)

    run(main, debug=options.debug)


Show: TypeAlias = Callable[[int, Msg], bytes]
"""Returns the output for the number of a message and the message."""


def _choose(
    output: Output,
    raw: bool,
    headers_only: bool,
    subjects_only: bool,
    as_json: bool,
    dump: Path | None,
) -> Show:
    if sum((raw, headers_only and not as_json, subjects_only, as_json, dump is not None)) > 1:
        raise ConfigurationError(
            "--raw, --headers-only, --subjects-only, --json and --dump cannot be combined "
            "(except --json --headers-only)"
        )
    if as_json:
        return lambda _, msg: message_json(msg, headers_only=headers_only)
    if raw:
        return lambda _, msg: output.data(msg.data) + b"\n"
    if subjects_only:
        return lambda _, msg: (printable(msg.subject) + "\n").encode()
    if dump is not None:
        dump.mkdir(mode=0o700, parents=True, exist_ok=True)
        return partial(_into_file, dump)
    return lambda number, msg: message_text(
        output, msg, f"[#{number}] Received", headers_only=headers_only
    )


def _into_file(folder: Path, number: int, msg: Msg) -> bytes:
    (folder / f"{number}.json").write_bytes(message_json(msg))
    return b""


class _Viewer:
    """Shows messages as they arrive, in batches if several have arrived."""

    def __init__(self, show: Show, output: Output, count: int | None, idle: float) -> None:
        self.subscriptions: list[Subscription] = []
        self._show = show
        self._output = output
        self._left = math.inf if count is None else count
        self._number = 0
        self._idle = idle
        self._idle_scope = trio.CancelScope()
        self._enough = trio.Event()
        self._turn = trio.Lock()

    async def run(self, program: Program, nc: Connection) -> None:
        """Show messages until a signal, the count or the idle time ends it."""
        self._idle_scope.deadline = trio.current_time() + self._idle
        async with open_nursery() as viewers:
            for subscription in self.subscriptions:
                viewers.start_soon(self._view, subscription)
            with self._idle_scope, program.until_stopped():
                await self._enough.wait()
            if self._enough.is_set():
                viewers.cancel_scope.cancel()
            await leave_if_lost(program, nc)
            # The viewers end when they have shown all messages that have arrived.
            for subscription in self.subscriptions:
                await subscription.drain()

    async def _view(self, subscription: Subscription) -> None:
        async for msg in subscription:
            async with self._turn:
                self._idle_scope.deadline = trio.current_time() + self._idle
                text = b"".join(self._texts(subscription, msg))
                if text:
                    await self._output.write(text)
            if not self._left:
                self._enough.set()

    def _texts(self, subscription: Subscription, first: Msg) -> Iterator[bytes]:
        msg: Msg | None = first
        taken = 0
        while msg is not None and self._left:
            self._left -= 1
            self._number += 1
            yield self._show(self._number, msg)
            taken += 1
            msg = None
            if self._left and taken < _BATCH:
                try:
                    msg = subscription.receive_nowait()
                except Exception:
                    return  # No message, or the end, which the next receive() reports.
