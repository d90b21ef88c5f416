"""Messages as a stream keeps them, and both ways of getting them (ADR-31)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ...headers import Headers, decode_headers
from ...message import Msg
from ..errors import JetStreamAPIError, JetStreamError, MessageNotFoundError
from ..json_codec import time_from_wire

__all__ = ["MsgAnswer", "MsgRequest", "StoredMsg", "from_answer", "from_direct", "number_in"]

_STREAM, _SUBJECT = b"Nats-Stream", b"Nats-Subject"
_SEQUENCE, _TIME = b"Nats-Sequence", b"Nats-Time-Stamp"
PENDING, LAST = "Nats-Num-Pending", "Nats-Last-Sequence"
UP_TO = "Nats-UpTo-Sequence"


class StoredMsg(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A message in a stream."""

    stream: str
    """The stream it is in; that of the origin if a mirror of it answered."""
    subject: str
    """What it is stored under."""
    seq: int
    """Its sequence number."""
    time: datetime | None
    """When it was stored, in UTC."""
    data: bytes
    """The payload."""
    headers: Headers
    """The headers it was published with."""


class MsgRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which message, or messages."""

    seq: int = 0
    last_by_subj: str = ""
    next_by_subj: str = ""
    batch: int = 0
    max_bytes: int = 0
    start_time: datetime | None = None
    multi_last: Sequence[str] = ()
    up_to_seq: int = 0
    up_to_time: datetime | None = None


class _Raw(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    seq: int
    hdrs: bytes = b""
    data: bytes = b""
    time: datetime | None = None


class MsgAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A message in JSON, its headers and its payload in base 64."""

    message: _Raw


def from_answer(stream: str, answer: MsgAnswer) -> StoredMsg:
    """The message in an answer of the API."""
    raw = answer.message
    return StoredMsg(
        stream=stream,
        subject=raw.subject,
        seq=raw.seq,
        time=raw.time,
        data=raw.data,
        headers=decode_headers(raw.hdrs)[0],
    )


def from_direct(msg: Msg) -> StoredMsg:
    """The message that a direct get was answered by.

    What it is stored as stands in headers of the answer, behind the message's own. Raises
    :exc:`JetStreamAPIError`, or :exc:`MessageNotFoundError`, if it is a refusal.
    """
    if (status := msg.status) is not None:
        if status.code == 404:
            raise MessageNotFoundError(404, 10037, "no message found")
        raise JetStreamAPIError(status.code, 0, status.description or "direct get failed")
    told, own = _split(msg.raw_headers or b"")
    try:
        return StoredMsg(
            stream=told[_STREAM],
            subject=told[_SUBJECT],
            seq=int(told[_SEQUENCE]),
            time=_time(told[_TIME]),
            data=msg.data,
            headers=decode_headers(own)[0],
        )
    except (KeyError, ValueError) as error:
        raise JetStreamError(f"malformed answer to a direct get: {error!r}") from error


def _split(block: bytes) -> tuple[dict[bytes, str], bytes]:
    """What the server says in a header block, and the block without that.

    The raw lines tell, for the subject may hold what no header may. Left out as unreadable, it
    would leave the last word to a line of the publisher's.
    """
    lines = block.split(b"\r\n")
    told: dict[bytes, str] = {}
    for name in (_STREAM, _SUBJECT, _SEQUENCE, _TIME, PENDING.encode(), LAST.encode()):
        for position in range(len(lines) - 1, 0, -1):
            found, colon, value = lines[position].partition(b":")
            if colon and found == name:
                told[name] = value.strip(b" \t").decode("utf-8", "backslashreplace")
                del lines[position]
                break
    return told, b"\r\n".join(lines)


def number_in(msg: Msg, name: str) -> int | None:
    """A number in a header; ``None`` if there is none."""
    values = msg.headers.get_all(name)
    text = values[-1] if values else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _time(text: str) -> datetime | None:
    """Servers before 2.10 or so write times in Go's own way."""
    if text.endswith(" UTC"):
        date, clock, *_ = text.split(" ")
        text = f"{date}T{clock}Z"
    return time_from_wire(text)
