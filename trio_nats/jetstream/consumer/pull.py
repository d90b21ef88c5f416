"""The pull requests of ``consume``, and the messages that answer them (ADR-13, 37).

The user receives from a channel (:mod:`.message_channel`) that ``Consumer.consume`` returns; this
is the source of its messages.

Theory of operation: all pull requests of a subscription are answered at one inbox, each at a reply
subject of its own. There is no task between the connection and the user. :meth:`~PullSubscription.
receive` takes a message out of the subscription, counts it, and sends the next pull request when
:class:`~.pull_flow_control.PullFlowControl` says that one is due. So a user who receives slowly
requests slowly. Statuses arrive among the messages, and are handled when they are taken out.

One task, :meth:`~PullSubscription.keep`, handles what is not a message: it requests again after a
reconnect, after a pause, and after two intervals without a heartbeat.

Leaving must not lose messages that the server has counted as delivered. When the interest ends, the
server drops those that it has not written to the connection yet. Each of them has used up a
delivery, which may have been its only one. A pull request cannot be withdrawn either. So
:func:`wait_for_requested` waits before the UNSUB until no more messages arrive. It sends requests
that the server answers only after all messages that it has delivered so far. Usually all pull
requests are fulfilled then. Otherwise they wait for new messages. A message may still be dropped if
it is stored in the microseconds in which the server handles the UNSUB.

Anybody who can publish to the inbox could forge statuses. Therefore each reply subject contains a
proof, a keyed hash of the number of the pull request, and statuses without it are ignored.
Messages are recognized by their reply subjects, see :class:`~.message.ReplySubjects`.
"""

from __future__ import annotations

import logging
import math
import secrets
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from itertools import islice

import trio

from ..._printable import printable
from ...connection_base import BaseConnection
from ...errors import NatsError, OutboxFullError, PermissionsViolationError
from ...events import ConnectionState, Event, Reconnected, ServerError
from ...message import Msg
from ...options import PendingLimits
from ..api import API
from ..errors import (
    ConsumerDeletedError,
    ConsumerNotFoundError,
    PullError,
    StreamNotFoundError,
)
from ..events import HeartbeatsMissed, LeaderChanged, PullRefused, Unpinned
from .message import AckContext, JetStreamMsg
from .message_source import (
    LONGEST_CLOSE,
    NO_CONNECTION,
    Broken,
    MessageSource,
    exceeds,
    message_size,
)
from .options import ConsumeOptions, PullOptions
from .pull_flow_control import PullFlowControl, PullRequest
from .pull_status import TOO_LARGE, PullOutcome, PullStatus, read_status

__all__ = [
    "PullSubscription",
    "failure_of",
    "note_pin",
    "too_large_error",
    "wait_for_requested",
]

_logger = logging.getLogger("trio_nats.jetstream")

CONFLICT = 409
LOOKUP_TIMEOUT = 1.0
"""Seconds to wait for the state of a consumer that does not answer."""
SLACK_MESSAGES = 1000
"""Room for statuses, which wait among the messages."""
SLACK_BYTES = 1024 * 1024
LEAST_MESSAGE = 40
"""Minimum size of a message in bytes: its subjects."""
FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
RETRY_WHEN_FULL = 0.1
MAX_TOO_LARGE_REFUSALS = 4
"""After this many refusals of a message that is too large, give up."""
MAX_PIN_ID = 256
PROOF = 9
"""Bytes of the proof in the reply subject of a pull request."""
REFUSED_REQUEST = PullRequest(batch=1, max_bytes=1, no_wait=True, idle_heartbeat=1).encode()
"""A pull request that every server refuses at once with status 400, because its heartbeat is too
long. So it changes nothing, and pins no client."""


