"""Create, open, update, list and delete object stores, for the methods of :class:`JetStream`."""

from __future__ import annotations

import msgspec

from .._constructors import construct
from ..jetstream import json_codec
from ..jetstream.api import PageIterator, select
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import StreamNameInUseError
from ..jetstream.info import StreamInfo
from ..jetstream.stream_config import with_changes
from ..jetstream.validation import whole_config
from .backend import store_errors
from .config import (
    ObjectStoreConfig,
    ObjectStoreOptions,
    ObjectStoreStatus,
    status_of,
    stream_config,
)
from .errors import ObjectStoreExistsError, ObjectStoreNotFoundError
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
    whole = whole_config(ObjectStoreConfig, config, options)
    wanted = stream_config(whole)
    try:
        return construct(ObjectStore, js, await js.create_stream(wanted))
    except StreamNameInUseError as error:
        refused = error
    with store_errors(whole.bucket):
        stream = await js.stream(wanted.name)
    present = status_of(stream.info).config
    # Other clients give the stream other settings that are not those of a store.
    what = json_codec.differences(status_of(StreamInfo(config=wanted)).config, present)
    if not what:
        return construct(ObjectStore, js, stream)
    raise ObjectStoreExistsError(
        f"object store {whole.bucket!r} already exists with a different configuration: {what}. "
        "Update it, or use another name"
    ) from refused


async def update(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """Change the configuration of an object store."""
    whole = whole_config(ObjectStoreConfig, config, options)
    wanted = stream_config(whole)
    with store_errors(whole.bucket):
        info = (await js.stream(wanted.name)).info
        before = status_of(info).config
        if isinstance(config, str):
            # Only what is given changes.
            wanted = stream_config(msgspec.structs.replace(before, **options))
        changed = with_changes(info.config, stream_config(before), wanted)
        return construct(ObjectStore, js, await js.update_stream(changed))


async def create_or_update(
    js: BaseJetStream, config: ObjectStoreConfig | str, options: ObjectStoreOptions
) -> ObjectStore:
    """Create an object store, or update it if it exists."""
    try:
        return await update(js, config, options)
    except ObjectStoreNotFoundError:
        pass
    try:
        return await create(js, config, options)
    except ObjectStoreExistsError:  # another client has just created it
        return await update(js, config, options)


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
