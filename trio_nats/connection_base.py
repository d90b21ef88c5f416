"""The base class of connections, without the methods for JetStream and services."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from threading import get_ident
from typing import TypeVar, overload

import trio
from trio import current_time
from trio.lowlevel import checkpoint_if_cancelled, wait_task_rescheduled

from ._constructors import construct
from ._core.outbox import Outbox
from ._core.request_mux import ReplySlot, new_inbox, no_reply
from ._core.stats import Statistics
from ._core.supervisor import Supervisor
from ._event_hub import EventChannel
from ._protocol import commands
from ._protocol.commands import CRLF, Frame
from ._tracebacks import takes_secrets
from ._transport.tls_info import TLSInfo
from ._transport.tls_policy import check_servers
from .codecs import Encoder, Payload, as_bytes, encoded
from .errors import ConfigurationError, NatsError, timed_out
from .events import ConnectionState, Event
from .headers import HeadersLike, encode_headers
from .message import Msg
from .options import (
    PendingLimits,
    check_callable,
    check_choice,
    check_count,
    check_instance,
    check_seconds,
)
from .replies import Replies
from .server_info import ServerInfo
from .servers import Server, parse_servers
from .subjects import check_filter, check_queue, check_subject
from .subscription import Subscription

__all__ = ["BaseConnection"]

_logger = logging.getLogger("trio_nats.connection")

P = TypeVar("P")
T = TypeVar("T")


class BaseConnection:
    """A connection without the methods that lead to JetStream and services.

    JetStream and services depend on this class only, which avoids circular imports.
    """

    def __init__(self, core: Supervisor) -> None:
        self._core = core
        self._outbox = core.outbox
        self._pub_lines = core.pub_lines
        self._known_pub_lines = core.pub_lines.known
        self._thread = core.thread
        # Only this thread finds the outbox here. That takes publish() less time than to compare
        # the thread's number.
        self._in_thread = threading.local()
        self._in_thread.outbox = core.outbox

    # --- publishing ------------------------------------------------------------------------------

    # Only the overloads make the later parameters keyword-only: CPython looks up the default of a
    # keyword-only parameter in a dictionary at each call, which is slower.

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
        # Keyword-only in the overloads. Not here: keyword-only defaults cost 5 % of a call.
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> None:
        """Send a message to all subscribers of a subject.

        Returns once the message is queued for sending, behind everything published before. To wait
        until the server has it, call :meth:`flush`. Messages published while reconnecting are sent
        once there is a connection. Delivery is at most once.

        Waits only while ``outbox_size`` bytes are waiting to be sent. If cancelled, or if it
        raises, nothing was sent.

        :param subject: the subject, without wildcards.
        :param payload: the payload, bytes-like or text, which is sent as UTF-8; with ``codec``, a
            value to encode. Default: empty.
        :param reply: the subject for replies. Default: none.
        :param headers: the headers, see :class:`Headers`. Default: none.
        :param codec: the codec that encodes ``payload``; see :mod:`trio_nats.codecs`.
        :raises InvalidSubjectError: if ``subject`` or ``reply`` is not allowed.
        :raises InvalidHeaderError: if a header is not allowed.
        :raises MaxPayloadError: if the message is larger than the server allows.
        :raises EncodeError: if the codec cannot encode the payload.
        :raises TypeError: if the payload is neither bytes-like nor text.
        :raises ConfigurationError: if there are headers and the server does not support any.
        :raises OutboxFullError: instead of waiting, with ``when_outbox_full="raise"``.
        """
        try:
            outbox: Outbox = self._in_thread.outbox
        except AttributeError:
            raise self._core.wrong_run() from None
        if reply is None and headers is None and codec is None and type(payload) is bytes:
            # A fast path for most messages. The other branch does the same, but slower.
            try:
                head, size = self._known_pub_lines[subject][len(payload)]
            except (KeyError, TypeError):  # TypeError: unhashable, so not a subject
                head, size = self._pub_lines.learn(subject, len(payload))
            if outbox.size < outbox.fast_path_limit:
                await checkpoint_if_cancelled()
                outbox.open_chunk += (head, payload, CRLF)
                outbox.size += size
                return
            frame = head, payload, CRLF
        else:
            raw_reply = None if reply is None else check_subject(reply)
            raw_subject = self._pub_lines.subject(subject)
            data = payload if type(payload) is bytes and codec is None else encoded(codec, payload)
            frame = self._frame(raw_subject, data, raw_reply, headers)
            if outbox.size < outbox.fast_path_limit:
                await checkpoint_if_cancelled()
                outbox.open_chunk += frame
                outbox.size += len(frame[0]) + len(frame[1]) + 2
                return
        await self._send(frame)

    async def _send(self, frame: Frame) -> None:
        """Append a frame that was just made to the outbox, once there is space."""
        outbox = self._outbox
        if outbox.size < outbox.fast_path_limit:
            await checkpoint_if_cancelled()
            outbox.open_chunk += frame
            outbox.size += len(frame[0]) + len(frame[1]) + 2
        else:
            await self._space_for(frame, self._core.info)
            outbox.append(frame)

    async def _respond(self, reply: bytes, payload: Payload, headers: HeadersLike | None) -> None:
        """Publish to a reply subject as received, which the caller has checked."""
        try:
            outbox: Outbox = self._in_thread.outbox
        except AttributeError:
            raise self._core.wrong_run() from None
        if headers is None and type(payload) is bytes and outbox.size < outbox.fast_path_limit:
            # A fast path for most responses, and acknowledgements.
            head = b"PUB %b %d\r\n" % (reply, len(payload))
            size = len(head) + len(payload) + 2
            if size <= self._pub_lines.unchecked_size:
                await checkpoint_if_cancelled()
                outbox.open_chunk += (head, payload, CRLF)
                outbox.size += size
                return
        await self._send(self._frame(reply, payload, None, headers))

    async def _space_for(self, frame: Frame, info: ServerInfo) -> None:
        """Wait until there is space in the outbox for ``frame``.

        :param info: the INFO that ``frame`` was checked against. If the server has changed
            since, it is checked again.
        """
        core = self._core
        await core.outbox.wait_for_space()
        core.check_open()
        if core.info is not info and (refusal := core.refusal(frame[0])) is not None:
            raise refusal

    @overload
    def publish_nowait(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None: ...
    @overload
    def publish_nowait(
        self,
        subject: str,
        payload: P,
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P],
    ) -> None: ...
    def publish_nowait(
        self,
        subject: str,
        payload: Payload | P = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> None:
        """:meth:`publish` without waiting, for synchronous code such as callbacks.

        Nothing is sent until other tasks get to run, so a loop that publishes many messages should
        have a checkpoint now and then.

        The parameters are those of :meth:`publish`. It also raises what :meth:`publish` raises.

        :raises OutboxFullError: if ``outbox_size`` bytes are waiting to be sent. It is a
            :exc:`trio.WouldBlock`.
        """
        if get_ident() != self._thread:
            self._core.check_run()
        outbox = self._outbox
        frame: Frame
        if reply is None and headers is None and codec is None and type(payload) is bytes:
            # The fast path of publish().
            try:
                head, size = self._known_pub_lines[subject][len(payload)]
            except (KeyError, TypeError):  # TypeError: unhashable, so not a subject
                head, size = self._pub_lines.learn(subject, len(payload))
            if outbox.size < outbox.fast_path_limit:
                outbox.open_chunk += (head, payload, CRLF)
                outbox.size += size
                return
            frame = head, payload, CRLF
        else:
            raw_reply = None if reply is None else check_subject(reply)
            raw_subject = self._pub_lines.subject(subject)
            frame = self._frame(raw_subject, encoded(codec, payload), raw_reply, headers)
        if outbox.size >= outbox.fast_path_limit:
            self._core.check_open()
            outbox.check_space()
        outbox.append(frame)

    def _frame(
        self, subject: bytes, payload: Payload, reply: bytes | None, headers: HeadersLike | None
    ) -> Frame:
        lines = self._pub_lines
        data = payload if type(payload) is bytes else as_bytes(payload)
        if headers is None:
            frame = commands.pub(subject, reply, data)
            if len(frame[0]) + len(data) > lines.unchecked_size:
                lines.check(len(data), len(frame[0]) - 6, subject, reply)
            return frame
        block = encode_headers(headers)
        if not self._core.info.headers and self._core.session is not None:
            raise ConfigurationError(
                "the server does not support message headers; leave them out, or upgrade it"
            )
        frame = commands.hpub(subject, reply, block, data)
        if len(frame[0]) + len(data) > lines.unchecked_size:
            size = len(block)
            lines.check(size + len(data), len(frame[0]) - size - 7, subject, reply)
        return frame

    @staticmethod
    def _literal(subject: str) -> str:
        """Return a subject to publish to in which wildcards are ordinary tokens."""
        return commands.LiteralSubject(subject)

    async def _checkpoint(self) -> None:
        """Execute a checkpoint for :meth:`Msg.respond`, if it sends no response."""
        await trio.lowlevel.checkpoint()

    # --- subscribing -----------------------------------------------------------------------------

    def subscribe(
        self,
        subject: str,
        *,
        queue: str | None = None,
        stop_after: int | None = None,
        pending_limits: PendingLimits | None = None,
    ) -> Subscription:
        """Subscribe to a subject, for the duration of an ``async with`` block.

        .. code-block:: python

            async with nc.subscribe("greet.*") as sub:
                async for msg in sub:
                    ...

        Nothing is sent before the block is entered.

        :param subject: the subject. In it, ``*`` matches one token and a final ``>`` one or more.
        :param queue: the queue group, in which only one subscription receives each message.
            Default: none.
        :param stop_after: number of messages after which the subscription ends. Default: no limit.
        :param pending_limits: how many messages may wait to be received, and what to do with more;
            see :class:`PendingLimits`. Default: the limits given to ``open_nats``.
        :returns: the subscription, to be entered once.
        :raises InvalidSubjectError: if ``subject`` or ``queue`` is not allowed, or both are too
            long for the server.
        :raises ConfigurationError: if ``stop_after`` is less than 1.
        """
        if stop_after is not None:
            check_count("stop_after", stop_after, 1)
        raw_subject = check_filter(subject)
        raw_queue = None if queue is None else check_queue(queue)
        commands.check_sub(raw_subject, raw_queue, self._pub_lines.max_control_line)
        return construct(
            Subscription,
            self._core,
            subject,
            raw_subject,
            queue,
            raw_queue,
            stop_after,
            self._limits(pending_limits),
        )

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

        If cancelled, or if it raises :exc:`RequestTimeoutError`, the request may have been sent all
        the same; the reply is dropped if it still arrives.

        :param subject: the subject, without wildcards.
        :param payload: the payload, as for :meth:`publish`. Default: empty.
        :param timeout: seconds to wait for the reply, including the time until the request can be
            sent. Default: the connection's ``request_timeout``.
        :param headers: the headers of the request. Default: none.
        :param codec: the codec that encodes ``payload``. :meth:`Msg.decode` decodes the reply.
        :returns: the first reply.
        :raises NoRespondersError: if nobody is subscribed to the subject.
        :raises RequestTimeoutError: if no reply arrives in time.
        :raises PermissionsViolationError: if the server forbids publishing to the subject, or
            subscribing to the reply subject.
        :raises ConfigurationError: if ``timeout`` is not more than zero, or as for :meth:`publish`.

        It also raises the other errors of :meth:`publish`.
        """
        core, requests = self._core, self._core.requests
        seconds = core.settings.request_timeout if timeout is None else self._timeout(timeout)
        data = payload if type(payload) is bytes and codec is None else encoded(codec, payload)
        core.check_usable()
        token, reply = requests.new_token()
        frame = self._frame(self._pub_lines.subject(subject), data, reply, headers)
        deadline = current_time() + seconds
        if self._outbox.has_space():
            await checkpoint_if_cancelled()
        else:
            await self._space_until(deadline, subject, seconds, frame)
        slot = ReplySlot(subject)
        try:
            requests.open(token, slot)
            requests.expire(token, deadline, seconds)
            self._outbox.append(frame)
            answer: Msg = await wait_task_rescheduled(slot.abort)
        finally:
            requests.close(token)
        return answer

    async def _space_until(
        self, deadline: float, subject: str, seconds: float, frame: Frame
    ) -> None:
        with trio.CancelScope(deadline=deadline) as scope:
            await self._space_for(frame, self._core.info)
        if scope.cancelled_caught:
            raise no_reply(subject, seconds, self._core.disconnected_for)

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

        .. code-block:: python

            async with nc.request_many("svc", b"x", stall=0.1) as replies:
                async for msg in replies:
                    ...

        Entering the block publishes the request. The replies end, with :exc:`trio.EndOfChannel`, as
        soon as one of ``timeout``, ``stop_after``, ``stall`` and ``sentinel`` says so.

        :param subject: the subject, without wildcards.
        :param payload: the payload, as for :meth:`publish`. Default: empty.
        :param timeout: seconds after which the replies end. Default: the connection's
            ``request_timeout``.
        :param stop_after: number of replies after which they end. Default: no limit.
        :param stall: seconds to wait for each further reply before they end. Time spent outside
            :meth:`Replies.receive` does not count. Default: no limit.
        :param sentinel: called with each reply; the replies end before the first one for which it
            returns true. :func:`trio_nats.empty_sentinel` is the usual one. Default: none.
        :param pending_limits: how many replies may wait to be received, and what to do with more;
            see :class:`PendingLimits`. Default: the limits given to ``open_nats``.
        :param headers: the headers of the request. Default: none.
        :param codec: the codec that encodes ``payload``.
        :returns: the replies, to be entered once.
        :raises ConfigurationError: if ``timeout``, ``stop_after`` or ``stall`` is out of range, or
            as for :meth:`publish`.

        It also raises the other errors of :meth:`publish`, at the call or on entering. If nobody is
        subscribed, the first ``receive`` raises :exc:`NoRespondersError`. If the time is over while
        there is no connection, replies may be missing, so ``receive`` raises
        :exc:`RequestTimeoutError`.
        """
        seconds = self._timeout(timeout)
        if stop_after is not None:
            check_count("stop_after", stop_after, 1)
        if stall is not None:
            check_seconds("stall", stall)
        check_callable("sentinel", sentinel)
        data = encoded(codec, payload)
        self._core.check_run()
        token, reply = self._core.requests.new_token()
        frame = self._frame(self._pub_lines.subject(subject), data, reply, headers)
        return construct(
            Replies,
            self._core,
            subject,
            self._limits(pending_limits),
            seconds,
            stop_after,
            stall,
            sentinel,
            send=partial(self._send_request, token, frame, self._core.info),
            forget=partial(self._core.requests.close, token),
            check_run=self._core.check_run,
        )

    async def _send_request(
        self, token: bytes, frame: Frame, info: ServerInfo, replies: Replies
    ) -> None:
        """Open the slot for the replies and publish the request. If cancelled, do neither."""
        core = self._core
        core.check_usable()
        await self._space_for(frame, info)
        core.requests.open(token, replies)
        core.requests.queues.add(replies)
        core.outbox.append(frame)

    def _check_run(self) -> None:
        """Raise :exc:`RuntimeError` outside of the ``trio.run()`` that opened the connection."""
        self._core.check_run()

    def new_inbox(self) -> str:
        """Return a new unique subject, to subscribe to and to publish with as ``reply``.

        :returns: the subject, which begins with the connection's ``inbox_prefix``.
        """
        return new_inbox(self._core.settings.inbox_prefix)

    def _limits(self, pending_limits: PendingLimits | None) -> PendingLimits:
        if pending_limits is None:
            return self._core.settings.pending_limits
        check_instance("pending_limits", pending_limits, PendingLimits)
        return pending_limits

    def _timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self._core.settings.request_timeout
        return check_seconds("timeout", timeout)

    # --- the connection itself -------------------------------------------------------------------

    async def flush(self, *, timeout: float | None = None) -> None:
        """Wait until the server has processed everything that was published so far.

        While disconnected, it waits for the next connection. If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :raises RequestTimeoutError: if the server does not answer in time.
        :raises ConfigurationError: if ``timeout`` is not more than zero.
        """
        await self._within(timeout, "flush", self._flush)

    async def rtt(self, *, timeout: float | None = None) -> float:
        """Measure the round-trip time to the server.

        It includes sending what was published before. If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :returns: the time in seconds.
        :raises RequestTimeoutError: if the server does not answer in time.
        :raises ConfigurationError: if ``timeout`` is not more than zero.
        """
        return await self._within(timeout, "rtt", self._flush)

    async def _within(
        self, timeout: float | None, what: str, operation: Callable[[], Awaitable[T]]
    ) -> T:
        self._core.check_usable()
        if timeout is None:
            return await operation()
        with trio.move_on_after(check_seconds("timeout", timeout)):
            return await operation()
        raise timed_out(
            f"{what}: the server did not answer within {timeout:g} s", self.disconnected_for
        )

    async def _flush(self) -> float:
        while True:
            session = await self._core.live_session()
            begun = time.perf_counter()
            if await session.pings.round_trip():
                return time.perf_counter() - begun

    def events(self, *, buffer: int = 256) -> EventChannel[Event]:
        """Listen to the events of the connection from now on; see :mod:`trio_nats.events`.

        Use it as ``async with nc.events() as events:``. A slow listener does not delay the
        connection: once ``buffer`` events are waiting, the oldest is dropped, and counted in
        ``dropped``. The channel ends after :class:`~trio_nats.events.Closed`.

        :param buffer: number of events that may wait to be received. Default: 256.
        :returns: a channel of events.
        :raises ConfigurationError: if ``buffer`` is less than 1.
        """
        self._core.check_run()
        return self._core.event_hub.listen(check_count("buffer", buffer, 1))

    @property
    def state(self) -> ConnectionState:
        """State of the connection."""
        return self._core.state

    @property
    def server_info(self) -> ServerInfo:
        """The latest information that the server sent about itself."""
        return self._core.info

    @property
    def tls_info(self) -> TLSInfo | None:
        """How the connection is encrypted; ``None`` for plaintext, or while disconnected."""
        session = self._core.session
        return None if session is None else session.connection.tls

    @property
    def connected_url(self) -> str | None:
        """URL of the server in use, without credentials; ``None`` while disconnected."""
        session = self._core.session
        return None if session is None else session.connection.server.url

    @property
    def disconnected_for(self) -> float | None:
        """Seconds since the connection to a server was lost; ``None`` while there is one."""
        return self._core.disconnected_for

    @property
    def failure(self) -> NatsError | None:
        """Why no server can be reached any more.

        ``None`` while the connection is usable, or if it was closed on purpose.
        """
        return self._core.failure

    @property
    def stats(self) -> Statistics:
        """Statistics of the connection so far."""
        core = self._core
        sinks = core.router.sinks.values()
        subscriptions = [sink for sink in sinks if sink is not core.requests]
        waiting = [sink.pending for sink in (*subscriptions, core.requests)]
        counters = core.counters
        return Statistics(
            in_messages=counters.in_messages,
            in_bytes=counters.in_bytes,
            out_messages=core.outbox.accepted,
            out_bytes=counters.out_bytes,
            dropped=counters.dropped,
            lost_in_flight=counters.lost_in_flight,
            discarded=counters.discarded,
            reconnects=max(0, counters.connects - 1),
            subscriptions=len(subscriptions),
            pending_messages=sum(messages for messages, _ in waiting),
            pending_bytes=sum(size for _, size in waiting),
            outbox_bytes=core.outbox.size,
        )

    async def wait_for_state(self, *states: ConnectionState) -> ConnectionState:
        """Wait until the connection is in one of several states.

        Returns at once if it is. If cancelled, the connection is not affected.

        :param states: the states to wait for.
        :returns: the state that was reached.
        :raises ConfigurationError: if one of ``states`` is not a :class:`ConnectionState`.
        :raises trio.ClosedResourceError: if the connection is closed without reaching one of them.
        :raises ConnectionLostError: if it is gone for good without reaching one of them.
        """
        core = self._core
        core.check_run()
        for state in states:
            check_choice("state", state, tuple(known.value for known in ConnectionState))
        await core.wait(lambda: core.state in states or core.state is ConnectionState.CLOSED)
        if core.state not in states:
            raise core.closed_error()
        return core.state

    async def reconnect(self) -> None:
        """Move to another server, or connect to the present one again.

        Certificates and credentials are read again, so you can call this after renewing them. The
        present connection stays in use until the new one is ready, so no message is missed. Returns
        once the new one is in use; while disconnected, once there is a connection again.

        If cancelled, the move continues in the background.

        :raises ConnectError: if no server could be connected to. The present connection stays in
            use. ``attempts`` has an entry for each attempt.
        :raises trio.ClosedResourceError: if the connection is closed, or is closed during the call.
        """
        core = self._core
        core.check_usable()
        await core.moves.move_and_wait()

    @takes_secrets
    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Replace the servers that are used for reconnecting (ADR-40).

        The present connection stays in use until it is lost, or until :meth:`reconnect` has moved
        it to one of the new servers. As with ``open_nats``, URLs without credentials use those of
        the first URL in the list that has some. Credentials in the URLs of the previous servers are
        not sent to the new ones, but those given as ``auth`` are.

        :param servers: one URL, a comma-separated list, or a sequence of either, as for
            ``open_nats``.
        :raises ConfigurationError: if a URL is invalid, or contradicts the TLS options.
        """
        parsed = check_servers(parse_servers(servers), self._core.settings.connector.tls)
        self._core.check_usable()
        self._core.pool.replace(parsed)

    @property
    def servers(self) -> tuple[Server, ...]:
        """Known servers, including discovered ones, in the order in which they are tried."""
        return self._core.pool.servers

    async def drain(self, *, timeout: float | None = None) -> None:
        """End all subscriptions, wait until their messages have been received, and close.

        You can publish and respond until all messages have been received from the subscriptions,
        which then end. You cannot subscribe any more. If another task is already draining the
        connection, this waits as well. Closing the connection ends the drain. Services stop, and
        their requests are waited for until they have been handled.

        It cannot wait for the task that calls it. If messages are left in a subscription that only
        this task receives from, or if this task handles a request of a service, it returns once the
        other subscriptions are empty, and leaves the connection open. Receive the remaining
        messages, which ends the loop, and leave the ``open_nats`` block.

        If cancelled, the connection is closed at once.

        :param timeout: seconds to wait for the messages to be received. Closing may take another
            ``close_timeout`` seconds. Default: no limit.
        :raises RequestTimeoutError: if messages were left after that time. The connection is
            closed.
        :raises ConfigurationError: if ``timeout`` is not more than zero.
        """
        core = self._core
        core.check_usable()
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        core.begin_draining()
        left_open = False
        try:
            with trio.move_on_after(seconds) as scope:
                left_open = await core.drain_all()
        finally:
            if not left_open:
                await self.aclose()
        if scope.cancelled_caught:
            raise timed_out(f"drain: messages were left after {seconds:g} s", self.disconnected_for)

    async def aclose(self) -> None:
        """Send everything that was published, and close the connection.

        Waits at most ``close_timeout`` seconds until the server has confirmed that it has
        everything. Operations that are then still waiting raise :exc:`trio.ClosedResourceError`.
        You may call it repeatedly. Leaving the ``open_nats`` block normally calls it.

        If cancelled, the connection is closed at once.
        """
        core = self._core
        if core.state is not ConnectionState.CLOSED:
            core.check_run()
        try:
            if core.state not in (ConnectionState.CLOSING, ConnectionState.CLOSED):
                core.begin_closing()
                await self._finish()
            else:
                # Another task is closing the connection, or has closed it.
                await core.wait(lambda: core.state is ConnectionState.CLOSED)
            await trio.lowlevel.checkpoint()
        finally:
            core.stop()
            core.end(None)

    async def _finish(self) -> None:
        """Wait until the server has received everything, or until that is not possible."""
        core = self._core
        with trio.move_on_after(core.settings.close_timeout):
            while core.session is not None or core.outbox.size or core.moves.is_changing:
                await core.wait(
                    lambda: core.session is not None or core.state is ConnectionState.CLOSED
                )
                if core.session is None:
                    break
                if await core.session.pings.round_trip():
                    return
        if core.outbox.size:
            _logger.warning("closing with %d bytes not sent", core.outbox.size)

    def __repr__(self) -> str:
        return f"<Connection {self._core.state} {self.connected_url or ''}>"
