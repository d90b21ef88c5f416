"""Read an object chunk by chunk, and verify it."""

from __future__ import annotations

import hashlib
from types import TracebackType
from typing import Self

import trio

from .._async_with import NeedsAsyncWith
from .._constructors import NoPublicConstructor
from ..errors import fresh
from ..jetstream.consumer.message_channel import Messages
from ..jetstream.watched_messages import INACTIVE_THRESHOLD
from ..options import check_count
from .backend import ObjectBackend, next_or_none, store_errors
from .errors import (
    DamagedObjectError,
    DigestMismatchError,
    ObjectChangedError,
    ObjectLinkError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from .info import ObjectInfo
from .names import check_bucket, check_object_name, chunk_subject, read_digest, stream_name

__all__ = ["ObjectReader"]

ON_THE_WAY = 8 * 1024 * 1024
"""Maximum number of bytes that are requested and not yet received."""
HEADROOM = 64 * 1024
"""Bytes of a message besides its payload, for subjects and headers."""
MAX_LINKS = 8
DEFAULT_MAX_SIZE = 256 * 1024 * 1024


class ObjectReader(
    trio.abc.ReceiveChannel[bytes],
    NeedsAsyncWith,
    metaclass=NoPublicConstructor,
    use="store.get()",
):
    """A Trio channel of the chunks of an object, returned by :meth:`ObjectStore.get`.

    .. code-block:: python

        async with store.get("film") as reader:
            print(reader.info.size)
            async for chunk in reader:
                ...

    Use it with ``async with``: entering looks up the object, leaving stops reading, also if
    cancelled. The task that entered the block must leave it. The reader holds at most about 8 MiB
    in memory, and continues after reconnects and restarts of the server. Only one task may read at
    a time.

    The channel ends with :exc:`trio.EndOfChannel`, which ends an ``async for``, only when all bytes
    have been received and their digest is correct. Otherwise it raises an error of
    :meth:`receive`; then do not use the chunks that you have received.
    """

    _async_with = "store.get(name) as reader"

    def __init__(self, backend: ObjectBackend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._info: ObjectInfo | None = None
        self._messages: Messages | None = None
        self._digest = hashlib.sha256()
        self._seq = 0  # of the last chunk received
        self._chunks = 0
        self._size = 0
        self._ended: Exception | None = None
        self._receiving = False

    @property
    def info(self) -> ObjectInfo:
        """Metadata of the object. If you read a link, that of its target."""
        if self._info is None:
            raise self._not_entered_error("this reader")
        return self._info

    # --- entering and leaving --------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Look up the object, and request its chunks. If cancelled, nothing was started.

        It also raises what the methods of :class:`JetStream` raise.

        :raises ObjectNotFoundError: if the store has no object with this name.
        :raises ObjectLinkError: if it is a link to a whole store, or cannot be followed.
        :raises InvalidObjectMetaError: if the stored metadata is invalid.
        :raises ObjectStoreNotFoundError: if the store does not exist.
        """
        if self._info is not None:
            raise RuntimeError("a reader can be entered only once; call store.get() again")
        info = await self._find()
        if info.size:
            messages = self._consume(info)
            with store_errors(self._backend.bucket):
                await messages.__aenter__()
            self._messages = messages
        self._info = info
        return self

    async def _find(self) -> ObjectInfo:
        """Return the metadata of the object, after following links."""
        name = self._name
        for _ in range(MAX_LINKS):
            info = await self._backend.info(name)
            if info.deleted:
                raise ObjectNotFoundError(
                    f"object {name[:80]!r} in object store {self._backend.bucket!r} was deleted"
                )
            if info.link is None:
                return info
            name = await self._follow(info)
        raise ObjectLinkError(
            f"link {self._name!r} must lead to an object in at most {MAX_LINKS} steps; it leads in "
            "a circle, or needs more"
        )

    async def _follow(self, info: ObjectInfo) -> str:
        link = info.link
        assert link is not None
        if link.name is None:
            raise ObjectLinkError(
                f"{info.name!r} is a link to the whole object store {link.bucket[:80]!r}; "
                "open that store"
            )
        try:
            name = check_object_name(link.name)
            if link.bucket != self._backend.bucket:
                js, stream = self._backend.js, stream_name(check_bucket(link.bucket))
                with store_errors(link.bucket):
                    self._backend = ObjectBackend(js, await js.stream(stream))
        except ValueError as error:  # another client created the link
            raise ObjectLinkError(f"invalid target of link {info.name!r}: {error}") from None
        return name

    def _consume(self, info: ObjectInfo) -> Messages:
        self._subject = chunk_subject(self._backend.bucket, info.nuid)
        # The server may have had a larger max_payload when the object was stored.
        largest = max(self._backend.max_payload, min(info.chunk_size or 0, info.size))
        consumer = self._backend.stream.ordered_consumer(
            filter_subjects=[self._subject], inactive_threshold=INACTIVE_THRESHOLD
        )
        return consumer.consume(
            max_bytes=max(ON_THE_WAY, 2 * (largest + HEADROOM)), stop_after=info.chunks
        )

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if self._messages is not None:
            await self._messages.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Stop reading, as leaving the ``async with`` block does. May be called again.

        If cancelled, the reader is closed all the same.
        """
        self._close()
        if self._messages is not None:
            await self._messages.aclose()
        else:
            await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if self._ended is None:
            self._ended = trio.ClosedResourceError("this ObjectReader is closed")

    # --- reading ---------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Wait for the next chunk. If cancelled, no chunk is lost.

        :returns: the chunk.
        :raises trio.EndOfChannel: after the last chunk, if size and digest are correct.
        :raises DigestMismatchError: if the digest is not correct; a :exc:`DamagedObjectError`.
        :raises DamagedObjectError: if chunks are missing, or there are too many bytes.
        :raises ObjectChangedError: if the object was replaced or deleted while you read it.
        :raises ObjectStoreNotFoundError: if the store was deleted.
        :raises trio.ClosedResourceError: if the reader or the connection is closed or draining.
        :raises trio.BusyResourceError: if another task is reading.
        :raises ConnectionLostError: if the connection is lost for good.
        """
        info = self.info
        if self._receiving:
            raise trio.BusyResourceError("another task is reading this object")
        self._receiving = True
        try:
            if self._ended is None and (not info.size or self._chunks == info.chunks):
                self._ended = self._verdict(info)
            if self._ended is not None:
                await trio.lowlevel.checkpoint()
                raise fresh(self._ended)
            return await self._next(info)
        finally:
            self._receiving = False

    async def _next(self, info: ObjectInfo) -> bytes:
        assert self._messages is not None
        try:
            with store_errors(self._backend.bucket):
                msg = await next_or_none(
                    self._messages, self._backend.stream, self._subject, self._seq
                )
        except trio.EndOfChannel:
            # EndOfChannel would mean that the object is complete.
            raise trio.ClosedResourceError("this NATS connection is draining") from None
        if msg is None:
            self._ended = await self._missing(info)
            raise fresh(self._ended)
        metadata = msg.metadata
        data = msg.data
        self._seq = metadata.stream_seq
        self._chunks += 1
        self._size += len(data)
        if self._size > info.size:
            self._ended = DamagedObjectError(
                f"object {info.name!r} must have {info.size:,} bytes; more are stored; put it again"
            )
            raise fresh(self._ended)
        self._digest.update(data)
        return data

    async def _missing(self, info: ObjectInfo) -> Exception:
        """Find out why there are no more chunks."""
        try:
            now = await self._backend.info(info.name, leader=True)
        except ObjectNotFoundError:
            now = None
        if now is None or now.nuid != info.nuid or now.deleted:
            return ObjectChangedError(
                f"object {info.name!r} was replaced or deleted while you read it; get it again"
            )
        return DamagedObjectError(
            f"object {info.name!r} must have {info.chunks:,} chunks; {self._chunks:,} are stored; "
            "put it again"
        )

    def _verdict(self, info: ObjectInfo) -> Exception:
        if self._size != info.size:
            return DamagedObjectError(
                f"object {info.name!r} must have {info.size:,} bytes; {self._size:,} are stored; "
                "put it again"
            )
        expected = read_digest(info.digest)
        if expected is None and (info.digest or info.size):
            return DigestMismatchError(
                f"the digest of object {info.name!r} must be a SHA-256 digest, not "
                f"{info.digest[:80]!a}; the object cannot be verified"
            )
        if expected is not None and expected != self._digest.digest():
            return DigestMismatchError(
                f"the stored bytes of object {info.name!r} do not match its digest; put it again"
            )
        return trio.EndOfChannel()

    async def read_all(self, *, max_size: int = DEFAULT_MAX_SIZE) -> bytes:
        """Read the rest of the object. It also raises what :meth:`receive` raises.

        If cancelled, the bytes received by this call are lost.

        :param max_size: maximum size of the object in bytes. Default: 256 MiB.
        :returns: all bytes that have not been read.
        :raises ObjectTooLargeError: at once, if the object is larger than ``max_size``.
        """
        check_count("max_size", max_size)
        if self.info.size > max_size:
            raise ObjectTooLargeError(
                f"object {self.info.name!r} has {self.info.size:,} bytes; max_size is "
                f"{max_size:,}; read it chunk by chunk, or pass a larger max_size"
            )
        return b"".join([chunk async for chunk in self])
