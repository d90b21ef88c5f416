"""Watch an object store: first its current objects, then every change."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import trio

from .._async_with import NeedsAsyncWith
from .._constructors import NoPublicConstructor, construct
from .._event_hub import EventChannel
from ..jetstream.consumer.config import DeliverPolicy
from ..jetstream.consumer.message import JetStreamMsg
from ..jetstream.events import ConsumerEvent
from ..jetstream.watched_messages import INACTIVE_THRESHOLD, InitialIterator, WatchedMessages
from .backend import ObjectBackend, store_errors
from .errors import DamagedObjectError
from .info import ObjectInfo, read_info
from .names import all_meta, meta_subject, name_in

__all__ = ["ObjectWatcher", "list_objects"]

_logger = logging.getLogger("trio_nats.objectstore")


class ObjectWatcher(
    trio.abc.ReceiveChannel[ObjectInfo],
    NeedsAsyncWith,
    metaclass=NoPublicConstructor,
    use="store.watch()",
):
    """A Trio channel of the metadata of objects, returned by :meth:`ObjectStore.watch`.

    Use it with ``async with``. It delivers the current objects first, then every change::

        async with store.watch() as watcher:
            async for info in watcher.initial():
                ...  # the current objects
            async for info in watcher:
                ...  # the changes

    Every change is delivered once and in order, also after a reconnect. If several changes of an
    object are made while the connection is lost or you do not receive, only the last one may be
    delivered. Renaming an object delivers the new name, and nothing for the old one. Objects with
    invalid metadata are left out and logged.

    The task that entered the block must leave it, and only one task may receive at a time. The
    channel ends with :exc:`trio.EndOfChannel`, which ends an ``async for``, when the connection is
    drained; with :exc:`ObjectStoreNotFoundError` when the store is deleted; with
    :exc:`ConnectionLostError` when the connection is lost for good; and with
    :exc:`trio.ClosedResourceError` when the watcher or the connection is closed.
    """

    _async_with = "store.watch() as watcher"

    def __init__(
        self, backend: ObjectBackend, policy: DeliverPolicy, *, ignore_deletes: bool
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._ignore_deletes = ignore_deletes
        self._messages: WatchedMessages | None = None
        self._caught_up = trio.Event()
        self._subject = ""  # of the last message returned

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Start watching. If cancelled, nothing was started.

        It also raises what the methods of :class:`JetStream` raise.

        :raises ObjectStoreNotFoundError: if the store does not exist.
        """
        if self._messages is not None:
            raise RuntimeError("a watcher can be entered only once; call store.watch() again")
        subject, stream = all_meta(self._backend.bucket), self._backend.stream
        consumer = stream.ordered_consumer(
            filter_subjects=[subject],
            deliver_policy=self._policy,
            inactive_threshold=INACTIVE_THRESHOLD,
        )
        messages = WatchedMessages(stream, consumer, [subject], since=0, use=self._async_with)
        with store_errors(self._backend.bucket):
            await messages.enter(updates_only=self._policy == DeliverPolicy.NEW)
        self._messages, self._caught_up = messages, messages.caught_up
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._messages is not None:
            await self._messages.leave(exc)

    async def aclose(self) -> None:
        """Stop watching, as leaving the ``async with`` block does. May be called again.

        If cancelled, the watcher is closed all the same.
        """
        await self._entered().aclose()

    def _entered(self) -> WatchedMessages:
        if self._messages is None:
            raise self._not_entered_error("this watcher")
        return self._messages

    def events(self, *, buffer: int = 256) -> EventChannel[ConsumerEvent]:
        """Listen to the events of the consumer that it reads from; see :meth:`Messages.events`.

        :param buffer: number of events that may wait to be received. Default: 256.
        :returns: a channel of events.
        :raises ConfigurationError: if ``buffer`` is less than 1.
        :raises RuntimeError: if the watcher has not been entered.
        """
        return self._entered().events(buffer)

    # --- receiving -------------------------------------------------------------------------------

    @property
    def is_caught_up(self) -> bool:
        """Whether all objects that were current at the start have been received.

        If one of them was replaced in the meantime, its replacement has been received.

        Becomes true with the last of them, so a loop sees it while it handles that object.
        """
        return self._caught_up.is_set()

    async def caught_up(self) -> None:
        """Wait until :attr:`is_caught_up` is true, while another task receives.

        If cancelled, nothing is lost.
        """
        self._entered().check_run()
        await self._caught_up.wait()

    def initial(self) -> AsyncIterator[ObjectInfo]:
        """Iterate over the current objects: ``async for info in watcher.initial():``.

        The loop ends when :attr:`is_caught_up` becomes true; later changes stay in the channel. It
        raises what :meth:`receive` raises. If cancelled, nothing is lost, and you can continue with
        another loop.

        :returns: an iterator over the metadata of the current objects.
        """
        return InitialIterator(self._caught_up, self._step)

    async def receive(self) -> ObjectInfo:
        """Wait for the next object or change. If cancelled, nothing is lost.

        :returns: the metadata of the object.
        :raises trio.EndOfChannel: when the connection is drained.
        :raises trio.ClosedResourceError: if the watcher or the connection is closed.
        :raises trio.BusyResourceError: if another task is receiving.
        :raises ObjectStoreNotFoundError: when the store is deleted.
        :raises ConnectionLostError: when the connection is lost for good.
        """
        while True:
            info = await self._step()
            if info is not None:
                return info

    async def _step(self) -> ObjectInfo | None:
        """Return the next object; ``None`` if it is filtered out or none arrived for a while."""
        messages = self._entered()
        with store_errors(self._backend.bucket):
            msg = await messages.receive()
        return None if msg is None else self._read(msg)

    def _read(self, msg: JetStreamMsg) -> ObjectInfo | None:
        """Return the metadata in a message; ``None`` if it is invalid or filtered out."""
        metadata = msg.metadata
        self._subject = msg.subject
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
                "object store %r: skipping message %d: %s",
                self._backend.bucket,
                metadata.stream_seq,
                str(error),
            )
            return None
        return None if info.deleted and self._ignore_deletes else info


async def list_objects(backend: ObjectBackend, *, show_deleted: bool) -> list[ObjectInfo]:
    """Return the current objects, the latest last."""
    found: dict[str, ObjectInfo] = {}
    names: dict[str, str] = {}  # the subject of each
    async with construct(
        ObjectWatcher, backend, DeliverPolicy.LAST_PER_SUBJECT, ignore_deletes=False
    ) as watcher:
        async for info in watcher.initial():
            subject = meta_subject(backend.bucket, info.name)
            if watcher._subject != subject and names.get(info.name) == subject:
                continue  # the other spelling of the name is not looked up
            names[info.name] = watcher._subject
            found.pop(info.name, None)
            found[info.name] = info
    return [info for info in found.values() if show_deleted or not info.deleted]
