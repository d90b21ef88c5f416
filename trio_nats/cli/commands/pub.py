"""``trio-nats pub``: publish messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, cast

import trio
import typer

from trio_nats import Connection, events

from ..connection_options import ConnectionOptions, connected, connects, leave_if_lost
from ..durations import parse_duration
from ..payloads import (
    Bodies,
    BodyArgument,
    HeaderOption,
    ReadStdinOption,
    SendOnOption,
    TemplatesOption,
)
from ..progress import progress_bar
from ..reply_templates import Template, header_templates, headers_of
from ..runner import Program, note, run

__all__ = ["pub"]

CountOption = Annotated[
    int, typer.Option("--count", metavar="N", min=1, help="Number of messages to send.")
]
SleepOption = Annotated[
    float,
    typer.Option("--sleep", parser=parse_duration, metavar="DURATION", help="Pause between them."),
]


@connects
def pub(
    options: ConnectionOptions,
    subject: Annotated[str, typer.Argument(help="The subject to publish to.")],
    body: BodyArgument = None,
    header: HeaderOption = None,
    reply: Annotated[str | None, typer.Option(help="Reply subject.")] = None,
    count: CountOption = 1,
    sleep: SleepOption = 0.0,
    read_stdin: ReadStdinOption = False,
    send_on: SendOnOption = "eof",
    templates: TemplatesOption = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing on success.")] = False,
) -> None:
    """Publish messages.

    Subject, body and headers may contain {{Count}}, {{ID}}, {{Time}}, {{TimeStamp}}, {{Unix}},
    {{UnixNano}} and {{Random 10 100}}, which are replaced in each message. Input from stdin is sent
    unchanged.
    """

    async def main(program: Program) -> None:
        publisher = _Publisher(
            Template(subject, enabled=templates),
            header_templates(header or (), enabled=templates),
            reply,
        )
        bodies = Bodies(body, read_stdin, send_on, templates)
        async with connected(program, options) as nc, nc.events() as happening:
            by_line = send_on == "newline"
            steps = 0 if by_line else count  # The number of lines is unknown.
            with program.until_stopped(), progress_bar(steps, "publishing", quiet) as advance:
                while (one := await bodies.next(nc.server_info.max_payload)) is not None:
                    for number in range(1, count + 1):
                        await publisher.publish(nc, one)
                        advance(1)
                        if sleep or by_line:
                            await _flush(nc, happening)
                        if sleep and (number < count or by_line):
                            await trio.sleep(sleep)
            await leave_if_lost(program, nc)
            await _flush(nc, happening)
        if not quiet:
            note(publisher.summary())

    run(main, debug=options.debug)


@dataclass
class _Publisher:
    subject: Template
    headers: list[tuple[str, Template]]
    reply: str | None
    messages: int = 0
    size: int = 0
    last_subject: str = ""

    async def publish(self, nc: Connection, body: Template) -> None:
        number = self.messages + 1
        self.last_subject = self.subject.fill_text(number)
        data = body.fill(number)
        headers = headers_of(self.headers, number) or None
        await nc.publish(self.last_subject, data, reply=self.reply, headers=headers)
        self.messages += 1
        self.size += len(data)

    def summary(self) -> str:
        if self.messages == 1:
            return f'Published {self.size:,} bytes to "{self.last_subject}"'
        where = f' to "{self.last_subject}"' if self.subject.is_fixed else ""
        return f"Published {self.messages:,} messages, {self.size:,} bytes in all{where}"


class _Events(Protocol):
    def receive_nowait(self) -> events.Event: ...


async def _flush(nc: Connection, happening: trio.abc.ReceiveChannel[events.Event]) -> None:
    """Flush, and raise any error that the server has reported before its PONG."""
    await nc.flush()
    waiting = cast("_Events", happening)
    while True:
        try:
            event = waiting.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        if isinstance(event, events.ServerError):
            raise event.error
