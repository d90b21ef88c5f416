"""Print messages on stdout, safely and without blocking the connection."""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

import trio

from trio_nats import Msg
from trio_nats._printable import printable, printable_json, printable_lines

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Output", "as_text", "message_json", "message_text", "print_table"]

_COLOURS = {"subject": "36", "header": "35"}


def as_text(data: bytes) -> str:
    """Decode UTF-8, with escapes for invalid bytes."""
    return data.decode("utf-8", "backslashreplace")


class Output:
    """The standard output. Control sequences are escaped if it is a terminal."""

    def __init__(self) -> None:
        # None if it was closed before the program started, despite its type.
        self._stream: TextIO | None = sys.stdout
        self.is_terminal: bool = self._stream is not None and self._stream.isatty()
        self._coloured = self.is_terminal and _has_colours()
        self._descriptor = -1
        try:
            if self._stream is not None:
                self._descriptor = self._stream.fileno()
        except (OSError, ValueError):
            pass  # A stream in memory.

    def paint(self, text: str, what: str) -> str:
        """Return ``text`` in a colour, if the terminal has colours."""
        return f"\x1b[{_COLOURS[what]}m{text}\x1b[0m" if self._coloured else text

    def data(self, data: bytes) -> bytes:
        """Return a payload as it may be written here: escaped if this is a terminal."""
        if not self.is_terminal:
            return data
        return printable_lines(as_text(data).replace("\r\n", "\n")).encode()

    async def write(self, data: bytes) -> None:
        """Write all of ``data`` in a thread, so that PINGs are answered despite a slow reader.

        If cancelled, the thread is abandoned, because a terminal may be paused with Ctrl-S.
        """
        await trio.to_thread.run_sync(self._write, data, abandon_on_cancel=True)

    def _write(self, data: bytes) -> None:
        if self._stream is None:
            return
        if self._descriptor < 0:
            self._stream.buffer.write(data)
            self._stream.flush()
            return
        # Bypass the stream's buffer, whose lock an abandoned thread would hold forever.
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]


def _has_colours() -> bool:
    from rich.console import Console

    console = Console()
    return bool(console.color_system) and not console.no_color


def print_table(table: Table, *notes: str) -> None:
    """Print a table, and lines below it, on stdout."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # Handled as for every command.

    console = Plain(file=sys.stdout)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def message_text(
    output: Output,
    msg: Msg,
    title: str,
    *,
    with_subject: bool = True,
    headers_only: bool = False,
) -> bytes:
    """Format a message with subject and headers as text."""
    lines = [title]
    if with_subject:
        subject = f'"{printable(msg.subject)}"'
        lines[0] += f" on {output.paint(subject, 'subject')}"
    if msg.reply is not None:
        lines[0] += f' with reply "{printable(msg.reply)}"'
    pairs = msg.headers.pairs()
    if (status := msg.status) is not None:
        lines.append(f"Status: {status.code} {printable(status.description)}".rstrip())
    lines += [
        f"{output.paint(printable(name), 'header')}: {printable(value)}" for name, value in pairs
    ]
    head = "\n".join(lines).encode("utf-8", "backslashreplace")
    if headers_only:
        return head + b"\n\n"
    return head + (b"\n\n" if len(lines) > 1 else b"\n") + output.data(msg.data) + b"\n\n"


def message_json(msg: Msg, *, headers_only: bool = False) -> bytes:
    """Format a message as a JSON object in one line. Binary data is in ``data_base64``."""
    fields: dict[str, object] = {"subject": msg.subject}
    if msg.reply is not None:
        fields["reply"] = msg.reply
    if (status := msg.status) is not None:
        fields["status"] = {"code": status.code, "description": status.description}
    if msg.headers:
        fields["headers"] = {name: msg.headers.get_all(name) for name in msg.headers}
    if not headers_only:
        try:
            fields["data"] = msg.data.decode()
        except UnicodeDecodeError:
            fields["data_base64"] = base64.b64encode(msg.data).decode()
    return printable_json(json.dumps(fields, ensure_ascii=False)).encode() + b"\n"
