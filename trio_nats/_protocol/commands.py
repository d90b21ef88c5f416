"""From what a client wants to say to bytes. Arguments are already checked (see ``subjects``)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["PING", "PONG", "connect", "hpub", "pub", "sub", "unsub"]

PING = b"PING\r\n"
PONG = b"PONG\r\n"


def connect(fields: Mapping[str, str | int | bool]) -> bytes:
    """CONNECT with the given fields."""
    return b"CONNECT %b\r\n" % msgspec.json.encode(fields)


def pub(subject: bytes, reply: bytes | None, payload: bytes) -> bytes:
    """PUB; ``payload`` is anything bytes-like."""
    if reply is None:
        return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)


def hpub(subject: bytes, reply: bytes | None, headers: bytes, payload: bytes) -> bytes:
    """HPUB; ``headers`` is a whole block as :func:`trio_nats.headers.encode_headers` makes it."""
    head = len(headers)
    total = head + len(payload)
    if reply is None:
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, head, total, headers, payload)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, head, total, headers, payload)


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
