"""The connection, for anyio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar, TypeVarTuple, overload

import anyio.lowlevel

import trio_nats
from trio_nats import (
    ConnectionState,
    Encoder,
    HeadersLike,
    Msg,
    NatsError,
    Payload,
    PendingLimits,
    Server,
    ServerInfo,
    Statistics,
    TLSInfo,
)
from trio_nats._tracebacks import takes_secrets
from trio_nats.codecs import encoded
from trio_nats.message import respond_through

from .._constructors import NoPublicConstructor, construct
from ._backend import Host
from ._errors import TRIO_ERRORS, translated
from ._streams import Events, Publisher, Replies, Subscription

__all__ = ["Connection"]

P = TypeVar("P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Connection(metaclass=NoPublicConstructor, use="trio_nats.anyio.open_nats()"):
    """A connection to NATS, as given by ``async with trio_nats.anyio.open_nats(...) as nc:``.

    It has the methods of :class:`trio_nats.Connection`, with anyio's streams in place of Trio's
    channels, and raises anyio's exceptions. You may use it from any task of the event loop that
    opened it. Once it is closed, its methods raise :exc:`anyio.ClosedResourceError`; once no server
    can be reached any more, they raise :exc:`ConnectionLostError`, which is an
    :exc:`anyio.BrokenResourceError`.
    """

    def __init__(self, host: Host, connection: trio_nats.Connection) -> None:
        self._host = host
        self._trio = connection
        self._publish = host.publisher(connection)

    async def _run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
    ) -> _T:
        try:
            return await self._host.run(function, *args)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    # --- publishing and subscribing --------------------------------------------------------------

    @overload
    async def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None: ...
    @overload
    async def publish(
        self,
        subject: str,
        payload: P,
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P],
    ) -> None: ...
    async def publish(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> None:
        """Send a message to all subscribers of a subject. See :meth:`trio_nats.Connection.publish`.

        Waits only while the outbox is full. If cancelled, either the whole message was sent or
        nothing.

        The parameters are those of :meth:`trio_nats.Connection.publish`.
        """
        try:
            await self._publish(subject, encoded(codec, payload), reply=reply, headers=headers)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    async def _respond(self, reply: bytes, payload: Payload, headers: HeadersLike | None) -> None:
        await self.publish(reply.decode(), payload, headers=headers)

    async def _checkpoint(self) -> None:
        await anyio.lowlevel.checkpoint()

    @overload
    def publisher(
        self, subject: str, *, headers: HeadersLike | None = None
    ) -> Publisher[Payload]: ...
    @overload
    def publisher(
        self, subject: str, *, headers: HeadersLike | None = None, codec: Encoder[P]
    ) -> Publisher[P]: ...
    def publisher(
        self, subject: str, *, headers: HeadersLike | None = None, codec: Encoder[P] | None = None
    ) -> Publisher[Payload] | Publisher[P]:
        """Make a stream that publishes to a subject.

        The subject and the headers are checked by :meth:`Publisher.send`.

        :param subject: the subject to publish to.
        :param headers: the headers of every message. Default: none.
        :param codec: the codec that encodes the items; see :mod:`trio_nats.codecs`. Default: none,
            so items are payloads.
        :returns: the stream.
        """
        if codec is None:
            plain: Publisher[Payload] = construct(Publisher, self.publish, subject, headers)
            return plain
        return construct(Publisher, self.publish, subject, headers, codec)

    def subscribe(
        self,
        subject: str,
        *,
        queue: str | None = None,
        stop_after: int | None = None,
        pending_limits: PendingLimits | None = None,
    ) -> Subscription:
        """Subscribe to a subject, for the duration of an ``async with`` block.

        Use it as ``async with nc.subscribe("greet.*") as sub:``. The parameters are those of
        :meth:`trio_nats.Connection.subscribe`, and it raises the same errors.
        """
        subscription = self._trio.subscribe(
            subject, queue=queue, stop_after=stop_after, pending_limits=pending_limits
        )
        return construct(Subscription, self._host, subscription, self)

    # --- requests --------------------------------------------------------------------------------

    @overload
    async def request(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
    ) -> Msg: ...
    @overload
    async def request(
        self,
        subject: str,
        payload: P,
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P],
    ) -> Msg: ...
    async def request(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> Msg:
        """Publish a message and wait for one reply.

        If cancelled, the request may have been sent all the same; the reply is dropped if it still
        arrives.

        The parameters are those of :meth:`trio_nats.Connection.request`.

        :returns: the reply.
        :raises NoRespondersError: if nobody is subscribed to the subject.
        :raises RequestTimeoutError: if no reply arrived within ``timeout``; a :exc:`TimeoutError`.
        :raises PermissionsViolationError: if the server forbids it.
        """

        data = encoded(codec, payload)

        async def request() -> Msg:
            return await self._trio.request(subject, data, timeout=timeout, headers=headers)

        return respond_through(await self._run(request), self)

    @overload
    def request_many(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        timeout: float | None = None,
        stop_after: int | None = None,
        stall: float | None = None,
        sentinel: Callable[[Msg], bool] | None = None,
        pending_limits: PendingLimits | None = None,
        headers: HeadersLike | None = None,
    ) -> Replies: ...
    @overload
    def request_many(
        self,
        subject: str,
        payload: P,
        *,
        timeout: float | None = None,
        stop_after: int | None = None,
        stall: float | None = None,
        sentinel: Callable[[Msg], bool] | None = None,
        pending_limits: PendingLimits | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P],
    ) -> Replies: ...
    def request_many(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        timeout: float | None = None,
        stop_after: int | None = None,
        stall: float | None = None,
        sentinel: Callable[[Msg], bool] | None = None,
        pending_limits: PendingLimits | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> Replies:
        """Publish a message and receive any number of replies (ADR-47).

        Use it as ``async with nc.request_many("svc", b"x", stall=0.1) as replies:``. The replies
        end with :exc:`anyio.EndOfStream`. The parameters are those of
        :meth:`trio_nats.Connection.request_many`, which describes when the replies end.
        """
        replies = self._trio.request_many(
            subject,
            encoded(codec, payload),
            timeout=timeout,
            stop_after=stop_after,
            stall=stall,
            sentinel=sentinel,
            pending_limits=pending_limits,
            headers=headers,
        )
        return construct(Replies, self._host, replies, self)

    def new_inbox(self) -> str:
        """Return a new unique subject, to subscribe to and to publish with as ``reply``.

        :returns: the subject, which begins with the connection's ``inbox_prefix``.
        """
        return self._trio.new_inbox()

    # --- the connection itself -------------------------------------------------------------------

    async def flush(self, *, timeout: float | None = None) -> None:
        """Wait until the server has processed everything that was published so far.

        While disconnected, it waits for the next connection. If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :raises RequestTimeoutError: if the server did not answer within ``timeout``; a
            :exc:`TimeoutError`.
        """
        await self._run(partial(self._trio.flush, timeout=timeout))

    async def rtt(self, *, timeout: float | None = None) -> float:
        """Measure the round-trip time to the server.

        It includes sending what was published before. If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :returns: the time in seconds.
        :raises RequestTimeoutError: if the server did not answer within ``timeout``; a
            :exc:`TimeoutError`.
        """
        return await self._run(partial(self._trio.rtt, timeout=timeout))

    def events(self, *, buffer: int = 256) -> Events:
        """Receive the events of the connection from now on; see :mod:`trio_nats.events`.

        Use it as ``async with nc.events() as events:``. The stream ends after
        :class:`~trio_nats.events.Closed`.

        :param buffer: number of events that may wait to be received. If there are more, the oldest
            are dropped. Default: 256.
        :returns: the events, to be entered with ``async with``.
        """
        return construct(Events, self._host, self._trio.events(buffer=buffer))

    async def wait_for_state(self, *states: ConnectionState) -> ConnectionState:
        """Wait until the connection is in one of several states.

        Returns at once if it is. Raises the errors of a closed connection if it ends without
        reaching one of them. If cancelled, the connection is not affected.

        :param states: the states to wait for.
        :returns: the state that was reached.
        """
        return await self._run(self._trio.wait_for_state, *states)

    async def reconnect(self) -> None:
        """Move to another server, or connect to the present one again.

        See :meth:`trio_nats.Connection.reconnect`. If cancelled, the move continues.
        """
        await self._run(self._trio.reconnect)

    @takes_secrets
    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Replace the servers that are used for reconnecting (ADR-40).

        The present connection stays in use until it is lost, or until :meth:`reconnect` moves it.

        :param servers: one URL, a comma-separated list, or a sequence of either, as for
            :func:`open_nats`.
        :raises ConfigurationError: if a URL is invalid, or contradicts the TLS options.
        """
        try:
            self._trio.set_servers(servers)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    async def drain(self, *, timeout: float | None = None) -> None:
        """End all subscriptions, wait until their messages have been received, and close.

        You can publish and respond until all messages have been received from the subscriptions,
        which then end. You cannot subscribe any more. If cancelled, the connection is closed at
        once. See :meth:`trio_nats.Connection.drain`.

        :param timeout: seconds to wait for the messages to be received. Closing may take another
            ``close_timeout`` seconds. Default: no limit.
        :raises RequestTimeoutError: if messages were left after that time; a :exc:`TimeoutError`.
        """
        await self._run(partial(self._trio.drain, timeout=timeout))

    async def aclose(self) -> None:
        """Send everything that was published, and close the connection.

        Takes at most ``close_timeout`` seconds; see :meth:`trio_nats.Connection.aclose`. You may
        call it repeatedly. Leaving the ``open_nats`` block normally calls it. If cancelled, the
        connection is closed at once.
        """
        try:
            await self._host.run(self._trio.aclose)
        except TRIO_ERRORS as error:
            if self._trio.state is not ConnectionState.CLOSED:
                raise translated(error) from error.__cause__

    @property
    def state(self) -> ConnectionState:
        """State of the connection."""
        return self._trio.state

    @property
    def disconnected_for(self) -> float | None:
        """Seconds since the connection to a server was lost; ``None`` while there is one."""
        return self._trio.disconnected_for

    @property
    def server_info(self) -> ServerInfo:
        """The latest information that the server sent about itself."""
        return self._trio.server_info

    @property
    def tls_info(self) -> TLSInfo | None:
        """How the connection is encrypted; ``None`` for plaintext, or while disconnected."""
        return self._trio.tls_info

    @property
    def connected_url(self) -> str | None:
        """URL of the server in use, without credentials; ``None`` while disconnected."""
        return self._trio.connected_url

    @property
    def failure(self) -> NatsError | None:
        """Why no server can be reached any more.

        ``None`` while the connection is usable, or if it was closed on purpose.
        """
        return self._trio.failure

    @property
    def servers(self) -> tuple[Server, ...]:
        """Known servers, including discovered ones, in the order in which they are tried."""
        return self._trio.servers

    @property
    def stats(self) -> Statistics:
        """Statistics of the connection so far."""
        return self._trio.stats

    def __repr__(self) -> str:
        return repr(self._trio)
