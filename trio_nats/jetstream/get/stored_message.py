"""Messages as a stream keeps them, and both ways of getting them (ADR-31)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from ...codecs import Decoder, decode_error
from ...headers import Headers, Status, decode_headers
from ...message import Msg
from ..errors import ErrorCode, JetStreamAPIError, JetStreamError, MessageNotFoundError
from ..json_codec import time_from_wire

__all__ = [
    "MsgAnswer",
    "MsgRequest",
    "StoredMsg",
    "from_answer",
    "from_direct",
    "number_in",
    "refusal",
]

T = TypeVar("T")

_STREAM, _SUBJECT = "Nats-Stream", "Nats-Subject"
_SEQUENCE, _TIME = "Nats-Sequence", "Nats-Time-Stamp"
PENDING, UP_TO = "Nats-Num-Pending", "Nats-UpTo-Sequence"


class StoredMsg(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A message in a stream."""

    stream: str
    """The stream it is in; that of the origin if a mirror of it answered."""
    subject: str
    """What it is stored under."""
    seq: int
    """Its sequence number."""
    timestamp: datetime | None
    """When it was stored, in UTC."""
    data: bytes
    """The payload."""
    headers: Headers
    """The headers it was published with."""

    def decode(self, codec: Decoder[T]) -> T:
        """Decode the payload.

        :param codec: what decodes it, such as ``JSONCodec(Order)``; see :mod:`trio_nats.codecs`.
        :returns: the value, decoded by each call again.
        :raises DecodeError: if the codec cannot read the payload. The message stays as it is.
        """
        try:
            return codec.decode(self.data)
        except Exception as error:
            raise decode_error(codec, f"the message on {self.subject!r}", error) from error


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
        timestamp=raw.time,
        data=raw.data,
        headers=decode_headers(raw.hdrs)[0],
    )


def from_direct(msg: Msg) -> StoredMsg:
    """The message that a direct get was answered by.

    What it is stored as stands in headers of the answer, behind the message's own. Raises
    :exc:`JetStreamAPIError`, or :exc:`MessageNotFoundError`, if it is a refusal.
    """
    told, own = _split(msg.raw_headers or b"")
    # A publisher may have given a message the first line of a refusal.
    if (status := refusal(msg)) is not None:
        if status.code == 404:
            raise MessageNotFoundError(404, ErrorCode.MESSAGE_NOT_FOUND, "no message found")
        raise JetStreamAPIError(status.code, 0, status.description or "direct get failed")
    try:
        return StoredMsg(
            stream=told[_STREAM],
            subject=told[_SUBJECT],
            seq=int(told[_SEQUENCE]),
            timestamp=_time(told[_TIME]),
            data=msg.data,
            headers=decode_headers(own)[0],
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise JetStreamError(f"malformed answer to a direct get: {error!r}") from error


def refusal(msg: Msg) -> Status | None:
    """Return the status of an answer to a direct get; ``None`` if it is a stored message.

    The headers that the server appends decide. The status line does not: a publisher may have
    written it.
    """
    status = msg.status
    return None if status is None or _SEQUENCE in _split(msg.raw_headers or b"")[0] else status


def _split(block: bytes) -> tuple[dict[str, str], bytes]:
    """Return what the server says in a header block, and what the publisher says in it.

    The server appends its lines to the publisher's block, the stream's first. No name of a stream
    and no subject holds a space, so the last line that begins like that is the server's. The lines
    are read raw because a subject may hold bytes that no header may.
    """
    own, found, rest = block.rpartition(_STREAM.encode() + b": ")
    lines = (found + rest).decode("utf-8", "backslashreplace").split("\r\n")
    told = {name: value.strip(" \t") for name, _, value in (line.partition(":") for line in lines)}
    return told, own


def number_in(msg: Msg, name: str) -> int | None:
    """A number that the server says; ``None`` if it does not."""
    text = _split(msg.raw_headers or b"")[0].get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _time(text: str) -> datetime | None:
    """Servers before 2.10 or so write times in Go's own way."""
    if text.endswith(" UTC"):
        date, clock, *_ = text.split(" ")
        text = f"{date}T{clock}Z"
    return time_from_wire(text)
