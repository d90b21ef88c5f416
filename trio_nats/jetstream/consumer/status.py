"""What the server says about a pull, as opposed to what it delivers (ADR-13, ADR-37)."""

from __future__ import annotations

import enum

import msgspec

from ...message import Msg
from .message import is_ack_subject

__all__ = ["PullOutcome", "PullStatus", "read_status"]

_MAX_SHOWN = 200


class PullOutcome(enum.Enum):
    """What a status means for the pull it is about."""

    ALIVE = enum.auto()
    """It is waiting: a heartbeat."""
    DONE = enum.auto()
    """It has come to its end, in good order: its time is over, say. What is left is told."""
    TOO_LARGE = enum.auto()
    """It has come to its end because the next message has more bytes than are left of it."""
    REFUSED = enum.auto()
    """It was never begun, for a limit is exceeded; later it may be otherwise."""
    LOST = enum.auto()
    """All pulls are gone, for their leader is; another one will take new ones."""
    UNPINNED = enum.auto()
    """Another client of the group is the pinned one now."""
    ABSENT = enum.auto()
    """Nobody took it: the consumer is gone, or not there yet."""
    FATAL = enum.auto()
    """There is no use in asking again."""


class PullStatus(msgspec.Struct, frozen=True):
    """A status, and the pull it is about."""

    verdict: PullOutcome
    code: int
    description: str
    subject: bytes
    """The reply subject of the pull it is about."""
    pending_messages: int | None = None
    """How many messages of the pull were not delivered, if told."""
    pending_bytes: int | None = None
    last_consumer_seq: int | None = None
    """With a heartbeat: the number of the consumer's last delivery."""


def read_status(msg: Msg) -> PullStatus | None:
    """The status that ``msg`` is; ``None`` if it is a message like any other.

    What is in a stream can have a status line of its own, but comes with a reply subject.
    """
    if msg.data or msg.raw_headers is None or is_ack_subject(msg.raw_reply):
        return None
    status = msg.status
    if status is None:
        return None
    code, description = status
    headers = msg.headers
    return PullStatus(
        _verdict(code, description.lower()),
        code,
        description[:_MAX_SHOWN],
        msg.raw_subject,
        _count(headers.get("Nats-Pending-Messages")),
        _count(headers.get("Nats-Pending-Bytes")),
        _count(headers.get("Nats-Last-Consumer")),
    )


def _verdict(code: int, text: str) -> PullOutcome:
    match code:
        case 100:
            return PullOutcome.ALIVE
        case 400:
            return PullOutcome.FATAL
        case 404 | 408:
            return PullOutcome.DONE
        case 423:
            return PullOutcome.UNPINNED
        case 503:
            return PullOutcome.ABSENT
        case 409:
            return _verdict_of_conflict(text)
        case _:
            return PullOutcome.REFUSED


def _verdict_of_conflict(text: str) -> PullOutcome:
    if "consumer deleted" in text or "push based" in text:
        return PullOutcome.FATAL
    if "size exceeds maxbytes" in text:
        return PullOutcome.TOO_LARGE
    if "batch completed" in text or "interest expired" in text:
        return PullOutcome.DONE
    if "leadership change" in text or "server shutdown" in text:
        return PullOutcome.LOST
    return PullOutcome.REFUSED


def _count(value: str | None) -> int | None:
    if value is not None and value.isascii() and value.isdigit() and len(value) <= 20:
        return int(value)
    return None
