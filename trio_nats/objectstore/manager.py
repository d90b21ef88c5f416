"""Object stores as a whole: how they come to be, and which there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import msgspec

from ..jetstream.api import PageIterator, select
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import StreamNameInUseError
from ..jetstream.info import StreamInfo
from ..jetstream.json_codec import check_types
from ..jetstream.stream import Stream
from ..jetstream.stream_config import (
    Compression,
    DiscardPolicy,
    Placement,
    StorageType,
    StreamConfig,
)
from ..jetstream.validation import whole_config
from ..options import check_count
from .backend import ObjectBackend, open_backend, store_errors
from .errors import ObjectStoreExistsError
from .names import STREAM_PREFIX, all_chunks, all_meta, bucket_of, check_bucket, stream_name
from .store import ObjectStore, ObjectStoreStatus, status_of

__all__ = [
    "ObjectStoreConfig",
    "ObjectStoreOptions",
    "create",
    "create_or_update",
    "delete",
    "names",
    "open_bucket",
    "statuses",
    "update",
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


def _wanted(config: ObjectStoreConfig | str, options: ObjectStoreOptions) -> StreamConfig:
    """The stream's configuration, from one that was given in parts."""
    config = whole_config(ObjectStoreConfig, config, options)
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
        num_replicas=config.replicas,
        placement=config.placement,
        discard=DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        allow_direct=True,
        metadata=config.metadata,
        compression=Compression.S2 if config.compression else Compression.NONE,
    )


async def open_bucket(js: BaseJetStream, bucket: str) -> ObjectStore:
    """See :meth:`JetStream.object_store`."""
    return ObjectStore(await open_backend(js, bucket))


async def create(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """See :meth:`JetStream.create_object_store`."""
    wanted = _wanted(config, options)
    try:
        return _store(js, await js.create_stream(wanted))
    except StreamNameInUseError as error:
        raise ObjectStoreExistsError(
            f"there is an object store {bucket_of(wanted.name)!r} already, configured otherwise: "
            f"{error.description}"
        ) from error


async def update(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """See :meth:`JetStream.update_object_store`."""
    wanted = _wanted(config, options)
    with store_errors(bucket_of(wanted.name)):
        return _store(js, await js.update_stream(wanted))


async def create_or_update(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """See :meth:`JetStream.create_or_update_object_store`."""
    return _store(js, await js.create_or_update_stream(_wanted(config, options)))


def _store(js: BaseJetStream, stream: Stream) -> ObjectStore:
    return ObjectStore(ObjectBackend(js, stream))


async def delete(js: BaseJetStream, bucket: str) -> None:
    """See :meth:`JetStream.delete_object_store`."""
    with store_errors(check_bucket(bucket)):
        await js.delete_stream(stream_name(bucket))


def names(js: BaseJetStream) -> PageIterator[str]:
    """See :meth:`JetStream.object_store_names`."""
    return select(
        js.stream_names(subject=all_chunks("*")),
        lambda name: bucket_of(name) if name.startswith(STREAM_PREFIX) else None,
    )


def statuses(js: BaseJetStream) -> PageIterator[ObjectStoreStatus]:
    """See :meth:`JetStream.object_stores`."""
    return select(js.streams(subject=all_chunks("*")), _status)


def _status(info: StreamInfo) -> ObjectStoreStatus | None:
    return status_of(info) if info.config.name.startswith(STREAM_PREFIX) else None
