"""Create, open, update, list and delete object stores (ADR-20): a part of :class:`JetStream`.

The methods import :mod:`trio_nats.objectstore` when they are called, so a program without object
stores does not load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import msgspec

from .._constructors import construct
from . import json_codec
from .api import PageIterator, select
from .context_base import BaseJetStream
from .errors import StreamNameInUseError
from .info import StreamInfo
from .stream_config import with_changes
from .validation import whole_config

if TYPE_CHECKING:
    from ..objectstore.config import ObjectStoreConfig, ObjectStoreOptions, ObjectStoreStatus
    from ..objectstore.store import ObjectStore

__all__ = ["ObjectStoreManager"]


class ObjectStoreManager(BaseJetStream):
    """The part of :class:`~trio_nats.jetstream.JetStream` that manages object stores."""

    async def create_object_store(
        self, config: ObjectStoreConfig | str | None = None, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Create an object store: ``await js.create_object_store("films", max_bytes=2**40)``.

        If the store exists already with the same configuration, return it. Settings of the stream
        that are not those of a store may differ, as other clients set them. If cancelled, the store
        may have been created.

        :param config: a configuration, or the name of the bucket. Default: the ``bucket`` in
            ``options``.
        :param options: fields of :class:`~trio_nats.objectstore.ObjectStoreConfig`; they override
            those of ``config``.
        :returns: the object store.
        :raises ~trio_nats.objectstore.ObjectStoreExistsError: if the store exists with another
            configuration. The error lists the differences.
        """
        from ..objectstore.backend import store_errors
        from ..objectstore.config import ObjectStoreConfig, status_of, stream_config
        from ..objectstore.errors import ObjectStoreExistsError
        from ..objectstore.store import ObjectStore

        whole = whole_config(ObjectStoreConfig, config, options)
        wanted = stream_config(whole)
        try:
            return construct(ObjectStore, self, await self.create_stream(wanted))
        except StreamNameInUseError as error:
            refused = error
        with store_errors(whole.bucket):
            stream = await self.stream(wanted.name)
        present = status_of(stream.info).config
        # Other clients give the stream other settings that are not those of a store.
        what = json_codec.differences(status_of(StreamInfo(config=wanted)).config, present)
        if not what:
            return construct(ObjectStore, self, stream)
        raise ObjectStoreExistsError(
            f"object store {whole.bucket!r} already exists with a different configuration: {what}. "
            "Update it, or use another name"
        ) from refused

    async def update_object_store(
        self, config: ObjectStoreConfig | str | None = None, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Change the configuration of an object store, such as its ``ttl``.

        Pass a name to change single settings. Pass an
        :class:`~trio_nats.objectstore.ObjectStoreConfig` to replace all of them. Settings of the
        stream that are not those of a store stay. The present settings are read first: a change
        that another client makes in the meantime may be undone. If cancelled, the store may have
        been updated.

        :param config: a configuration, or the name of the bucket. Default: the ``bucket`` in
            ``options``.
        :param options: fields of :class:`~trio_nats.objectstore.ObjectStoreConfig`; they override
            those of ``config``.
        :returns: the object store.
        :raises ~trio_nats.objectstore.ObjectStoreNotFoundError: if the store does not exist.
        """
        from ..objectstore.backend import store_errors
        from ..objectstore.config import ObjectStoreConfig, status_of, stream_config
        from ..objectstore.store import ObjectStore

        whole = whole_config(ObjectStoreConfig, config, options)
        wanted = stream_config(whole)
        with store_errors(whole.bucket):
            info = (await self.stream(wanted.name)).info
            before = status_of(info).config
            if not isinstance(config, ObjectStoreConfig):
                # Begin with the present settings, so that those not given are kept.
                wanted = stream_config(msgspec.structs.replace(before, **options))
            changed = with_changes(info.config, stream_config(before), wanted)
            return construct(ObjectStore, self, await self.update_stream(changed))

    async def create_or_update_object_store(
        self, config: ObjectStoreConfig | str | None = None, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Create an object store, or update it if it exists, as :meth:`update_object_store` does.

        If cancelled, the store may have been created or updated.

        :param config: a configuration, or the name of the bucket. Default: the ``bucket`` in
            ``options``.
        :param options: fields of :class:`~trio_nats.objectstore.ObjectStoreConfig`; they override
            those of ``config``.
        :returns: the object store.
        """
        from ..objectstore.errors import ObjectStoreExistsError, ObjectStoreNotFoundError

        try:
            return await self.update_object_store(config, **options)
        except ObjectStoreNotFoundError:
            pass
        try:
            return await self.create_object_store(config, **options)
        except ObjectStoreExistsError:  # another client has just created it
            return await self.update_object_store(config, **options)

    async def object_store(self, bucket: str) -> ObjectStore:
        """Open an object store.

        If cancelled, nothing changes.

        :param bucket: the name of the bucket.
        :returns: the object store.
        :raises ~trio_nats.objectstore.ObjectStoreNotFoundError: if the store does not exist.
        """
        from ..objectstore.backend import store_errors
        from ..objectstore.names import check_bucket, stream_name
        from ..objectstore.store import ObjectStore

        with store_errors(check_bucket(bucket)):
            return construct(ObjectStore, self, await self.stream(stream_name(bucket)))

    async def delete_object_store(self, bucket: str) -> None:
        """Delete an object store with all its objects.

        If cancelled, the store may have been deleted.

        :param bucket: the name of the bucket.
        :raises ~trio_nats.objectstore.ObjectStoreNotFoundError: if the store does not exist.
        """
        from ..objectstore.backend import store_errors
        from ..objectstore.names import check_bucket, stream_name

        with store_errors(check_bucket(bucket)):
            await self.delete_stream(stream_name(bucket))

    def object_store_names(self) -> PageIterator[str]:
        """List the names of the object stores: ``async for name in js.object_store_names():``.

        :returns: an iterator over the names; see :class:`PageIterator`.
        """
        from ..objectstore.names import STREAM_PREFIX, all_chunks, bucket_of

        return select(
            self.stream_names(subject=all_chunks("*")),
            lambda name: bucket_of(name) if name.startswith(STREAM_PREFIX) else None,
        )

    def object_stores(self) -> PageIterator[ObjectStoreStatus]:
        """List the object stores: ``async for status in js.object_stores():``.

        :returns: an iterator over their status; see :class:`PageIterator`.
        """
        from ..objectstore.config import status_of
        from ..objectstore.names import STREAM_PREFIX, all_chunks

        return select(
            self.streams(subject=all_chunks("*")),
            lambda info: status_of(info) if info.config.name.startswith(STREAM_PREFIX) else None,
        )
