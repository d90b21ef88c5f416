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
    """All of :class:`~trio_nats.Connection` but what is built on top of a connection.

    JetStream and services take this, so that they need not import what imports them.
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
        """Send a message to all subscribers of ``subject``.

        Returns once the message is queued for writing, in order with everything else published;
        :meth:`flush` tells when the server has it. Messages published while the connection is
        being re-established are sent when it is. Delivery is at most once.

        ``payload`` is bytes-like, or text to be sent as UTF-8, or with ``codec`` whatever that one
        encodes (see :mod:`trio_nats.codecs`). ``reply`` is the subject to answer to. Waits only
        while ``outbox_size`` bytes are waiting to be written.

        Raises :exc:`InvalidSubjectError`, :exc:`InvalidHeaderError`, :exc:`MaxPayloadError`,
        :exc:`EncodeError`, or :exc:`TypeError` for a payload of another type; with
        ``when_outbox_full="raise"`` :exc:`OutboxFullError` in place of waiting; and
        :exc:`ConfigurationError` for headers to a server that does not know them. Then it has sent
        nothing. If cancelled, it has sent nothing either.
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
        """:meth:`publish` for code that cannot wait, such as a synchronous callback.

        Raises :exc:`OutboxFullError`, which is a :exc:`trio.WouldBlock`, where :meth:`publish`
        would wait, and otherwise what :meth:`publish` raises. Nothing is written before other tasks
        get to run, so let them now and then when publishing much.
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
        """What a message that is not answered waits for; see :meth:`Msg.respond`."""
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
        """Receive what is published to ``subject``, in which ``*`` and ``>`` are wildcards.

        Use it as ``async with nc.subscribe("greet.*") as sub:``. Of the subscriptions with the same
        ``queue`` group each message goes to one only. After ``stop_after`` messages it ends by
        itself. ``pending_limits`` overrides the connection's limits on what may wait in it.

        Raises :exc:`InvalidSubjectError` or :exc:`ConfigurationError` at once for what cannot be
        subscribed to.
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
        """Publish a message and wait for one reply, at most ``timeout`` seconds.

        ``timeout`` is the connection's ``request_timeout`` unless given. Raises
        :exc:`NoRespondersError` when nobody is subscribed, :exc:`RequestTimeoutError` when nobody
        answered in time, :exc:`PermissionsViolationError` when the server forbids it, and what
        :meth:`publish` raises. If cancelled, it forgets the reply.

        ``codec`` encodes the payload, as for :meth:`publish`; :meth:`Msg.decode` decodes the reply.
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

        Use it as ``async with nc.request_many("svc", b"x", stall=0.1) as replies:``. The replies
        end, with :exc:`trio.EndOfChannel`, after ``timeout`` seconds in all (the connection's
        ``request_timeout`` unless given), after ``stop_after`` of them, once ``stall`` seconds
        have passed since the last one, or with the one that ``sentinel`` returns true for, which is
        not handed out; :func:`trio_nats.empty_sentinel` is the usual one. Time spent outside
        ``receive`` does not count as stalling. ``pending_limits`` overrides the connection's
        limits on how many replies may wait to be received, as for :meth:`subscribe`. ``codec``
        encodes the payload.

        Raises what :meth:`publish` raises, on entering; :exc:`NoRespondersError` comes out of the
        first ``receive``. If time ends the replies while there is no connection, some may be
        missing, so ``receive`` raises :exc:`RequestTimeoutError` then.
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
        """Raise :exc:`RuntimeError` outside of the ``trio.run()`` the connection was opened in."""
        self._core.check_run()

    def new_inbox(self) -> str:
        """A subject that nobody else uses, to be given as ``reply`` and subscribed to."""
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

        While disconnected it waits for the next connection. Raises :exc:`TimeoutError` after
        ``timeout`` seconds, if given. If cancelled, nothing is lost.
        """
        await self._within(timeout, "flush", self._flush)

    async def rtt(self, *, timeout: float | None = None) -> float:
        """Seconds until the server answers, behind everything sent so far. See :meth:`flush`."""
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
        """What happens to the connection from now on; see :mod:`trio_nats.events`.

        Use it as ``async with nc.events() as events:``. It never holds the connection up: a
        listener that lets ``buffer`` events pile up loses the oldest. Ends after ``Closed``.
        """
        self._core.check_run()
        return self._core.event_hub.listen(check_count("buffer", buffer, 1))

    @property
    def state(self) -> ConnectionState:
        """Where the connection stands."""
        return self._core.state

    @property
    def server_info(self) -> ServerInfo:
        """What the server last said about itself."""
        return self._core.info

    @property
    def tls_info(self) -> TLSInfo | None:
        """How the present connection is encrypted; ``None`` if it is not, or there is none."""
        session = self._core.session
        return None if session is None else session.connection.tls

    @property
    def connected_url(self) -> str | None:
        """The server in use, without credentials; ``None`` while there is none."""
        session = self._core.session
        return None if session is None else session.connection.server.url

    @property
    def disconnected_for(self) -> float | None:
        """Seconds for which there has been no connection to a server; ``None`` if there is one."""
        return self._core.disconnected_for

    @property
    def failure(self) -> NatsError | None:
        """Why the connection is gone for good; ``None`` if it is not, or was closed on purpose."""
        return self._core.failure

    @property
    def stats(self) -> Statistics:
        """The numbers so far."""
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
        """Return once the connection is in one of ``states``, at once if it is.

        Raises :exc:`ConfigurationError` for what is no state, and, once the connection has ended
        without getting there, what using it would raise. If cancelled, nothing has happened.
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

        Each attempt reads files again and asks for credentials, so this brings new ones into use.
        The present connection is used until the new one is ready, so no message is missed. Returns
        once the new one is in use; while disconnected, once the connection is up again.

        If cancelled, the move goes on.

        :raises ConnectError: if no server could be moved to. The connection goes on as before;
            ``attempts`` tells why each server was not used.
        :raises trio.ClosedResourceError: if the connection is closed, or is closed during the call.
        """
        core = self._core
        core.check_usable()
        await core.moves.request_and_wait()

    @takes_secrets
    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Use these servers for reconnecting, in place of all known so far (ADR-40).

        Those without credentials in their URL use the first URL's of this list that has some, as
        with ``open_nats``; those of the servers known so far go to none of these. What ``auth``
        gives is for all. The present connection stays in use until it is lost, or until
        :meth:`reconnect` has moved it to one of these. Raises
        :exc:`ConfigurationError` for what cannot be used.
        """
        parsed = check_servers(parse_servers(servers), self._core.settings.connector.tls)
        self._core.check_usable()
        self._core.pool.replace(parsed)

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers known, discovered ones included, in the order they would be tried."""
        return self._core.pool.servers

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe everything, let what has arrived be received, and close.

        Publishing, and so responding, works until all messages have been taken out of the
        subscriptions, which then end; no new subscriptions can be made. Takes at most ``timeout``
        seconds, if given, and ``close_timeout`` for closing; raises :exc:`TimeoutError` if messages
        were left by then. If cancelled, the connection is closed at once. Another task that drains
        it already is joined; closing it ends the drain.

        It cannot wait for the task that calls it. When that one receives from a subscription in
        which messages are left, or handles a request of a service, it returns once the others are
        empty, and leaves the connection open: receive the rest, which ends the loop, and leave the
        block.
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
        """Finish what was begun and end the connection; harmless when repeated.

        Everything published is written and the server's word awaited that it has it, for at most
        ``close_timeout`` seconds. If cancelled, it is closed at once instead. Whatever waits for
        the connection then gets :exc:`trio.ClosedResourceError`. Leaving the ``open_nats`` block
        does the same.
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
        """Wait until the server has everything, or cannot get it."""
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
