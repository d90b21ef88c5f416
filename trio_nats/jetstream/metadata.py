"""What the server says about a message it delivers: it is all in the reply subject (ADR-15).

There are two forms, of nine tokens and of eleven or more::

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
    $JS.ACK.<domain>.<account>.<stream>.<consumer>. ... .<pending>[.<more>]

The subjects that flow control is answered at begin alike, with ``$JS.FC``. A message that has come
through a gateway may have ``_GR_.<cluster>.<server>`` in front of either.

Whoever may publish to where a consumer delivers chooses the reply subject, and would have this
client publish there with its own permissions. So a message is believed only if its reply subject is
one of the very consumer that it should come from.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec

__all__ = ["MsgMetadata", "ReplySubjects", "is_ack_subject", "read_metadata"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**64 - 1
_GATEWAY = "_GR_"
_ACK = b"$JS.ACK."

_can_be_published_to = re.compile(r"[^\x00-\x20\x7f.*>]+(?:\.[^\x00-\x20\x7f.*>]+)*").fullmatch


class MsgMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message comes from, and how often it came."""

    stream: str
    consumer: str
    delivered: int
    """How many times it has been delivered, this time included."""
    stream_seq: int
    """Its number in the stream."""
    consumer_seq: int
    """The number of this delivery among all of the consumer."""
    timestamp_ns: int
    """When the stream took it, in nanoseconds since 1970 (UTC)."""
    pending: int
    """How many messages the consumer has not been sent yet."""
    domain: str | None = None
    """The JetStream domain, if there is one."""

    @property
    def timestamp(self) -> datetime:
        """When the stream took it, in UTC; to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.timestamp_ns // 1000)


def read_metadata(reply: str) -> MsgMetadata:
    """What a reply subject says. Raises :exc:`ValueError` if it is not one of JetStream's."""
    tokens = _split(reply)
    if tokens[:2] == ["$JS", "ACK"]:
        if len(tokens) == 9:
            return _read(None, tokens[2:])
        if len(tokens) >= 11:
            return _read(tokens[2], tokens[4:11])
    raise ValueError(f"{reply[:200]!a} is not the reply subject of a JetStream message")


class ReplySubjects:
    """Recognises the reply subjects of one consumer."""

    __slots__ = ("_consumer", "_dots", "_front", "_stream")

    def __init__(self, stream: str, consumer: str) -> None:
        self._stream = stream
        self._consumer = consumer
        # What the last acknowledgement began with, up to the numbers.
        self._front = b"$JS.ACK.%b.%b." % (stream.encode(), consumer.encode())
        self._dots = 8

    def is_ack(self, reply: bytes | None) -> bool:
        """Whether a message with this reply subject is one that the consumer has delivered."""
        if reply is None:
            return False
        # Asked for each message. Whose it is matters; the numbers are for those who read them.
        if reply.startswith(self._front) and reply.count(b".") == self._dots:
            return True
        return self._is_other_ack(reply)

    def _is_other_ack(self, reply: bytes) -> bool:
        try:
            text = reply.decode()
            metadata = read_metadata(text)
        except ValueError:
            return False
        own = (metadata.stream, metadata.consumer) == (self._stream, self._consumer)
        if not (own and _can_be_published_to(text)):
            return False
        front = reply.rsplit(b".", 5)[0] + b"."
        if front.endswith(b".%b.%b." % (self._stream.encode(), self._consumer.encode())):
            self._front, self._dots = front, reply.count(b".")
        return True

    def is_flow_control(self, subject: str) -> bool:
        """Whether it is where the consumer is told that messages have been dealt with."""
        match _split(subject):
            case ["$JS", "FC", stream, consumer, _] | ["$JS", "FC", _, _, stream, consumer, _]:
                own = (stream, consumer) == (self._stream, self._consumer)
                return own and bool(_can_be_published_to(subject))
            case _:
                return False


def is_ack_subject(reply: bytes | None) -> bool:
    """Whether a message with this reply subject comes out of a stream, whichever."""
    return reply is not None and (
        reply.startswith(_ACK) or (reply.startswith(b"_GR_.") and b"." + _ACK in reply)
    )


def _split(subject: str) -> list[str]:
    """The tokens, without those that a gateway has put in front."""
    tokens = subject.split(".")
    return tokens[3:] if tokens[0] == _GATEWAY else tokens


def _read(domain: str | None, tokens: list[str]) -> MsgMetadata:
    stream, consumer, *numbers = tokens
    delivered, stream_seq, consumer_seq, timestamp_ns, pending = map(_number, numbers)
    return MsgMetadata(
        stream=stream,
        consumer=consumer,
        delivered=delivered,
        stream_seq=stream_seq,
        consumer_seq=consumer_seq,
        timestamp_ns=timestamp_ns,
        pending=pending,
        domain=None if domain in (None, "", "_") else domain,
    )


def _number(token: str) -> int:
    # int() takes signs, spaces and underscores too, and any length.
    if token.isascii() and token.isdigit() and len(token) <= 20:
        number = int(token)
        if number <= _LARGEST:
            return number
    raise ValueError(f"{token[:40]!a} is not a number of JetStream's")
