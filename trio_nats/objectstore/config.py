"""How an object store is configured, and the stream it is (ADR-20)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import msgspec

from ..jetstream.info import StreamInfo
from ..jetstream.json_codec import check_types
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
    ttl: float = 0.0
    """How old objects become; 0: any age."""
    max_bytes: int = -1
    """What it may have in all; -1: any number."""
    storage: StorageType = StorageType.FILE
    replicas: int = 1
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
    replicas: int
    placement: Placement | None
    compression: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreStatus:
    """How an object store is configured, and what is in it."""

    bucket: str
    description: str
    metadata: Mapping[str, str]
    ttl: float
    """Seconds that objects are kept; 0: for good."""
    max_bytes: int
    """Bytes that it may have; -1: any number."""
    storage: StorageType
    replicas: int
    sealed: bool
    """Whether nothing in it can be changed any more."""
    size: int
    """Bytes of all that is in it, what is known about objects included."""
    compressed: bool
    info: StreamInfo
    """Of the stream it is kept in."""
    backing_store: str = "JetStream"


def status_of(info: StreamInfo) -> ObjectStoreStatus:
    """The status of the bucket that a stream is."""
    config = info.config
    return ObjectStoreStatus(
        bucket=bucket_of(config.name),
        description=config.description,
        metadata=config.metadata or {},
        ttl=config.max_age,
        max_bytes=config.max_bytes,
        storage=config.storage,
        replicas=config.num_replicas,
        sealed=config.sealed,
        size=info.state.bytes,
        compressed=config.compression != Compression.NONE,
        info=info,
    )


def stream_config(config: ObjectStoreConfig) -> StreamConfig:
    """The stream that such an object store is, if there can be one."""
    check_types(config)
    check_bucket(config.bucket)
    check_count("max_bytes", config.max_bytes, -1)
    return StreamConfig(
        name=stream_name(config.bucket),
        description=config.description,
        subjects=[all_chunks(config.bucket), all_meta(config.bucket)],
        max_age=config.ttl,
        max_bytes=config.max_bytes or -1,
        storage=config.storage,
        num_replicas=config.replicas,
        placement=config.placement,
        discard=DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        allow_direct=True,
        metadata=config.metadata,
        compression=Compression.S2 if config.compression else Compression.NONE,
    )
