"""Create, open, update, list and delete key-value buckets (ADR-8): a part of :class:`JetStream`.

The methods import :mod:`trio_nats.keyvalue` when they are called, so a program without buckets does
not load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, Unpack, cast, overload

import msgspec

from .._constructors import construct
from ..codecs import Codec, check_codec
from . import json_codec
from .api import PageIterator, select
from .context_base import BaseJetStream
from .errors import StreamNameInUseError
from .stream_config import StreamConfig, with_changes
from .validation import whole_config

if TYPE_CHECKING:
    from ..keyvalue.config import KeyValueConfig, KeyValueOptions, KeyValueStatus
    from ..keyvalue.store import KeyValue

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
        from ..keyvalue.config import existing_config, stream_of
        from ..keyvalue.store import KeyValue
        from ..keyvalue.validation import check_bucket
        from ..keyvalue.watch import bucket_errors

        checked = _codec(codec)
        with bucket_errors(check_bucket(bucket)):
            stream = await self.stream(stream_of(bucket))
        existing_config(stream.info.config)
        return construct(KeyValue, self, stream, checked)

    @overload
    async def create_key_value(
        self, config: KeyValueConfig | str | None = None, **options: Unpack[KeyValueOptions]
    ) -> KeyValue[bytes]: ...
    @overload
    async def create_key_value(
        self,
        config: KeyValueConfig | str | None = None,
        *,
        codec: Codec[T],
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T]: ...
    async def create_key_value(
        self,
        config: KeyValueConfig | str | None = None,
        *,
        codec: Codec[T] | None = None,
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T] | KeyValue[bytes]:
        """Create a key-value bucket: ``await js.create_key_value("users", history=5)``.

        If the bucket exists already with the same configuration, return it. Settings of the stream
        that are not those of a bucket may differ, as other clients set them. If cancelled, the
        bucket may have been created.

        :param config: a configuration, or the name of the bucket. Default: the ``bucket`` in
            ``options``.
        :param codec: encodes and decodes values; see :mod:`trio_nats.codecs`. Default: values are
            bytes.
        :param options: fields of :class:`~trio_nats.keyvalue.KeyValueConfig`; they override those
            of ``config``.
        :returns: the bucket.
        :raises ~trio_nats.keyvalue.BucketExistsError: if the bucket exists with another
            configuration. The error lists the differences.
        :raises APILevelError: if the server is too old for ``limit_marker_ttl``.
        """
        from ..keyvalue.config import KeyValueConfig, bucket_config, bucket_of, existing_config
        from ..keyvalue.errors import BucketExistsError
        from ..keyvalue.store import KeyValue
        from ..keyvalue.watch import bucket_errors

        checked = _codec(codec)
        wanted = await self._wanted(whole_config(KeyValueConfig, config, options))
        try:
            return construct(KeyValue, self, await self.create_stream(wanted), checked)
        except StreamNameInUseError as error:
            refused = error
        bucket = bucket_of(wanted.name)
        with bucket_errors(bucket):
            stream = await self.stream(wanted.name)
        present = existing_config(stream.info.config)
        # Other clients give the stream other settings that are not those of a bucket.
        what = json_codec.differences(bucket_config(wanted), present)
        if not what:
            return construct(KeyValue, self, stream, checked)
        raise BucketExistsError(
            refused.code,
            refused.err_code,
            f"bucket {bucket!r} already exists with a different configuration: {what}. Update it, "
            "or use another name",
        )

    @overload
    async def update_key_value(
        self, config: KeyValueConfig | str | None = None, **options: Unpack[KeyValueOptions]
    ) -> KeyValue[bytes]: ...
    @overload
    async def update_key_value(
        self,
        config: KeyValueConfig | str | None = None,
        *,
        codec: Codec[T],
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T]: ...
    async def update_key_value(
        self,
        config: KeyValueConfig | str | None = None,
        *,
        codec: Codec[T] | None = None,
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T] | KeyValue[bytes]:
        """Change the configuration of a bucket: ``await js.update_key_value("users", history=5)``.

        Pass a name to change single settings. Pass a
        :class:`~trio_nats.keyvalue.KeyValueConfig` to replace all of them. Settings of the stream
        that are not those of a bucket stay. The present settings are read first: a change that
        another client makes in the meantime may be undone. If cancelled, the bucket may have been
        updated.

        :param config: a configuration, or the name of the bucket. Default: the ``bucket`` in
            ``options``.
        :param codec: encodes and decodes values; see :mod:`trio_nats.codecs`. Default: values are
            bytes.
        :param options: fields of :class:`~trio_nats.keyvalue.KeyValueConfig`; they override those
            of ``config``.
        :returns: the bucket.
        :raises ~trio_nats.keyvalue.BucketNotFoundError: if the bucket does not exist.
        :raises APILevelError: if the server is too old for ``limit_marker_ttl``.
        """
        from ..keyvalue.config import (
            MAX_HISTORY,
            KeyValueConfig,
            bucket_of,
            existing_config,
            stream_config,
        )
        from ..keyvalue.store import KeyValue
        from ..keyvalue.watch import bucket_errors

        checked = _codec(codec)
        whole = whole_config(KeyValueConfig, config, options)
        name = stream_config(whole).name
        with bucket_errors(bucket_of(name)):
            present = (await self.stream(name)).info.config
            before = existing_config(present)
            # Other clients allow a longer history, which stays unless another one is given.
            before = msgspec.structs.replace(before, history=min(before.history, MAX_HISTORY))
            if not isinstance(config, KeyValueConfig):
                # Begin with the present settings, so that those not given are kept.
                whole = msgspec.structs.replace(before, **options)
            wanted = await self._wanted(whole)
            changed = with_changes(present, stream_config(before), wanted)
            return construct(KeyValue, self, await self.update_stream(changed), checked)

    @overload
    async def create_or_update_key_value(
        self, config: KeyValueConfig | str | None = None, **options: Unpack[KeyValueOptions]
    ) -> KeyValue[bytes]: ...
    @overload
    async def create_or_update_key_value(
        self,
        config: KeyValueConfig | str | None = None,
        *,
        codec: Codec[T],
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T]: ...
    async def create_or_update_key_value(
        self,
        config: KeyValueConfig | str | None = None,
        *,
        codec: Codec[T] | None = None,
        **options: Unpack[KeyValueOptions],
    ) -> KeyValue[T] | KeyValue[bytes]:
        """Create a bucket, or update it if it exists, as :meth:`update_key_value` does.

        If cancelled, the bucket may have been created or updated.

        :param config: a configuration, or the name of the bucket. Default: the ``bucket`` in
            ``options``.
        :param codec: encodes and decodes values; see :mod:`trio_nats.codecs`. Default: values are
            bytes.
        :param options: fields of :class:`~trio_nats.keyvalue.KeyValueConfig`; they override those
            of ``config``.
        :returns: the bucket.
        :raises APILevelError: if the server is too old for ``limit_marker_ttl``.
        """
        from ..keyvalue.errors import BucketExistsError, BucketNotFoundError

        checked = _codec(codec)
        try:
            return await self.update_key_value(config, codec=checked, **options)
        except BucketNotFoundError:
            pass
        try:
            return await self.create_key_value(config, codec=checked, **options)
        except BucketExistsError:  # another client has just created it
            return await self.update_key_value(config, codec=checked, **options)

    async def delete_key_value(self, bucket: str) -> None:
        """Delete a bucket with all its keys.

        If cancelled, the bucket may have been deleted.

        :param bucket: the name of the bucket.
        :raises ~trio_nats.keyvalue.BucketNotFoundError: if the bucket does not exist.
        """
        from ..keyvalue.config import stream_of
        from ..keyvalue.validation import check_bucket
        from ..keyvalue.watch import bucket_errors

        with bucket_errors(check_bucket(bucket)):
            await self.delete_stream(stream_of(bucket))

    def key_value_store_names(self) -> PageIterator[str]:
        """List the names of the buckets: ``async for name in js.key_value_store_names():``.

        :returns: an iterator over the names; see :class:`PageIterator`.
        """
        from ..keyvalue.config import STREAM_PREFIX, bucket_of

        return select(
            self.stream_names(),
            lambda name: bucket_of(name) if name.startswith(STREAM_PREFIX) else None,
        )

    def key_value_stores(self) -> PageIterator[KeyValueStatus]:
        """List the buckets: ``async for status in js.key_value_stores():``.

        Buckets that the server cannot reach at the moment are missing.

        :returns: an iterator over their status; see :class:`PageIterator`.
        """
        from ..keyvalue.config import STREAM_PREFIX, status_of

        return select(
            self.streams(),
            lambda info: status_of(info) if info.config.name.startswith(STREAM_PREFIX) else None,
        )

    async def _wanted(self, config: KeyValueConfig) -> StreamConfig:
        """Return the configuration of a bucket's stream, if the server is new enough for it."""
        from ..keyvalue.config import stream_config

        wanted = stream_config(config)
        if wanted.allow_msg_ttl:
            await self._api.require("limit_marker_ttl")
        return wanted


def _codec(codec: Codec[T] | None) -> Codec[T]:
    """Check ``codec``, and return it or that for bytes. The overloads keep the types right."""
    from ..keyvalue.store import RAW

    if codec is None:
        return cast("Codec[T]", RAW)
    check_codec(codec, "encode", "decode")
    return codec
