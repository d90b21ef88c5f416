"""The configuration of streams (ADR-6, 31, 33, 34, 36, 43, 48 to 51)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypedDict

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
    "StepDownRequest",
    "StorageType",
    "StreamConfig",
    "StreamConsumerSource",
    "StreamOptions",
    "StreamSource",
    "SubjectTransform",
    "check_stream",
    "features_of",
    "left_out",
    "with_changes",
    "with_options",
]


class RetentionPolicy(Choice):
    """When messages are removed from a stream."""

    LIMITS = "limits"
    """Only when a limit of the stream is reached."""
    INTEREST = "interest"
    """When all consumers that the message is for have acknowledged it. A message that no consumer
    is interested in is not kept."""
    WORK_QUEUE = "workqueue"
    """When the message was acknowledged: a work queue."""


class StorageType(Choice):
    """Where messages are stored."""

    FILE = "file"
    """In files, which survive a restart of the server."""
    MEMORY = "memory"
    """In memory, which is faster; lost when the server stops."""


class DiscardPolicy(Choice):
    """What the server discards when a limit is reached."""

    OLD = "old"
    """The oldest messages are deleted."""
    NEW = "new"
    """New messages are refused."""


class Compression(Choice):
    """How a stream in files is compressed."""

    NONE = "none"
    """Not at all."""
    S2 = "s2"
    """With S2, a fast compression."""


class PersistMode(Choice):
    """When the server acknowledges a message."""

    DEFAULT = "default"
    """After writing it."""
    ASYNC = "async"
    """Before writing it, which is faster; the message is lost if the server dies (server 2.12 or
    later)."""


class SubjectTransform(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the subjects under which messages are stored (ADR-36)."""

    ALWAYS: ClassVar[tuple[str, ...]] = ("src",)
    """Fields that are sent even with their default."""

    src: str = ""
    """The subjects to change, with or without wildcards; empty for all."""
    dest: str
    """The new subject; ``{{wildcard(1)}}`` stands for the token that the first ``*`` matched."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class RePublish(msgspec.Struct, frozen=True, kw_only=True):
    """Publishes each message again, once it is stored."""

    src: str = ""
    """The subjects to publish again, with or without wildcards; empty for all."""
    dest: str
    """The subject to publish to, in the form of :attr:`SubjectTransform.dest`."""
    headers_only: bool = False
    """Whether to leave out the payload."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The servers that may hold a stream."""

    cluster: str = ""
    """The name of the cluster; empty for any."""
    tags: Sequence[str] = ()
    """Tags that the servers must have."""
    preferred: str = ""
    """The name of the server that should become the leader. Only requests to elect a leader use it;
    servers refuse a stream that has it."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class ExternalStream(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a stream of another domain or account."""

    api: str
    """The prefix of the API there, such as ``$JS.hub.API``."""
    deliver: str = ""
    """The prefix of the subjects to which messages are delivered from there."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""

    @classmethod
    def in_domain(cls, domain: str) -> ExternalStream:
        """Reach a stream of another domain.

        :param domain: the name of the JetStream domain.
        :returns: the prefixes to use.
        :raises ConfigurationError: if ``domain`` is not a valid name.
        """
        return cls(api=f"$JS.{check_name('domain', domain)}.API")


class StreamConsumerSource(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer through which a stream is copied (server 2.14 or later)."""

    ALWAYS: ClassVar[tuple[str, ...]] = ("name", "deliver_subject")
    """Fields that are sent even with their default."""

    name: str = ""
    """The name of the consumer."""
    deliver_subject: str = ""
    """The subject to which the consumer delivers."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class StreamSource(msgspec.Struct, frozen=True, kw_only=True):
    """A stream to copy messages from."""

    name: str
    """The name of the stream."""
    opt_start_seq: int = 0
    """Copy from this sequence number on; 0 for the first message."""
    opt_start_time: datetime | None = None
    """Copy messages stored at this time or later; cannot be combined with ``opt_start_seq``."""
    filter_subject: str = ""
    """Copy only messages of this subject, with or without wildcards; empty for all."""
    subject_transforms: Sequence[SubjectTransform] = ()
    """How to change the subjects; cannot be combined with ``filter_subject``."""
    external: ExternalStream | None = None
    """Set this if the stream belongs to another domain or account."""
    consumer: StreamConsumerSource | None = None
    """The durable consumer to copy through; ``None`` for one that the server makes."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class ConsumerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits, and at the same time defaults, for the consumers of a stream."""

    inactive_threshold: Seconds = 0.0
    """The longest ``inactive_threshold`` in seconds; 0 for no limit."""
    max_ack_pending: int = 0
    """The largest ``max_ack_pending``; 0 for no limit."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a stream. Sizes are in bytes, durations in seconds."""

    ALWAYS: ClassVar[tuple[str, ...]] = (
        "retention",
        "max_consumers",
        "max_msgs",
        "max_bytes",
        "max_age",
        "storage",
        "num_replicas",
    )
    """Fields that are sent even with their default, as the schema of the API requires."""

    name: str
    """The name of the stream: up to 255 characters without spaces and any of ``. * > / \\``."""
    description: str = ""
    """Description for people."""
    subjects: Sequence[str] = ()
    """The subjects to store, with or without wildcards. If empty, the stream stores the subject
    that is its name; a mirror, or a stream with sources, then stores only what it copies."""
    retention: RetentionPolicy = RetentionPolicy.LIMITS
    """When messages are removed."""
    max_consumers: int = -1
    """Maximum number of consumers; -1 for no limit."""
    max_msgs: int = -1
    """Maximum number of messages; -1 for no limit."""
    max_bytes: int = -1
    """Maximum size of all messages, in bytes; -1 for no limit."""
    max_age: Seconds = 0.0
    """Maximum age of a message in seconds; 0 for no limit."""
    max_msgs_per_subject: int = -1
    """Maximum number of messages of each subject; -1 for no limit."""
    max_msg_size: int = -1
    """Maximum size of a message, in bytes; -1 for what the server allows."""
    discard: DiscardPolicy = DiscardPolicy.OLD
    """What to discard when a limit is reached."""
    discard_new_per_subject: bool = False
    """With ``DiscardPolicy.NEW``: also refuse new messages at ``max_msgs_per_subject``."""
    storage: StorageType = StorageType.FILE
    """Where to store the messages."""
    num_replicas: int = 1
    """Number of servers in the cluster that hold the stream: 1, 3 or 5."""
    no_ack: bool = False
    """Do not acknowledge what is published. :meth:`JetStream.publish` then fails."""
    duplicate_window: Seconds | None = None
    """How long to remember the ``msg_id`` of messages, in seconds. ``None`` for the default of the
    server, two minutes."""
    placement: Placement | None = None
    """The servers that may hold the stream; ``None`` for any."""
    mirror: StreamSource | None = None
    """The stream of which this one is a copy."""
    sources: Sequence[StreamSource] = ()
    """Streams to copy into this one."""
    sealed: bool = False
    """Whether the stream is sealed: nothing can be stored or deleted any more. Set it with an
    update; it cannot be undone."""
    deny_delete: bool = False
    """Do not allow messages to be deleted. This cannot be undone."""
    deny_purge: bool = False
    """Do not allow the stream to be purged. This cannot be undone."""
    allow_rollup_hdrs: bool = False
    """Allow messages with the header ``Nats-Rollup``, which replace all earlier ones."""
    compression: Compression = Compression.NONE
    """How to compress a stream in files."""
    first_seq: int = 0
    """The sequence number of the first message; 0 stands for 1."""
    subject_transform: SubjectTransform | None = None
    """How to change the subjects of messages before storing them."""
    republish: RePublish | None = None
    """Where to publish messages again, once they are stored."""
    allow_direct: bool = False
    """Allow direct gets, which any replica answers (ADR-31)."""
    mirror_direct: bool = False
    """For a mirror: also answer direct gets that are meant for its origin."""
    consumer_limits: ConsumerLimits | None = None
    """Limits and defaults for consumers."""
    metadata: Mapping[str, str] | None = None
    """Metadata, at most 128 KiB (ADR-33). Keys that begin with ``_nats.`` belong to the server
    (ADR-44)."""
    allow_msg_ttl: bool = False
    """Allow messages to have a time to live of their own (ADR-43; server 2.11 or later)."""
    subject_delete_marker_ttl: Seconds = 0.0
    """When the last message of a subject expires, store a marker that expires after this number
    of seconds; 0 for no marker (ADR-43; server 2.11 or later)."""
    allow_msg_counter: bool = False
    """Make each subject a counter (ADR-49; server 2.12 or later)."""
    allow_atomic: bool = False
    """Allow atomic batches (ADR-50; server 2.12 or later)."""
    allow_msg_schedules: bool = False
    """Allow scheduled messages (ADR-51; server 2.12 or later)."""
    persist_mode: PersistMode | None = None
    """When to acknowledge a message; ``None`` for the default of the server."""
    allow_batched: bool = False
    """Allow fast batches (ADR-50; server 2.14 or later)."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class StepDownRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for another leader of a stream or a consumer."""

    placement: Placement | None = None


