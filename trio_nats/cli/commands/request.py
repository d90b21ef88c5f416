"""``trio-nats request``: send a request and show the replies."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from trio_nats import (
    ConfigurationError,
    Connection,
    RequestTimeoutError,
    empty_sentinel,
)

from ..connection_options import ConnectionOptions, connected, connects, leave_if_lost
from ..durations import parse_wait
from ..output import Output, message_json, message_text
from ..payloads import (
    Bodies,
    BodyArgument,
    HeaderOption,
    ReadStdinOption,
    SendOnOption,
    TemplatesOption,
)
from ..reply_templates import Template, header_templates, headers_of
from ..runner import Program, run

__all__ = ["request"]


@connects
def request(
    options: ConnectionOptions,
    subject: Annotated[str, typer.Argument(help="The subject to send the request to.")],
    body: BodyArgument = None,
    header: HeaderOption = None,
    count: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of requests, one after another.")
    ] = 1,
    replies: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Replies per request; 0: all within --timeout."),
    ] = 1,
    reply_timeout: Annotated[
        float,
        typer.Option(
            parser=parse_wait,
            metavar="DURATION",
            help="Time to wait after each reply for another one.",
        ),
    ] = 0.3,
    wait_for_empty: Annotated[
        bool, typer.Option("--wait-for-empty", help="End at an empty reply.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", "-r", help="Bodies only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", "-j", help="A JSON object per line.")] = False,
    read_stdin: ReadStdinOption = False,
    send_on: SendOnOption = "eof",
    templates: TemplatesOption = True,
) -> None:
    """Send a request and show the reply, or several.

    Waits --timeout for the first reply. The exit code is 1 if none arrives, or if nobody responds.
    """

    async def main(program: Program) -> None:
        if raw and as_json:
            raise ConfigurationError("--raw and --json cannot be combined")
        asker = _Asker(
            Template(subject, enabled=templates),
            header_templates(header or (), enabled=templates),
            None if wait_for_empty or replies == 0 else replies,
            None if replies == 0 and not wait_for_empty else reply_timeout,
            wait_for_empty,
            "raw" if raw else "json" if as_json else "text",
            options.timeout,
        )
        bodies = Bodies(body, read_stdin, send_on, templates)
        async with connected(program, options) as nc:
            with program.until_stopped():
                while (one := await bodies.next(nc.server_info.max_payload)) is not None:
                    for _ in range(count):
                        await asker.ask(nc, one)
            await leave_if_lost(program, nc)

    run(main, debug=options.debug)


class _Asker:
    def __init__(
        self,
        subject: Template,
        headers: list[tuple[str, Template]],
        replies: int | None,
        stall: float | None,
        until_empty: bool,
        style: str,
        timeout: float,
    ) -> None:
        self._subject = subject
        self._headers = headers
        self._replies = replies
        self._stall = stall
        self._until_empty = until_empty
        self._style = style
        self._timeout = timeout
        self._output = Output()
        self._asked = 0

    async def ask(self, nc: Connection, body: Template) -> None:
        """Make one request. Raises :exc:`RequestTimeoutError` if there is no reply."""
        self._asked += 1
        subject = self._subject.fill_text(self._asked)
        begun = time.perf_counter()
        received = 0
        async with nc.request_many(
            subject,
            body.fill(self._asked),
            headers=headers_of(self._headers, self._asked) or None,
            stop_after=self._replies,
            stall=None if self._replies == 1 else self._stall,
            sentinel=empty_sentinel if self._until_empty else None,
        ) as replies:
            async for msg in replies:
                received += 1
                match self._style:
                    case "raw":
                        text = self._output.data(msg.data) + b"\n"
                    case "json":
                        text = message_json(msg)
                    case _:
                        took = (time.perf_counter() - begun) * 1000
                        title = f"[#{received}] Received after {took:.2f} ms"
                        text = message_text(self._output, msg, title, with_subject=False)
                await self._output.write(text)
        if not received and not self._until_empty:
            raise RequestTimeoutError(f"no reply from {subject!r} within {self._timeout:g} s")
