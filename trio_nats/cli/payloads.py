"""Read the body of a message from an argument or the standard input."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Literal

import trio
import typer

from trio_nats import ConfigurationError, MaxPayloadError

from .reply_templates import Template

__all__ = [
    "Bodies",
    "BodyArgument",
    "HeaderOption",
    "ReadStdinOption",
    "SendOnOption",
    "TemplatesOption",
]

BodyArgument = Annotated[
    str | None,
    typer.Argument(help="The body. '-' reads stdin, as does no body if input is piped."),
]
HeaderOption = Annotated[
    list[str] | None, typer.Option("--header", "-H", help="A header.", metavar="NAME:VALUE")
]
ReadStdinOption = Annotated[
    bool, typer.Option("--read-stdin", "--force-stdin", help="Read the body from stdin.")
]
SendOnOption = Annotated[
    Literal["eof", "newline"],
    typer.Option("--send-on", help="Send stdin as one message, or each line as one."),
]
TemplatesOption = Annotated[
    bool,
    typer.Option("--templates/--no-templates", help="Fill in {{Count}} and other variables."),
]

_CHUNK = 64 * 1024


class Bodies:
    """The bodies to send, one after the other. Templates are not filled in for stdin."""

    def __init__(
        self, body: str | None, read_stdin: bool, send_on: str, templates: bool = True
    ) -> None:
        if body not in (None, "-") and read_stdin:
            raise ConfigurationError(
                "--read-stdin cannot be combined with a body; leave one of them out"
            )
        piped = sys.stdin is not None and not sys.stdin.isatty()
        from_stdin = read_stdin or body == "-" or (body is None and piped)
        self._given = None if from_stdin else Template(body or "", enabled=templates)
        self._by_line = send_on == "newline"
        self._stdin = _Stdin()
        self._begun = False

    async def next(self, max_payload: int) -> Template | None:
        """Return the next body, or ``None`` after the last.

        Raises :exc:`MaxPayloadError` instead of reading more than a message can hold.
        """
        if self._given is None and self._by_line:
            line = await self._stdin.line(max_payload)
            return None if line is None else Template(line, enabled=False)
        if self._begun:
            return None
        self._begun = True
        if self._given is not None:
            return self._given
        return Template(await self._stdin.rest(max_payload), enabled=False)


class _Stdin:
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._ended = False

    async def rest(self, limit: int) -> bytes:
        while not self._ended:
            await self._read(limit)
        return bytes(self._buffer)

    async def line(self, limit: int) -> bytes | None:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0 and not self._ended:
            searched = len(self._buffer)
            await self._read(limit)
        if end < 0 and not self._buffer:
            return None
        line = bytes(self._buffer if end < 0 else self._buffer[:end])
        del self._buffer[: len(line) + 1]
        return line.removesuffix(b"\r")

    async def _read(self, limit: int) -> None:
        # If cancelled, the thread is abandoned, because there may never be more input.
        chunk = await trio.to_thread.run_sync(_read_stdin, abandon_on_cancel=True)
        self._ended = not chunk
        self._buffer += chunk
        if len(self._buffer) > limit + _CHUNK:
            raise MaxPayloadError(len(self._buffer), limit)


def _read_stdin() -> bytes:
    if sys.stdin is None:
        return b""  # It was closed before the program started.
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):
        return sys.stdin.buffer.read()  # A stream in memory.
    # Bypass the stream's buffer, whose lock an abandoned thread would hold forever.
    return os.read(descriptor, _CHUNK)
