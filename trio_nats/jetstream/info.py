"""What JetStream tells about streams, consumers and accounts. Times are in UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from .consumer.config import ConsumerConfig
from .json_codec import Seconds
from .stream_config import ExternalStream, StreamConfig, SubjectTransform

__all__ = [
    "APIStats",
    "AccountInfo",
    "AccountLimits",
    "ClusterInfo",
    "ConsumerInfo",
    "LostMessages",
    "PeerInfo",
    "PriorityGroupState",
    "SequenceInfo",
    "SourceInfo",
    "StreamAlternate",
    "StreamInfo",
    "StreamState",
    "Tier",
]


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Another server with a replica."""

    name: str = ""
    current: bool = False
    """Whether it has all there is."""
    offline: bool = False
    active: Seconds = 0.0
    """Seconds since it was heard of."""
    lag: int = 0
    """How many operations it is behind."""
    peer: str = ""
    """The server's id."""


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stream or a consumer is."""

    name: str = ""
    leader: str = ""
    """The server that leads; empty if there is none at the moment."""
    leader_since: datetime | None = None
    replicas: Sequence[PeerInfo] = ()
    """The others."""
    raft_group: str = ""
    system_account: bool = False
    traffic_account: str = ""


class LostMessages(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be read from a damaged store."""

    msgs: Sequence[int] = ()
    bytes: int = 0


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a stream."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    first_ts: datetime | None = None
    """When the first message was stored; ``None`` if there is none."""
    last_seq: int = 0
    last_ts: datetime | None = None
    """When the last message was stored; ``None`` if there is none."""
    num_subjects: int = 0
    num_deleted: int = 0
    """How many are missing between the first and the last."""
    deleted: Sequence[int] = ()
    """Which ones, if that was asked for."""
    lost: LostMessages | None = None
    consumer_count: int = 0


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How far a stream has been copied into this one."""

    name: str = ""
    filter_subject: str = ""
    subject_transforms: Sequence[SubjectTransform] = ()
    lag: int = 0
    """How many messages are still to come."""
    active: Seconds = 0.0
    """Seconds since something was heard; negative if nothing was so far."""
    external: ExternalStream | None = None


class StreamAlternate(msgspec.Struct, frozen=True, kw_only=True):
    """A stream or a mirror of it, the best one to ask first."""

    name: str = ""
    cluster: str = ""
    domain: str = ""


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream is, and what is in it."""

    config: StreamConfig
    created: datetime | None = None
    state: StreamState = StreamState()
    cluster: ClusterInfo | None = None
    mirror: SourceInfo | None = None
    sources: Sequence[SourceInfo] = ()
    alternates: Sequence[StreamAlternate] = ()
    domain: str = ""
    ts: datetime | None = None
    """When this was so."""


class SequenceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consumer has come."""

    consumer_seq: int = 0
    """Counting what was delivered, repetitions included."""
    stream_seq: int = 0
    """The message's sequence number in the stream."""
    last_active: datetime | None = None


class PriorityGroupState(msgspec.Struct, frozen=True, kw_only=True):
    """Who is served in a priority group (ADR-42)."""

    group: str = ""
    pinned_client_id: str = ""
    pinned_ts: datetime | None = None


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer is, and how far it has come."""

    stream_name: str
    name: str
    config: ConsumerConfig = ConsumerConfig()
    created: datetime | None = None
    delivered: SequenceInfo = SequenceInfo()
    """The last message delivered."""
    ack_floor: SequenceInfo = SequenceInfo()
    """The last message before which all are acknowledged."""
    num_ack_pending: int = 0
    """How many were delivered and are not acknowledged."""
    num_redelivered: int = 0
    """How many were delivered more than once and are not acknowledged."""
    num_waiting: int = 0
    """How many pulls wait."""
    num_pending: int = 0
    """How many messages are still to be delivered."""
    cluster: ClusterInfo | None = None
    push_bound: bool = False
    """Whether somebody is subscribed to where it pushes."""
    paused: bool = False
    pause_remaining: Seconds = 0.0
    priority_groups: Sequence[PriorityGroupState] = ()
    ts: datetime | None = None
    """When this was so."""


class AccountLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an account may have; -1: any number."""

    max_memory: int = -1
    max_storage: int = -1
    max_streams: int = -1
    max_consumers: int = -1
    max_ack_pending: int = -1
    memory_max_stream_bytes: int = -1
    storage_max_stream_bytes: int = -1
    max_bytes_required: bool = False
    """Whether streams have to have ``max_bytes``."""


class APIStats(msgspec.Struct, frozen=True, kw_only=True):
    """How much the account has asked for."""

    level: int = 0
    """The API level of the server (ADR-44)."""
    total: int = 0
    errors: int = 0
    inflight: int = 0


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """What an account has, and may have; sizes are in bytes."""

    memory: int = 0
    storage: int = 0
    reserved_memory: int = 0
    reserved_storage: int = 0
    streams: int = 0
    consumers: int = 0
    limits: AccountLimits = AccountLimits()


class AccountInfo(Tier, frozen=True, kw_only=True):
    """What an account has, and may have, in all."""

    domain: str = ""
    api: APIStats = APIStats()
    tiers: Mapping[str, Tier] = {}
    """The same for each tier, such as ``R3``, where limits are by tier."""
