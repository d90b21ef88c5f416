"""How a bucket is configured, and the stream it is (ADR-8, 48, 57)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import msgspec

from ..errors import ConfigurationError
from ..jetstream import json_codec
from ..jetstream.info import StreamInfo
from ..jetstream.json_codec import Seconds
from ..jetstream.stream_config import (
    Compression,
    DiscardPolicy,
    Placement,
    RePublish,
    StorageType,
    StreamConfig,
    StreamSource,
    SubjectTransform,
)
from ..options import check_count, check_flag, check_seconds
from .validation import ALL_KEYS, check_bucket

__all__ = [
    "STREAM_PREFIX",
    "KeyValueConfig",
    "KeyValueOptions",
    "KeyValueStatus",
    "bucket_config",
    "bucket_of",
    "stream_config",
    "stream_of",
    "subjects_of",
]

STREAM_PREFIX = "KV_"
MAX_HISTORY = 64
LONGEST_WINDOW = 120.0
"""Seconds for which ids of messages are remembered, unless nothing lives that long."""
LEAST_MARKER_TTL = 1.0


class KeyValueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket's configuration. Sizes are in bytes, times in seconds."""

    bucket: str
    """Its name: of A-Z, a-z, 0-9, ``_`` and ``-``."""
    description: str = ""
    max_value_size: int = -1
    """How large a value may be; -1: as large as the server takes."""
    history: int = 1
    """How many values of a key are kept, at most 64."""
    ttl: Seconds = 0.0
    """How long values are kept; 0: until they are replaced or deleted."""
    max_bytes: int = -1
    """How large all of it may be, above which new values are refused; -1: any size."""
    storage: StorageType = StorageType.FILE
    num_replicas: int = 1
    """On how many servers of the cluster it is: 1, 3 or 5."""
    placement: Placement | None = None
    republish: RePublish | None = None
    mirror: StreamSource | None = None
    """The bucket, or its stream, that this one is a copy of."""
    sources: Sequence[StreamSource] = ()
    """Buckets, or their streams, whose keys are copied into this one. With ``subject_transforms``
    it can be any stream, under its full name."""
    compression: bool = False
    """Whether what is stored in files is compressed."""
    metadata: Mapping[str, str] | None = None
    limit_marker_ttl: Seconds = 0.0
    """How long it can be seen that a key's last value has gone by its age, one second at least;
    allows values to have a time to live of their own, too. 0: neither. Needs a server 2.11 or
    later, and cannot be taken back."""


class KeyValueOptions(TypedDict, total=False):
    """The fields of :class:`KeyValueConfig`, except ``bucket``, as keywords."""

    description: str
    max_value_size: int
    history: int
    ttl: float
    max_bytes: int
    storage: StorageType
    num_replicas: int
    placement: Placement | None
    republish: RePublish | None
    mirror: StreamSource | None
    sources: Sequence[StreamSource]
    compression: bool
    metadata: Mapping[str, str] | None
    limit_marker_ttl: float


class KeyValueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket at a moment. Sizes are in bytes, times in seconds."""

    config: KeyValueConfig
    """How it is configured."""
    stream_info: StreamInfo
    """All that is known of its stream."""

    @property
    def bucket(self) -> str:
        """Its name."""
        return self.config.bucket

    @property
    def values(self) -> int:
        """How many values there are, those of the past and what marks deletions included."""
        return self.stream_info.state.messages

    @property
    def size(self) -> int:
        """How large its stream is, in bytes."""
        return self.stream_info.state.bytes

    @property
    def history(self) -> int:
        """How many values of a key are kept."""
        return self.config.history

    @property
    def ttl(self) -> float:
        """How long values are kept; 0: until they are replaced or deleted."""
        return self.config.ttl

    @property
    def limit_marker_ttl(self) -> float:
        """How long it can be seen that a value has gone by its age; 0: it cannot."""
        return self.config.limit_marker_ttl

    @property
    def is_compressed(self) -> bool:
        """Whether what is stored in files is compressed."""
        return self.config.compression

    @property
    def num_replicas(self) -> int:
        """On how many servers it is."""
        return self.config.num_replicas

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata; what begins with ``_nats.`` is the server's."""
        return self.config.metadata or {}

    @property
    def backing_store(self) -> str:
        """What it is built on."""
        return "JetStream"


