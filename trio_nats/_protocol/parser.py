"""Parse bytes, received in pieces of any size, into protocol events.

This is the hottest code of the package: one call parses every whole frame of a large read in one
pass, with C-level string methods only, and what it does not need yet (text, header fields) it does
not decode. Messages that follow each other on one subscription come out as one event, so that most
of what has to be done with them is done once for all. docs/performance.md has the numbers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from ..errors import ProtocolError
from ..message import Msg, Publisher
from ..options import ProtocolLimits
from ..server_info import ServerInfo
from .info import decode_info

__all__ = ["Burst", "ErrorLine", "Event", "Parser", "Signal", "error_text", "excerpt"]

_M, _H, _P, _I, _PLUS, _MINUS = b"MHPI+-"
_CR, _LF = b"\r\n"
_TAB = b"\t"[0]
_STARTS = frozenset(b"MHPI+-")
_MAX_DIGITS = 12
"""No size is longer; converting endless digits would take quadratic time."""


_MAX_ERROR = 20_000
"""Characters of an error: space for the longest subject, each byte of it escaped."""


class Signal(enum.Enum):
    """The events that carry nothing."""

    PING = b"PING"
    PONG = b"PONG"
    OK = b"+OK"


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """An ``-ERR`` line's text, without its quotes, bounded and printable."""

    text: str


class Burst(msgspec.Struct, gc=False, eq=False):
    """Two or more messages that came one right after the other on one subscription."""

    sid: bytes
    messages: list[Msg]
    size: int
    """The bytes of their data and headers."""


Event: TypeAlias = Msg | Burst | Signal | ServerInfo | ErrorLine | ProtocolError
"""What a peer can send. A :exc:`ProtocolError` is always the last event."""


class Parser:
    """Turns a server's bytes into events; any way of cutting the bytes gives the same events.

    A malformed byte, or one beyond ``limits``, gives a :exc:`ProtocolError` as the last event: what
    came before it was well formed and is delivered, what comes after it is ignored. Memory is
    bounded by one frame of the largest size allowed, plus the piece just fed.
    """

    def __init__(self, limits: ProtocolLimits, origin: Publisher | None = None) -> None:
        self._limits = limits
        self._origin = origin
        self._pending = bytearray()
        # How long `_pending` must be before another look is worth it. While a control line is
        # incomplete that is unknown (0): then only a line end is worth a look. Without this, a
        # peer that trickles single bytes would make us scan the same bytes over and over.
        self._wanted = 0
        self._dead = False

    @property
    def buffered(self) -> int:
        """The number of bytes waiting for the rest of their frame."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Event]:
        """Parse ``data`` as the continuation of what was fed before."""
        events: list[Event] = []
        if self._dead:
            return events
        try:
            self._feed(data, events)
        except ProtocolError as error:
            self._dead = True
            # Without its traceback, which refers to messages. See Msg on why that matters.
            events.append(error.with_traceback(None))
        return events

    def _feed(self, data: bytes, events: list[Event]) -> None:
        pending = self._pending
        position = 0
        if self._wanted:
            # Complete the frame that was cut, and leave the rest of a large read where it is.
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
        """Whether the control line in ``_pending`` has no end yet, and may still get one."""
        pending = self._pending
        complete = pending.find(b"\r\n", searched - 1) >= 0
        return not complete and len(pending) <= self._line_limit(pending[0]) + 1

    def _line_limit(self, first: int) -> int:
        return self._limits.info if first == _I else self._limits.control_line

    def _parse(self, data: bytes, position: int, events: list[Event]) -> int:
        """Append the events of every whole frame; return where the first incomplete one starts."""
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
                taken = _take_alike(burst, origin, data, start, line, head, length)
                position += taken
                start += taken
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
        """One frame that is not MSG. Returns ``position`` itself while it is incomplete."""
        first = data[position]
        if first not in _STARTS:
            # One byte is all that is sure to be there, however the bytes are cut.
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
        """Check an HMSG line. Returns the bytes of the headers, and those of headers and data."""
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


def _take_alike(
    burst: Burst,
    origin: Publisher | None,
    data: bytes,
    start: int,
    line: bytes,
    head: int,
    length: int,
) -> int:
    """Add whole messages, of which the first has its data at ``start``, to a burst.

    The same line a second time is likely a run of messages that differ in their data only. Then the
    end of one and the line of the next are checked in one go. The last of the run is left, for what
    comes behind it is unknown. Returns the bytes that were taken.
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
    taken = end - begun
    burst.size += taken // step * length
    return taken


def _words(line: bytes) -> list[bytes]:
    """The words of a line that is not separated by single spaces, which no known server sends.

    Only spaces and tabs separate, as in the server. It takes CR and any other control character as
    part of a subject, so :meth:`bytes.split` would let a publisher add words of their own, such as
    the number of another subscription.
    """
    return [word for word in line.replace(b"\t", b" ").split(b" ") if word]


def excerpt(data: bytes) -> str:
    """At most 60 bytes of ``data`` in printable form, for error texts."""
    shown = repr(bytes(data[:60]))[1:]
    return shown + "..." if len(data) > 60 else shown


def _malformed(what: str, data: bytes, position: int) -> ProtocolError:
    return ProtocolError(f"the server sent malformed {what}: {_line(data, position)}")


def _line(data: bytes, position: int) -> str:
    """The beginning of a control line, which is complete; what follows it may not be there yet."""
    return excerpt(data[position : min(data.find(b"\r\n", position), position + 61)])


def _too_large(size: int, limit: int, data: bytes, position: int) -> ProtocolError:
    return ProtocolError(
        f"the server announced {size:,} bytes, more than the limit of {limit:,}: "
        f"{_line(data, position)}"
    )


def error_text(raw: bytes) -> str:
    """What follows ``-ERR``: without its quotes, bounded and printable."""
    text = raw.decode("utf-8", "replace").strip(" \t").removeprefix("'").removesuffix("'")
    printable = "".join(char if char.isprintable() else "?" for char in text[:_MAX_ERROR])
    return printable
