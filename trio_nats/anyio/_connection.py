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
from trio_nats.message import answer_by

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

    It is a :class:`trio_nats.Connection` for anyio: the same methods with the same meaning, with
    streams of anyio in place of Trio's channels, and with anyio's exceptions. You may use it from
    any task of the event loop that opened it. Once it is closed, its methods raise
    :exc:`anyio.ClosedResourceError`; once no server can be reached any more, they raise
    :exc:`ConnectionLostError`, which is an :exc:`anyio.BrokenResourceError`.
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

        Waits only while the outbox is full. If cancelled, the whole message was sent or none of it.
        The parameters are those of :meth:`trio_nats.Connection.publish`.
        """
        try:
            await self._publish(subject, encoded(codec, payload), reply=reply, headers=headers)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

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
        """Make a stream that publishes to a subject. It raises nothing; :meth:`Publisher.send`
        does.

        :param subject: the subject to publish to.
        :param headers: headers for every message.
        :param codec: the codec for what is sent; see :mod:`trio_nats.codecs`. Default: payloads.
        :returns: the stream.
        """
        if codec is None:
            plain: Publisher[Payload] = construct(Publisher, self, subject, headers)
            return plain
        return construct(Publisher, self, subject, headers, codec)

    def subscribe(
        self,
        subject: str,
        *,
        queue: str | None = None,
        stop_after: int | None = None,
        pending_limits: PendingLimits | None = None,
    ) -> Subscription:
        """Receive the messages published to a subject, in which ``*`` and ``>`` are wildcards.

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
        """Publish a message and wait for one reply. If cancelled, the reply is lost.

        The parameters are those of :meth:`trio_nats.Connection.request`.

        :returns: the reply.
        :raises NoRespondersError: if nobody is subscribed to the subject.
        :raises RequestTimeoutError: if no reply arrived within ``timeout``; a :exc:`TimeoutError`.
        :raises PermissionsViolationError: if the server forbids it.
        """

        data = encoded(codec, payload)

        async def request() -> Msg:
            return await self._trio.request(subject, data, timeout=timeout, headers=headers)

        return answer_by(await self._run(request), self)

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

        Use it as ``async with nc.request_many("svc", b"x", stall=0.1) as replies:``. It ends with
        :exc:`anyio.EndOfStream`; see :meth:`trio_nats.Connection.request_many` for when. The
        seconds of ``stall`` count while a task waits in ``receive``. The parameters are those of
        :meth:`trio_nats.Connection.request_many`.
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
        """Return a subject that nobody else uses, to subscribe to and to pass as ``reply``."""
        return self._trio.new_inbox()

    # --- the connection itself -------------------------------------------------------------------

    async def flush(self, *, timeout: float | None = None) -> None:
        """Wait until the server has processed everything sent so far.

        While disconnected, it waits for the next connection. If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :raises RequestTimeoutError: if the server did not answer within ``timeout``; a
            :exc:`TimeoutError`.
        """
        await self._run(partial(self._trio.flush, timeout=timeout))

    async def rtt(self, *, timeout: float | None = None) -> float:
        """Measure the time until the server answers, after everything sent so far.

        If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :returns: the time in seconds.
        :raises RequestTimeoutError: if the server did not answer within ``timeout``; a
            :exc:`TimeoutError`.
        """
        return await self._run(partial(self._trio.rtt, timeout=timeout))

    def events(self, *, buffer: int = 256) -> Events:
        """Receive the events of the connection from now on; see :mod:`trio_nats.events`.

        Use it as ``async with nc.events() as events:``. It ends after ``Closed``.

        :param buffer: the number of events that may wait; beyond it the oldest are dropped.
            Default: 256.
        """
        return construct(Events, self._host, self._trio.events(buffer=buffer))

    async def wait_for_state(self, *states: ConnectionState) -> ConnectionState:
        """Wait until the connection is in one of several states; return at once if it is.

        Raises what using the connection raises if it ends without reaching one. If cancelled,
        nothing changes.

        :param states: the states to wait for.
        :returns: the state that was reached.
        """
        return await self._run(self._trio.wait_for_state, *states)

    async def reconnect(self) -> None:
        """Move to another server, or reconnect to the current one.

        See :meth:`trio_nats.Connection.reconnect`. Returns when it is done. If cancelled, the move
        continues.
        """
        await self._run(self._trio.reconnect)

    @takes_secrets
    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Replace the known servers, for reconnecting (ADR-40).

        The current connection stays; :meth:`reconnect` moves it.

        :param servers: as for :func:`open_nats`.
        :raises ConfigurationError: if an address is not usable.
        """
        try:
            self._trio.set_servers(servers)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe everything, let messages that have arrived be received, and close.

        You can publish, and so respond, until all messages have been taken out of the
        subscriptions, which then end. New subscriptions are refused. If cancelled, the connection
        is closed at once.

        :param timeout: seconds to wait until all messages have been received, before closing, which
            takes at most ``close_timeout``. Default: no limit.
        :raises RequestTimeoutError: if messages were left after ``timeout``; a :exc:`TimeoutError`.
        """
        await self._run(partial(self._trio.drain, timeout=timeout))

    async def aclose(self) -> None:
        """Send what was published and close the connection. You may call it repeatedly.

        See :meth:`trio_nats.Connection.aclose`. Takes at most ``close_timeout`` seconds. Leaving
        the ``open_nats`` block does the same. If cancelled, the connection is closed at once.
        """
        try:
            await self._host.run(self._trio.aclose)
        except TRIO_ERRORS as error:
            if self._trio.state is not ConnectionState.CLOSED:
                raise translated(error) from error.__cause__

    @property
    def state(self) -> ConnectionState:
        """The state of the connection."""
        return self._trio.state

    @property
    def disconnected_for(self) -> float | None:
        """Seconds for which there has been no connection to a server; ``None`` if there is one."""
        return self._trio.disconnected_for

    @property
    def server_info(self) -> ServerInfo:
        """The last ``INFO`` of the server."""
        return self._trio.server_info

    @property
    def tls_info(self) -> TLSInfo | None:
        """How the current connection is encrypted; ``None`` if it is not, or if there is none."""
        return self._trio.tls_info

    @property
    def connected_url(self) -> str | None:
        """The URL of the current server, without credentials; ``None`` if there is none."""
        return self._trio.connected_url

    @property
    def failure(self) -> NatsError | None:
        """Why the connection is gone for good; ``None`` if it is not, or was closed on purpose."""
        return self._trio.failure

    @property
    def servers(self) -> tuple[Server, ...]:
        """The known servers, including discovered ones, in the order of trying them."""
        return self._trio.servers

    @property
    def stats(self) -> Statistics:
        """Statistics of the connection."""
        return self._trio.stats

    def __repr__(self) -> str:
        return repr(self._trio)
