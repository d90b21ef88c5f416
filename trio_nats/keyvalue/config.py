"""Configuration of a key-value bucket, and of the stream behind it (ADR-8, 48, 57)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import dropwhile
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
from .errors import NotABucketError
from .validation import ALL_KEYS, check_bucket

__all__ = [
    "STREAM_PREFIX",
    "KeyValueConfig",
    "KeyValueOptions",
    "KeyValueStatus",
    "bucket_config",
    "bucket_of",
    "existing_config",
    "status_of",
    "stream_config",
    "stream_of",
    "subjects_of",
]

STREAM_PREFIX = "KV_"
MAX_HISTORY = 64
LONGEST_WINDOW = 120.0
"""The longest duplicate window of the stream, in seconds; never longer than the ``ttl``."""
LEAST_MARKER_TTL = 1.0


class KeyValueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of a bucket (ADR-8). Sizes are in bytes, times in seconds."""

    bucket: str
    """Name of the bucket: 1 to 252 of the characters A-Z, a-z, 0-9, ``_`` and ``-``."""
    description: str = ""
    """Text for humans. Default: empty."""
    max_value_size: int = -1
    """Maximum size of a value in bytes. Default: -1, only the server's limit."""
    history: int = 1
    """Number of values to keep per key, 1 to 64. Default: 1."""
    ttl: Seconds = 0.0
    """Seconds after which a value is removed. Default: 0, never."""
    max_bytes: int = -1
    """Maximum size of the bucket in bytes; new values that exceed it are refused. Default: -1, no
    limit."""
    storage: StorageType = StorageType.FILE
    """Where to store the bucket: in files or in memory. Default: in files."""
    num_replicas: int = 1
    """Number of servers in the cluster that store the bucket: 1, 3 or 5. Default: 1."""
    placement: Placement | None = None
    """The servers that may store the bucket. Default: any."""
    republish: RePublish | None = None
    """Subject to publish each change to. Default: none."""
    mirror: StreamSource | None = None
    """The bucket to copy, by its name or that of its stream. Cannot be combined with ``sources``.
    Default: none."""
    sources: Sequence[StreamSource] = ()
    """Buckets whose keys are copied into this one, by their names or those of their streams. With
    ``filter_subject="new.>"``, key ``new.1`` is copied as ``1`` (ADR-57). A source with
    ``subject_transforms`` can be any stream, by its full name. Default: none."""
    compression: bool = False
    """Whether to compress the files. Default: no."""
    metadata: Mapping[str, str] | None = None
    """Your own key-value pairs; the server adds some that begin with ``_nats.``. Default: none."""
    limit_marker_ttl: Seconds = 0.0
    """Seconds to keep the marker that the server writes when the last value of a key expires, at
    least 1; also allows ``ttl`` for single keys (ADR-48). Cannot be switched off again. Needs
    server 2.11. Default: 0, no markers."""


class KeyValueOptions(TypedDict, total=False):
    """The fields of :class:`KeyValueConfig` as keywords."""

    bucket: str
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
    """Status of a bucket at one moment. Sizes are in bytes, times in seconds."""

    config: KeyValueConfig
    """The configuration."""
    stream_info: StreamInfo
    """Configuration and state of the stream behind the bucket."""

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self.config.bucket

    @property
    def values(self) -> int:
        """Number of stored values, including earlier values and deletion markers."""
        return self.stream_info.state.messages

    @property
    def size(self) -> int:
        """Size of the bucket in bytes."""
        return self.stream_info.state.bytes

    @property
    def history(self) -> int:
        """Number of values that are kept per key."""
        return self.config.history

    @property
    def ttl(self) -> float:
        """Seconds after which a value is removed; 0 for never."""
        return self.config.ttl

    @property
    def limit_marker_ttl(self) -> float:
        """Seconds for which markers of expired keys are kept; 0 for no markers."""
        return self.config.limit_marker_ttl

    @property
    def is_compressed(self) -> bool:
        """Whether the files are compressed."""
        return self.config.compression

    @property
    def num_replicas(self) -> int:
        """Number of servers that store the bucket."""
        return self.config.num_replicas

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata; keys that begin with ``_nats.`` are set by the server."""
        return self.config.metadata or {}

    @property
    def backing_store(self) -> str:
        """Kind of storage behind the bucket, always ``"JetStream"`` (ADR-8)."""
        return "JetStream"


def stream_of(bucket: str) -> str:
    """The name of the bucket's stream."""
    return STREAM_PREFIX + bucket


def bucket_of(stream: str) -> str:
    """The name of the stream's bucket; the stream's own name if there is no prefix to remove."""
    return stream.removeprefix(STREAM_PREFIX)


def subjects_of(bucket: str) -> str:
    """The prefix of the subjects of a bucket's keys."""
    return f"$KV.{bucket}."


def stream_config(config: KeyValueConfig) -> StreamConfig:
    """Return the configuration of a bucket's stream.

    :raises ConfigurationError: if the configuration of the bucket is invalid.
    """
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
        raise ConfigurationError("mirror and sources cannot be combined; give one of them")
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
    """Replace the name of a bucket by that of its stream, and a filter of keys by one of subjects.

    :raises ConfigurationError: if the filter has subjects of another bucket.
    """
    bucket, keys = bucket_of(source.name), source.filter_subject
    if keys and not keys.startswith(subjects_of(bucket)):
        if keys.startswith("$"):  # A key cannot begin with "$".
            raise ConfigurationError(
                f"filter_subject of {bucket!r} must be a filter of keys, such as 'new.>', or "
                f"begin with {subjects_of(bucket)!r}, not be {keys[:80]!r}"
            )
        keys = subjects_of(bucket) + keys
    return msgspec.structs.replace(source, name=stream_of(bucket), filter_subject=keys)


def _source(bucket: str, source: StreamSource) -> StreamSource:
    """Map the keys of a source to keys of ``bucket`` (ADR-57).

    The tokens of a filter before its first wildcard are removed from the keys.
    """
    if source.subject_transforms:
        return source
    source = _of_bucket(source)
    origin = bucket_of(source.name)
    if origin == bucket and not source.filter_subject:
        return source
    src = source.filter_subject or subjects_of(origin) + ALL_KEYS
    tokens = src.removeprefix(subjects_of(origin)).split(".")
    if {"*", ">"} & {*tokens}:
        tokens = list(dropwhile(lambda token: token not in ("*", ">"), tokens))
    dest, wildcards = subjects_of(bucket).rstrip("."), 0
    for token in tokens:
        wildcards += token == "*"
        dest += f".{{{{wildcard({wildcards})}}}}" if token == "*" else f".{token}"
    transforms = [SubjectTransform(src=src, dest=dest)]
    return msgspec.structs.replace(source, filter_subject="", subject_transforms=transforms)


def bucket_config(stream: StreamConfig) -> KeyValueConfig:
    """Return the configuration of the bucket that a stream stores."""
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


def existing_config(stream: StreamConfig) -> KeyValueConfig:
    """Return the configuration of an existing bucket.

    :raises NotABucketError: if the stream is not one.
    """
    history = stream.max_msgs_per_subject
    if history < 1:
        raise NotABucketError(
            f"stream {stream.name!r} is not a key-value bucket: max_msgs_per_subject must be at "
            f"least 1, not {history}"
        )
    return bucket_config(stream)


def status_of(info: StreamInfo) -> KeyValueStatus:
    """Return the status of the bucket that a stream stores."""
    return KeyValueStatus(config=bucket_config(info.config), stream_info=info)
