"""Subscriptions, replies, events and publishers as anyio's streams."""

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
from trio_nats.codecs import as_bytes, encoded
from trio_nats.events import Event
from trio_nats.message import Responder, respond_through

from .._async_with import NeedsAsyncWith
from .._constructors import NoPublicConstructor
from ._backend import Host, Publish
from ._errors import TRIO_ERRORS, translated

__all__ = ["Events", "Publisher", "Replies", "Subscription"]

_T_co = TypeVar("_T_co", covariant=True)
_T_contra = TypeVar("_T_contra", contravariant=True)


class _ReceiveStream(ObjectReceiveStream[_T_co], NeedsAsyncWith, Generic[_T_co]):
    """A Trio channel as an anyio stream."""

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
        """Close the stream and drop items that were not received. You may call it repeatedly.

        If cancelled, the stream is closed all the same.
        """
        # From now on the channel raises the right error. Items received from it ahead are dropped.
        self._receive = partial(self._host.run, self._channel.receive)
        try:
            await self._host.run(self._channel.aclose)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass  # It was closed together with the connection.

    async def receive(self) -> _T_co:
        """Wait for the next item. If cancelled, it stays for the next task that receives.

        :returns: the item.
        :raises anyio.EndOfStream: if there will be no more; this ends an ``async for``.
        :raises anyio.ClosedResourceError: if this stream or the connection is closed.
        """
        try:
            return await self._receive()
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__


class _MessageStream(_ReceiveStream[Msg]):
    """A stream of messages whose :meth:`Msg.respond` uses the anyio connection."""

    def __init__(
        self, host: Host, channel: trio.abc.ReceiveChannel[Msg], origin: Responder
    ) -> None:
        super().__init__(host, channel)
        self._origin = origin

    async def receive(self) -> Msg:
        """Wait for the next message. If cancelled, it stays for the next task that receives.

        :returns: the message.
        :raises anyio.EndOfStream: if there will be no more; this ends an ``async for``.
        :raises anyio.ClosedResourceError: if this stream or the connection is closed.
        :raises ConnectionLostError: if the connection is gone for good.
        """
        try:
            msg = await self._receive()
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__
        return respond_through(msg, self._origin)


class Subscription(_MessageStream, metaclass=NoPublicConstructor, use="nc.subscribe()"):
    """A subscription, as an :class:`anyio.abc.ObjectReceiveStream` of its messages.

    Made by :meth:`Connection.subscribe` and used with ``async with``. Entering the block
    subscribes; leaving it unsubscribes, even if cancelled. Several tasks may receive at the same
    time: each message goes to exactly one of them.

    Methods that receive raise one of these once the subscription has ended:

    - :exc:`anyio.EndOfStream`, which ends an ``async for`` loop: after ``stop_after`` messages, or
      after :meth:`drain`.
    - :exc:`~trio_nats.PermissionsViolationError`: if the server forbids the subscription.
    - :exc:`ConnectionLostError`, an :exc:`anyio.BrokenResourceError`: if the connection is gone for
      good.
    - :exc:`anyio.ClosedResourceError`: if the stream or the connection is closed.
    """

    _async_with = "nc.subscribe(...) as sub"

    def __init__(self, host: Host, subscription: trio_nats.Subscription, origin: Responder) -> None:
        super().__init__(host, subscription, origin)
        self._subscription = subscription

    @property
    def subject(self) -> str:
        """The subject, including wildcards."""
        return self._subscription.subject

    @property
    def queue(self) -> str | None:
        """The queue group, or ``None``."""
        return self._subscription.queue

    @property
    def pending(self) -> tuple[int, int]:
        """Number of messages waiting to be received, and their size in bytes."""
        return self._subscription.pending

    @property
    def dropped(self) -> int:
        """Number of messages dropped because the limits were reached."""
        return self._subscription.dropped

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe, but keep messages that the server has already sent.

        You can still receive these; then the subscription ends. See
        :meth:`trio_nats.Subscription.drain`. If cancelled, or if the time is over, it is
        unsubscribed all the same.

        :param timeout: seconds to wait for the server. Default: no limit.
        :raises RequestTimeoutError: if the server does not answer in time; a :exc:`TimeoutError`.
        """
        try:
            await self._host.run(partial(self._subscription.drain, timeout=timeout))
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    def __repr__(self) -> str:
        return repr(self._subscription)


class Replies(_MessageStream, metaclass=NoPublicConstructor, use="nc.request_many()"):
    """The replies to a request, as an :class:`anyio.abc.ObjectReceiveStream`.

    Made by :meth:`Connection.request_many` and used with ``async with``. Entering the block
    publishes the request; replies that arrive after leaving it are dropped. The replies end as
    described at :meth:`trio_nats.Connection.request_many`.
    """

    _async_with = "nc.request_many(...) as replies"

    def __init__(self, host: Host, replies: trio_nats.Replies, origin: Responder) -> None:
        super().__init__(host, replies, origin)
        self._replies = replies

    @property
    def subject(self) -> str:
        """The subject of the request."""
        return self._replies.subject

    @property
    def pending(self) -> tuple[int, int]:
        """Number of replies waiting to be received, and their size in bytes."""
        return self._replies.pending

    @property
    def dropped(self) -> int:
        """Number of replies dropped because the limits were reached."""
        return self._replies.dropped


class Events(_ReceiveStream[Event], metaclass=NoPublicConstructor, use="nc.events()"):
    """The events of a connection. Made by :meth:`Connection.events`."""

    _async_with = "nc.events() as events"


class Publisher(
    ObjectSendStream[_T_contra],
    NeedsAsyncWith,
    Generic[_T_contra],
    metaclass=NoPublicConstructor,
    use="nc.publisher()",
):
    """A stream that publishes to a subject. Made by :meth:`Connection.publisher`.

    Closing it does not close the connection.
    """

    _async_with = "nc.publisher(...) as publisher"

    def __init__(
        self,
        publish: Publish,
        subject: str,
        headers: HeadersLike | None,
        codec: Encoder[_T_contra] | None = None,
    ) -> None:
        self._publish = publish
        self._headers = headers
        self._codec = codec
        self._closed = False
        self.subject: str = subject
        """The subject that items are published to."""

    async def send(self, item: _T_contra) -> None:
        """Publish an item; see :meth:`Connection.publish`.

        If cancelled, either the whole message was sent or nothing.

        :param item: a payload, bytes-like or text; with a codec, a value to encode.
        :raises anyio.ClosedResourceError: if this stream or the connection is closed.
        """
        if self._closed:
            await anyio.lowlevel.checkpoint()
            raise anyio.ClosedResourceError("this publisher is closed")
        payload = as_bytes(encoded(self._codec, item), "item")
        await self._publish(self.subject, payload, headers=self._headers)

    async def aclose(self) -> None:
        """Close the stream, without waiting until the server has received anything.

        If cancelled, the stream is closed all the same.
        """
        self._closed = True
        await anyio.lowlevel.checkpoint()