def stream_of(bucket: str) -> str:
    """The name of the bucket's stream."""
    return STREAM_PREFIX + bucket


def bucket_of(stream: str) -> str:
    """The bucket that a stream is; the name itself if it is none."""
    return stream.removeprefix(STREAM_PREFIX)


def subjects_of(bucket: str) -> str:
    """What the subjects of its keys begin with."""
    return f"$KV.{bucket}."


def stream_config(config: KeyValueConfig) -> StreamConfig:
    """The stream that such a bucket is, if there can be one."""
    json_codec.check_types(config)
    bucket = check_bucket(config.bucket)
    if check_count("history", config.history, 1) > MAX_HISTORY:
        raise ConfigurationError(f"history must be at most {MAX_HISTORY}, not {config.history}")
    check_flag("compression", config.compression)
    ttl = check_seconds("ttl", config.ttl, zero=True)
    marker_ttl = check_seconds("limit_marker_ttl", config.limit_marker_ttl, zero=True)
    if 0 < marker_ttl < LEAST_MARKER_TTL:
        raise ConfigurationError(f"limit_marker_ttl must be at least 1 second, not {marker_ttl!r}")
    if config.mirror is not None and config.sources:
        raise ConfigurationError("a bucket can have a mirror or sources, not both")
    mirror = config.mirror
    return StreamConfig(
        name=stream_of(bucket),
        description=config.description,
        subjects=() if mirror is not None else (subjects_of(bucket) + ALL_KEYS,),
        max_msgs_per_subject=config.history,
        max_bytes=config.max_bytes,
        max_age=ttl,
        max_msg_size=config.max_value_size,
        duplicate_window=min(ttl, LONGEST_WINDOW) or None,
        storage=config.storage,
        num_replicas=config.num_replicas,
        placement=config.placement,
        republish=config.republish,
        mirror=None if mirror is None else _of_bucket(mirror),
        mirror_direct=mirror is not None,
        sources=tuple(_source(bucket, source) for source in config.sources),
        compression=Compression.S2 if config.compression else Compression.NONE,
        metadata=config.metadata,
        allow_msg_ttl=marker_ttl > 0,
        subject_delete_marker_ttl=marker_ttl,
        discard=DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        deny_delete=True,
        allow_direct=True,
    )


def _of_bucket(source: StreamSource) -> StreamSource:
    """With the name of a stream, where it was that of a bucket."""
    return msgspec.structs.replace(source, name=stream_of(bucket_of(source.name)))


def _source(bucket: str, source: StreamSource) -> StreamSource:
    """With its keys as keys of ``bucket``."""
    if source.subject_transforms:
        return source
    source = _of_bucket(source)
    origin = bucket_of(source.name)
    if origin == bucket:
        return source
    src = source.filter_subject or subjects_of(origin) + ALL_KEYS
    if not src.startswith(subjects_of(origin)):
        raise ConfigurationError(
            f"sources: filter_subject of bucket {origin!r} begins with {subjects_of(origin)!r}, "
            f"which {src[:80]!r} does not"
        )
    dest, wildcards = subjects_of(bucket).rstrip("."), 0
    for token in src.removeprefix(subjects_of(origin)).split("."):
        wildcards += token == "*"
        dest += f".{{{{wildcard({wildcards})}}}}" if token == "*" else f".{token}"
    transforms = [SubjectTransform(src=src, dest=dest)]
    return msgspec.structs.replace(source, filter_subject="", subject_transforms=transforms)


def bucket_config(stream: StreamConfig) -> KeyValueConfig:
    """What a bucket's stream says about it."""
    return KeyValueConfig(
        bucket=bucket_of(stream.name),
        description=stream.description,
        max_value_size=stream.max_msg_size,
        history=stream.max_msgs_per_subject,
        ttl=stream.max_age,
        max_bytes=stream.max_bytes,
        storage=stream.storage,
        num_replicas=stream.num_replicas,
        placement=stream.placement,
        republish=stream.republish,
        mirror=stream.mirror,
        sources=stream.sources,
        compression=stream.compression != Compression.NONE,
        metadata=stream.metadata,
        limit_marker_ttl=stream.subject_delete_marker_ttl,
    )
