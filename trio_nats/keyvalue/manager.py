"""Create, open, update, list and delete buckets, for the methods of :class:`JetStream`."""

from __future__ import annotations

from typing import TypeVar

from .._constructors import construct
from ..codecs import Codec, check_codec
from ..jetstream.api import PageIterator, select
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import APILevelError, ErrorCode, StreamNameInUseError
from ..jetstream.info import StreamInfo
from ..jetstream.stream_config import StreamConfig
from ..jetstream.validation import whole_config
from .config import (
    STREAM_PREFIX,
    KeyValueConfig,
    KeyValueOptions,
    KeyValueStatus,
    bucket_config,
    bucket_of,
    stream_config,
    stream_of,
)
from .errors import BucketExistsError, NotABucketError
from .store import KeyValue
from .validation import check_bucket
from .watch import bucket_errors

__all__ = ["create", "create_or_update", "delete", "names", "open_bucket", "statuses", "update"]

T = TypeVar("T")


async def open_bucket(js: BaseJetStream, bucket: str, codec: Codec[T]) -> KeyValue[T]:
    """Open an existing bucket."""
    check_codec(codec, "encode", "decode")
    with bucket_errors(check_bucket(bucket)):
        stream = await js.stream(stream_of(bucket))
    if stream.info.config.max_msgs_per_subject < 1:
        raise NotABucketError(
            f"stream {stream.name!r} is not a key-value bucket: max_msgs_per_subject must be at "
            f"least 1, not {stream.info.config.max_msgs_per_subject}"
        )
    return construct(KeyValue, js, stream, codec)


async def create(
    js: BaseJetStream, config: KeyValueConfig | str, options: KeyValueOptions, codec: Codec[T]
) -> KeyValue[T]:
    """Create a bucket."""
    check_codec(codec, "encode", "decode")
    wanted = await _wanted(js, config, options)
    try:
        return construct(KeyValue, js, await js.create_stream(wanted), codec)
    except StreamNameInUseError as error:
        raise BucketExistsError(
            error.code,
            error.err_code,
            f"bucket {bucket_of(wanted.name)!r} already exists with a different configuration: "
            f"{error.description}",
        ) from None


async def update(
    js: BaseJetStream, config: KeyValueConfig | str, options: KeyValueOptions, codec: Codec[T]
) -> KeyValue[T]:
    """Replace the configuration of a bucket."""
    check_codec(codec, "encode", "decode")
    wanted = await _wanted(js, config, options)
    with bucket_errors(bucket_of(wanted.name)):
        return construct(KeyValue, js, await js.update_stream(wanted), codec)


async def create_or_update(
    js: BaseJetStream, config: KeyValueConfig | str, options: KeyValueOptions, codec: Codec[T]
) -> KeyValue[T]:
    """Create a bucket, or update it if it exists."""
    check_codec(codec, "encode", "decode")
    wanted = await _wanted(js, config, options)
    return construct(KeyValue, js, await js.create_or_update_stream(wanted), codec)


async def delete(js: BaseJetStream, bucket: str) -> None:
    """Delete a bucket."""
    with bucket_errors(check_bucket(bucket)):
        await js.delete_stream(stream_of(bucket))


def names(js: BaseJetStream) -> PageIterator[str]:
    """Iterate over the names of all buckets."""
    return select(
        js.stream_names(),
        lambda name: bucket_of(name) if name.startswith(STREAM_PREFIX) else None,
    )


def statuses(js: BaseJetStream) -> PageIterator[KeyValueStatus]:
    """Iterate over the status of all buckets."""
    return select(js.streams(), _status)


def _status(info: StreamInfo) -> KeyValueStatus | None:
    if not info.config.name.startswith(STREAM_PREFIX):
        return None
    return KeyValueStatus(config=bucket_config(info.config), stream_info=info)


async def _wanted(
    js: BaseJetStream, config: KeyValueConfig | str, options: KeyValueOptions
) -> StreamConfig:
    wanted = stream_config(whole_config(KeyValueConfig, config, options))
    if wanted.allow_msg_ttl:
        # Older servers would silently ignore it (ADR-8, 48).
        level = (await js.account_info()).api.level
        if level < 1:
            raise APILevelError(
                412,
                ErrorCode.REQUIRED_API_LEVEL,
                f"limit_marker_ttl needs server 2.11 or later (API level 1); the level is {level}",
            )
    return wanted
