"""The connection without what is built on top of it, which takes this."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from threading import get_ident
from typing import TypeVar, overload

import trio
from trio import current_time
from trio.lowlevel import checkpoint_if_cancelled, wait_task_rescheduled

from ._core.request_mux import ReplySlot, new_inbox, no_reply
from ._core.stats import Statistics
from ._core.supervisor import Supervisor
from ._protocol import commands
from ._protocol.commands import CRLF, Frame
from ._tracebacks import takes_secrets
from ._transport.tls_info import TLSInfo
from ._transport.tls_policy import check_servers
from .codecs import Encoder, Payload, encoded
from .errors import ConfigurationError, NatsError, timed_out
from .events import ConnectionState, Event
from .headers import HeadersLike, encode_headers
from .message import Msg
from .options import PendingLimits, check_callable, check_choice, check_count, check_seconds
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
    """All of :class:`~trio_nats.Connection` except JetStream and services.

    They are built on this class, so that they need not import what imports them.
    """

    def __init__(self, core: Supervisor) -> None:
        self._core = core
        self._outbox = core.outbox
        self._pub_lines = core.pub_lines
        self._known_pub_lines = core.pub_lines.known
        self._thread = core.thread

    # --- publishing ------------------------------------------------------------------------------

    # That only the first two arguments may be positional is said by the overloads alone: a default
    # of one that is keyword-only has to be looked up in a dictionary at each call.

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
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> None:
        """Send a message to all subscribers of a subject.

        Returns when the message is queued for sending, in order with everything else that was
        published; :meth:`flush` waits until the server has it. Waits only while the outbox is full.
        Messages published during a reconnect are sent after it. Delivery is at most once. If
        cancelled or on an error, nothing was sent.

        :param subject: the subject, without wildcards.
        :param payload: bytes-like, text to be sent as UTF-8, or with ``codec`` a value that it
            encodes. Default: empty.
        :param reply: the subject for answers.
        :param headers: headers of the message, see :class:`Headers`.
        :param codec: the codec for ``payload``; see :mod:`trio_nats.codecs`.
        :raises InvalidSubjectError: if ``subject`` or ``reply`` is not allowed.
        :raises InvalidHeaderError: if a header is not allowed.
        :raises ConfigurationError: if there are headers and the server does not support them.
        :raises MaxPayloadError: if the message is larger than the server accepts.
        :raises EncodeError: if ``codec`` cannot encode ``payload``.
        :raises TypeError: if ``payload`` has another type.
        :raises OutboxFullError: if the outbox is full and the connection has
            ``when_outbox_full="raise"``.
        """
        outbox = self._outbox
        if get_ident() != self._thread:
            self._core.check_run()
        if reply is None and headers is None and codec is None and type(payload) is bytes:
            # Most messages by far. What is below does the same, and more.
            try:
                head, size = self._known_pub_lines[subject][len(payload)]
            except (KeyError, TypeError):  # what cannot be a key is no subject either
                head, size = self._pub_lines.learn(subject, len(payload))
            frame = head, payload, CRLF
        else:
            raw_reply = None if reply is None else check_subject(reply)
            frame = self._frame(subject, encoded(codec, payload), raw_reply, headers)
            size = len(frame[0]) + len(frame[1]) + 2
        if outbox.size < outbox.easy:
            await checkpoint_if_cancelled()
            outbox.open += frame
            outbox.size += size
        else:
            await self._space_for(frame, self._core.info)
            outbox.append(frame)

    async def _space_for(self, frame: Frame, info: ServerInfo) -> None:
        """Wait until ``frame``, which was checked against ``info``, can be appended."""
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
        reply: str | None = None,
        headers: HeadersLike | None = None,
        codec: Encoder[P] | None = None,
    ) -> None:
        """Publish from code that cannot wait, such as a synchronous callback.

        Nothing is sent before other tasks run, so let them run now and then if you publish much.
        The parameters are those of :meth:`publish`, and it raises the same errors.

        :raises OutboxFullError: if the outbox is full; a :exc:`trio.WouldBlock`.
        """
        if get_ident() != self._thread:
            self._core.check_run()
        raw_reply = None if reply is None else check_subject(reply)
        frame = self._frame(subject, encoded(codec, payload), raw_reply, headers)
        outbox = self._outbox
        if outbox.size >= outbox.easy:
            self._core.check_open()
            outbox.check_space()
        outbox.append(frame)

    def _frame(
        self, subject: str, payload: Payload, reply: bytes | None, headers: HeadersLike | None
    ) -> Frame:
        lines = self._pub_lines
        raw_subject = lines.subject(subject)
        data = payload if type(payload) is bytes else _as_bytes(payload)
        if headers is None:
            frame = commands.pub(raw_subject, reply, data)
            if len(frame[0]) + len(data) > lines.easy:
                lines.check(len(data), len(frame[0]) - 6, raw_subject, reply)
            return frame
        block = encode_headers(headers)
        if not self._core.info.headers and self._core.session is not None:
            raise ConfigurationError(
                "the server does not support message headers; leave them out, or upgrade it"
            )
        frame = commands.hpub(raw_subject, reply, block, data)
        if len(frame[0]) + len(data) > lines.easy:
            size = len(block)
            lines.check(size + len(data), len(frame[0]) - size - 7, raw_subject, reply)
        return frame

    async def _checkpoint(self) -> None:
        """A checkpoint for a message that is not answered; see :meth:`Msg.respond`."""
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
        """Receive the messages published to a subject, in which ``*`` and ``>`` are wildcards.

        Use it as ``async with nc.subscribe("greet.*") as sub:``.

        :param subject: the subject.
        :param queue: a queue group; each message goes to only one of its members.
        :param stop_after: number of messages after which the subscription ends. Default: no end.
        :param pending_limits: limits on waiting messages, see :class:`PendingLimits`. Default:
            those of the connection.
        :returns: the subscription, to be entered with ``async with``.
        :raises InvalidSubjectError: if ``subject`` or ``queue`` is not allowed.
        :raises ConfigurationError: if another argument is invalid.
        """
        if stop_after is not None:
            check_count("stop_after", stop_after, 1)
        raw_subject = check_filter(subject)
        raw_queue = None if queue is None else check_queue(queue)
        commands.check_sub(raw_subject, raw_queue, self._pub_lines.max_control_line)
        return Subscription(
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
        """Publish a message and wait for one reply. If cancelled, the reply is lost.

        It also raises what :meth:`publish` raises.

        :param subject: the subject, without wildcards.
        :param payload: bytes-like, text to be sent as UTF-8, or with ``codec`` a value that it
            encodes. Default: empty.
        :param timeout: seconds to wait for the reply. Default: the connection's
            ``request_timeout``.
        :param headers: headers of the message, see :class:`Headers`.
        :param codec: the codec for ``payload``; see :mod:`trio_nats.codecs`.
        :returns: the reply.
        :raises NoRespondersError: if nobody is subscribed to the subject.
        :raises RequestTimeoutError: if no reply arrived within ``timeout``.
        :raises PermissionsViolationError: if the server forbids the request.
        :raises ConnectionLostError: if the connection was lost and requests are not to wait
            (``ReconnectPolicy.requests``).
        """
        core, requests = self._core, self._core.requests
        seconds = core.settings.request_timeout if timeout is None else self._timeout(timeout)
        data = payload if type(payload) is bytes and codec is None else encoded(codec, payload)
        core.check_usable()
        token, reply = requests.new_token()
        frame = self._frame(subject, data, reply, headers)
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

        Use it as ``async with nc.request_many("svc", b"x", stall=0.1) as replies:``. Entering
        publishes, and raises what :meth:`publish` raises. The replies end with
        :exc:`trio.EndOfChannel` when the first of the following conditions is met. The first
        ``receive`` raises :exc:`NoRespondersError` if nobody is subscribed; ``receive`` raises
        :exc:`RequestTimeoutError` if time is up while there is no connection, because replies may
        be missing.

        :param subject: the subject, without wildcards.
        :param payload: bytes-like, text to be sent as UTF-8, or with ``codec`` a value that it
            encodes. Default: empty.
        :param timeout: end after this number of seconds. Default: the connection's
            ``request_timeout``.
        :param stop_after: end after this number of replies. Default: any number.
        :param stall: end when no reply arrives for this number of seconds after the last one. Time
            spent outside of ``receive`` does not count. Default: no such limit.
        :param sentinel: a function that is called with each reply; end at the reply for which it
            returns true, which is dropped. See :func:`empty_sentinel`.
        :param pending_limits: limits on waiting replies, see :class:`PendingLimits`. Default: those
            of the connection.
        :param headers: headers of the message, see :class:`Headers`.
        :param codec: the codec for ``payload``; see :mod:`trio_nats.codecs`.
        :returns: the replies, to be entered with ``async with``.
        :raises ConfigurationError: if an argument is invalid.
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
        frame = self._frame(subject, data, reply, headers)
        return Replies(
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
        """Open the slot and publish. If cancelled, neither has happened."""
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
        """Return a subject that nobody else uses, to subscribe to and to pass as ``reply``."""
        return new_inbox(self._core.settings.inbox_prefix)

    def _limits(self, pending_limits: PendingLimits | None) -> PendingLimits:
        if pending_limits is None:
            return self._core.settings.pending_limits
        if not isinstance(pending_limits, PendingLimits):
            raise TypeError(
                f"pending_limits must be a PendingLimits, not {type(pending_limits).__name__}"
            )
        return pending_limits

    def _timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self._core.settings.request_timeout
        return check_seconds("timeout", timeout)

    # --- the connection itself -------------------------------------------------------------------

    async def flush(self, *, timeout: float | None = None) -> None:
        """Wait until the server has processed everything sent so far.

        While disconnected, it waits for the next connection. If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :raises RequestTimeoutError: if the server did not answer within ``timeout``.
        """
        await self._within(timeout, "flush", self._flush)

    async def rtt(self, *, timeout: float | None = None) -> float:
        """Measure the time until the server answers, after everything sent so far.

        If cancelled, nothing is lost.

        :param timeout: seconds to wait. Default: no limit.
        :returns: the time in seconds.
        :raises RequestTimeoutError: if the server did not answer within ``timeout``.
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

    def events(self, *, buffer: int = 256) -> trio.abc.ReceiveChannel[Event]:
        """Receive the events of the connection from now on; see :mod:`trio_nats.events`.

        Use it as ``async with nc.events() as events:``. It ends after ``Closed``.

        :param buffer: the number of events that may wait; beyond it the oldest are dropped, so a
            slow listener does not delay the connection. Default: 256.
        :raises ConfigurationError: if ``buffer`` is invalid.
        """
        self._core.check_run()
        return self._core.event_hub.listen(check_count("buffer", buffer, 1))

    @property
    def state(self) -> ConnectionState:
        """The state of the connection."""
        return self._core.state

    @property
    def server_info(self) -> ServerInfo:
        """The last ``INFO`` of the server."""
        return self._core.info

    @property
    def tls_info(self) -> TLSInfo | None:
        """How the current connection is encrypted; ``None`` if it is not, or if there is no
        connection.
        """
        session = self._core.session
        return None if session is None else session.connection.tls

    @property
    def connected_url(self) -> str | None:
        """The URL of the current server, without credentials; ``None`` while disconnected."""
        session = self._core.session
        return None if session is None else session.connection.server.url

    @property
    def disconnected_for(self) -> float | None:
        """Seconds for which there has been no connection to a server; ``None`` while connected."""
        return self._core.disconnected_for

    @property
    def failure(self) -> NatsError | None:
        """Why the connection is gone for good; ``None`` if it is not, or was closed on purpose."""
        return self._core.failure

    @property
    def stats(self) -> Statistics:
        """Statistics of the connection."""
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
        """Wait until the connection is in one of several states; return at once if it is.

        If the connection ends without reaching one, it raises what using the connection raises. If
        cancelled, nothing changes.

        :param states: the states to wait for.
        :returns: the state that was reached.
        :raises ConfigurationError: if an argument is not a state.
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
        """Move to another server, or reconnect to the current one.

        Each attempt reads files again and calls the ``auth`` callable, so you can use this to apply
        new credentials. The current connection is used until the new one is ready, so no message is
        missed. Returns when the new one is in use; while disconnected, when the connection is up
        again. If cancelled, the move continues.

        :raises ConnectError: if no server could be moved to. The connection stays as it was;
            ``attempts`` has the reason for each server.
        :raises trio.ClosedResourceError: if the connection is closed, also during the call.
        """
        core = self._core
        core.check_usable()
        await core.moves.request_and_wait()

    @takes_secrets
    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Replace the known servers, for reconnecting (ADR-40).

        The current connection stays until it is lost, or until :meth:`reconnect` moves it. Servers
        without credentials in their URL use those of the first URL in this list that has some, as
        with ``open_nats``. Credentials in the former URLs are not used any more; those of ``auth``
        are used for all servers.

        :param servers: as for :func:`open_nats`.
        :raises ConfigurationError: if an address is not usable.
        """
        parsed = check_servers(parse_servers(servers), self._core.settings.connector.tls)
        self._core.check_usable()
        self._core.pool.replace(parsed)

    @property
    def servers(self) -> tuple[Server, ...]:
        """The known servers, including discovered ones, in the order of trying them."""
        return self._core.pool.servers

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe everything, let messages that have arrived be received, and close.

        You can publish, and so respond, until all messages have been taken out of the
        subscriptions, which then end. New subscriptions are refused. If another task is draining
        already, this call waits for it. If cancelled, the connection is closed at once.

        It cannot wait for the task that calls it. If that task receives from a subscription with
        messages left, or handles a request of a service, the call returns when the others are
        empty, and leaves the connection open: receive the rest, which ends the loop, and leave the
        block.

        :param timeout: seconds to wait until all messages have been received, before closing, which
            takes at most ``close_timeout``. Default: no limit.
        :raises RequestTimeoutError: if messages were left after ``timeout``.
        """
        core = self._core
        core.check_usable()
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        core.begin_draining()
        left_for_us = False
        try:
            with trio.move_on_after(seconds) as scope:
                left_for_us = await core.drain_all()
        finally:
            if not left_for_us:
                await self.aclose()
        if scope.cancelled_caught:
            raise timed_out(f"drain: messages were left after {seconds:g} s", self.disconnected_for)

    async def aclose(self) -> None:
        """Send what was published and close the connection. You may call it repeatedly.

        Waits at most ``close_timeout`` seconds until the server has received everything. Then all
        tasks that wait for the connection get :exc:`trio.ClosedResourceError`. Leaving the
        ``open_nats`` block does the same. If cancelled, the connection is closed at once.
        """
        core = self._core
        if core.state is not ConnectionState.CLOSED:
            core.check_run()
        try:
            if core.state not in (ConnectionState.CLOSING, ConnectionState.CLOSED):
                core.begin_closing()
                await self._finish()
            else:
                # Another task is about to finish what was begun, or has.
                await core.wait(lambda: core.state is ConnectionState.CLOSED)
            await trio.lowlevel.checkpoint()
        finally:
            core.stop()
            core.end(None)

    async def _finish(self) -> None:
        """Wait until the server has everything, or can no longer receive it."""
        core = self._core
        with trio.move_on_after(core.settings.close_timeout):
            while core.session is not None or core.outbox.size or core.moves.is_between:
                await core.wait(
                    lambda: core.session is not None or core.state is ConnectionState.CLOSED
                )
                if core.session is None:
                    break
                if await core.session.pings.round_trip():
                    return
        if core.outbox.size:
            _logger.warning("closing with %d bytes not written", core.outbox.size)

    def __repr__(self) -> str:
        return f"<Connection {self._core.state} {self.connected_url or ''}>"


def _as_bytes(payload: object) -> bytes:
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(
        f"payload must be bytes-like or str, not {type(payload).__name__}; to send other objects "
        "pass a codec, such as codec=JSONCodec()"
    )
