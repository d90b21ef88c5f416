"""Key-value buckets: the part of :class:`~trio_nats.jetstream.JetStream` for them (ADR-8)."""

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
    """The part of :class:`~trio_nats.jetstream.JetStream` that manages key-value buckets."""

    @overload
    async def key_value(self, bucket: str) -> KeyValue[bytes]: ...
    @overload
    async def key_value(self, bucket: str, *, codec: Codec[T]) -> KeyValue[T]: ...
    async def key_value(
        self, bucket: str, *, codec: Codec[T] | None = None
    ) -> KeyValue[T] | KeyValue[bytes]:
        """Open a key-value bucket.

        If cancelled, nothing changes.

        :param bucket: the name of the bucket.
        :param codec: encodes and decodes values; see :mod:`trio_nats.codecs`. Default: values are
            bytes.
        :returns: the bucket.
        :raises ~trio_nats.keyvalue.BucketNotFoundError: if the bucket does not exist.
        :raises ~trio_nats.keyvalue.NotABucketError: if the stream of that name is not a bucket.
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
        """Create a key-value bucket: ``await js.create_key_value("users", history=5)``.

        If the bucket exists already with the same configuration, return it. Settings of the stream
        that are not those of a bucket may differ, as other clients set them. If cancelled, the
        bucket may have been created.

        :param config: a configuration, or the name of the bucket.
        :param codec: encodes and decodes values; see :mod:`trio_nats.codecs`. Default: values are
            bytes.
        :param options: fields of :class:`~trio_nats.keyvalue.KeyValueConfig`; they override those
            of ``config``.
        :returns: the bucket.
        :raises ~trio_nats.keyvalue.BucketExistsError: if the bucket exists with another
            configuration. The error lists the differences.
        :raises APILevelError: if the server is too old for ``limit_marker_ttl``.
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
        """Change the configuration of a bucket: ``await js.update_key_value("users", history=5)``.

        With the name of the bucket, the settings that you do not give stay as they are. With a
        configuration, all of its settings replace those of the bucket. Settings of the stream that
        are not those of a bucket stay, too. If cancelled, the bucket may have been updated.

        :param config: a configuration, or the name of the bucket.
        :param codec: encodes and decodes values; see :mod:`trio_nats.codecs`. Default: values are
            bytes.
        :param options: fields of :class:`~trio_nats.keyvalue.KeyValueConfig`; they override those
            of ``config``.
        :returns: the bucket.
        :raises ~trio_nats.keyvalue.BucketNotFoundError: if the bucket does not exist.
        :raises APILevelError: if the server is too old for ``limit_marker_ttl``.
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
        """Create a bucket, or update it if it exists, as :meth:`update_key_value` does.

        If cancelled, the bucket may have been created or updated.

        :param config: a configuration, or the name of the bucket.
        :param codec: encodes and decodes values; see :mod:`trio_nats.codecs`. Default: values are
            bytes.
        :param options: fields of :class:`~trio_nats.keyvalue.KeyValueConfig`; they override those
            of ``config``.
        :returns: the bucket.
        :raises APILevelError: if the server is too old for ``limit_marker_ttl``.
        """
        from ..keyvalue import manager

        return await manager.create_or_update(self, config, options, _codec(codec))

    async def delete_key_value(self, bucket: str) -> None:
        """Delete a bucket with all its keys.

        If cancelled, the bucket may have been deleted.

        :param bucket: the name of the bucket.
        :raises ~trio_nats.keyvalue.BucketNotFoundError: if the bucket does not exist.
        """
        from ..keyvalue import manager

        await manager.delete(self, bucket)

    def key_value_store_names(self) -> PageIterator[str]:
        """List the names of the buckets: ``async for name in js.key_value_store_names():``.

        :returns: an iterator over the names; see :class:`PageIterator`.
        """
        from ..keyvalue import manager

        return manager.names(self)

    def key_value_stores(self) -> PageIterator[KeyValueStatus]:
        """List the buckets: ``async for status in js.key_value_stores():``.

        Buckets that the server cannot reach at the moment are missing.

        :returns: an iterator over their status; see :class:`PageIterator`.
        """
        from ..keyvalue import manager

        return manager.statuses(self)


def _codec(codec: Codec[T] | None) -> Codec[T]:
    """Return ``codec``, or that for bytes. The overloads keep the types right."""
    from ..keyvalue import store

    return cast("Codec[T]", store.RAW) if codec is None else codec
