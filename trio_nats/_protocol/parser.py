"""Parse bytes, received in pieces of any size, into protocol events.

Theory of operation. This is the hottest code of the package. One call parses all complete frames of
a large read in one pass, with methods of ``bytes`` that run in C. Text and header fields are only
decoded when they are used. Consecutive messages of one subscription form one event, a burst, so
that most of the work of delivering them is done once for all. Within a burst, consecutive messages
with identical control lines are found by comparing bytes, without parsing the lines again.

An incomplete frame is kept until the rest arrives. ``_wanted`` is the length at which it will be
complete, if that is known, so that the bytes of a peer that sends them one by one are not scanned
again and again. docs/performance.md has measurements.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from ..errors import ProtocolError
from ..message import Msg, Responder
from ..options import ProtocolLimits
from ..server_info import ServerInfo
from .info import decode_info

__all__ = ["Burst", "ErrorLine", "Event", "Parser", "Signal", "error_text", "excerpt"]

_M, _H, _P, _I, _PLUS, _MINUS = b"MHPI+-"
_CR, _LF = b"\r\n"
_TAB = b"\t"[0]
_STARTS = frozenset(b"MHPI+-")
_MAX_DIGITS = 12
"""Maximum number of digits of a size, because converting many digits takes quadratic time."""
_MAX_ERROR = 20_000
"""Maximum number of characters of an error: enough for the longest subject, with every byte
escaped."""


class Signal(enum.Enum):
    """Events without data."""

    PING = b"PING"
    PONG = b"PONG"
    OK = b"+OK"


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """The text of an ``-ERR`` line, without its quotes, bounded and printable."""

    text: str


class Burst(msgspec.Struct, gc=False, eq=False):
    """Two or more consecutive messages of one subscription."""

    sid: bytes
    messages: list[Msg]
    size: int
    """Size of their data and headers in bytes."""


Event: TypeAlias = Msg | Burst | Signal | ServerInfo | ErrorLine | ProtocolError
"""Anything that a peer can send. A :exc:`ProtocolError` is always the last event."""


class Parser:
    """Turns a server's bytes into events, however the bytes are split into pieces.

    A frame that is malformed, or exceeds ``limits``, gives a :exc:`ProtocolError` as the last
    event. Frames before it are delivered; bytes after it are ignored. Memory is bounded by one
    frame of the largest size allowed plus the piece just fed.
    """

    def __init__(self, limits: ProtocolLimits, origin: Responder | None = None) -> None:
        self._limits = limits
        self._origin = origin
        self._pending = bytearray()
        # The length of the incomplete frame in `_pending`, or 0 if its control line is incomplete,
        # too. Then there is nothing to parse before a line end arrives.
        self._wanted = 0
        self._dead = False

    @property
    def buffered(self) -> int:
        """Number of bytes that wait for the rest of their frame."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Event]:
        """Parse ``data``, which continues the previous pieces, and return its events."""
        events: list[Event] = []
        if self._dead:
            return events
        try:
            self._feed(data, events)
        except ProtocolError as error:
            self._dead = True
            # Its traceback refers to messages, which must not be kept; see Msg.
            events.append(error.with_traceback(None))
        return events

    def _feed(self, data: bytes, events: list[Event]) -> None:
        pending = self._pending
        position = 0
        if self._wanted:
            # Complete the split frame only. Copying the rest of a large read would be slow.
            position = self._wanted - len(pending)
            pending += data[:position]
            if len(data) < position:
                return
            frame = bytes(pending)
            self._wanted = 0
            pending.clear()
            self._parse(frame, 0, events)
        elif pending:
            before = len(pending)
            pending += data
            if self._line_incomplete(before):
                return
            data = bytes(pending)
            pending.clear()
        position = self._parse(data, position, events)
        if position < len(data):
            pending += data[position:] if position else data

    def _line_incomplete(self, searched: int) -> bool:
        """Return whether the control line in ``_pending`` has no end yet but may still get one.

        :param searched: number of bytes searched before.
        """
        pending = self._pending
        complete = pending.find(b"\r\n", searched - 1) >= 0
        return not complete and len(pending) <= self._line_limit(pending[0]) + 1

    def _line_limit(self, first: int) -> int:
        return self._limits.info if first == _I else self._limits.control_line

    def _parse(self, data: bytes, position: int, events: list[Event]) -> int:
        """Append the events of all complete frames. Returns the start of the incomplete one."""
        find = data.find
        origin = self._origin
        max_payload = self._limits.payload
        max_line = self._limits.control_line + 2
        size = len(data)
        msg: Msg | None = None  # the last one, if a burst may begin with it
        burst: Burst | None = None
        before = subject = sid = b""
        reply: bytes | None = None
        head = length = 0
        while position < size:
            first = data[position]
            if first != _M and first != _H:
                before, msg, burst = b"", None, None
                after = self._parse_other(data, position, events)
                if after == position:
                    break
                position = after
                continue
            line_end = find(b"\r\n", position, position + max_line)
            if line_end < 0:
                self._check_line_length(data, position)
                break
            line = data[position:line_end]
            start = line_end + 2
            if line != before:
                words = line.split(b" ")
                if b"" in words or _TAB in line:
                    words = _words(line)
                count = words[-1]
                if first == _H:
                    head, length = self._sizes_of_hmsg(words, data, position)
                    del words[-2]
                elif (
                    3 < len(words) < 6
                    and words[0] == b"MSG"
                    and count.isdigit()
                    and len(count) <= _MAX_DIGITS
                ):
                    head, length = 0, int(count)
                else:
                    raise _malformed("MSG line", data, position)
                if length > max_payload:
                    raise _too_large(length, max_payload, data, position)
                before = line
                subject = words[1]
                reply = words[3] if len(words) == 5 else None
                if words[2] != sid:
                    sid, msg, burst = words[2], None, None
            elif burst is not None:
                parsed = _add_same_line(burst, origin, data, start, line, head, length)
                position += parsed
                start += parsed
            end = start + length
            if end + 2 > size:
                self._wanted = end + 2 - position
                break
            if data[end] != _CR or data[end + 1] != _LF:
                raise _malformed("end of payload", data, position)
            split = start + head
            first_of_two = msg
            msg = Msg(
                subject, sid, reply, data[split:end], data[start:split] if head else None, origin
            )
            if burst is not None:
                burst.messages.append(msg)
                burst.size += length
            elif first_of_two is not None:
                size_before = len(first_of_two.data) + len(first_of_two.raw_headers or b"")
                burst = Burst(sid, [first_of_two, msg], size_before + length)
                events[-1] = burst
            else:
                events.append(msg)
            position = end + 2
        return position

    def _parse_other(self, data: bytes, position: int, events: list[Event]) -> int:
        """Parse a frame other than a message.

        :returns: the end of the frame, or ``position`` if it is incomplete.
        """
        first = data[position]
        if first not in _STARTS:
            # The text of the error must not depend on how the bytes were split, so it quotes one.
            raise _malformed("data", data[position : position + 1] + b"\r\n", 0)
        line_end = data.find(b"\r\n", position, position + self._line_limit(first) + 2)
        if line_end < 0:
            self._check_line_length(data, position)
            return position
        line = data[position:line_end]
        if first == _P or first == _PLUS:
            try:
                events.append(Signal(line.rstrip(b" \t")))
            except ValueError:
                raise _malformed("data", data, position) from None
        elif first == _I:
            if line[:5] not in (b"INFO ", b"INFO\t"):
                raise _malformed("data", data, position)
            events.append(decode_info(line[5:]))
        else:
            if line[:4] != b"-ERR":
                raise _malformed("data", data, position)
            events.append(ErrorLine(error_text(line[4:])))
        return line_end + 2

    def _sizes_of_hmsg(self, words: list[bytes], data: bytes, position: int) -> tuple[int, int]:
        """Check an HMSG line. Returns the size of the headers, and of headers and data."""
        if not (
            4 < len(words) < 7
            and words[0] == b"HMSG"
            and words[-1].isdigit()
            and words[-2].isdigit()
            and max(len(words[-1]), len(words[-2])) <= _MAX_DIGITS
        ):
            raise _malformed("HMSG line", data, position)
        head, length = int(words[-2]), int(words[-1])
        if head > self._limits.headers:
            raise _too_large(head, self._limits.headers, data, position)
        if head > length:
            raise _malformed("HMSG line (headers longer than the whole)", data, position)
        return head, length

    def _check_line_length(self, data: bytes, position: int) -> None:
        limit = self._line_limit(data[position])
        if len(data) - position >= limit + 2:
            raise ProtocolError(
                f"the server sent a line longer than the limit of {limit:,} bytes, beginning with "
                f"{excerpt(data[position : position + 60])}"
            )


