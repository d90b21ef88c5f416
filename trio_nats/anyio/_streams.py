"""What comes out of a connection, and what goes into it, as anyio's streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
import anyio.lowlevel
import trio
from anyio.abc import ObjectReceiveStream, ObjectSendStream

import trio_nats
from trio_nats import Encoder, HeadersLike, Msg
from trio_nats.codecs import encoded
from trio_nats.events import Event
from trio_nats.message import Publisher as Origin

from ._backend import Host
from ._errors import TRIO_ERRORS, translated

__all__ = ["Events", "Publisher", "Replies", "Subscription"]

_T_co = TypeVar("_T_co", covariant=True)
_T_contra = TypeVar("_T_contra", contravariant=True)


class _Receiving(ObjectReceiveStream[_T_co], Generic[_T_co]):
    """A Trio channel seen as an anyio stream."""

    def __init__(self, host: Host, channel: trio.abc.ReceiveChannel[_T_co]) -> None:
        self._host = host
        self._channel = channel
        self._receive: Callable[[], Awaitable[_T_co]] = host.receiver(channel)

    async def __aenter__(self) -> Self:
        try:
            await self._host.run(self._channel.__aenter__, undo=self._channel.aclose)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it, and drop what was not received. Done even if cancelled, or repeated."""
        # The channel itself knows what to say now; whatever was taken out of it is dropped too.
        self._receive = partial(self._host.run, self._channel.receive)
        try:
            await self._host.run(self._channel.aclose)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass  # as the connection is, and all that went with it

    async def receive(self) -> _T_co:
        """The next one; waits for it. If cancelled, it stays for the next task that asks.

        Raises :exc:`anyio.EndOfStream`, which ends an ``async for``, when there will be no more,
        and :exc:`anyio.ClosedResourceError` when this end or the connection was closed.
        """
        try:
            return await self._receive()
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__


class _Messages(_Receiving[Msg]):
    """A stream of messages, which can be answered."""

    def __init__(self, host: Host, channel: trio.abc.ReceiveChannel[Msg], origin: Origin) -> None:
        super().__init__(host, channel)
        self._origin = origin

    async def receive(self) -> Msg:
        """The next message; waits for it. If cancelled, it stays for the next task that asks.

        Raises :exc:`anyio.EndOfStream`, which ends an ``async for``, when there will be no more,
        and what else the end is said to be.
        """
        try:
            msg = await self._receive()
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__
        msg._origin = self._origin
        return msg


class Subscription(_Messages):
    """The messages of one subscription, as an :class:`anyio.abc.ObjectReceiveStream`.

    Made by :meth:`Connection.subscribe` and used with ``async with``: entering subscribes, leaving
    unsubscribes, also when cancelled. Several tasks may receive from it at the same time; each
    message goes to exactly one of them.

    It ends with :exc:`anyio.EndOfStream`, which ends an ``async for``, once ``stop_after`` messages
    have been taken out; with :exc:`~trio_nats.PermissionsViolationError` if the server forbids it;
    with :exc:`ConnectionLostError`, an :exc:`anyio.BrokenResourceError`, when the connection is
    gone for good; and with :exc:`anyio.ClosedResourceError` when this end or the connection was
    closed.
    """

    def __init__(self, host: Host, subscription: trio_nats.Subscription, origin: Origin) -> None:
        super().__init__(host, subscription, origin)
        self._subscription = subscription

    @property
    def subject(self) -> str:
        """What was subscribed to, wildcards included."""
        return self._subscription.subject

    @property
    def queue(self) -> str | None:
        """The queue group, if it is in one."""
        return self._subscription.queue

    @property
    def pending(self) -> tuple[int, int]:
        """How many messages, and how many bytes of data and headers, wait to be received."""
        return self._subscription.pending

    @property
    def dropped(self) -> int:
        """How many messages were dropped because the limits were reached."""
        return self._subscription.dropped

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe, but keep what the server has sent until then.

        See :meth:`trio_nats.Subscription.drain`: the messages there are can be received as before,
        and then the subscription ends. Raises :exc:`TimeoutError` when the server did not confirm
        within ``timeout`` seconds. Cancelled or timed out, it is unsubscribed all the same.
        """
        try:
            await self._host.run(partial(self._subscription.drain, timeout=timeout))
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    def __repr__(self) -> str:
        return repr(self._subscription)


class Replies(_Messages):
    """The replies to a request, made by :meth:`Connection.request_many`.

    Entering it with ``async with`` publishes the request; leaving it forgets about replies still to
    come. When it ends is said at :meth:`Connection.request_many`.
    """

    def __init__(self, host: Host, replies: trio_nats.Replies, origin: Origin) -> None:
        super().__init__(host, replies, origin)
        self._replies = replies

    @property
    def subject(self) -> str:
        """What the request was published to."""
        return self._replies.subject

    @property
    def pending(self) -> tuple[int, int]:
        """How many replies, and how many bytes of data and headers, wait to be received."""
        return self._replies.pending

    @property
    def dropped(self) -> int:
        """How many replies were dropped because the limits were reached."""
        return self._replies.dropped


class Events(_Receiving[Event]):
    """What happens to a connection; made by :meth:`Connection.events`."""


class Publisher(ObjectSendStream[_T_contra], Generic[_T_contra]):
    """A stream into one subject; made by :meth:`Connection.publisher`.

    Closing it ends this stream only, not the connection.
    """

    def __init__(
        self,
        origin: Origin,
        subject: str,
        headers: HeadersLike | None,
        codec: Encoder[_T_contra] | None = None,
    ) -> None:
        self._origin = origin
        self._headers = headers
        self._codec = codec
        self._closed = False
        self.subject: str = subject
        """Where everything goes that is sent."""

    async def send(self, item: _T_contra) -> None:
        """Publish ``item``: bytes-like, or text to be sent as UTF-8, or what the codec encodes.

        Waits, raises and is cancelled as :meth:`Connection.publish` is; once this stream is closed
        it raises :exc:`anyio.ClosedResourceError`.
        """
        if self._closed:
            await anyio.lowlevel.checkpoint()
            raise anyio.ClosedResourceError("this publisher is closed")
        payload = encoded(self._codec, item)
        await self._origin.publish(self.subject, payload, headers=self._headers)

    async def aclose(self) -> None:
        """Send no more. Nothing is flushed: that is the connection's to do."""
        self._closed = True
        await anyio.lowlevel.checkpoint()
