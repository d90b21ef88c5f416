"""The channels of messages that ``consume()`` returns.

A channel has the life cycle (enter, drain, leave), and a :class:`~.message_source.MessageSource`
has the messages: :mod:`.pull` for pull consumers, :mod:`.push` for push consumers. The channel of
an ordered consumer is in :mod:`.ordered`.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

import trio

from ..._async_with import NeedsAsyncWith
from ..._constructors import NoPublicConstructor
from ..._event_hub import EventChannel, EventHub
from ..._nursery import open_nursery
from ...options import check_count
from ...subscription import BatchIterator
from ..events import ConsumerEvent
from .message import JetStreamMsg
from .message_source import MessageSource

__all__ = ["ConsumerMessages", "Messages"]


class Messages(
    trio.abc.ReceiveChannel[JetStreamMsg],
    NeedsAsyncWith,
    metaclass=NoPublicConstructor,
    use="consumer.consume()",
):
    """The messages of a consumer, as a Trio channel; made by ``consume``.

    Use it with ``async with``: entering subscribes and requests messages; leaving unsubscribes,
    even if cancelled. The task that entered it must leave it. Leaving waits until no more of the
    requested messages come: a round trip or two, and at most two seconds. Those that were not
    received are returned to the server and delivered again at once. Messages that the server will
    not deliver again (``AckPolicy.NONE``, or ``max_deliver`` reached) are kept for the next call on
    the same :class:`Consumer`. The ``max_deliver`` of a consumer from :meth:`Stream.bind_consumer`
    is unknown, so its last deliveries are not kept.

    Several tasks may receive from it at the same time, as a pool of workers; each message goes to
    exactly one of them.

    Receiving ends with:

    - :exc:`trio.EndOfChannel`, which ends an ``async for``, after :meth:`drain`, after
      ``stop_after`` messages, and when the connection is drained;
    - :exc:`ConsumerDeletedError` if the consumer was deleted;
    - :exc:`StreamNotFoundError` if the stream was deleted, and for an ordered consumer, if it was
      created again;
    - :exc:`PullError` if the server refuses pull requests for a reason that will not pass;
    - :exc:`PermissionsViolationError` if the user is not allowed to send pull requests;
    - :exc:`ConnectionLostError` if the connection was lost for good;
    - :exc:`trio.ClosedResourceError` if the channel or the connection was closed.

    Any other failure is retried; noteworthy ones are logged.
    """

    _async_with = "consumer.consume(...) as messages"

    def __init__(self, name: str, check_run: Callable[[], None]) -> None:
        self._name = name
        self._check_run = check_run
        self._manager = open_nursery(self._end)
        self._nursery: trio.Nursery | None = None
        self._state = "not entered"
        self._drained = trio.Event()
        self._hub: EventHub[ConsumerEvent] = EventHub(check_run, "messages.events() as events")

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Subscribe, and request messages. If cancelled, nothing has happened.

        :raises trio.ClosedResourceError: if the connection is closed or draining.
        :raises ConnectionLostError: if the connection was lost for good.
        """
        await trio.lowlevel.checkpoint()
        if self._state != "not entered":
            call = self._async_with.partition("(")[0]
            raise RuntimeError(f"this channel can be entered only once; call {call}() again")
        self._state = "open"
        self._nursery = await self._manager.__aenter__()
        try:
            await self._open(self._nursery)
        except BaseException as error:
            await self._manager.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._manager.__aexit__(exc_type, exc, traceback)
        if exc is None:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _end(self, exc: BaseException | None) -> None:
        self._state = "closed"
        self._hub.close()
        assert self._nursery is not None
        with trio.CancelScope(shield=True):
            await self._close()
        self._nursery.cancel_scope.cancel()

    async def receive_batch(self, max_messages: int | None = None) -> list[JetStreamMsg]:
        """Receive all waiting messages at once; wait if there are none.

        This is faster than receiving many messages one by one. With a pull consumer, a batch rarely
        exceeds the ``max_messages`` of ``consume``, because no more are requested in advance.
        Acknowledge each message; the acknowledgements of a batch are written together. If
        cancelled, no message is lost.

        It also raises what ``receive`` raises; see :class:`Messages`.

        :param max_messages: the most messages to return. Default: no limit.
        :returns: the messages, at least one.
        :raises ConfigurationError: if ``max_messages`` is less than 1.
        """
        most = sys.maxsize if max_messages is None else check_count("max_messages", max_messages, 1)
        first = await self.receive()
        return [first, *await self._take_waiting(most - 1)]

    def iter_batches(self, max_messages: int | None = None) -> AsyncIterator[list[JetStreamMsg]]:
        """Iterate over batches of messages; see :meth:`receive_batch`.

        The iteration ends with the channel.

        .. code-block:: python

            async with consumer.consume() as messages:
                async for batch in messages.iter_batches():
                    await store(batch)
                    for msg in batch:
                        await msg.ack()

        :param max_messages: the most messages of a batch. Default: no limit.
        :returns: an iterator of lists of messages, none of them empty.
        :raises ConfigurationError: if ``max_messages`` is less than 1.
        """
        return BatchIterator(self.receive_batch, max_messages)

    async def aclose(self) -> None:
        """Unsubscribe, and return messages that were not received to the server.

        Leaving the block does the same. Harmless when repeated. If cancelled, it is done all the
        same.
        """
        self._check_run()
        self._check_entered()
        self._state = "closed"
        self._hub.close()
        await self._close()
        await trio.lowlevel.checkpoint()

    async def drain(self) -> None:
        """Unsubscribe, but keep the messages that have arrived.

        You can receive them as before, and then the channel ends. Returns once the server has
        confirmed that nothing more will come; without a connection, at once. Harmless when
        repeated. If cancelled, draining goes on in the background.
        """
        self._check_run()
        self._check_entered()
        if self._state == "open":
            self._state = "draining"
            self._stop_asking()
            assert self._nursery is not None
            self._nursery.start_soon(self._run_drain)
        if self._state == "draining":
            await self._drained.wait()
        else:
            await trio.lowlevel.checkpoint()

    def events(self, *, buffer: int = 256) -> EventChannel[ConsumerEvent]:
        """Listen to the events of the consumer from now on; see :mod:`trio_nats.jetstream.events`.

        Use it as ``async with messages.events() as events:``. A slow listener does not delay the
        messages: once ``buffer`` events are waiting, the oldest is dropped, and counted in
        ``dropped``. The channel ends with the messages: when receiving raises
        :exc:`trio.EndOfChannel`, and when the block of the messages is left.

        Status messages arrive among the others, so most events are emitted only while a task
        receives.

        :param buffer: number of events that may wait to be received. Default: 256.
        :returns: a channel of events.
        :raises ConfigurationError: if ``buffer`` is less than 1.
        """
        self._check_run()
        return self._hub.listen(check_count("buffer", buffer, 1))

    async def _run_drain(self) -> None:
        try:
            await self._drain()
        finally:
            self._drained.set()

    def _check_entered(self) -> None:
        if self._state == "not entered":
            raise self._not_entered_error("this channel")

    @abstractmethod
    async def _open(self, nursery: trio.Nursery) -> None:
        """Subscribe, and request messages."""

    @abstractmethod
    async def _close(self) -> None:
        """Unsubscribe; harmless when repeated."""

    @abstractmethod
    def _stop_asking(self) -> None:
        """Send no more pull requests."""

    @abstractmethod
    async def _drain(self) -> None:
        """Unsubscribe, keeping what has arrived."""

    @abstractmethod
    async def _take_waiting(self, most: int) -> list[JetStreamMsg]:
        """Take the waiting messages.

        It cannot be cancelled, and blocks only to close the source after ``stop_after`` messages.
        """

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Number of messages that have arrived and were not received yet."""

    def __repr__(self) -> str:
        return f"<Messages of {self._name} {self._state}, {self.waiting} waiting>"


class ConsumerMessages(Messages):
    """The messages of one consumer on the server."""

    def __init__(self, name: str, source: MessageSource, check_run: Callable[[], None]) -> None:
        super().__init__(name, check_run)
        self._source = source
        source.hub = self._hub
        # Once entered, this is the method of the source, which saves a call for each message.
        self._receive: Callable[[], Awaitable[JetStreamMsg]] = self._not_entered

    @property
    def waiting(self) -> int:
        """Number of messages that have arrived and were not received yet."""
        return self._source.waiting

    async def receive(self) -> JetStreamMsg:
        """Wait for the next message. If cancelled, no message is lost."""
        try:
            return await self._receive()
        except trio.EndOfChannel:
            self._hub.close()
            raise

    async def _take_waiting(self, most: int) -> list[JetStreamMsg]:
        return await self._source.take_waiting(most)

    async def _not_entered(self) -> JetStreamMsg:
        self._check_entered()
        raise trio.ClosedResourceError("this channel of messages is closed")

    async def __anext__(self) -> JetStreamMsg:
        try:
            return await self._receive()
        except trio.EndOfChannel:
            self._hub.close()
            raise StopAsyncIteration from None

    async def _open(self, nursery: trio.Nursery) -> None:
        await self._source.open()
        self._receive = self._source.receiver
        nursery.start_soon(self._source.keep)

    async def _close(self) -> None:
        await self._source.close()

    def _stop_asking(self) -> None:
        self._source.stop_asking()

    async def _drain(self) -> None:
        await self._source.drain()
