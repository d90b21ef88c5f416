"""Create, open, update, list and delete buckets, for the methods of :class:`JetStream`."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from .._constructors import construct
from ..codecs import Codec, check_codec
from ..jetstream import json_codec
from ..jetstream.api import PageIterator, select
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import APILevelError, ErrorCode, StreamNameInUseError
from ..jetstream.info import StreamInfo
from ..jetstream.stream_config import StreamConfig, with_changes
from ..jetstream.validation import whole_config
from .config import (
    MAX_HISTORY,
    STREAM_PREFIX,
    KeyValueConfig,
    KeyValueOptions,
    KeyValueStatus,
    bucket_config,
    bucket_of,
    stream_config,
    stream_of,
)
from .errors import BucketExistsError, BucketNotFoundError, NotABucketError
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
    _present_config(stream.info.config)
    return construct(KeyValue, js, stream, codec)


async def create(
    js: BaseJetStream, config: KeyValueConfig | str, options: KeyValueOptions, codec: Codec[T]
) -> KeyValue[T]:
    """Create a bucket."""
    check_codec(codec, "encode", "decode")
    wanted = await _wanted(js, whole_config(KeyValueConfig, config, options))
    try:
        return construct(KeyValue, js, await js.create_stream(wanted), codec)
    except StreamNameInUseError as error:
        refused = error
    bucket = bucket_of(wanted.name)
    with bucket_errors(bucket):
        stream = await js.stream(wanted.name)
    present = _present_config(stream.info.config)
    # Other clients give the stream other settings that are not those of a bucket.
    what = json_codec.differences(bucket_config(wanted), present)
    if not what:
        return construct(KeyValue, js, stream, codec)
    raise BucketExistsError(
        refused.code,
        refused.err_code,
        f"bucket {bucket!r} already exists with a different configuration: {what}. Update it, or "
        "use another name",
    )


def _present_config(stream: StreamConfig) -> KeyValueConfig:
    """Return the configuration of an existing bucket.

    :raises NotABucketError: if the stream is not one.
    """
    history = stream.max_msgs_per_subject
    if history < 1:
        raise NotABucketError(
            f"stream {stream.name!r} is not a key-value bucket: max_msgs_per_subject must be at "
            f"least 1, not {history}"
        )
    return bucket_config(stream)


async def update(
    js: BaseJetStream, config: KeyValueConfig | str, options: KeyValueOptions, codec: Codec[T]
) -> KeyValue[T]:
    """Change the configuration of a bucket."""
    check_codec(codec, "encode", "decode")
    wanted = await _wanted(js, whole_config(KeyValueConfig, config, options))
    with bucket_errors(bucket_of(wanted.name)):
        present = (await js.stream(wanted.name)).info.config
        before = _present_config(present)
        if isinstance(config, str):
            # Only what is given changes.
            wanted = await _wanted(js, msgspec.structs.replace(before, **options))
        before = msgspec.structs.replace(before, history=min(before.history, MAX_HISTORY))
        changed = with_changes(present, stream_config(before), wanted)
        return construct(KeyValue, js, await js.update_stream(changed), codec)


async def create_or_update(
    js: BaseJetStream, config: KeyValueConfig | str, options: KeyValueOptions, codec: Codec[T]
) -> KeyValue[T]:
    """Create a bucket, or update it if it exists."""
    try:
        return await update(js, config, options, codec)
    except BucketNotFoundError:
        pass
    try:
        return await create(js, config, options, codec)
    except BucketExistsError:  # another client has just created it
        return await update(js, config, options, codec)


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


async def _wanted(js: BaseJetStream, config: KeyValueConfig) -> StreamConfig:
    wanted = stream_config(config)
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
