"""What the server says about a message it delivers: it is all in the reply subject (ADR-15).

There are two forms, of nine tokens and of eleven or more::

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
    $JS.ACK.<domain>.<account>.<stream>.<consumer>. ... .<pending>[.<more>]
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

__all__ = ["MsgMetadata", "read_metadata"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = 2**64 - 1


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
    tokens = reply.split(".")
    if tokens[:2] == ["$JS", "ACK"]:
        if len(tokens) == 9:
            return _read(None, tokens[2:])
        if len(tokens) >= 11:
            return _read(tokens[2], tokens[4:11])
    raise ValueError(f"{reply[:200]!a} is not the reply subject of a JetStream message")


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
