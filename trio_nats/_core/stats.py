"""Statistics of a connection."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters", "Statistics"]


@dataclass(slots=True)
class Counters:
    """Counters of a connection, updated in place."""

    in_messages: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    dropped: int = 0
    lost_in_flight: int = 0
    discarded: int = 0
    connects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A snapshot of the statistics of a connection since it was opened (ADR-40).

    Bytes are counted at the level of the NATS protocol, including framing, but before encryption
    and compression.
    """

    in_messages: int
    """Messages received, including replies and messages that were dropped."""
    in_bytes: int
    """Bytes received, including those received while connecting."""
    out_messages: int
    """Messages published by ``publish``, ``respond`` and ``request``, including messages that are
    waiting to be sent."""
    out_bytes: int
    """Bytes sent, including those sent while connecting."""
    dropped: int
    """Messages dropped because a subscription, or the replies to a request, reached a limit."""
    lost_in_flight: int
    """Messages that were being sent when a connection was lost. They may or may not have arrived,
    and are not sent again."""
    discarded: int
    """Messages discarded before they were sent, because the new server does not accept them; see
    :class:`~trio_nats.events.MessagesDiscarded`."""
    reconnects: int
    """How often the server connection was replaced, including moves to another server."""
    subscriptions: int
    """Open subscriptions."""
    pending_messages: int
    """Messages that are waiting in subscriptions and replies to be received."""
    pending_bytes: int
    """Size of those messages in bytes."""
    outbox_bytes: int
    """Bytes that are waiting to be sent."""
