"""Storing an object: its chunks first, then what is known about it, then nothing of the old one."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from dataclasses import replace

import trio

from ..errors import ConfigurationError, NatsError, RequestTimeoutError
from ..headers import Headers
from ..jetstream.consumer.consumer import new_name
from ..jetstream.errors import ErrorCode, JetStreamAPIError, WrongLastSequenceError
from ..jetstream.publish.publisher import PendingAck
from .backend import ObjectBackend, store_errors
from .chunking import Chunks, Source, chunks_of
from .errors import InvalidObjectMetaError, ObjectNotFoundError, ObjectStoreNotFoundError
from .info import DEFAULT_CHUNK_SIZE, ObjectInfo, ObjectMeta
from .names import chunk_subject, digest_text

__all__ = ["put", "replace_meta"]

_logger = logging.getLogger("trio_nats.objectstore")

UNACKNOWLEDGED = 4 * 1024 * 1024
"""Bytes that may be on their way to the stream."""
MOST_PENDING = 256
MAX_RACES = 100


async def put(backend: ObjectBackend, meta: ObjectMeta, source: Source) -> ObjectInfo:
    """Store an object. If that fails, or is cancelled, nothing of it is left."""
    size = _chunk_size(backend, meta)
    cut = chunks_of(source, size)
    info = ObjectInfo(
        bucket=backend.bucket,
        name=meta.name,
        description=meta.description,
        headers=Headers(meta.headers),
        metadata=meta.metadata,
        nuid=new_name(),
        chunk_size=size,
    )
    # Before anything is sent: whether the store is there.
    old, expected = await backend.before(meta.name)
    chunks: Chunks | None = None
    try:
        async with cut as chunks:
            info = await _upload(backend, info, chunks)
        # Cancelling it half-way would leave it unknown whose chunks are to go.
        with trio.CancelScope(shield=True):
            info = await replace_meta(backend, info, old, expected)
    except BaseException:
        if chunks is not None and chunks.count:
            await _clean_up(backend, info)
        raise
    return info


def _chunk_size(backend: ObjectBackend, meta: ObjectMeta) -> int:
    largest = backend.max_payload
    if meta.chunk_size is None:
        return min(DEFAULT_CHUNK_SIZE, largest)
    if meta.chunk_size > largest:
        raise ConfigurationError(
            f"chunk_size of {meta.chunk_size:,} bytes is more than the server's max_payload of "
            f"{largest:,} bytes"
        )
    return meta.chunk_size


async def _upload(backend: ObjectBackend, info: ObjectInfo, chunks: Chunks) -> ObjectInfo:
    subject = chunk_subject(backend.bucket, info.nuid)
    digest, size = hashlib.sha256(), 0
    assert info.chunk_size is not None
    pending = min(max(2, UNACKNOWLEDGED // info.chunk_size), MOST_PENDING)
    acks: deque[PendingAck] = deque()
    with store_errors(backend.bucket):
        async with backend.js.publisher(max_pending=pending) as publisher:
            while chunk := await chunks.next():
                digest.update(chunk)
                size += len(chunk)
                acks.append(await publisher.publish(subject, chunk))
                while acks and acks[0].done:
                    await acks.popleft()  # raises what went wrong
            for ack in acks:
                await ack
    return replace(info, chunks=chunks.count, size=size, digest=digest_text(digest.digest()))


async def replace_meta(
    backend: ObjectBackend, info: ObjectInfo, old: ObjectInfo | None, expected: int
) -> ObjectInfo:
    """Have ``info`` known in place of ``old``, and delete the chunks of that.

    Somebody else may have been quicker, and has deleted those: then it is theirs that go.
    """
    for _ in range(MAX_RACES):
        try:
            stored = await backend.store(info, expected)
        except WrongLastSequenceError:
            old, expected = await backend.before(info.name)
            continue
        except RequestTimeoutError:
            # The acknowledgement may have been lost, and not the message.
            found, seq = await backend.before(info.name)
            if found is None or found.nuid != info.nuid or seq == expected:
                raise
            stored = found
        if old is not None and old.nuid != info.nuid:
            await _purge_replaced(backend, old)
        return stored
    raise RequestTimeoutError(
        f"object {info.name!r} in bucket {backend.bucket!r} was changed by other clients "
        f"{MAX_RACES} times while it was being stored"
    )


async def _purge_replaced(backend: ObjectBackend, old: ObjectInfo) -> None:
    """The new object is there, whatever becomes of this."""
    if old.deleted or old.link is not None:
        return
    try:
        await backend.purge(chunk_subject(backend.bucket, old.nuid))
    except (NatsError, trio.ClosedResourceError) as error:
        _logger.warning("the chunks of what %r was before may be left: %s", old.name, str(error))


async def _clean_up(backend: ObjectBackend, info: ObjectInfo) -> None:
    """Delete the chunks, unless they have become the object after all."""
    subject = chunk_subject(backend.bucket, info.nuid)
    with trio.move_on_after(backend.js.timeout, shield=True) as scope:
        try:
            # What was published is stored in order, so all of it is behind this; a purge is not.
            await backend.js.publish(subject, b"", attempts=1)
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.debug("%s", str(error))
        try:
            try:
                if (await backend.info(info.name, leader=True)).nuid == info.nuid:
                    return
            except (ObjectNotFoundError, InvalidObjectMetaError):
                pass
            await backend.purge(subject)
        except ObjectStoreNotFoundError:
            pass
        except JetStreamAPIError as error:
            if error.err_code != ErrorCode.STREAM_SEALED:  # Nothing has been stored then.
                _logger.warning("chunks %r may be left behind: %s", subject, str(error))
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.warning("chunks %r may be left behind: %s", subject, str(error))
    if scope.cancelled_caught:
        _logger.warning("chunks %r may be left behind: no answer in time", subject)
