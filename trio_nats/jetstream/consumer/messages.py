"""Channels of messages: what ``consume`` makes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

import trio

from ..._constructors import NoPublicConstructor
from ..._nursery import open_nursery
from .message import JetStreamMsg
from .source import MessageSource

__all__ = ["ConsumerMessages", "Messages"]


class Messages(
    trio.abc.ReceiveChannel[JetStreamMsg], metaclass=NoPublicConstructor, use="consumer.consume()"
):
    """The messages of a consumer, as a Trio channel; made by ``consume``.

    Use it with ``async with``: entering subscribes and asks for messages, leaving unsubscribes,
    also when cancelled. The task that entered it must leave it. Messages that arrived but were not
    received are returned and delivered again at once; those still on their way are delivered again
    after ``ack_wait``. A consumer with ``AckPolicy.NONE`` delivers nothing twice, so messages that
    arrived are kept for the next call of the :class:`Consumer`.

    Several tasks may receive from it at the same time, as a pool of workers; each message goes to
    exactly one of them.

    It ends with :exc:`trio.EndOfChannel`, which ends an ``async for``, after :meth:`drain`, after
    ``stop_after`` messages and when the connection is drained; with :exc:`ConsumerDeletedError` or
    another :exc:`PullError` when the server says that there is no use in asking again; with
    :exc:`PermissionsViolationError` if it forbids asking; with :exc:`ConnectionLostError` when the
    connection is gone for good; and with :exc:`trio.ClosedResourceError` when this end or the
    connection was closed. Everything else is gone on from, with a line in the log where it is
    worth one.
    """

    def __init__(self, name: str, check_run: Callable[[], None]) -> None:
        self._name = name
        self._check_run = check_run
        self._manager = open_nursery(self._end)
        self._nursery: trio.Nursery | None = None
        self._state = "not entered"
        self._drained = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Subscribe, and ask for messages. If cancelled, nothing has happened.

        Raises :exc:`trio.ClosedResourceError` if the connection is closed or draining, and
        :exc:`ConnectionLostError` if it is gone for good.
        """
        await trio.lowlevel.checkpoint()
        if self._state != "not entered":
            raise RuntimeError("a channel of messages can be entered only once; consume again")
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
        assert self._nursery is not None
        with trio.CancelScope(shield=True):
            await self._close()
        self._nursery.cancel_scope.cancel()

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise TypeError(
                "a channel of messages cannot be awaited; use it as "
                "'async with consumer.consume(...) as messages:'"
            )

    async def aclose(self) -> None:
        """Unsubscribe, and let what was not received go back. Done even if cancelled, or repeated.

        Leaving the block does the same.
        """
        self._check_run()
        self._check_entered()
        self._state = "closed"
        await self._close()
        await trio.lowlevel.checkpoint()

    async def drain(self) -> None:
        """Unsubscribe, but keep the messages that have arrived.

        You can receive them as before, and then the channel ends. Returns once the server has
        confirmed that nothing more will come, so it waits for a connection if there is none.
        Harmless when repeated. If cancelled, draining goes on in the background.
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

    async def _run_drain(self) -> None:
        try:
            await self._drain()
        finally:
            self._drained.set()

    def _check_entered(self) -> None:
        if self._state == "not entered":
            raise RuntimeError(
                "this channel has not been entered; use it as "
                "'async with consumer.consume(...) as messages:'"
            )

    @abstractmethod
    async def _open(self, nursery: trio.Nursery) -> None:
        """Begin."""

    @abstractmethod
    async def _close(self) -> None:
        """Unsubscribe; harmless when repeated."""

    @abstractmethod
    def _stop_asking(self) -> None:
        """Ask for no more."""

    @abstractmethod
    async def _drain(self) -> None:
        """Let it come to its end."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many messages have come and were not received yet."""

    def __repr__(self) -> str:
        return f"<Messages of {self._name} {self._state}, {self.waiting} waiting>"


class ConsumerMessages(Messages):
    """Those of one consumer."""

    def __init__(self, name: str, source: MessageSource, check_run: Callable[[], None]) -> None:
        super().__init__(name, check_run)
        self._source = source
        # Once entered it is the source's own method: one call less for each message counts.
        self._receive: Callable[[], Awaitable[JetStreamMsg]] = self._not_entered

    @property
    def waiting(self) -> int:
        """How many messages have come and were not received yet."""
        return self._source.waiting

    async def receive(self) -> JetStreamMsg:
        """The next message; waits for it. If cancelled, no message is lost."""
        return await self._receive()

    async def _not_entered(self) -> JetStreamMsg:
        self._check_entered()
        raise trio.ClosedResourceError("this channel of messages is closed")

    async def __anext__(self) -> JetStreamMsg:
        try:
            return await self._receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def _open(self, nursery: trio.Nursery) -> None:
        await self._source.open()
        self._receive = self._source.receive
        nursery.start_soon(self._source.keep)

    async def _close(self) -> None:
        await self._source.close()

    def _stop_asking(self) -> None:
        self._source.stop_asking()

    async def _drain(self) -> None:
        await self._source.drain()
