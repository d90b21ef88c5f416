"""What JetStream reports about streams, consumers and accounts.

Times are in UTC, durations in seconds and sizes in bytes. A field that the server did not send has
its default.
"""

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
    """Name of the server."""
    current: bool = False
    """Whether its replica is up to date."""
    offline: bool = False
    """Whether it is offline."""
    active: Seconds = 0.0
    """Seconds since it was last heard from."""
    lag: int = 0
    """Number of operations that it is behind."""
    peer: str = ""
    """ID of the server."""


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The servers of a stream or a consumer."""

    name: str = ""
    """Name of the cluster."""
    leader: str = ""
    """Name of the leader; empty if there is no leader at the moment."""
    leader_since: datetime | None = None
    """The time at which it became the leader."""
    replicas: Sequence[PeerInfo] = ()
    """The other servers."""
    raft_group: str = ""
    """Name of the Raft group."""
    system_account: bool = False
    """Whether replication uses the system account."""
    traffic_account: str = ""
    """The account that replication uses."""


class LostMessages(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that could not be read from a damaged store."""

    msgs: Sequence[int] = ()
    """Their sequence numbers."""
    bytes: int = 0
    """Their size in bytes."""


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a stream."""

    messages: int = 0
    """Number of messages."""
    bytes: int = 0
    """Size in bytes."""
    first_seq: int = 0
    """Sequence number of the first message."""
    first_ts: datetime | None = None
    """The time at which the first message was stored, or ``None``."""
    last_seq: int = 0
    """Sequence number of the last message."""
    last_ts: datetime | None = None
    """The time at which the last message was stored, or ``None``."""
    num_subjects: int = 0
    """Number of different subjects."""
    num_deleted: int = 0
    """Number of deleted messages between the first and the last."""
    deleted: Sequence[int] = ()
    """Their sequence numbers, if requested."""
    lost: LostMessages | None = None
    """Messages that were lost, if any."""
    consumer_count: int = 0
    """Number of consumers."""


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of copying another stream into this one."""

    name: str = ""
    """Name of the other stream."""
    filter_subject: str = ""
    """The subjects that are copied; empty for all."""
    subject_transforms: Sequence[SubjectTransform] = ()
    """How subjects are changed."""
    lag: int = 0
    """Number of messages still to be copied."""
    active: Seconds = 0.0
    """Seconds since it was last heard from; negative if never."""
    external: ExternalStream | None = None
    """Where the other stream is, if in another domain or account."""


class StreamAlternate(msgspec.Struct, frozen=True, kw_only=True):
    """A stream or a mirror of it; the first of several is the best to use."""

    name: str = ""
    """Name of the stream."""
    cluster: str = ""
    """Its cluster."""
    domain: str = ""
    """Its JetStream domain."""


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration and state of a stream."""

    config: StreamConfig
    """Its configuration."""
    created: datetime | None = None
    """The time at which it was created."""
    state: StreamState = StreamState()
    """Its content."""
    cluster: ClusterInfo | None = None
    """Its servers, if it is in a cluster."""
    mirror: SourceInfo | None = None
    """The stream that it mirrors, if any."""
    sources: Sequence[SourceInfo] = ()
    """The streams that are copied into it."""
    alternates: Sequence[StreamAlternate] = ()
    """This stream and its mirrors, the best to use first."""
    domain: str = ""
    """Its JetStream domain."""
    ts: datetime | None = None
    """The time of this information."""


class SequenceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A position of a consumer."""

    consumer_seq: int = 0
    """Number of deliveries up to it, including redeliveries."""
    stream_seq: int = 0
    """Sequence number of the message in the stream."""
    last_active: datetime | None = None
    """The time of the last activity."""


class PriorityGroupState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a priority group (ADR-42)."""

    group: str = ""
    """Name of the group."""
    pinned_client_id: str = ""
    """ID of the pinned client, if any."""
    pinned_ts: datetime | None = None
    """The time at which it was pinned."""


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration and state of a consumer."""

    stream_name: str
    """Name of its stream."""
    name: str
    """Name of the consumer."""
    config: ConsumerConfig = ConsumerConfig()
    """Its configuration."""
    created: datetime | None = None
    """The time at which it was created."""
    delivered: SequenceInfo = SequenceInfo()
    """The last message delivered."""
    ack_floor: SequenceInfo = SequenceInfo()
    """The last message up to which all messages are acknowledged."""
    num_ack_pending: int = 0
    """Number of messages delivered and not acknowledged."""
    num_redelivered: int = 0
    """Number of messages delivered more than once and not acknowledged."""
    num_waiting: int = 0
    """Number of waiting pull requests."""
    num_pending: int = 0
    """Number of messages still to be delivered."""
    cluster: ClusterInfo | None = None
    """Its servers, if it is in a cluster."""
    push_bound: bool = False
    """Whether a client is subscribed to the subject of a push consumer."""
    paused: bool = False
    """Whether it is paused."""
    pause_remaining: Seconds = 0.0
    """Seconds until it resumes."""
    priority_groups: Sequence[PriorityGroupState] = ()
    """The state of its priority groups."""
    ts: datetime | None = None
    """The time of this information."""


class AccountLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of an account; -1 means no limit."""

    max_memory: int = -1
    """Bytes in memory."""
    max_storage: int = -1
    """Bytes in files."""
    max_streams: int = -1
    """Number of streams."""
    max_consumers: int = -1
    """Number of consumers."""
    max_ack_pending: int = -1
    """Number of unacknowledged messages of a consumer."""
    memory_max_stream_bytes: int = -1
    """Bytes of a stream in memory."""
    storage_max_stream_bytes: int = -1
    """Bytes of a stream in files."""
    max_bytes_required: bool = False
    """Whether streams must have ``max_bytes``."""


class APIStats(msgspec.Struct, frozen=True, kw_only=True):
    """The account's use of the API."""

    level: int = 0
    """API level of the server (ADR-44)."""
    total: int = 0
    """Number of requests."""
    errors: int = 0
    """Number of requests answered with an error."""
    inflight: int = 0
    """Number of requests being processed."""


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """The use and the limits of an account; sizes are in bytes."""

    memory: int = 0
    """Bytes used in memory."""
    storage: int = 0
    """Bytes used in files."""
    reserved_memory: int = 0
    """Bytes reserved in memory."""
    reserved_storage: int = 0
    """Bytes reserved in files."""
    streams: int = 0
    """Number of streams."""
    consumers: int = 0
    """Number of consumers."""
    limits: AccountLimits = AccountLimits()
    """The limits."""


class AccountInfo(Tier, frozen=True, kw_only=True):
    """The use and the limits of an account in total."""

    domain: str = ""
    """JetStream domain."""
    api: APIStats = APIStats()
    """Use of the API."""
    tiers: Mapping[str, Tier] = {}
    """The same for each tier, such as ``R3``, if limits are by tier."""
