"""Encode commands to bytes. Arguments have been checked already (see ``subjects``).

Published messages are returned in pieces; :mod:`trio_nats._core.outbox` explains why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from ..errors import InvalidSubjectError, MaxPayloadError
from ..subjects import check_subject

__all__ = ["CRLF", "MAX_CONTROL_LINE", "PING", "PONG", "Frame", "PubLineCache"]
__all__ += ["check_sub", "connect", "connect_fault", "hpub", "pub", "sub", "too_long", "unsub"]

_MAX_REMEMBERED = 4096
_MAX_REMEMBERED_LENGTH = 256
"""Bytes of a subject. Longer ones are checked each time, so that many of them take no memory."""
_SID_DIGITS = 10
"""Left free in the lines of subscriptions, whose numbers are not known yet."""

MAX_CONTROL_LINE = 4096
"""The limit of servers unless configured otherwise."""

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"


def connect(fields: Mapping[str, str | int | bool]) -> bytes:
    """CONNECT with the given fields."""
    # msgspec takes a str itself only; some parsers of configuration files give subclasses of it.
    return b"CONNECT %b\r\n" % msgspec.json.encode(fields, enc_hook=str.__str__)


# Servers count the arguments of a line: what is between the verb and the line end, less the space
# behind the verb.


def too_long(length: int, limit: int, parts: Mapping[str, bytes | None]) -> InvalidSubjectError:
    """The error for a line with ``length`` bytes of arguments where a server takes ``limit``."""
    name, size = max(((name, len(part or b"")) for name, part in parts.items()), key=lambda p: p[1])
    return InvalidSubjectError(_fault(f"the {name}", size, length, limit))


def _fault(name: str, size: int, length: int, limit: int) -> str:
    return (
        f"{name} is too long: with its {size:,} bytes the control line has {length:,}, but the "
        f"limit is {limit:,}. Shorten it, or, if your server allows longer lines, pass its "
        "max_control_line to open_nats"
    )


def check_sub(subject: bytes, queue: bytes | None, limit: int) -> None:
    """Raise :exc:`InvalidSubjectError` if the line of a subscription is longer than ``limit``."""
    length = len(subject) + 1 + _SID_DIGITS + (0 if queue is None else 1 + len(queue))
    if length > limit:
        raise too_long(length, limit, {"subject": subject, "queue group": queue})


def connect_fault(fields: Mapping[str, str | int | bool], limit: int) -> str | None:
    """Explain, without quoting it, why CONNECT is longer than ``limit``; ``None`` if it is not."""
    length = len(connect(fields)) - len(b"CONNECT \r\n")
    if length <= limit:
        return None
    sizes = {name: len(value) for name, value in fields.items() if isinstance(value, str)}
    name = max(sizes, key=sizes.__getitem__)
    return _fault(_FIELDS.get(name, name), sizes[name], length, limit)


_FIELDS = {
    "name": "the name",
    "user": "the user name",
    "pass": "the password",
    "auth_token": "the token",
    "jwt": "the JWT",
}


Frame: TypeAlias = tuple[bytes, bytes, bytes]
"""A message to be published: its control line and headers, its payload, and the line end."""


class PubLineCache:
    """Control lines of PUB, and sizes of whole frames, by subject and size of the payload.

    Publishers use few subjects and sizes over and over. Those that use many (replies to inboxes,
    say) only fill it until it is emptied. It remembers 4,096 of up to 256 bytes each.
    """

    def __init__(self, max_payload: int, max_control_line: int) -> None:
        self.max_control_line: int = max_control_line
        """The most bytes of arguments that the server takes on a line."""
        self.known: dict[str, dict[int, tuple[bytes, int]]] = {}
        """What was checked already: the subject, and the size against :attr:`max_payload`."""
        self._remembered = 0
        self._subjects: dict[str, bytes] = {}
        self._max_payload = max_payload
        self.easy: int = min(max_payload, max_control_line)
        """The most bytes of a frame that needs no :meth:`check`."""

    @property
    def max_payload(self) -> int:
        """The most bytes of headers and payload that the server takes."""
        return self._max_payload

    @max_payload.setter
    def max_payload(self, size: int) -> None:
        if size != self._max_payload:
            self._max_payload = size
            self.easy = min(size, self.max_control_line)
            self._forget()

    def learn(self, subject: str, size: int) -> tuple[bytes, int]:
        """Check subject and size. Returns, and remembers, the control line and the frame's size."""
        raw = check_subject(subject)
        line = b"PUB %b %d\r\n" % (raw, size)
        self.check(size, len(line) - 6, raw, None)
        found = line, len(line) + size + 2
        if len(raw) > _MAX_REMEMBERED_LENGTH:
            return found
        if self._remembered >= _MAX_REMEMBERED:
            self._forget()
        self._remembered += 1
        self.known.setdefault(subject, {})[size] = found
        return found

    def subject(self, subject: str) -> bytes:
        """Return the bytes of a subject to publish to, which is checked the first time."""
        try:
            return self._subjects[subject]
        except (KeyError, TypeError):  # an unhashable key is not a subject either
            raw = check_subject(subject)
        if len(raw) > _MAX_REMEMBERED_LENGTH:
            return raw
        if len(self._subjects) >= _MAX_REMEMBERED:
            self._subjects.clear()
        self._subjects[subject] = raw
        return raw

    def _forget(self) -> None:
        self.known.clear()
        self._remembered = 0

    def check(self, size: int, length: int, subject: bytes, reply: bytes | None) -> None:
        """Complain about ``size`` bytes of headers and payload, or ``length`` of arguments on the
        line, if that is more than the server takes.
        """
        if size > self._max_payload:
            raise MaxPayloadError(size, self._max_payload)
        if length > self.max_control_line:
            parts = {"subject": subject, "reply subject": reply}
            raise too_long(length, self.max_control_line, parts)


def pub(subject: bytes, reply: bytes | None, payload: bytes) -> Frame:
    """PUB."""
    if reply is None:
        return b"PUB %b %d\r\n" % (subject, len(payload)), payload, CRLF
    return b"PUB %b %b %d\r\n" % (subject, reply, len(payload)), payload, CRLF


def hpub(subject: bytes, reply: bytes | None, headers: bytes, payload: bytes) -> Frame:
    """HPUB; ``headers`` is a whole block as :func:`trio_nats.headers.encode_headers` makes it."""
    size = len(headers)
    whole = size + len(payload)
    if reply is None:
        head = b"HPUB %b %d %d\r\n%b" % (subject, size, whole, headers)
    else:
        head = b"HPUB %b %b %d %d\r\n%b" % (subject, reply, size, whole, headers)
    return head, payload, CRLF


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
