"""From what a client wants to say to bytes. Arguments are already checked (see ``subjects``).

What is published comes in pieces: see :mod:`trio_nats._core.outbox` for why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from ..errors import MaxPayloadError
from .subjects import check_subject

__all__ = ["CRLF", "PING", "PONG", "Frame", "Heads"]
__all__ += ["connect", "hpub", "pub", "sub", "unsub"]

_MAX_REMEMBERED = 4096

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"


def connect(fields: Mapping[str, str | int | bool]) -> bytes:
    """CONNECT with the given fields."""
    # msgspec takes a str itself only; some parsers of configuration files give subclasses of it.
    return b"CONNECT %b\r\n" % msgspec.json.encode(fields, enc_hook=str.__str__)


Frame: TypeAlias = tuple[bytes, bytes, bytes]
"""A message to be published: its control line and headers, its payload, and the line end."""


class Heads:
    """Control lines of PUB, and sizes of whole frames, by subject and size of the payload.

    Publishers use few subjects and sizes over and over. Those that use many (replies to inboxes,
    say) only fill it until it is emptied.
    """

    def __init__(self, max_payload: int) -> None:
        self.known: dict[str, dict[int, tuple[bytes, int]]] = {}
        """What was checked already: the subject, and the size against :attr:`max_payload`."""
        self._remembered = 0
        self._subjects: dict[str, bytes] = {}
        self._max_payload = max_payload

    @property
    def max_payload(self) -> int:
        """The most bytes of headers and payload that the server takes."""
        return self._max_payload

    @max_payload.setter
    def max_payload(self, size: int) -> None:
        if size != self._max_payload:
            self._max_payload = size
            self._forget()

    def learn(self, subject: str, size: int) -> tuple[bytes, int]:
        """Check both, and remember what comes of it."""
        line = b"PUB %b %d\r\n" % (check_subject(subject), size)
        self.check_size(size)
        if self._remembered >= _MAX_REMEMBERED:
            self._forget()
        self._remembered += 1
        found = line, len(line) + size + 2
        self.known.setdefault(subject, {})[size] = found
        return found

    def subject(self, subject: str) -> bytes:
        """The wire form of a subject to publish to, checked the first time."""
        try:
            return self._subjects[subject]
        except (KeyError, TypeError):  # what cannot be a key is no subject either
            raw = check_subject(subject)
        if len(self._subjects) >= _MAX_REMEMBERED:
            self._subjects.clear()
        self._subjects[subject] = raw
        return raw

    def _forget(self) -> None:
        self.known.clear()
        self._remembered = 0

    def check_size(self, size: int) -> None:
        """Complain about more than the server takes."""
        if size > self._max_payload:
            raise MaxPayloadError(size, self._max_payload)


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
