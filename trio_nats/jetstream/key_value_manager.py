"""Buckets of keys and values, as JetStream offers them (ADR-8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, Unpack, cast, overload

from ..codecs import Codec
from .context_base import BaseJetStream

if TYPE_CHECKING:
    from ..keyvalue.config import KeyValueConfig, KeyValueOptions, KeyValueStatus
    from ..keyvalue.store import KeyValue
    from .api import PageIterator

__all__ = ["KeyValueManager"]

T = TypeVar("T")


class KeyValueManager(BaseJetStream):
    """The part of :class:`~trio_nats.jetstream.JetStream` that deals with buckets."""

    @overload
    async def key_value(self, bucket: str) -> KeyValue[bytes]: ...
    @overload
    async def key_value(self, bucket: str, *, codec: Codec[T]) -> KeyValue[T]: ...
    async def key_value(
        self, bucket: str, *, codec: Codec[T] | None = None
    ) -> KeyValue[T] | KeyValue[bytes]:
        """The bucket of that name; its values are what ``codec`` is for, bytes without.

        Raises :exc:`~trio_nats.keyvalue.BucketNotFoundError` if there is none, and
        :exc:`~trio_nats.keyvalue.NotABucketError` if the stream of that name cannot be one.
        """
        from ..keyvalue import manager

        return await manager.open_bucket(self, bucket, _codec(codec))

    @overload
    async def create_key_value(
        self, config: KeyValueConfig | str, **options: Unpack[KeyValueOptions]
    ) -> KeyValue[bytes]: ...
    @overload
    async def create_key_value(
        self,
        config: KeyValueConfig | str,
        *,
        codec: Codec[T],
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T]: ...
    async def create_key_value(
        self,
        config: KeyValueConfig | str,
        *,
        codec: Codec[T] | None = None,
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T] | KeyValue[bytes]:
        """Create a bucket: ``await js.create_key_value("users", history=5)``.

        ``config`` is a whole configuration, or the name; the keywords are the fields of
        :class:`~trio_nats.keyvalue.KeyValueConfig` and override what it says. A bucket that is
        there already, with the same configuration, is as good as a new one; otherwise
        :exc:`~trio_nats.keyvalue.BucketExistsError` is raised. Raises :exc:`APILevelError` if the
        server is too old for ``limit_marker_ttl``.
        """
        from ..keyvalue import manager

        return await manager.create(self, config, options, _codec(codec))

    @overload
    async def update_key_value(
        self, config: KeyValueConfig | str, **options: Unpack[KeyValueOptions]
    ) -> KeyValue[bytes]: ...
    @overload
    async def update_key_value(
        self,
        config: KeyValueConfig | str,
        *,
        codec: Codec[T],
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T]: ...
    async def update_key_value(
        self,
        config: KeyValueConfig | str,
        *,
        codec: Codec[T] | None = None,
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T] | KeyValue[bytes]:
        """Replace the configuration of a bucket: settings that are not given get their defaults.

        To change some of it say
        ``await js.update_key_value((await kv.status()).config, history=10)``. Raises
        :exc:`~trio_nats.keyvalue.BucketNotFoundError` if there is none, and what
        :meth:`create_key_value` raises.
        """
        from ..keyvalue import manager

        return await manager.update(self, config, options, _codec(codec))

    @overload
    async def create_or_update_key_value(
        self, config: KeyValueConfig | str, **options: Unpack[KeyValueOptions]
    ) -> KeyValue[bytes]: ...
    @overload
    async def create_or_update_key_value(
        self,
        config: KeyValueConfig | str,
        *,
        codec: Codec[T],
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T]: ...
    async def create_or_update_key_value(
        self,
        config: KeyValueConfig | str,
        *,
        codec: Codec[T] | None = None,
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T] | KeyValue[bytes]:
        """Have a bucket configured like that, whether it was there or not."""
        from ..keyvalue import manager

        return await manager.create_or_update(self, config, options, _codec(codec))

    async def delete_key_value(self, bucket: str) -> None:
        """Delete a bucket and all in it.

        Raises :exc:`~trio_nats.keyvalue.BucketNotFoundError` if there is none.
        """
        from ..keyvalue import manager

        await manager.delete(self, bucket)

    def key_value_store_names(self) -> PageIterator[str]:
        """List the names of the buckets: ``async for name in js.key_value_store_names():``."""
        from ..keyvalue import manager

        return manager.names(self)

    def key_value_stores(self) -> PageIterator[KeyValueStatus]:
        """List the buckets: ``async for status in js.key_value_stores():``.

        Buckets that are out of reach at the moment are left out.
        """
        from ..keyvalue import manager

        return manager.statuses(self)


def _codec(codec: Codec[T] | None) -> Codec[T]:
    """The overloads see to it that values are bytes without."""
    from ..keyvalue import store

    return cast("Codec[T]", store.RAW) if codec is None else codec
