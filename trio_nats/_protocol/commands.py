"""From what a client wants to say to bytes. Arguments are already checked (see ``subjects``).

What is published comes in pieces: see :mod:`trio_nats._core.outbox` for why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from .subjects import check_subject

__all__ = ["CRLF", "PING", "PONG", "SIZE_LINES", "Frame", "Prefixes"]
__all__ += ["connect", "hpub", "pub", "sub", "unsub"]

_MAX_REMEMBERED = 4096

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"


def connect(fields: Mapping[str, str | int | bool]) -> bytes:
    """CONNECT with the given fields."""
    return b"CONNECT %b\r\n" % msgspec.json.encode(fields)


class Prefixes(dict[str, bytes]):
    """What a PUB to a subject begins with, by subject; checks those it has not seen.

    Publishers use few subjects over and over. Those that use many (replies to inboxes, say) only
    fill it until it is emptied.
    """

    def __missing__(self, subject: str) -> bytes:
        prefix = b"PUB %b " % check_subject(subject)
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        self[subject] = prefix
        return prefix


class _SizeLines(dict[int, bytes]):
    """The end of a control line, by the size that stands there."""

    def __missing__(self, size: int) -> bytes:
        line = b"%d\r\n" % size
        if len(self) >= _MAX_REMEMBERED:
            self.clear()
        self[size] = line
        return line


SIZE_LINES = _SizeLines()

Frame: TypeAlias = tuple[bytes, bytes, bytes, bytes]
"""A message to be published: control line up to the size, size, headers and payload, line end."""


def pub(prefix: bytes, reply: bytes | None, payload: bytes) -> Frame:
    """PUB, with the prefix of its subject out of :class:`Prefixes`."""
    head = prefix if reply is None else b"%b%b " % (prefix, reply)
    return head, SIZE_LINES[len(payload)], payload, CRLF


def hpub(prefix: bytes, reply: bytes | None, headers: bytes, payload: bytes) -> Frame:
    """HPUB; ``headers`` is a whole block as :func:`trio_nats.headers.encode_headers` makes it."""
    size = len(headers)
    head = b"H%b%d " % (prefix, size) if reply is None else b"H%b%b %d " % (prefix, reply, size)
    body = headers + payload
    return head, SIZE_LINES[len(body)], body, CRLF


def sub(subject: bytes, queue: bytes | None, sid: bytes) -> bytes:
    """SUB."""
    if queue is None:
        return b"SUB %b %b\r\n" % (subject, sid)
    return b"SUB %b %b %b\r\n" % (subject, queue, sid)


def unsub(sid: bytes, max_msgs: int | None = None) -> bytes:
    """UNSUB, at once or after ``max_msgs`` messages in all."""
    if max_msgs is None:
        return b"UNSUB %b\r\n" % sid
    return b"UNSUB %b %d\r\n" % (sid, max_msgs)
