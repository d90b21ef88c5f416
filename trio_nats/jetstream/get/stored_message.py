"""Stored messages, as the API and direct gets return them (ADR-31)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from ...codecs import Decoder, decode_error
from ...headers import Headers, Status, decode_headers
from ...message import Msg
from ..errors import (
    ErrorCode,
    JetStreamAPIError,
    JetStreamError,
    MessageNotFoundError,
    described,
)
from ..json_codec import time_from_wire

__all__ = [
    "DirectAnswer",
    "MsgAnswer",
    "MsgRequest",
    "StoredMsg",
    "from_answer",
    "message_not_found",
    "split_block",
]

T = TypeVar("T")

_STREAM, _SUBJECT = "Nats-Stream", "Nats-Subject"
_SEQUENCE, _TIME = "Nats-Sequence", "Nats-Time-Stamp"
PENDING, UP_TO = "Nats-Num-Pending", "Nats-UpTo-Sequence"


class StoredMsg(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A message stored in a stream."""

    stream: str
    """The name of the stream; that of the origin if a mirror answered."""
    subject: str
    """The subject under which it is stored."""
    seq: int
    """Its sequence number in the stream."""
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
    """A request for one message, or for a batch of them (ADR-31)."""

    seq: int = 0
    last_by_subj: str = ""
    next_by_subj: str = ""
    batch: int = 0
    max_bytes: int = 0
    start_time: datetime | None = None
    multi_last: Sequence[str] = ()
    up_to_seq: int = 0
    up_to_time: datetime | None = None


def message_not_found(
    error: MessageNotFoundError, stream: str, request: MsgRequest
) -> MessageNotFoundError:
    """Return the error with a text that names the message that was requested."""
    subject = request.last_by_subj or request.next_by_subj
    text = f"stream {stream!r} has no message"
    if subject:
        text += f" of {subject!r}"
    if request.start_time is not None:
        text += f" stored at {request.start_time.isoformat()} or later"
    elif request.seq > 1 or not subject:
        text += f" from sequence number {request.seq} on" if subject else f" {request.seq}"
    return described(error, text)


class _Raw(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    seq: int
    hdrs: bytes = b""
    data: bytes = b""
    time: datetime | None = None


class MsgAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with a message in JSON; headers and payload are in base64."""

    message: _Raw


def from_answer(stream: str, answer: MsgAnswer) -> StoredMsg:
    """Return the message in an answer of the API."""
    raw = answer.message
    return StoredMsg(
        stream=stream,
        subject=raw.subject,
        seq=raw.seq,
        timestamp=raw.time,
        data=raw.data,
        headers=decode_headers(raw.hdrs)[0],
    )


class DirectAnswer:
    """An answer to a direct get: a message, or a status.

    Stream, subject, sequence number and time are in headers that follow those of the message.
    """

    __slots__ = ("_msg", "_publisher_block", "_server_lines")

    def __init__(self, msg: Msg) -> None:
        self._msg = msg
        self._server_lines, self._publisher_block = split_block(msg.raw_headers or b"")

    @property
    def status(self) -> Status | None:
        """The status; ``None`` if it is a stored message.

        An answer with the headers that the server adds is a message, whatever its status line says:
        a publisher may have written that.
        """
        return None if _SEQUENCE in self._server_lines else self._msg.status

    def stored(self) -> StoredMsg:
        """Return the message.

        :raises MessageNotFoundError: if there is no such message.
        :raises JetStreamAPIError: if the server refused the request.
        :raises JetStreamError: if the answer is malformed.
        """
        if (status := self.status) is not None:
            if status.code == 404:
                raise MessageNotFoundError(404, ErrorCode.MESSAGE_NOT_FOUND, "no message found")
            raise JetStreamAPIError(status.code, 0, status.description or "direct get failed")
        told = self._server_lines
        try:
            return StoredMsg(
                stream=told[_STREAM],
                subject=told[_SUBJECT],
                seq=int(told[_SEQUENCE]),
                timestamp=_time(told[_TIME]),
                data=self._msg.data,
                headers=decode_headers(self._publisher_block)[0],
            )
        except (KeyError, ValueError, OverflowError) as error:
            raise JetStreamError(f"malformed answer to a direct get: {error!r}") from error

    def number(self, name: str) -> int | None:
        """Return a number from a header line of the server, or ``None``."""
        text = self._server_lines.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None

    @property
    def size(self) -> int:
        """Size of the payload and the headers, in bytes."""
        return len(self._msg.data) + len(self._msg.raw_headers or b"")


def split_block(block: bytes) -> tuple[dict[str, str], bytes]:
    """Return the header lines of the server, and the header block of the publisher.

    The server appends its lines to the publisher's block, beginning with the name of the stream.
    Names and subjects contain no space, so the last line that begins like that is the server's.
    The lines are read raw because subjects may contain bytes that are not allowed in headers.
    """
    own, found, rest = block.rpartition(_STREAM.encode() + b": ")
    lines = (found + rest).decode("utf-8", "backslashreplace").split("\r\n")
    told: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        told[name] = value.strip(" \t")
    return told, own


def _time(text: str) -> datetime | None:
    """Read a time; servers before about 2.10 use the format of Go's ``Time.String``."""
    if text.endswith(" UTC"):
        date, clock, *_ = text.split(" ")
        text = f"{date}T{clock}Z"
    return time_from_wire(text)
