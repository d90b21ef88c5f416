"""Store an object: upload its chunks, store the metadata, delete the chunks that it replaces."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from dataclasses import replace

import trio

from ..errors import NatsError, RequestTimeoutError
from ..headers import Headers
from ..jetstream.consumer.consumer import new_name
from ..jetstream.errors import ErrorCode, JetStreamAPIError, WrongLastSequenceError
from ..jetstream.publish.publisher import PendingAck
from .backend import ROLLUP, ObjectBackend
from .chunking import Chunks, ObjectSource, chunk_size, chunks_of
from .errors import ObjectStoreNotFoundError
from .info import ObjectInfo, ObjectMeta
from .names import chunk_subject, digest_text

__all__ = ["put", "replace_meta"]

_logger = logging.getLogger("trio_nats.objectstore")

UNACKNOWLEDGED = 4 * 1024 * 1024
"""Maximum number of bytes that are sent and not yet acknowledged."""
MOST_PENDING = 256
MAX_RACES = 100
UNAVAILABLE = 503


async def put(backend: ObjectBackend, meta: ObjectMeta, source: ObjectSource) -> ObjectInfo:
    """Store an object. If this fails or is cancelled, delete the chunks that were uploaded."""
    size = chunk_size(meta.chunk_size, backend.max_payload)
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
    # Before any chunk is sent, this checks that the store exists.
    old, expected = await backend.before(meta.name)
    await backend.publish_prefix()
    chunks: Chunks | None = None
    uploaded = False
    try:
        async with cut as chunks:
            info = await _upload(backend, info, chunks)
        uploaded = True
        # After a cancellation here it would be unknown which chunks to delete.
        with trio.CancelScope(shield=True):
            info = await replace_meta(backend, info, old, expected)
    except BaseException as error:
        if chunks is not None and chunks.count:
            await _clean_up(backend, info, error if uploaded else None)
        raise
    return info


async def _upload(backend: ObjectBackend, info: ObjectInfo, chunks: Chunks) -> ObjectInfo:
    subject = await backend.publish_prefix() + chunk_subject(backend.bucket, info.nuid)
    digest, size = hashlib.sha256(), 0
    assert info.chunk_size is not None
    pending = min(max(2, UNACKNOWLEDGED // info.chunk_size), MOST_PENDING)
    acks: deque[PendingAck] = deque()
    with backend.publish_errors():
        async with backend.js.publisher(max_pending=pending) as publisher:
            while chunk := await chunks.next():
                digest.update(chunk)
                size += len(chunk)
                acks.append(await publisher.publish(subject, chunk))
                while acks and acks[0].done:
                    await backend.check_ack(await acks.popleft())  # raises if it was refused
            for ack in acks:
                await backend.check_ack(await ack)
    return replace(info, chunks=chunks.count, size=size, digest=digest_text(digest.digest()))


async def replace_meta(
    backend: ObjectBackend, info: ObjectInfo, old: ObjectInfo | None, expected: int
) -> ObjectInfo:
    """Store the metadata ``info`` in place of ``old``, and delete the chunks of ``old``.

    If another client has replaced ``old`` first, it has deleted those chunks; then replace its
    object and delete the chunks of that.
    """
    for _ in range(MAX_RACES):
        try:
            stored = await backend.store(info, expected)
        except WrongLastSequenceError:
            old, expected = await backend.before(info.name)
            continue
        except RequestTimeoutError as error:
            # The message may have been stored, and only the acknowledgement lost.
            try:
                found, seq = await backend.before(info.name)
            except NatsError:
                raise error from None  # Other errors mean that the message was refused.
            if found is None or found.nuid != info.nuid or seq == expected:
                raise
            stored = found
        if old is not None and old.nuid != info.nuid:
            await _purge_replaced(backend, old)
        return stored
    raise RequestTimeoutError(
        f"object {info.name!r} in object store {backend.bucket!r} was changed by other clients "
        f"{MAX_RACES} times during the upload; try again"
    )


async def _purge_replaced(backend: ObjectBackend, old: ObjectInfo) -> None:
    """Delete the chunks of a replaced object. A failure does not affect the new object."""
    if old.deleted or old.link is not None:
        return
    subject = chunk_subject(backend.bucket, old.nuid)
    try:
        try:
            await backend.purge(subject)
        except RequestTimeoutError:
            backend.stream._purge_nowait(subject)  # Sent once the server can be reached.
    except (NatsError, trio.ClosedResourceError) as error:
        _logger.warning(
            "chunks of the replaced object %r may be left behind: %s", old.name, str(error)
        )


async def _clean_up(
    backend: ObjectBackend, info: ObjectInfo, failure: BaseException | None
) -> None:
    """Delete the uploaded chunks, unless the object was stored after all.

    :param failure: the error of storing the metadata; ``None`` if it was not sent.
    """
    subject = chunk_subject(backend.bucket, info.nuid)
    reason, is_silent = "the server did not answer in time", True
    with trio.move_on_after(backend.js.timeout, shield=True):
        try:
            await _delete_chunks(backend, info, subject, failure)
        except (NatsError, trio.ClosedResourceError) as error:
            reason, is_silent = str(error), isinstance(error, RequestTimeoutError)
        else:
            return
    later = is_silent and failure is None and await _delete_chunks_later(backend, subject)
    if not later:
        _logger.warning("chunks %r may be left behind: %s", subject, reason)


async def _delete_chunks(
    backend: ObjectBackend, info: ObjectInfo, subject: str, failure: BaseException | None
) -> None:
    try:
        if failure is None:
            await _wait_for_chunks(backend, subject)
        elif await _is_stored(backend, info, failure):
            return
        await backend.purge(subject)
    except ObjectStoreNotFoundError:
        pass
    except JetStreamAPIError as error:
        if error.err_code != ErrorCode.STREAM_SEALED:  # nothing was stored
            raise


async def _wait_for_chunks(backend: ObjectBackend, subject: str) -> None:
    """Wait until all chunks that were sent are stored; a purge request could overtake them."""
    prefix = await backend.publish_prefix()
    try:
        # Messages are stored in order: when this one is stored, all chunks are.
        await backend.js.publish(prefix + subject, b"", attempts=1)
    except (NatsError, trio.ClosedResourceError) as error:
        _logger.debug("%s", str(error))


async def _delete_chunks_later(backend: ObjectBackend, subject: str) -> bool:
    """Queue a request to delete chunks, for when the server can be reached.

    Chunks may still wait to be sent, and a purge request could overtake them in the server. So an
    empty rollup message, which replaces them, is sent before it. That message may be left over.

    :returns: whether the request was queued.
    """
    prefix = await backend.publish_prefix()  # It is known by now, so this does not wait.
    try:
        backend.js.connection.publish_nowait(prefix + subject, headers=ROLLUP)
        backend.stream._purge_nowait(subject)
    except (NatsError, trio.ClosedResourceError) as error:
        _logger.debug("%s", str(error))
        return False
    return True


async def _is_stored(backend: ObjectBackend, info: ObjectInfo, failure: BaseException) -> bool:
    """Return whether the metadata was stored. If not, make sure that it will not be.

    Unless it was refused, it may still be on its way, for example in a frozen server. Stored after
    its chunks have been deleted, it would be a damaged object. The stream refuses it once its
    subject has another last message. So store the present metadata again, or that of a deleted
    object.
    """
    refused = isinstance(failure, JetStreamAPIError) and failure.code != UNAVAILABLE
    while True:
        found, seq = await backend.before(info.name)
        if found is not None and found.nuid == info.nuid:
            return True
        if refused:
            return False
        if found is None:
            found = replace(info, nuid=new_name(), deleted=True, size=0, chunks=0, digest="")
        try:
            await backend.store(found, seq)
        except WrongLastSequenceError:
            continue
        return False
