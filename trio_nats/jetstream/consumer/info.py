"""What JetStream reports about a consumer.

Times are in UTC and durations in seconds. A field that the server did not send has its default.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from ..info import ClusterInfo
from ..json_codec import Seconds
from .config import ConsumerConfig

__all__ = ["ConsumerInfo", "PriorityGroupState", "SequenceInfo"]


class SequenceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A position of a consumer."""

    consumer_seq: int = 0
    """The number of the delivery; redeliveries count."""
    stream_seq: int = 0
    """The sequence number of the message in the stream."""
    last_active: datetime | None = None
    """When the position last changed; ``None`` if it has not changed yet."""


class PriorityGroupState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a priority group of a consumer (ADR-42)."""

    group: str = ""
    """The name of the group."""
    pinned_client_id: str = ""
    """The id of the pinned client; empty if no client is pinned."""
    pinned_ts: datetime | None = None
    """When that client was pinned."""


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration and the state of a consumer."""

    stream_name: str
    """The name of the stream."""
    name: str
    """The name of the consumer."""
    config: ConsumerConfig = ConsumerConfig()
    """The configuration, with the defaults that the server filled in."""
    created: datetime | None = None
    """When the consumer was created."""
    delivered: SequenceInfo = SequenceInfo()
    """The last message delivered."""
    ack_floor: SequenceInfo = SequenceInfo()
    """The last message up to which all messages are acknowledged."""
    num_ack_pending: int = 0
    """How many messages were delivered and are not acknowledged yet."""
    num_redelivered: int = 0
    """How many messages were redelivered and are not acknowledged yet."""
    num_waiting: int = 0
    """How many pull requests are waiting."""
    num_pending: int = 0
    """How many messages are still to be delivered."""
    cluster: ClusterInfo | None = None
    """Where its replicas are; ``None`` if the server is not in a cluster."""
    push_bound: bool = False
    """Whether a client is subscribed to the deliver subject of a push consumer."""
    paused: bool = False
    """Whether the consumer is paused."""
    pause_remaining: Seconds = 0.0
    """Seconds until a paused consumer delivers again."""
    priority_groups: Sequence[PriorityGroupState] = ()
    """The state of its priority groups."""
    ts: datetime | None = None
    """When the server wrote this information."""
