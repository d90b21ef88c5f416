"""Object stores as a whole: how they come to be, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, TypeVar

import msgspec

from ..jetstream.api import API, Page, PageIterator
from ..jetstream.errors import StreamNameInUseError
from ..jetstream.info import StreamInfo
from ..jetstream.json_codec import Answer, check_types
from ..jetstream.stream import Stream
from ..jetstream.stream_config import (
    Compression,
    DiscardPolicy,
    Placement,
    StorageType,
    StreamConfig,
    check_stream,
)
from ..jetstream.validation import whole_config
from ..options import check_count
from .backend import ObjectBackend, open_desk, translated
from .errors import ObjectStoreExistsError, ObjectStoreNotFoundError
from .names import STREAM_PREFIX, all_chunks, all_meta, check_bucket, stream_name
from .store import ObjectStore, ObjectStoreStatus, status_of

__all__ = [
    "ObjectStoreConfig",
    "ObjectStoreOptions",
    "create",
    "create_or_update",
    "delete",
    "names",
    "open_store",
    "statuses",
    "update",
]

P = TypeVar("P", bound=Page)
T = TypeVar("T")


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


class _ListRequest(msgspec.Struct, frozen=True, kw_only=True):
    offset: int = 0
    subject: str = ""


class _Names(Page, frozen=True, kw_only=True):
    streams: Sequence[str] = ()


class _Infos(Page, frozen=True, kw_only=True):
    streams: Sequence[StreamInfo] = ()


def _whole(config: ObjectStoreConfig | str, options: ObjectStoreOptions) -> StreamConfig:
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


async def _put(api: API, verb: str, config: StreamConfig) -> ObjectStore:
    check_stream(config)
    bucket = config.name.removeprefix(STREAM_PREFIX)
    try:
        with translated(bucket):
            info = await api.request(f"STREAM.{verb}.{config.name}", config, StreamInfo)
    except StreamNameInUseError as error:
        raise ObjectStoreExistsError(
            f"there is an object store {bucket!r} already, configured otherwise"
        ) from error
    return ObjectStore(ObjectBackend(api, bucket, Stream(api, info)))


async def create(
    api: API, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """See :meth:`JetStream.create_object_store`."""
    return await _put(api, "CREATE", _whole(config, options))


async def update(
    api: API, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """See :meth:`JetStream.update_object_store`."""
    return await _put(api, "UPDATE", _whole(config, options))


async def create_or_update(
    api: API, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """See :meth:`JetStream.create_or_update_object_store`."""
    whole = _whole(config, options)
    try:
        return await _put(api, "UPDATE", whole)
    except ObjectStoreNotFoundError:
        pass
    try:
        return await _put(api, "CREATE", whole)
    except ObjectStoreExistsError:  # somebody else has just created it
        return await _put(api, "UPDATE", whole)


async def open_store(api: API, bucket: str) -> ObjectStore:
    """See :meth:`JetStream.object_store`."""
    return ObjectStore(await open_desk(api, bucket))


async def delete(api: API, bucket: str) -> None:
    """See :meth:`JetStream.delete_object_store`."""
    check_bucket(bucket)
    with translated(bucket):
        await api.request(f"STREAM.DELETE.{stream_name(bucket)}", None, Answer)


def names(api: API) -> PageIterator[str]:
    """See :meth:`JetStream.object_store_names`."""
    return _paged(
        api,
        "STREAM.NAMES",
        _Names,
        lambda page: page.streams,
        lambda name: name.removeprefix(STREAM_PREFIX) if name.startswith(STREAM_PREFIX) else None,
    )


def statuses(api: API) -> PageIterator[ObjectStoreStatus]:
    """See :meth:`JetStream.object_stores`."""
    return _paged(api, "STREAM.LIST", _Infos, lambda page: page.streams, _status)


def _status(info: StreamInfo) -> ObjectStoreStatus | None:
    name = info.config.name
    if not name.startswith(STREAM_PREFIX):
        return None
    return status_of(info, name.removeprefix(STREAM_PREFIX))


S = TypeVar("S")


def _paged(
    api: API,
    suffix: str,
    kind: type[P],
    streams: Callable[[P], Sequence[S]],
    one: Callable[[S], T | None],
) -> PageIterator[T]:
    """What ``one`` makes of streams that might be object stores; ``None`` is left out."""
    offset = 0

    async def ask() -> tuple[Sequence[T], bool]:
        nonlocal offset
        request = _ListRequest(offset=offset, subject=all_chunks("*"))
        page = await api.request(suffix, request, kind)
        found = streams(page)
        offset += len(found)
        made = [one(stream) for stream in found]
        return [each for each in made if each is not None], bool(found) and offset < page.total

    return PageIterator(ask)
