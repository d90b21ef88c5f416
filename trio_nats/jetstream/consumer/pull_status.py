"""Statuses: what the server reports about pull requests (ADR-13, 37)."""

from __future__ import annotations

import enum

import msgspec

from ...message import Msg
from .message import is_ack_subject

__all__ = ["TOO_LARGE", "PullOutcome", "PullStatus", "read_status"]

_MAX_SHOWN = 200
TOO_LARGE = "the next message is larger than max_bytes"
"""The beginning of the description of an error."""


class PullOutcome(enum.Enum):
    """What a status means for its pull request."""

    ALIVE = enum.auto()
    """A heartbeat: the pull request is waiting."""
    DONE = enum.auto()
    """It ended as it should, for example when its time was over. The status tells the rest."""
    TOO_LARGE = enum.auto()
    """It ended because the next message is larger than the rest of its ``max_bytes``."""
    REFUSED = enum.auto()
    """It was refused because it exceeds a limit. It may be accepted later."""
    LOST = enum.auto()
    """All pull requests are lost with their leader. A new leader will accept new ones."""
    UNPINNED = enum.auto()
    """Another client of the priority group was pinned."""
    ABSENT = enum.auto()
    """Nobody received it: the consumer does not exist, or has no leader."""
    FATAL = enum.auto()
    """No pull request can succeed any more."""


class PullStatus(msgspec.Struct, frozen=True):
    """A status, and its pull request."""

    outcome: PullOutcome
    code: int
    description: str
    subject: bytes
    """The reply subject of the pull request."""
    pending_messages: int | None = None
    """Number of messages that were requested and not delivered, if the status tells."""
    pending_bytes: int | None = None
    last_consumer_seq: int | None = None
    """The number of the consumer's last delivery, in heartbeats."""


def read_status(msg: Msg) -> PullStatus | None:
    """Return the status in ``msg``, or ``None`` if it is a message from the stream.

    Stored messages may contain a status line too, but have a reply subject for acknowledgements.
    """
    if msg.data or msg.raw_headers is None or is_ack_subject(msg.raw_reply):
        return None
    status = msg.status
    if status is None:
        return None
    code, description = status
    headers = msg.headers
    return PullStatus(
        _outcome(code, description.lower()),
        code,
        description[:_MAX_SHOWN],
        msg.raw_subject,
        _count(headers.get("Nats-Pending-Messages")),
        _count(headers.get("Nats-Pending-Bytes")),
        _count(headers.get("Nats-Last-Consumer")),
    )


def _outcome(code: int, text: str) -> PullOutcome:
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
            return _outcome_of_conflict(text)
        case _:
            return PullOutcome.REFUSED


def _outcome_of_conflict(text: str) -> PullOutcome:
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
