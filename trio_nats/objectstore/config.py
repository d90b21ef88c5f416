"""Configuration of an object store, and of the stream behind it (ADR-20)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import msgspec

from ..jetstream.info import StreamInfo
from ..jetstream.json_codec import Seconds, check_types
from ..jetstream.stream_config import (
    Compression,
    DiscardPolicy,
    Placement,
    StorageType,
    StreamConfig,
)
from ..options import check_count
from .names import all_chunks, all_meta, bucket_of, check_bucket, stream_name

__all__ = [
    "ObjectStoreConfig",
    "ObjectStoreOptions",
    "ObjectStoreStatus",
    "status_of",
    "stream_config",
]


class ObjectStoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Configuration of an object store (ADR-20). Sizes are in bytes, times in seconds."""

    bucket: str
    """Name of the store: 1 to 251 of the characters A-Z, a-z, 0-9, ``_`` and ``-``."""
    description: str = ""
    """Text for humans. Default: empty."""
    metadata: Mapping[str, str] | None = None
    """Your own key-value pairs; the server adds some that begin with ``_nats.``. Default: none."""
    ttl: Seconds = 0.0
    """Seconds after which an object is removed. Default: 0, never."""
    max_bytes: int = -1
    """Maximum size of the store in bytes; uploads that exceed it are refused. Default: -1, no
    limit."""
    storage: StorageType = StorageType.FILE
    """Where to keep the store: in files or in memory. Default: in files."""
    num_replicas: int = 1
    """Number of servers in the cluster that keep the store: 1, 3 or 5. Default: 1."""
    placement: Placement | None = None
    """The servers that may keep the store. Default: any."""
    compression: bool = False
    """Whether to compress the files. Default: no."""


class ObjectStoreOptions(TypedDict, total=False):
    """The fields of :class:`ObjectStoreConfig` as keywords."""

    bucket: str
    description: str
    metadata: Mapping[str, str] | None
    ttl: float
    max_bytes: int
    storage: StorageType
    num_replicas: int
    placement: Placement | None
    compression: bool


class ObjectStoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of an object store at one moment. Sizes are in bytes, times in seconds."""

    config: ObjectStoreConfig
    """The configuration."""
    stream_info: StreamInfo
    """Configuration and state of the stream behind the store."""

    @property
    def bucket(self) -> str:
        """Name of the store."""
        return self.config.bucket

    @property
    def description(self) -> str:
        """Text for humans."""
        return self.config.description

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata; keys that begin with ``_nats.`` are set by the server."""
        return self.config.metadata or {}

    @property
    def ttl(self) -> float:
        """Seconds after which an object is removed; 0 for never."""
        return self.config.ttl

    @property
    def max_bytes(self) -> int:
        """Maximum size of the store in bytes; -1 for no limit."""
        return self.config.max_bytes

    @property
    def storage(self) -> StorageType:
        """Where the store is kept: in files or in memory."""
        return self.config.storage

    @property
    def num_replicas(self) -> int:
        """Number of servers that keep the store."""
        return self.config.num_replicas

    @property
    def size(self) -> int:
        """Size of the store in bytes."""
        return self.stream_info.state.bytes

    @property
    def is_compressed(self) -> bool:
        """Whether the files are compressed."""
        return self.config.compression

    @property
    def is_sealed(self) -> bool:
        """Whether the store is sealed, so that it cannot be changed."""
        return self.stream_info.config.sealed

    @property
    def backing_store(self) -> str:
        """Kind of storage behind the store, always ``"JetStream"`` (ADR-20)."""
        return "JetStream"


def stream_config(config: ObjectStoreConfig) -> StreamConfig:
    """Return the configuration of an object store's stream."""
    check_bucket(config.bucket)
    check_types(config)
    check_count("max_bytes", config.max_bytes, -1)
    return StreamConfig(
        name=stream_name(config.bucket),
        description=config.description,
        subjects=[all_chunks(config.bucket), all_meta(config.bucket)],
        max_age=config.ttl,
        max_bytes=config.max_bytes or -1,
        storage=config.storage,
        num_replicas=config.num_replicas,
        placement=config.placement,
        discard=DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        allow_direct=True,
        metadata=config.metadata,
        compression=Compression.S2 if config.compression else Compression.NONE,
    )


def status_of(info: StreamInfo) -> ObjectStoreStatus:
    """Return the status of the object store that a stream holds."""
    stream = info.config
    config = ObjectStoreConfig(
        bucket=bucket_of(stream.name),
        description=stream.description,
        metadata=stream.metadata,
        ttl=stream.max_age,
        max_bytes=stream.max_bytes,
        storage=stream.storage,
        num_replicas=stream.num_replicas,
        placement=stream.placement,
        compression=stream.compression != Compression.NONE,
    )
    return ObjectStoreStatus(config=config, stream_info=info)
