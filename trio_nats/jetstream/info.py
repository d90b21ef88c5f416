"""What JetStream reports about streams and clusters.

Times are in UTC, durations in seconds and sizes in bytes. A field that the server did not send has
its default.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from .json_codec import Seconds
from .stream_config import (
    ExternalStream,
    Placement,
    RetentionPolicy,
    StreamConfig,
    SubjectTransform,
)

__all__ = [
    "ClusterInfo",
    "DesiredClusterInfo",
    "DesiredClusterOrigin",
    "DesiredClusterStatus",
    "LostMessages",
    "PeerInfo",
    "SourceError",
    "SourceInfo",
    "StreamAlternate",
    "StreamInfo",
    "StreamState",
]


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A follower: a server, other than the leader, that holds a replica."""

    name: str = ""
    """The name of the server."""
    current: bool = False
    """Whether the replica is up to date."""
    offline: bool = False
    """Whether the leader considers the server offline."""
    active: Seconds | None = None
    """Seconds since the leader last heard from it; ``None`` if it never has."""
    lag: int = 0
    """How many operations the replica is behind."""
    peer: str = ""
    """The id of the server in the RAFT group."""
    pending: bool = False
    """Whether the server was chosen to hold a replica, but has not joined the RAFT group yet."""


class DesiredClusterOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream or a consumer had before it was moved."""

    replicas: int = 0
    """The number of replicas."""
    placement: Placement | None = None
    """The servers that could hold it."""
    retention: RetentionPolicy | None = None
    """The retention of a stream, which remains in force until the move is done."""


class DesiredClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader is doing to move a stream or a consumer."""

    description: str = ""
    """What it is doing, or waiting for."""
    type: str = ""
    """What must change for the move to advance, such as ``"catchup"`` or ``"quorum"``."""
    err: str = ""
    """The failure behind it, if there is one that persists."""


class DesiredClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the replicas of a stream or a consumer are being moved."""

    name: str = ""
    """The name of the cluster."""
    replicas: Sequence[PeerInfo] = ()
    """The servers."""
    origin: DesiredClusterOrigin | None = None
    """What it had before."""
    status: DesiredClusterStatus | None = None
    """What the leader is doing to that end."""


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where the replicas of a stream or a consumer are."""

    name: str = ""
    """The name of the cluster."""
    leader: str = ""
    """The name of the server that is the leader; empty while there is no leader."""
    leader_since: datetime | None = None
    """When the leader was elected; ``None`` if the server does not say."""
    replicas: Sequence[PeerInfo] = ()
    """The followers."""
    raft_group: str = ""
    """The name of the RAFT group."""
    system_account: bool = False
    """Whether the replication traffic is in the system account."""
    traffic_account: str = ""
    """The account that carries the replication traffic."""
    desired: DesiredClusterInfo | None = None
    """Where the replicas are being moved; ``None`` if they are not, or the server does not say."""


class LostMessages(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that the server could not read from a damaged store."""

    msgs: Sequence[int] = ()
    """Their sequence numbers."""
    bytes: int = 0
    """Their size in bytes."""


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """The messages that a stream holds."""

    messages: int = 0
    """Number of messages."""
    bytes: int = 0
    """Size of all messages in bytes."""
    first_seq: int = 0
    """The sequence number of the first message."""
    first_ts: datetime | None = None
    """When the first message was stored; ``None`` if the stream is empty."""
    last_seq: int = 0
    """The sequence number of the last message."""
    last_ts: datetime | None = None
    """When the last message was stored; ``None`` if the stream is empty."""
    num_subjects: int = 0
    """Number of different subjects."""
    num_deleted: int = 0
    """How many messages between the first and the last were deleted."""
    deleted: Sequence[int] = ()
    """The sequence numbers of those; only after ``refresh(deleted_details=True)``."""
    lost: LostMessages | None = None
    """Messages lost from a damaged store, or ``None``."""
    consumer_count: int = 0
    """Number of consumers."""


class SourceError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a mirror or a source does not work."""

    code: int = 0
    """A number like an HTTP status."""
    err_code: int = 0
    """The number of the error; see :class:`ErrorCode`."""
    description: str = ""
    """The text of the server."""


class SourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a mirror, or of a source, of a stream."""

    name: str = ""
    """The name of the stream that is copied."""
    filter_subject: str = ""
    """Only messages of this subject are copied; empty for all."""
    subject_transforms: Sequence[SubjectTransform] = ()
    """How the subjects are changed."""
    lag: int = 0
    """How many messages are still to be copied."""
    active: Seconds | None = None
    """Seconds since the last sign of activity; ``None`` if there was none yet."""
    external: ExternalStream | None = None
    """Set if the stream belongs to another domain or account."""
    error: SourceError | None = None
    """Why nothing is copied, such as a stream that does not exist; ``None`` if all is well."""


class StreamAlternate(msgspec.Struct, frozen=True, kw_only=True):
    """A stream, or a mirror of it, from which its messages can be read."""

    name: str = ""
    """The name of the stream or mirror."""
    cluster: str = ""
    """The cluster that it is in."""
    domain: str = ""
    """The JetStream domain that it is in."""


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration and the state of a stream."""

    config: StreamConfig
    """The configuration, with the defaults that the server filled in."""
    created: datetime | None = None
    """When the stream was created."""
    state: StreamState = StreamState()
    """The messages that it holds."""
    cluster: ClusterInfo | None = None
    """Where its replicas are; ``None`` if the server is not in a cluster."""
    mirror: SourceInfo | None = None
    """The progress of the mirror; ``None`` if the stream is not a mirror."""
    sources: Sequence[SourceInfo] = ()
    """The progress of each source."""
    alternates: Sequence[StreamAlternate] = ()
    """The stream and its mirrors, nearest first; empty if it has no mirrors."""
    domain: str = ""
    """The JetStream domain."""
    ts: datetime | None = None
    """When the server wrote this information."""
