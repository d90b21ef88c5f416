"""How a stream is configured (ADR-6, 31, 33, 34, 36, 43, 48 to 51)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

import msgspec

from ..errors import ConfigurationError
from . import json_codec
from .json_codec import Choice, Seconds
from .validation import check_filter, check_filters, check_metadata, check_name, check_subject

__all__ = [
    "Compression",
    "ConsumerLimits",
    "DiscardPolicy",
    "ExternalStream",
    "PersistMode",
    "Placement",
    "RePublish",
    "RetentionPolicy",
    "StorageType",
    "StreamConfig",
    "StreamConsumerSource",
    "StreamOptions",
    "StreamSource",
    "SubjectTransform",
    "check_stream",
    "left_out",
    "required_level",
]


class RetentionPolicy(Choice):
    """Until when messages stay in a stream."""

    LIMITS = "limits"
    """Until a limit of the stream is reached."""
    INTEREST = "interest"
    """Until all consumers that want it have acknowledged it."""
    WORK_QUEUE = "workqueue"
    """Until one consumer has acknowledged it."""


class StorageType(Choice):
    """Where messages are kept."""

    FILE = "file"
    MEMORY = "memory"


class DiscardPolicy(Choice):
    """What goes when a limit is reached."""

    OLD = "old"
    """The oldest messages are deleted."""
    NEW = "new"
    """New messages are refused."""


class Compression(Choice):
    """How what is stored in files is compressed."""

    NONE = "none"
    S2 = "s2"


class PersistMode(Choice):
    """When a message counts as stored."""

    DEFAULT = "default"
    ASYNC = "async"
    """Before it is written out: faster, and lost if the server dies (server 2.12 or later)."""


class SubjectTransform(msgspec.Struct, frozen=True, kw_only=True):
    """Stores messages under another subject (ADR-36)."""

    src: str = ""
    """The subjects this is for; empty for all."""
    dest: str
    """The subject instead, in which ``{{wildcard(1)}}`` is what the first ``*`` stands for."""


class RePublish(msgspec.Struct, frozen=True, kw_only=True):
    """Publishes messages again once they are stored."""

    src: str = ""
    """The subjects this is for; empty for all."""
    dest: str
    """The subject to publish to; the like of :attr:`SubjectTransform.dest`."""
    headers_only: bool = False
    """Without the payload."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """On which servers."""

    cluster: str = ""
    tags: Sequence[str] = ()
    """What the servers' tags have to include."""
    preferred: str = ""
    """The server that should lead, where that can be said."""


