"""Reading an object as it comes."""

from __future__ import annotations

import hashlib
from types import TracebackType
from typing import Self

import trio

from .._constructors import NoPublicConstructor
from ..errors import fresh
from ..jetstream.consumer.messages import Messages
from ..options import check_count
from .backend import FORGOTTEN_AFTER, ObjectBackend, next_or_none, store_errors
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
"""Bytes that may have been asked for and not been received."""
HEADROOM = 64 * 1024
"""Bytes that a message takes besides its payload, for subjects and headers."""
MAX_LINKS = 8
DEFAULT_MAX_SIZE = 256 * 1024 * 1024


class ObjectReader(
    trio.abc.ReceiveChannel[bytes], metaclass=NoPublicConstructor, use="store.get()"
):
    """An object's bytes as they come, a Trio channel; made by :meth:`ObjectStore.get`.

    .. code-block:: python

        async with store.get("film") as reader:
            print(reader.info.size)
            async for chunk in reader:
                ...

    Use it with ``async with``: entering finds the object, leaving ends all there is, also when
    cancelled. It has to be left by the task that entered it. It holds at most some 8 MiB, and
    goes on by itself over reconnects and restarts of the server. One task at a time may read.

    It ends with :exc:`trio.EndOfChannel`, which ends an ``async for``, once all bytes have come
    and their digest is right, and not otherwise: with :exc:`DigestMismatchError` or another
    :exc:`DamagedObjectError` if what is stored is not what was put; with :exc:`ObjectChangedError`
    if the object was replaced or deleted in the meantime; and with what :meth:`Consumer.consume`
    ends with else.
    """

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
        """What is known about the object; of a link, about what it leads to."""
        if self._info is None:
            raise self._not_entered()
        return self._info

    def _not_entered(self) -> RuntimeError:
        return RuntimeError("use it as 'async with store.get(name) as reader:'")

    # --- entering and leaving --------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Find the object, and ask for its chunks. If cancelled, nothing has happened.

        Raises :exc:`ObjectNotFoundError` if there is none; :exc:`ObjectLinkError` if it is a link
        to a store, or one that leads nowhere; :exc:`InvalidObjectMetaError` if what is stored about
        it cannot be understood; and what the methods of :class:`JetStream` raise.
        """
        if self._info is not None:
            raise RuntimeError("a reader can be entered only once; get the object again")
        info = await self._find()
        if info.size:
            messages = self._consume(info)
            with store_errors(self._backend.bucket):
                await messages.__aenter__()
            self._messages = messages
        self._info = info
        return self

    async def _find(self) -> ObjectInfo:
        """Of the object itself: links are followed."""
        name = self._name
        for _ in range(MAX_LINKS):
            info = await self._backend.info(name)
            if info.deleted:
                raise ObjectNotFoundError(
                    f"object store {self._backend.bucket!r} has no object {name[:80]!r} any more"
                )
            if info.link is None:
                return info
            name = await self._follow(info)
        raise ObjectLinkError(
            f"object {self._name!r}: {MAX_LINKS} links in a row, or in a circle, lead nowhere"
        )

    async def _follow(self, info: ObjectInfo) -> str:
        link = info.link
        assert link is not None
        if link.name is None:
            raise ObjectLinkError(
                f"object {info.name!r} is a link to the whole of object store "
                f"{link.bucket[:80]!r}; open that one"
            )
        try:
            name = check_object_name(link.name)
            if link.bucket != self._backend.bucket:
                js, stream = self._backend.js, stream_name(check_bucket(link.bucket))
                with store_errors(link.bucket):
                    self._backend = ObjectBackend(js, await js.stream(stream))
        except ValueError as error:  # the link was made by somebody else
            raise ObjectLinkError(f"object {info.name!r} is no sound link: {error}") from None
        return name

    def _consume(self, info: ObjectInfo) -> Messages:
        self._subject = chunk_subject(self._backend.bucket, info.nuid)
        largest = self._backend.max_payload
        consumer = self._backend.stream.ordered_consumer(
            filter_subjects=self._subject, inactive_threshold=FORGOTTEN_AFTER
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
        """Read no more. Done even if cancelled, or repeated. Leaving the block does the same."""
        self._close()
        if self._messages is not None:
            await self._messages.aclose()
        else:
            await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if self._ended is None:
            self._ended = trio.ClosedResourceError("this reader is closed")

    # --- reading ---------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """The next chunk; waits for it. If cancelled, nothing is lost.

        Raises :exc:`trio.EndOfChannel` after the last one, when all of them were right.
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
            # Not the object's end, which it would be taken for.
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
                f"object {info.name!r}: more than its {info.size:,} bytes are stored"
            )
            raise fresh(self._ended)
        self._digest.update(data)
        return data

    async def _missing(self, info: ObjectInfo) -> Exception:
        """Why there are no more chunks."""
        try:
            now = await self._backend.info(info.name, leader=True)
        except ObjectNotFoundError:
            now = None
        if now is None or now.nuid != info.nuid or now.deleted:
            return ObjectChangedError(
                f"object {info.name!r} was replaced or deleted while it was read; get it again"
            )
        return DamagedObjectError(
            f"object {info.name!r}: {self._chunks:,} chunks are stored, and not {info.chunks:,}; "
            "put it again"
        )

    def _verdict(self, info: ObjectInfo) -> Exception:
        if self._size != info.size:
            return DamagedObjectError(
                f"object {info.name!r}: {self._size:,} bytes are stored, and not {info.size:,}; "
                "put it again"
            )
        expected = read_digest(info.digest)
        if expected is None and (info.digest or info.size):
            return DigestMismatchError(
                f"object {info.name!r}: its digest {info.digest[:80]!a} is not one of SHA-256, and "
                "cannot be checked"
            )
        if expected is not None and expected != self._digest.digest():
            return DigestMismatchError(
                f"object {info.name!r}: what is stored is not what was put, for its digest is "
                "another; put it again"
            )
        return trio.EndOfChannel()

    async def read_all(self, *, max_size: int = DEFAULT_MAX_SIZE) -> bytes:
        """All bytes that were not read yet; waits for them.

        Raises :exc:`ObjectTooLargeError` at once if the object has more than ``max_size`` bytes,
        256 MiB unless given, and what :meth:`receive` raises. If cancelled, what had come is gone.
        """
        check_count("max_size", max_size)
        if self.info.size > max_size:
            raise ObjectTooLargeError(
                f"object {self.info.name!r} has {self.info.size:,} bytes, more than max_size of "
                f"{max_size:,}; read it chunk by chunk, or raise max_size"
            )
        return b"".join([chunk async for chunk in self])
