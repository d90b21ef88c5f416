"""How an object store is configured, and the stream it is (ADR-20)."""

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
    """How an object store is configured. Sizes are in bytes, times in seconds."""

    bucket: str
    """Its name: of A-Z, a-z, 0-9, - and _."""
    description: str = ""
    metadata: Mapping[str, str] | None = None
    """What begins with ``_nats.`` is the server's."""
    ttl: Seconds = 0.0
    """How old objects become; 0: any age."""
    max_bytes: int = -1
    """What it may have in all; -1: any number."""
    storage: StorageType = StorageType.FILE
    num_replicas: int = 1
    """On how many servers of the cluster everything is: 1, 3 or 5."""
    placement: Placement | None = None
    compression: bool = False
    """Whether files are compressed."""


class ObjectStoreOptions(TypedDict, total=False):
    """The fields of :class:`ObjectStoreConfig`, except ``bucket``, as keywords."""

    description: str
    metadata: Mapping[str, str] | None
    ttl: float
    max_bytes: int
    storage: StorageType
    num_replicas: int
    placement: Placement | None
    compression: bool


class ObjectStoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket at a moment. Sizes are in bytes, times in seconds."""

    config: ObjectStoreConfig
    """How it is configured."""
    stream_info: StreamInfo
    """All that is known of its stream."""

    @property
    def bucket(self) -> str:
        """Its name."""
        return self.config.bucket

    @property
    def description(self) -> str:
        """Its description."""
        return self.config.description

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata; what begins with ``_nats.`` is the server's."""
        return self.config.metadata or {}

    @property
    def ttl(self) -> float:
        """How long objects are kept; 0: until they are deleted."""
        return self.config.ttl

    @property
    def max_bytes(self) -> int:
        """How large all of it may be; -1: any size."""
        return self.config.max_bytes

    @property
    def storage(self) -> StorageType:
        """Where it is kept: in files or in memory."""
        return self.config.storage

    @property
    def num_replicas(self) -> int:
        """On how many servers it is."""
        return self.config.num_replicas

    @property
    def size(self) -> int:
        """How large its stream is, in bytes."""
        return self.stream_info.state.bytes

    @property
    def is_compressed(self) -> bool:
        """Whether what is stored in files is compressed."""
        return self.config.compression

    @property
    def is_sealed(self) -> bool:
        """Whether nothing in it can be changed any more."""
        return self.stream_info.config.sealed

    @property
    def backing_store(self) -> str:
        """What it is built on."""
        return "JetStream"


def stream_config(config: ObjectStoreConfig) -> StreamConfig:
    """Return the configuration of the stream that such a bucket is."""
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
    """Return the status of the bucket that a stream is."""
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