class StreamOptions(TypedDict, total=False):
    """The fields of :class:`StreamConfig`, except ``extra``, as keywords."""

    name: str
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
    """Return ``config`` unless it is certain that the server would refuse it."""
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
                "a mirror must not have subjects: it stores the messages of its origin"
            )
        if config.sources:
            raise ConfigurationError("a stream must have a mirror or sources, not both")
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
            raise ConfigurationError(f"{what}: give filter_subject or subject_transforms, not both")
    if source.external is not None:
        check_subject(f"{what}: external.api", source.external.api)


# Settings that older servers do not know. Each is named like its feature.
_NEWER = (
    "allow_msg_ttl",
    "subject_delete_marker_ttl",
    "allow_msg_counter",
    "allow_atomic",
    "allow_msg_schedules",
    "allow_batched",
)


def with_changes(present: StreamConfig, before: StreamConfig, after: StreamConfig) -> StreamConfig:
    """Return ``present`` with what differs between ``before`` and ``after``."""
    changes = {
        name: getattr(after, name)
        for name in StreamConfig.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    }
    changes.pop("duplicate_window", None)
    return with_options(present, changes)


def with_options(present: StreamConfig, options: Mapping[str, object]) -> StreamConfig:
    """Return ``present`` with other values for some fields."""
    changed = msgspec.structs.replace(present, **options)
    window = changed.duplicate_window
    if (
        "duplicate_window" not in options
        and changed.max_age
        and window is not None
        and window > changed.max_age
    ):
        # Servers refuse a window longer than max_age, and this one was not asked for.
        return msgspec.structs.replace(changed, duplicate_window=changed.max_age)
    return changed


def features_of(config: StreamConfig) -> list[str]:
    """Return the :data:`~.features.FEATURES` that the configuration needs."""
    needed = [name for name in _NEWER if getattr(config, name)]
    if config.persist_mode == PersistMode.ASYNC:
        needed.append("PersistMode.ASYNC")
    if any(source.consumer for source in (*config.sources, config.mirror) if source is not None):
        needed.append("StreamSource(consumer=)")
    return needed


def left_out(wanted: StreamConfig, present: StreamConfig) -> list[str]:
    """Return the features that the server ignored. Servers before 2.12 do so without an error."""
    found = features_of(present)
    return [feature for feature in features_of(wanted) if feature not in found]