class ExternalStream(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stream of another domain or account is found."""

    api: str
    """The prefix of its API, such as ``$JS.hub.API``."""
    deliver: str = ""
    """The prefix of the subjects that it delivers to."""

    @classmethod
    def in_domain(cls, domain: str) -> ExternalStream:
        """A stream of another domain."""
        return cls(api=f"$JS.{check_name('domain', domain)}.API")


class StreamConsumerSource(msgspec.Struct, frozen=True, kw_only=True):
    """The durable consumer that a stream is copied by (server 2.14 or later)."""

    name: str = ""
    deliver_subject: str = ""


class StreamSource(msgspec.Struct, frozen=True, kw_only=True):
    """Another stream whose messages are copied."""

    name: str
    opt_start_seq: int = 0
    """The sequence number to begin with; 0: the first."""
    opt_start_time: datetime | None = None
    """The time to begin with."""
    filter_subject: str = ""
    """Only what is stored under these subjects; empty for all."""
    subject_transforms: Sequence[SubjectTransform] = ()
    external: ExternalStream | None = None
    consumer: StreamConsumerSource | None = None


class ConsumerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of consumers, and their defaults."""

    inactive_threshold: Seconds = 0.0
    """Seconds; 0: as much as they like."""
    max_ack_pending: int = 0
    """0: as much as they like."""


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's configuration. Sizes are in bytes, times in seconds."""

    name: str
    description: str = ""
    subjects: Sequence[str] = ()
    """What it stores, with or without wildcards; nothing given means its own name, and for mirrors
    and streams with sources nothing."""
    retention: RetentionPolicy = RetentionPolicy.LIMITS
    max_consumers: int = -1
    """-1: any number."""
    max_msgs: int = -1
    """-1: any number."""
    max_bytes: int = -1
    """-1: any number."""
    max_age: Seconds = 0.0
    """How old messages become; 0: any age."""
    max_msgs_per_subject: int = -1
    """-1: any number."""
    max_msg_size: int = -1
    """-1: whatever the server takes."""
    discard: DiscardPolicy = DiscardPolicy.OLD
    discard_new_per_subject: bool = False
    """With ``DiscardPolicy.NEW``: new messages are refused at ``max_msgs_per_subject`` too."""
    storage: StorageType = StorageType.FILE
    num_replicas: int = 1
    """On how many servers of the cluster each message is: 1, 3 or 5."""
    no_ack: bool = False
    """Publishing gets no acknowledgement, and so :meth:`JetStream.publish` fails."""
    duplicate_window: Seconds | None = None
    """For how long a message's id is remembered. ``None``: as the server thinks, two minutes."""
    placement: Placement | None = None
    mirror: StreamSource | None = None
    """The stream that this one is a copy of."""
    sources: Sequence[StreamSource] = ()
    """The streams that are copied into this one."""
    sealed: bool = False
    """Nothing can be stored or deleted any more, nor this be undone. Not when it is created."""
    deny_delete: bool = False
    """Messages cannot be deleted, nor this be undone."""
    deny_purge: bool = False
    """It cannot be purged, nor this be undone."""
    allow_rollup_hdrs: bool = False
    """A message with the header ``Nats-Rollup`` replaces the earlier ones."""
    compression: Compression = Compression.NONE
    first_seq: int = 0
    """The first message's sequence number; 0: 1."""
    subject_transform: SubjectTransform | None = None
    republish: RePublish | None = None
    allow_direct: bool = False
    """Messages can be got from any replica, without asking the leader (ADR-31)."""
    mirror_direct: bool = False
    """And from mirrors."""
    consumer_limits: ConsumerLimits | None = None
    metadata: Mapping[str, str] | None = None
    """What begins with ``_nats.`` is the server's (ADR-44)."""
    allow_msg_ttl: bool = False
    """Messages may have a time to live of their own (ADR-43; server 2.11 or later)."""
    subject_delete_marker_ttl: Seconds = 0.0
    """A message that ends a subject by age is followed by a marker, which lives this long; 0: is
    not (server 2.11 or later)."""
    allow_msg_counter: bool = False
    """It is one of counters (ADR-49; server 2.12 or later)."""
    allow_atomic: bool = False
    """Batches can be published all or nothing (ADR-50; server 2.12 or later)."""
    allow_msg_schedules: bool = False
    """Messages can be scheduled (ADR-51; server 2.12 or later)."""
    persist_mode: PersistMode | None = None
    allow_batched: bool = False
    """Batches can be published fast (ADR-50; server 2.14 or later)."""


class StreamOptions(TypedDict, total=False):
    """The fields of :class:`StreamConfig`, except ``name``, as keywords."""

    description: str
    subjects: Sequence[str]
    retention: RetentionPolicy
    max_consumers: int
    max_msgs: int
    max_bytes: int
    max_age: float
    max_msgs_per_subject: int
    max_msg_size: int
    discard: DiscardPolicy
    discard_new_per_subject: bool
    storage: StorageType
    num_replicas: int
    no_ack: bool
    duplicate_window: float | None
    placement: Placement | None
    mirror: StreamSource | None
    sources: Sequence[StreamSource]
    sealed: bool
    deny_delete: bool
    deny_purge: bool
    allow_rollup_hdrs: bool
    compression: Compression
    first_seq: int
    subject_transform: SubjectTransform | None
    republish: RePublish | None
    allow_direct: bool
    mirror_direct: bool
    consumer_limits: ConsumerLimits | None
    metadata: Mapping[str, str] | None
    allow_msg_ttl: bool
    subject_delete_marker_ttl: float
    allow_msg_counter: bool
    allow_atomic: bool
    allow_msg_schedules: bool
    persist_mode: PersistMode | None
    allow_batched: bool


def check_stream(config: StreamConfig) -> StreamConfig:
    """``config`` if nothing is wrong with it that can be seen from here."""
    json_codec.check_types(config)
    check_name("stream", config.name)
    check_filters("subjects", config.subjects)
    if config.metadata is not None:
        check_metadata(config.metadata)
    if config.republish is not None and config.republish.src:
        check_filter("republish.src", config.republish.src)
    if config.mirror is not None:
        if config.subjects:
            raise ConfigurationError(
                "a mirror cannot have subjects: it stores the messages of its origin"
            )
        if config.sources:
            raise ConfigurationError("a stream can have a mirror or sources, not both")
        _check_source("mirror", config.mirror)
    for source in config.sources:
        _check_source("sources", source)
    return config


def _check_source(what: str, source: StreamSource) -> None:
    check_name(f"{what}: stream", source.name)
    if source.opt_start_seq and source.opt_start_time is not None:
        raise ConfigurationError(f"{what}: give opt_start_seq or opt_start_time, not both")
    if source.filter_subject:
        check_filter(f"{what}: filter_subject", source.filter_subject)
        if source.subject_transforms:
            raise ConfigurationError(f"{what}: filter_subject or subject_transforms, not both")
    if source.external is not None:
        check_subject(f"{what}: external.api", source.external.api)


# What servers came to know one after another, and are asked the API level for.
_NEWER = (
    "allow_msg_ttl",
    "subject_delete_marker_ttl",
    "allow_msg_counter",
    "allow_atomic",
    "allow_msg_schedules",
    "allow_batched",
)


def left_out(asked: StreamConfig, told: StreamConfig) -> list[str]:
    """What a server has not taken over, for servers before 2.12 do not say so."""
    missing = [name for name in _NEWER if getattr(asked, name) and not getattr(told, name)]
    if asked.persist_mode == PersistMode.ASYNC != told.persist_mode:
        missing.append("persist_mode")
    return missing


def required_level(config: StreamConfig) -> int:
    """The API level that a server needs for all of this (ADR-44); 0 if any will do."""
    newest = config.allow_batched or any(
        source.consumer for source in (*config.sources, config.mirror) if source is not None
    )
    if newest:
        return 4
    if config.allow_msg_counter or config.allow_atomic or config.allow_msg_schedules:
        return 2
    if config.persist_mode not in (None, PersistMode.DEFAULT):
        return 2
    return int(config.allow_msg_ttl or config.subject_delete_marker_ttl > 0)
