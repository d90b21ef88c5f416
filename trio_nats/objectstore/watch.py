"""What becomes known about objects, as it does."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

import trio

from .._constructors import NoPublicConstructor, construct
from ..jetstream.consumer.config import DeliverPolicy
from ..jetstream.consumer.message import JetStreamMsg
from ..jetstream.consumer.messages import Messages
from ..jetstream.errors import MessageNotFoundError
from .backend import FORGOTTEN_AFTER, ObjectBackend, next_or_none, store_errors
from .errors import DamagedObjectError
from .info import ObjectInfo, read_info
from .names import all_meta, name_in

__all__ = ["ObjectWatcher", "list_objects"]

_logger = logging.getLogger("trio_nats.objectstore")


class ObjectWatcher(
    trio.abc.ReceiveChannel[ObjectInfo], metaclass=NoPublicConstructor, use="store.watch()"
):
    """A Trio channel of what is put, changed and deleted, made by :meth:`ObjectStore.watch`.

    .. code-block:: python

        async with store.watch() as watcher:
            async for info in watcher:
                print(info.name, "deleted" if info.deleted else info.size)

    Use it with ``async with``, and leave it in the task that entered it. First comes what there is,
    and then what changes; :attr:`is_caught_up` tells which. It neither skips nor repeats anything
    over reconnects, except that of several changes of one object the last one is sure to come. What
    is stored there and cannot be understood is left out, with a line in the log. Of an object that
    is renamed the new name comes, and nothing about the old one.

    It ends as :meth:`OrderedConsumer.consume` does.
    """

    def __init__(
        self, backend: ObjectBackend, policy: DeliverPolicy, *, ignore_deletes: bool
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._ignore_deletes = ignore_deletes
        self._messages: Messages | None = None
        self._last = 0  # of what there was at the beginning
        self._seen = 0  # the sequence number of the last message received

    @property
    def is_caught_up(self) -> bool:
        """Whether all has been received that was there when the block was entered."""
        return self._messages is not None and self._seen >= self._last

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Begin. If cancelled, nothing has happened.

        Raises :exc:`ObjectStoreNotFoundError` if the store is gone, and what the methods of
        :class:`JetStream` raise.
        """
        if self._messages is not None:
            raise RuntimeError("a watcher can be entered only once; watch again")
        subject, stream = all_meta(self._backend.bucket), self._backend.stream
        with store_errors(self._backend.bucket):
            if self._policy != DeliverPolicy.NEW:
                try:
                    self._last = (await stream.get_msg(last_for=subject, direct=False)).seq
                except MessageNotFoundError:
                    self._last = 0
            messages = stream.ordered_consumer(
                filter_subjects=subject,
                deliver_policy=self._policy,
                inactive_threshold=FORGOTTEN_AFTER,
            ).consume()
            await messages.__aenter__()
        self._messages = messages
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._messages is not None:
            await self._messages.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Watch no more. Done even if cancelled, or repeated. Leaving the block does the same."""
        await self._entered().aclose()

    def _entered(self) -> Messages:
        if self._messages is None:
            raise RuntimeError("use it as 'async with store.watch() as watcher:'")
        return self._messages

    async def receive(self) -> ObjectInfo:
        """The next one; waits for it. If cancelled, nothing is lost."""
        messages = self._entered()
        while True:
            with store_errors(self._backend.bucket):
                msg = await messages.receive()
            info = self._read(msg)
            if info is not None:
                return info

    def _read(self, msg: JetStreamMsg) -> ObjectInfo | None:
        """What a message says, if that is of interest."""
        metadata = msg.metadata
        self._seen = max(self._seen, metadata.stream_seq)
        if not metadata.pending:
            self._last = 0  # What is missing has been deleted.
        try:
            info = read_info(
                self._backend.bucket,
                name_in(self._backend.bucket, msg.subject),
                msg.data,
                seq=metadata.stream_seq,
                timestamp=metadata.timestamp,
            )
        except (ValueError, DamagedObjectError) as error:
            _logger.warning(
                "object store %r: message %d is left out: %s",
                self._backend.bucket,
                metadata.stream_seq,
                str(error),
            )
            return None
        return None if info.deleted and self._ignore_deletes else info


async def list_objects(backend: ObjectBackend, *, show_deleted: bool) -> list[ObjectInfo]:
    """What there is now."""
    watcher = construct(
        ObjectWatcher, backend, DeliverPolicy.LAST_PER_SUBJECT, ignore_deletes=not show_deleted
    )
    found: dict[str, ObjectInfo] = {}
    async with watcher:
        while not watcher.is_caught_up:
            with store_errors(backend.bucket):
                msg = await next_or_none(
                    watcher._entered(), backend.stream, all_meta(backend.bucket), watcher._seen
                )
            if msg is None:
                break
            info = watcher._read(msg)
            if info is not None:
                found[info.name] = info
    return list(found.values())
