"""Statistics of a connection."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters", "Statistics"]


@dataclass(slots=True)
class Counters:
    """Counters that are increased as things happen."""

    in_messages: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    dropped: int = 0
    lost_in_flight: int = 0
    discarded: int = 0
    connects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Statistics of a connection at one moment, counted since it was opened (ADR-40).

    Numbers of bytes are those of the NATS protocol, including framing, before encryption and
    compression.
    """

    in_messages: int
    """Messages received, including replies and messages that were dropped."""
    in_bytes: int
    """Bytes received, including those of connecting."""
    out_messages: int
    """Messages published by ``publish``, ``respond`` and ``request``, including messages that wait
    to be sent."""
    out_bytes: int
    """Bytes sent, including those of connecting."""
    dropped: int
    """Messages dropped because a subscription, or the replies to a request, reached its limits."""
    lost_in_flight: int
    """Messages that were being sent when a connection was lost. They may have arrived, and are not
    sent again."""
    discarded: int
    """Messages waiting to be sent that were discarded, because the new server does not accept them;
    see :class:`~trio_nats.events.MessagesDiscarded`."""
    reconnects: int
    """How often the connection to a server was replaced, including moves to another server."""
    subscriptions: int
    """Open subscriptions."""
    pending_messages: int
    """Messages that wait in subscriptions and replies to be received."""
    pending_bytes: int
    """Size of those messages in bytes."""
    outbox_bytes: int
    """Bytes that wait to be sent."""
