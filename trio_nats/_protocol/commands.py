"""Encode commands to bytes. Arguments must have been checked already (see ``subjects``).

Published messages are returned in pieces; :mod:`trio_nats._core.outbox` explains why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from ..errors import InvalidSubjectError, MaxPayloadError
from ..subjects import check_filter, check_subject

__all__ = ["CRLF", "MAX_CONTROL_LINE", "PING", "PONG", "Frame", "PubLineCache"]
__all__ += ["check_sub", "connect", "connect_fault", "hpub", "pub", "sub", "too_long", "unsub"]

_MAX_REMEMBERED = 4096
_MAX_REMEMBERED_LENGTH = 256
"""Maximum length of a subject to remember, in bytes. Longer ones are checked each time."""
_SID_DIGITS = 10
"""Number of digits to reserve for the sid, which is not known yet when a subject is checked."""

MAX_CONTROL_LINE = 4096
"""Default ``max_control_line`` of servers."""

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"


def connect(fields: Mapping[str, str | int | bool]) -> bytes:
    """Return CONNECT with the given fields."""
    # msgspec rejects subclasses of str, which some parsers of configuration files return.
    return b"CONNECT %b\r\n" % msgspec.json.encode(fields, enc_hook=str.__str__)


# Servers apply max_control_line to the arguments: the line without the verb, the space behind it
# and the line end.


def too_long(length: int, limit: int, parts: Mapping[str, bytes | None]) -> InvalidSubjectError:
    """Return the error for a line whose arguments have ``length`` bytes, more than ``limit``."""
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
    """Return why CONNECT is longer than ``limit``, without secrets, or ``None`` if it is not."""
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


class LiteralSubject(str):
    """A subject to publish to in which wildcards are ordinary tokens.

    Only the API of JetStream takes such a subject: the one that creates a consumer has its filter.
    """

    __slots__ = ()


class PubLineCache:
    """Caches control lines of PUB, and sizes of whole frames, by subject and payload size.

    Most publishers use few subjects and sizes over and over. For others, such as replies to
    inboxes, the cache fills up and is emptied. It holds 4,096 lines with subjects of up to 256
    bytes.
    """

    def __init__(self, max_payload: int, max_control_line: int) -> None:
        self.max_control_line: int = max_control_line
        """Maximum size of a line's arguments."""
        self.known: dict[str, dict[int, tuple[bytes, int]]] = {}
        """The cache. Its subjects are valid, and its sizes are within :attr:`max_payload`."""
        self._remembered = 0
        self._subjects: dict[str, bytes] = {}
        self._max_payload = max_payload
        self.unchecked_size: int = min(max_payload, max_control_line)
        """Maximum size of a frame that needs no :meth:`check`."""

    @property
    def max_payload(self) -> int:
        """Maximum size of headers and payload."""
        return self._max_payload

    @max_payload.setter
    def max_payload(self, size: int) -> None:
        if size != self._max_payload:
            self._max_payload = size
            self.unchecked_size = min(size, self.max_control_line)
            self._forget()

    def learn(self, subject: str, size: int) -> tuple[bytes, int]:
        """Check a subject and a payload size, and remember them.

        :returns: the control line and the frame's size.
        """
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
        """Return the bytes of a subject to publish to. It is only checked the first time."""
        try:
            return self._subjects[subject]
        except (KeyError, TypeError):  # TypeError: unhashable, so not a subject
            if isinstance(subject, LiteralSubject):
                return check_filter(subject)
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
        """Raise if a message is too large, or its line too long, for the server.

        :param size: bytes of headers and payload.
        :param length: bytes of the line's arguments.
        """
        if size > self._max_payload:
            raise MaxPayloadError(size, self._max_payload)
        if length > self.max_control_line:
            parts = {"subject": subject, "reply subject": reply}
            raise too_long(length, self.max_control_line, parts)


def pub(subject: bytes, reply: bytes | None, payload: bytes) -> Frame:
    """Return a PUB frame."""
    if reply is None:
        return b"PUB %b %d\r\n" % (subject, len(payload)), payload, CRLF
    return b"PUB %b %b %d\r\n" % (subject, reply, len(payload)), payload, CRLF


def hpub(subject: bytes, reply: bytes | None, headers: bytes, payload: bytes) -> Frame:
    """Return an HPUB frame. ``headers`` comes from :func:`trio_nats.headers.encode_headers`."""
    size = len(headers)
    total = size + len(payload)
    if reply is None:
        head = b"HPUB %b %d %d\r\n%b" % (subject, size, total, headers)
    else:
        head = b"HPUB %b %b %d %d\r\n%b" % (subject, reply, size, total, headers)
    return head, payload, CRLF


def sub(subject: bytes, queue: bytes | None, sid: bytes) -> bytes:
    """Return SUB."""
    if queue is None:
        return b"SUB %b %b\r\n" % (subject, sid)
    return b"SUB %b %b %b\r\n" % (subject, queue, sid)


def unsub(sid: bytes, max_msgs: int | None = None) -> bytes:
    """Return UNSUB, immediate or after ``max_msgs`` messages in total."""
    if max_msgs is None:
        return b"UNSUB %b\r\n" % sid
    return b"UNSUB %b %d\r\n" % (sid, max_msgs)
