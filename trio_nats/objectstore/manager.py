"""Create, open, update, list and delete object stores, for the methods of :class:`JetStream`."""

from __future__ import annotations

from .._constructors import construct
from ..jetstream.api import PageIterator, select
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import StreamNameInUseError
from ..jetstream.info import StreamInfo
from ..jetstream.stream_config import StreamConfig
from ..jetstream.validation import whole_config
from .backend import store_errors
from .config import (
    ObjectStoreConfig,
    ObjectStoreOptions,
    ObjectStoreStatus,
    status_of,
    stream_config,
)
from .errors import ObjectStoreExistsError
from .names import STREAM_PREFIX, all_chunks, bucket_of, check_bucket, stream_name
from .store import ObjectStore

__all__ = ["create", "create_or_update", "delete", "names", "open_bucket", "statuses", "update"]


async def open_bucket(js: BaseJetStream, bucket: str) -> ObjectStore:
    """Open an existing object store."""
    with store_errors(check_bucket(bucket)):
        return construct(ObjectStore, js, await js.stream(stream_name(bucket)))


async def create(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """Create an object store."""
    wanted = _wanted(config, options)
    try:
        return construct(ObjectStore, js, await js.create_stream(wanted))
    except StreamNameInUseError as error:
        raise ObjectStoreExistsError(
            f"object store {bucket_of(wanted.name)!r} already exists with a different "
            f"configuration: {error.description}"
        ) from error


async def update(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """Replace the configuration of an object store."""
    wanted = _wanted(config, options)
    with store_errors(bucket_of(wanted.name)):
        return construct(ObjectStore, js, await js.update_stream(wanted))


async def create_or_update(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """Create an object store, or update it if it exists."""
    return construct(ObjectStore, js, await js.create_or_update_stream(_wanted(config, options)))


async def delete(js: BaseJetStream, bucket: str) -> None:
    """Delete an object store."""
    with store_errors(check_bucket(bucket)):
        await js.delete_stream(stream_name(bucket))


def names(js: BaseJetStream) -> PageIterator[str]:
    """Iterate over the names of all object stores."""
    return select(
        js.stream_names(subject=all_chunks("*")),
        lambda name: bucket_of(name) if name.startswith(STREAM_PREFIX) else None,
    )


def statuses(js: BaseJetStream) -> PageIterator[ObjectStoreStatus]:
    """Iterate over the status of all object stores."""
    return select(js.streams(subject=all_chunks("*")), _status)


def _status(info: StreamInfo) -> ObjectStoreStatus | None:
    return status_of(info) if info.config.name.startswith(STREAM_PREFIX) else None


def _wanted(config: ObjectStoreConfig | str, options: ObjectStoreOptions) -> StreamConfig:
    return stream_config(whole_config(ObjectStoreConfig, config, options))