def _add_same_line(
    burst: Burst,
    origin: Responder | None,
    data: bytes,
    start: int,
    line: bytes,
    head: int,
    length: int,
) -> int:
    """Add consecutive messages with the same control line to a burst.

    When a line is repeated, it is likely to be repeated many times, by messages that differ only in
    their data. Then the line end after one message and the line of the next are checked in a single
    comparison. The last such message is left to the caller, because another line follows it.

    :param start: the start of the first message's headers and data.
    :returns: the number of bytes parsed.
    """
    startswith, append = data.startswith, burst.messages.append
    like = burst.messages[-1]
    subject, sid, reply = like.raw_subject, like.sid, like.raw_reply
    between = b"\r\n%b\r\n" % line
    gap = len(between)
    step = length + gap
    end = begun = start + length
    headers: bytes | None = None
    while startswith(between, end):
        if head:
            headers = data[start : start + head]
            start += head
        append(Msg(subject, sid, reply, data[start:end], headers, origin))
        start = end + gap
        end += step
    parsed = end - begun
    burst.size += parsed // step * length
    return parsed


def _words(line: bytes) -> list[bytes]:
    """Split a line that has tabs or more than one space between words. No known server sends one.

    Only spaces and tabs are separators, as in the server. The server accepts CR and other control
    characters in subjects. :meth:`bytes.split` would split there, so a publisher could insert words
    such as the sid of another subscription.
    """
    return [word for word in line.replace(b"\t", b" ").split(b" ") if word]


def excerpt(data: bytes) -> str:
    """Return up to 60 bytes of ``data`` in printable form, for error texts."""
    shown = repr(bytes(data[:60]))[1:]
    return shown + "..." if len(data) > 60 else shown


def _malformed(what: str, data: bytes, position: int) -> ProtocolError:
    return ProtocolError(f"the server sent malformed {what}: {_line(data, position)}")


def _line(data: bytes, position: int) -> str:
    """Return the beginning of a complete control line, without anything that follows it."""
    return excerpt(data[position : min(data.find(b"\r\n", position), position + 61)])


def _too_large(size: int, limit: int, data: bytes, position: int) -> ProtocolError:
    return ProtocolError(
        f"the server announced {size:,} bytes, more than the limit of {limit:,}: "
        f"{_line(data, position)}"
    )


def error_text(raw: bytes) -> str:
    """Return the text after ``-ERR`` without its quotes, bounded and printable."""
    text = raw.decode("utf-8", "replace").strip(" \t").removeprefix("'").removesuffix("'")
    printable = "".join(char if char.isprintable() else "?" for char in text[:_MAX_ERROR])
    return printable