class PullSubscription(MessageSource):
    """Receives from a pull consumer.

    With ``fragile``, it raises :exc:`Broken` as soon as a message may have been lost, for ordered
    consumers. Otherwise it requests again.
    """

    def __init__(
        self,
        api: API,
        stream: str,
        consumer: str,
        ack_context: AckContext,
        options: ConsumeOptions,
        kept: deque[JetStreamMsg],
        *,
        fragile: bool = False,
        is_there: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._nc = api.nc
        self._inbox = self._nc.new_inbox()
        largest = self._nc.server_info.max_payload
        sub = self._nc.subscribe(
            f"{self._inbox}.*", pending_limits=_pending_limits_for(options, largest)
        )
        super().__init__(sub, ack_context, kept)
        self._key = secrets.token_bytes(16)
        self._consumer = consumer
        self._options = options
        self._fragile = fragile
        self._is_there = is_there
        self._subject = api.subject(f"CONSUMER.MSG.NEXT.{stream}.{consumer}")
        self._events: trio.abc.ReceiveChannel[Event] | None = None
        self._nap = trio.CancelScope()
        self._wait_until: float | None = None  # send no pull request before
        self._waits = 0
        self._absent = 0
        self._too_large = 0  # refusals in a row of a message that never fits
        self._taken = 0  # messages taken at the last delay
        self._is_first = False  # whether the first pull request is still to be sent
        self._asked_at = -math.inf
        self._heard_at = math.inf
        self._heard = 0  # messages and statuses taken out at that time
        self._statuses = 0
        self.flow_control: PullFlowControl = PullFlowControl(
            options.limit,
            by_bytes=options.by_bytes,
            threshold=options.threshold,
            stop_after=options.stop_after,
            largest_batch=options.largest_batch,
            prefetch=options.prefetch,
        )

    @property
    def has_delivered(self) -> bool:
        """Whether a message has been received."""
        return bool(self.flow_control.taken_in_all)

    # --- beginning and end -----------------------------------------------------------------------

    @property
    def consumer(self) -> str:
        """The name of the consumer."""
        return self._consumer

    async def open(self) -> None:
        """Subscribe, and send the first pull request. If cancelled, nothing has happened."""
        await self._sub.__aenter__()
        self._events = self._nc.events()
        self._heard_at = trio.current_time()
        # Messages that an earlier call has left come first, or more and more would be left.
        self._is_first = bool(self._kept)
        if not self._is_first:
            self.ask()

    async def close(self) -> None:
        """Unsubscribe, and return messages that were not received to the server.

        Harmless when repeated. If cancelled, it is done all the same.
        """
        await super().close()
        if self._events is not None:
            with trio.CancelScope(shield=True):
                await self._events.aclose()

    def _close_timeout(self) -> float:
        # An ordered consumer drops its messages, and without a pull request nothing can come.
        return 0.0 if self._fragile or not self.flow_control.pending else super()._close_timeout()

    async def drain(self) -> None:
        """Unsubscribe, keeping what has arrived. Receiving ends after that."""
        self.stop_asking()
        flow_control = self.flow_control
        seen = 0

        def count() -> int | None:
            nonlocal seen
            before, seen = seen, flow_control.taken_in_all + self._statuses + self.waiting
            return abs(seen - before) if flow_control.pending else None

        with trio.move_on_after(LONGEST_CLOSE):
            await wait_for_requested(self._nc, self._subject, count)
        await super().drain()

    async def _finish_requests(self, left: list[Msg]) -> bool:
        counted = 0

        def count() -> int | None:
            nonlocal counted
            left.extend(self._sub._take(sys.maxsize))
            new = left[counted:]
            counted = len(left)
            for msg in new:
                self._count(msg)
            if exceeds(self._sub._limits, left):  # Only a misbehaving server sends so many.
                return None
            return len(new) if self.flow_control.pending else None

        await wait_for_requested(self._nc, self._subject, count)
        return bool(self.flow_control.pending)

    def _count(self, msg: Msg) -> None:
        """Count a message or status that the user does not receive."""
        flow_control = self.flow_control
        status = None if msg.data else read_status(msg)
        if status is None:
            if self._ack_context.replies.is_ack(msg.raw_reply):
                flow_control.taken(message_size(msg) if flow_control.by_bytes else 0)
            return
        number = self._number_of(status)
        if number is None or status.outcome is PullOutcome.ALIVE:
            return
        if status.outcome in (PullOutcome.FATAL, PullOutcome.LOST, PullOutcome.UNPINNED):
            flow_control.start_generation(0, 0)
        else:
            flow_control.ended(number, status.pending_messages, status.pending_bytes)

    @property
    def receiver(self) -> Callable[[], Awaitable[JetStreamMsg]]:
        """The method to receive with."""
        return self.receive if self._options.prefetch else self.receive_without_prefetch

    # --- the user's side -------------------------------------------------------------------------

    async def receive_without_prefetch(self) -> JetStreamMsg:
        """Do the same as :meth:`receive`, requesting a message only now.

        If cancelled, the request stays open for up to ``expires``: its message waits for the next
        call, and must be acknowledged within ``ack_wait``.
        """
        flow_control = self.flow_control
        assert flow_control.wanted is not None
        flow_control.wanted += 1
        try:
            if not self._kept:
                self.ask()
            return await self.receive()
        finally:
            flow_control.wanted -= 1

    async def receive(self) -> JetStreamMsg:
        """Wait for the next message. If cancelled, no message is lost.

        :raises trio.EndOfChannel: after :meth:`drain`, and after ``stop_after`` messages.
        """
        flow_control, is_ack = self.flow_control, self._ack_context.replies.is_ack
        if self._kept and self._closed is None:
            return await self._take_kept()
        if self._is_first:
            self._is_first = False
            self.ask()
        while True:
            try:
                msg = await self._sub.receive()
            except trio.ClosedResourceError as error:
                raise self._why_closed(error) from None
            if msg.data or (status := read_status(msg)) is None:
                if not is_ack(msg.raw_reply):
                    self._log_stray(msg)
                    flow_control.status_taken()
                    continue
                if self._options.pull_options.pin is not None:
                    note_pin(msg, self._options.pull_options)
                if flow_control.taken(message_size(msg) if flow_control.by_bytes else 0):
                    self.ask()
                if flow_control.left is not None and flow_control.left <= 0:
                    await self._finish()
                return JetStreamMsg(msg, self._ack_context)
            await self._on_status(status)

    async def _take_kept(self) -> JetStreamMsg:
        """Return a message that an earlier call has left."""
        await trio.lowlevel.checkpoint()
        if not self._kept or self._closed is not None:  # another task was quicker
            if self.flow_control.wanted is not None:
                self.ask()
            return await self.receive()
        msg = self._kept.popleft()
        if self.flow_control.left is not None:
            self.flow_control.left -= 1
            if self.flow_control.left <= 0:
                await self._finish()
        return msg

    async def take_waiting(
        self, most: int, follows: Callable[[JetStreamMsg], bool | None] | None = None
    ) -> list[JetStreamMsg]:
        """Take messages that wait to be received, and request more."""
        flow_control, pull_options = self.flow_control, self._options.pull_options
        kept = len(self._kept)
        if flow_control.left is not None:
            most = min(most, flow_control.left)
        came = await super().take_waiting(most, follows)
        kept -= len(self._kept)
        is_due = False
        for msg in islice(came, kept, None):
            if pull_options.pin is not None:
                note_pin(msg.raw, pull_options)
            is_due = flow_control.taken(message_size(msg.raw) if flow_control.by_bytes else 0)
        if is_due or (came and flow_control.wanted):  # Others may have counted on these messages.
            self.ask()
        if flow_control.left is not None:
            flow_control.left -= kept
            if came and flow_control.left <= 0:
                await self._finish()
        return came

    async def _finish(self) -> None:
        """End after the last message of ``stop_after``, for all tasks that receive."""
        self._failure = trio.EndOfChannel()
        await self.close()

    # --- pull requests ---------------------------------------------------------------------------

    def ask(self) -> None:
        """Send the pull requests that are due."""
        if self._stopping or self._wait_until is not None:
            return
        if self._nc.state is not ConnectionState.OPEN:
            return  # `keep` requests again after the reconnect.
        options, flow_control = self._options, self.flow_control
        while (pull := flow_control.next_pull()) is not None:
            request = options.pull_options.request(
                pull.batch, pull.max_bytes, options.expires, options.heartbeat
            )
            try:
                self._nc.publish_nowait(
                    self._subject, request.encode(), reply=self._reply(pull.number)
                )
                self._asked_at = trio.current_time()
            except OutboxFullError:
                flow_control.withdraw(pull.number)
                self._wait(RETRY_WHEN_FULL)
                return
            except NO_CONNECTION:
                flow_control.withdraw(pull.number)
                return  # The subscription raises it, or `keep` requests again.

    def _keep_alive(self, now: float) -> None:
        """Keep the server from deleting a consumer whose messages are received slowly.

        It deletes a consumer that got no pull request for its ``inactive_threshold``. This sends a
        ``no_wait`` request with ``max_bytes=1``, replied to at an unused inbox.
        """
        longest = self._options.keep_alive
        if longest is None or now - self._asked_at < longest or self._stopping:
            return
        if self._nc.state is not ConnectionState.OPEN:
            return
        if self.flow_control.pending and not self.waiting:
            return  # A pull request is waiting at the server.
        self._asked_at = now
        request = self._options.pull_options.request(1, 1, 0.0, 0.0, no_wait=True)
        try:
            self._nc.publish_nowait(self._subject, request.encode(), reply=self._nc.new_inbox())
        except (OutboxFullError, *NO_CONNECTION) as error:
            _logger.debug("consumer %r: %s", self._consumer, str(error))

    def _reply(self, number: int) -> str:
        """Return the reply subject of a pull request: its number and a proof."""
        proof = blake2b(b"%d" % number, key=self._key, digest_size=PROOF).hexdigest()
        return f"{self._inbox}.{number}-{proof}"

    def _number_of(self, status: PullStatus) -> int | None:
        """Return the number of the pull request of a status; ``None`` if the proof is wrong."""
        head = status.subject[len(self._inbox) + 1 :].partition(b"-")[0]
        if head.isdigit() and len(head) < 20:
            number = int(head)
            if self._reply(number).encode() == status.subject:
                return number
        return None

    def _start_over(self) -> None:
        """Request again, because all pull requests are lost."""
        self.flow_control.start_generation(*self._sub.pending)
        self._heard_at = trio.current_time()
        self.ask()

    def _wait(self, seconds: float) -> None:
        """Send no pull requests for a while."""
        self._wait_until = trio.current_time() + seconds
        self._nap.deadline = min(self._nap.deadline, self._wait_until)

    def _note_progress(self) -> None:
        """Reset the delays if messages have come since the last one."""
        taken = self.flow_control.taken_in_all
        if taken != self._taken:
            self._taken = taken
            self._reset_delays()

    def _reset_delays(self) -> None:
        self._waits = self._absent = self._too_large = 0

    def _back_off(self, status: PullStatus) -> None:
        self._note_progress()
        seconds = min(FIRST_WAIT * 2 ** min(self._waits, 8), LONGEST_WAIT)  # 2**1024 is no float
        self._waits += 1
        description = printable(status.description)
        _logger.warning(
            "consumer %r: %d %s; requesting again in %g s",
            self._consumer,
            status.code,
            description or "(no server has the consumer at the moment)",
            seconds,
        )
        self._emit(PullRefused, status.code, description, seconds)
        self._wait(seconds)

    # --- statuses --------------------------------------------------------------------------------

    async def _on_status(self, status: PullStatus) -> None:
        flow_control = self.flow_control
        flow_control.status_taken()
        number = self._number_of(status)
        if number is None:
            return  # It may be forged.
        self._statuses += 1
        outcome = status.outcome
        if outcome is PullOutcome.FATAL:
            if self._fragile and status.code == CONFLICT:
                await self._break("the consumer does not exist any more", gone=True)
            await self._fail(failure_of(status, self._consumer))
        elif outcome is PullOutcome.ALIVE:
            self._reset_delays()
            if self._fragile and (status.last_consumer_seq or 0) > (self.last_seq or 0):
                await self._break("a message that was delivered did not arrive")
        elif not flow_control.is_current(number):
            pass  # That pull request is given up already.
        elif outcome in (PullOutcome.DONE, PullOutcome.TOO_LARGE):
            too_large = outcome is PullOutcome.TOO_LARGE
            left = status.pending_messages, status.pending_bytes
            never_fits = flow_control.ended(number, *left, too_large=too_large) and too_large
            if never_fits and not flow_control.held:
                self._back_off(status)
                # Another client may accept it, so try a few times.
                self._too_large += 1
                if self._too_large >= MAX_TOO_LARGE_REFUSALS:
                    await self._fail(too_large_error(self._nc, self._consumer, self._options.limit))
            elif not too_large:
                self._reset_delays()
        elif outcome is PullOutcome.LOST:
            description = printable(status.description)
            self._emit(LeaderChanged, description)
            await self._lost(description)
        elif outcome is PullOutcome.UNPINNED:
            if self._options.pull_options.pin is not None:
                self._options.pull_options.pin.id = ""
            _logger.info("consumer %r: another client was pinned", self._consumer)
            self._emit(Unpinned, self._options.pull_options.group)
            self._start_over()
        else:
            flow_control.ended(number, status.pending_messages, status.pending_bytes)
            self._note_progress()
            if outcome is PullOutcome.ABSENT:
                self._absent += 1
                if self._fragile:
                    await self._break("the consumer does not exist any more", gone=True)
            self._back_off(status)
        self.ask()

    async def _lost(self, reason: str) -> None:
        if self._fragile:
            await self._break(reason)
        else:
            _logger.info("consumer %r: %s; requesting again", self._consumer, reason)
            self._start_over()

    async def _break(self, reason: str, *, gone: bool = False) -> None:
        _logger.info("consumer %r: %s", self._consumer, reason)
        await self._fail(Broken(reason, gone))

    # --- the task --------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def keep(self) -> None:
        """Request again when pull requests are lost, until cancelled."""
        events = self._events
        assert events is not None
        try:
            while True:
                with trio.CancelScope(deadline=self._next_check()) as self._nap:
                    await self._on_event(await events.receive())
                if self._nap.cancelled_caught:
                    await self._check_health()
        except (Broken, *NO_CONNECTION, trio.EndOfChannel):
            return  # `receive` raises it.

    def _next_check(self) -> float:
        # Two intervals of heartbeats without one are too long.
        seconds = self._options.check_interval
        if self._options.keep_alive is not None:
            seconds = min(seconds, self._options.keep_alive)
        check = trio.current_time() + seconds
        return check if self._wait_until is None else min(check, self._wait_until)

    async def _on_event(self, event: Event) -> None:
        if isinstance(event, Reconnected):
            self._wait_until = None
            await self._lost("reconnected")
        elif isinstance(event, ServerError) and isinstance(event.error, PermissionsViolationError):
            error = event.error
            if error.operation == "publish" and error.subject == self._subject:
                await self._fail(error)

    async def _check_health(self) -> None:
        now = trio.current_time()
        self._keep_alive(now)
        if self._wait_until is not None and now >= self._wait_until:
            if self._absent:
                await self._ask_whether_there()
            self._wait_until = None
            self.ask()
        taken = self.flow_control.taken_in_all + self._statuses
        silent = (
            taken == self._heard
            and self.flow_control.pending
            and self._wait_until is None
            and self._nc.state is ConnectionState.OPEN
            and not self.waiting
        )
        if not silent:
            self._heard, self._heard_at = taken, now
        elif now - self._heard_at >= 2 * self._options.heartbeat:
            _logger.warning(
                "consumer %r: no heartbeat for %g s; requesting again",
                self._consumer,
                now - self._heard_at,
            )
            self._emit(HeartbeatsMissed, now - self._heard_at)
            await self._lost("no heartbeat")

    async def _ask_whether_there(self) -> None:
        if self._is_there is None:
            return
        try:
            with trio.move_on_after(LOOKUP_TIMEOUT):
                await self._is_there()
        except ConsumerNotFoundError as error:
            await self._fail(ConsumerDeletedError(error.code, error.description, self._consumer))
        except StreamNotFoundError as error:
            await self._fail(error)
        except NatsError as error:
            _logger.debug("consumer %r: %s", self._consumer, str(error))


async def wait_for_requested(
    nc: BaseConnection, subject: str, count: Callable[[], int | None]
) -> None:
    """Wait until all requested messages have arrived, or until no more arrive.

    If cancelled, nothing changes.

    :param subject: the subject of pull requests. The consumer handles them one after another, and
        its messages to this client arrive in the order in which it sends them.
    :param count: returns the number of messages that have arrived since it was last called, or
        ``None`` if no request is left.
    """
    more = count() is not None
    while more and nc.state is ConnectionState.OPEN:
        try:
            await nc.request(subject, REFUSED_REQUEST, timeout=LONGEST_CLOSE)
        except NO_CONNECTION as error:
            _logger.debug("%s: %s", subject, str(error))
            return
        more = bool(count())


def _pending_limits_for(options: ConsumeOptions, largest: int) -> PendingLimits:
    """Return the limits of the subscription: twice what is requested, plus room for statuses.

    Twice, because pull requests that were taken for lost may be answered after all.

    :param largest: maximum size of a message in bytes.
    """
    most = 2 * options.limit
    if options.by_bytes:
        messages = most // LEAST_MESSAGE + SLACK_MESSAGES
        return PendingLimits(messages=messages, bytes=most + SLACK_BYTES)
    size = max(PendingLimits().bytes, most * largest)
    return PendingLimits(messages=most + SLACK_MESSAGES, bytes=size)


def failure_of(status: PullStatus, consumer: str) -> PullError:
    """Return the error for a status."""
    gone = "consumer deleted" in status.description.lower()
    kind = ConsumerDeletedError if gone else PullError
    text = status.description or "refused"
    if status.outcome is PullOutcome.ABSENT:
        text = "nobody answers: the consumer does not exist, or has no leader at the moment"
    return kind(status.code, text, consumer)


def too_large_error(nc: BaseConnection, consumer: str, max_bytes: int) -> PullError:
    """Return the error for a message that is larger than any pull request."""
    return PullError(
        CONFLICT,
        f"{TOO_LARGE} of {max_bytes:,} bytes; pass at least its size, subject and headers "
        f"included (the server accepts payloads of up to {nc.server_info.max_payload:,} bytes)",
        consumer,
    )


def note_pin(msg: Msg, pull_options: PullOptions) -> None:
    """Remember the id that the server gave to this client when it was pinned."""
    pin = pull_options.pin
    if pin is not None and msg.raw_headers is not None:
        # The header of the server follows those of the publisher, if there are any.
        ids = msg.headers.get_all("Nats-Pin-Id")
        if ids and len(ids[-1]) <= MAX_PIN_ID:
            pin.id = ids[-1]
