"""Object stores: the part of :class:`~trio_nats.jetstream.JetStream` that opens them (ADR-20)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from .api import PageIterator
from .context_base import BaseJetStream

if TYPE_CHECKING:
    from ..objectstore.config import ObjectStoreConfig, ObjectStoreOptions, ObjectStoreStatus
    from ..objectstore.store import ObjectStore

__all__ = ["ObjectStoreManager"]


class ObjectStoreManager(BaseJetStream):
    """The part of :class:`~trio_nats.jetstream.JetStream` that opens object stores."""

    async def create_object_store(
        self, config: ObjectStoreConfig | str, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Create an object store: ``await js.create_object_store("films", max_bytes=2**40)``.

        ``config`` is a whole :class:`~trio_nats.objectstore.ObjectStoreConfig`, or the bucket's
        name; the keywords are its fields and override what it says. A store that is there already,
        with the same configuration, is as good as a new one; otherwise
        :exc:`ObjectStoreExistsError` is raised.
        """
        from ..objectstore import manager

        return await manager.create(self, config, options)

    async def update_object_store(
        self, config: ObjectStoreConfig | str, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Replace the configuration of an object store: settings not given get their defaults.

        To change some of it say
        ``await js.update_object_store((await store.status()).config, ttl=60)``. Raises
        :exc:`ObjectStoreNotFoundError` if there is none.
        """
        from ..objectstore import manager

        return await manager.update(self, config, options)

    async def create_or_update_object_store(
        self, config: ObjectStoreConfig | str, **options: Unpack[ObjectStoreOptions]
    ) -> ObjectStore:
        """Have an object store configured like that, whether it was there or not."""
        from ..objectstore import manager

        return await manager.create_or_update(self, config, options)

    async def object_store(self, bucket: str) -> ObjectStore:
        """The object store of that name.

        Raises :exc:`ObjectStoreNotFoundError` if there is none.
        """
        from ..objectstore import manager

        return await manager.open_bucket(self, bucket)

    async def delete_object_store(self, bucket: str) -> None:
        """Delete an object store and all in it.

        Raises :exc:`ObjectStoreNotFoundError` if there is none.
        """
        from ..objectstore import manager

        await manager.delete(self, bucket)

    def object_store_names(self) -> PageIterator[str]:
        """List the names of the object stores: ``async for name in js.object_store_names():``."""
        from ..objectstore import manager

        return manager.names(self)

    def object_stores(self) -> PageIterator[ObjectStoreStatus]:
        """List the object stores: ``async for status in js.object_stores():``."""
        from ..objectstore import manager

        return manager.statuses(self)
