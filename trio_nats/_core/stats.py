"""Counting what went in and out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counters", "Statistics"]


@dataclass(slots=True)
class Counters:
    """The live counters, bumped where things happen."""

    in_messages: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    dropped: int = 0
    lost_in_flight: int = 0
    discarded: int = 0
    connects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A connection's numbers at one moment, counted since it was opened (ADR-40).

    Bytes are those of the NATS protocol, framing included, below any encryption or compression.
    """

    in_messages: int
    """Messages received, replies included, dropped or not."""
    in_bytes: int
    """Bytes read, those of opening connections included."""
    out_messages: int
    """Messages accepted by ``publish``, ``respond`` and ``request``, written or not."""
    out_bytes: int
    """Bytes written, those of opening connections included."""
    dropped: int
    """Messages dropped because too many waited in a subscription, or too many replies to a
    request."""
    lost_in_flight: int
    """Messages that were being written when a connection broke; they may or may not have arrived,
    and are not sent again."""
    discarded: int
    """Messages that waited to be written and were taken out, because the server that the connection
    came to takes no such messages; see :class:`~trio_nats.events.MessagesDiscarded`."""
    reconnects: int
    """How often the connection to a server was replaced, moves to another server included."""
    subscriptions: int
    """Subscriptions that are open."""
    pending_messages: int
    """Messages received and not yet taken out of their subscriptions or replies."""
    pending_bytes: int
    """The bytes of those messages."""
    outbox_bytes: int
    """Bytes accepted and not yet handed to the socket."""
