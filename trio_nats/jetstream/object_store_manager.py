"""Object stores: the part of :class:`~trio_nats.jetstream.JetStream` for them (ADR-20)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from .api import PageIterator
from .context_base import BaseJetStream

if TYPE_CHECKING:
    from ..objectstore.config import ObjectStoreConfig, ObjectStoreOptions, ObjectStoreStatus
    from ..objectstore.store import ObjectStore

__all__ = ["ObjectStoreManager"]


class ObjectStoreManager(BaseJetStream):
    """The part of :class:`~trio_nats.jetstream.JetStream` that manages object stores."""

    async def create_object_store(
        self, config: ObjectStoreConfig | str, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Create an object store: ``await js.create_object_store("films", max_bytes=2**40)``.

        If the store exists already with the same configuration, return it. Settings of the stream
        that are not those of a store may differ, as other clients set them. If cancelled, the store
        may have been created.

        :param config: a configuration, or the name of the bucket.
        :param options: fields of :class:`~trio_nats.objectstore.ObjectStoreConfig`; they override
            those of ``config``.
        :returns: the object store.
        :raises ~trio_nats.objectstore.ObjectStoreExistsError: if the store exists with another
            configuration. The error lists the differences.
        """
        from ..objectstore import manager

        return await manager.create(self, config, options)

    async def update_object_store(
        self, config: ObjectStoreConfig | str, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Change the configuration of an object store, such as its ``ttl``.

        With the name of the store, the settings that you do not give stay as they are. With a
        configuration, all of its settings replace those of the store. Settings of the stream that
        are not those of a store stay, too. If cancelled, the store may have been updated.

        :param config: a configuration, or the name of the bucket.
        :param options: fields of :class:`~trio_nats.objectstore.ObjectStoreConfig`; they override
            those of ``config``.
        :returns: the object store.
        :raises ~trio_nats.objectstore.ObjectStoreNotFoundError: if the store does not exist.
        """
        from ..objectstore import manager

        return await manager.update(self, config, options)

    async def create_or_update_object_store(
        self, config: ObjectStoreConfig | str, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Create an object store, or update it if it exists, as :meth:`update_object_store` does.

        If cancelled, the store may have been created or updated.

        :param config: a configuration, or the name of the bucket.
        :param options: fields of :class:`~trio_nats.objectstore.ObjectStoreConfig`; they override
            those of ``config``.
        :returns: the object store.
        """
        from ..objectstore import manager

        return await manager.create_or_update(self, config, options)

    async def object_store(self, bucket: str) -> ObjectStore:
        """Open an object store.

        If cancelled, nothing changes.

        :param bucket: the name of the bucket.
        :returns: the object store.
        :raises ~trio_nats.objectstore.ObjectStoreNotFoundError: if the store does not exist.
        """
        from ..objectstore import manager

        return await manager.open_bucket(self, bucket)

    async def delete_object_store(self, bucket: str) -> None:
        """Delete an object store with all its objects.

        If cancelled, the store may have been deleted.

        :param bucket: the name of the bucket.
        :raises ~trio_nats.objectstore.ObjectStoreNotFoundError: if the store does not exist.
        """
        from ..objectstore import manager

        await manager.delete(self, bucket)

    def object_store_names(self) -> PageIterator[str]:
        """List the names of the object stores: ``async for name in js.object_store_names():``.

        :returns: an iterator over the names; see :class:`PageIterator`.
        """
        from ..objectstore import manager

        return manager.names(self)

    def object_stores(self) -> PageIterator[ObjectStoreStatus]:
        """List the object stores: ``async for status in js.object_stores():``.

        :returns: an iterator over their status; see :class:`PageIterator`.
        """
        from ..objectstore import manager

        return manager.statuses(self)
