"""The messages of one consumer, asked for as they are taken out.

Taking a message out counts it, and asks for more when there is space: there is no task
between the connection and the user, and one who is slow is what holds the pulling back. The only
task, :meth:`PullSubscription.keep`, notices what is not a message: a new connection, or silence.
"""

from __future__ import annotations

import logging
import math
import secrets
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import trio

from ..._printable import MAX_TEXT, printable
from ...errors import NatsError, OutboxFullError, PermissionsViolationError
from ...events import ConnectionState, Event, Reconnected, ServerError
from ...message import Msg
from ...options import PendingLimits
from ..api import API
from ..errors import ConsumerDeletedError, ConsumerNotFoundError, PullError
from .flow_control import PullFlowControl
from .message import AckContext, JetStreamMsg
from .options import ConsumeOptions, PullOptions
from .source import NO_CONNECTION, MessageSource
from .status import PullOutcome, PullStatus, read_status

__all__ = ["Broken", "PullSubscription", "message_size", "note_pin"]

_logger = logging.getLogger("trio_nats.jetstream")

CONFLICT = 409
SLACK_MESSAGES = 1000
"""For statuses, which wait with the messages."""
SLACK_BYTES = 1024 * 1024
FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
RETRY_WHEN_FULL = 0.1
MAX_PIN_ID = 256
PROOF = 9
"""Bytes by which the reply subject of a pull is told from one that somebody has made up."""
ABSENT_ENOUGH = 3
"""So often is nobody there before it is asked whether the consumer is."""


class Broken(Exception):
    """The feed of an ordered consumer cannot be relied on any more.

    ``gone``: for the consumer is not there.
    """

    def __init__(self, why: str, gone: bool) -> None:
        super().__init__(why, gone)
        self.gone = gone


class PullSubscription(MessageSource):
    """Pulls from a consumer. ``fragile``: whatever may have lost a message breaks it."""

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
        sub = self._nc.subscribe(f"{self._inbox}.*", pending_limits=_room_for(options, largest))
        super().__init__(sub, ack_context, kept)
        self._key = secrets.token_bytes(16)
        self._consumer = consumer
        self._options = options
        self._fragile = fragile
        self._is_there = is_there
        self._subject = api.subject(f"CONSUMER.MSG.NEXT.{stream}.{consumer}")
        self._events: trio.abc.ReceiveChannel[Event] | None = None
        self._nap = trio.CancelScope()
        self._wait_until: float | None = None  # no pull before
        self._waits = 0
        self._absent = 0
        self._heard_at = math.inf
        self._heard = 0  # how much had been taken out then
        self._statuses = 0
        self.last_seq: int | None = None
        """The last delivery that is known to have come, where that matters."""
        self.flow_control: PullFlowControl = PullFlowControl(
            options.limit,
            by_bytes=options.by_bytes,
            threshold=options.threshold,
            stop_after=options.stop_after,
            largest_batch=options.largest_batch,
        )

    # --- beginning and end -----------------------------------------------------------------------

    @property
    def consumer(self) -> str:
        """The consumer's name."""
        return self._consumer

    async def open(self) -> None:
        """Subscribe, and ask for the first messages. If cancelled, nothing has happened."""
        await self._sub.__aenter__()
        self._events = self._nc.events()
        self._heard_at = trio.current_time()
        self.ask()

    async def close(self) -> None:
        """Unsubscribe. What was not received goes back. Done even if cancelled, or repeated."""
        await super().close()
        if self._events is not None:
            with trio.CancelScope(shield=True):
                await self._events.aclose()

    # --- the user's side -------------------------------------------------------------------------

    async def receive(self) -> JetStreamMsg:
        """The next message; waits for it. If cancelled, no message is lost.

        Raises :exc:`trio.EndOfChannel` after :meth:`drain`, or after ``stop_after`` messages.
        """
        flow_control, is_ack = self.flow_control, self._ack_context.replies.is_ack
        if self._kept and self._failure is None:
            return await self._take_kept()
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
        """What another call has left."""
        await trio.lowlevel.checkpoint()
        if not self._kept:  # another task was quicker
            return await self.receive()
        msg = self._kept.popleft()
        if self.flow_control.left is not None:
            self.flow_control.left -= 1
            if self.flow_control.left <= 0:
                await self._finish()
        return msg

    async def _finish(self) -> None:
        """All came that was wanted. Others may still wait for it."""
        self._failure = trio.EndOfChannel()
        await self.close()

    # --- asking ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Pull as much as there is room for, if there is enough of it."""
        if self._stopping or self._wait_until is not None:
            return
        if self._nc.state is not ConnectionState.OPEN:
            return  # `keep` asks when there is a connection again.
        options, flow_control = self._options, self.flow_control
        while (pull := flow_control.next_pull()) is not None:
            request = options.pull_options.request(
                pull.batch, pull.max_bytes, options.expires, options.heartbeat
            )
            try:
                self._nc.publish_nowait(
                    self._subject, request.encode(), reply=self._reply(pull.number)
                )
            except OutboxFullError:
                flow_control.withdraw(pull.number)
                self._wait(RETRY_WHEN_FULL)
                return
            except NO_CONNECTION:
                flow_control.withdraw(pull.number)
                return  # The subscription tells, or `keep`.

    def _reply(self, number: int) -> str:
        """Where a pull is answered: its number, and what nobody can guess."""
        proof = blake2b(b"%d" % number, key=self._key, digest_size=PROOF).hexdigest()
        return f"{self._inbox}.{number}-{proof}"

    def _number_of(self, status: PullStatus) -> int | None:
        """The number of the pull that a status is about; ``None`` if there was no such pull."""
        head = status.subject[len(self._inbox) + 1 :].partition(b"-")[0]
        if head.isdigit() and len(head) < 20:
            number = int(head)
            if self._reply(number).encode() == status.subject:
                return number
        return None

    def _begin_anew(self) -> None:
        """All pulls are gone."""
        self.flow_control.begin_anew(*self._sub.pending)
        self._heard_at = trio.current_time()
        self.ask()

    def _wait(self, seconds: float) -> None:
        """Do not pull for a while."""
        self._wait_until = trio.current_time() + seconds
        self._nap.deadline = min(self._nap.deadline, self._wait_until)

    def _back_off(self, status: PullStatus) -> None:
        seconds = min(FIRST_WAIT * 2**self._waits, LONGEST_WAIT)
        self._waits += 1
        _logger.warning(
            "consumer %r: %d %s; pulling again in %g s",
            self._consumer,
            status.code,
            printable(status.description, MAX_TEXT),
            seconds,
        )
        self._wait(seconds)

    # --- what the server says --------------------------------------------------------------------

    async def _on_status(self, status: PullStatus) -> None:
        flow_control = self.flow_control
        flow_control.status_taken()
        number = self._number_of(status)
        if number is None:
            return  # Anybody may have sent it.
        self._statuses += 1
        verdict = status.verdict
        if verdict is PullOutcome.FATAL:
            if self._fragile and status.code == CONFLICT:
                await self._break("the consumer is gone", gone=True)
            await self._fail(failure_of(status, self._consumer))
        elif verdict is PullOutcome.ALIVE:
            self._waits = self._absent = 0
            if self._fragile and (status.last_consumer_seq or 0) > (self.last_seq or 0):
                await self._break("what was delivered did not come")
        elif not flow_control.is_current(number):
            pass  # It was given up already.
        elif verdict in (PullOutcome.DONE, PullOutcome.TOO_LARGE):
            too_large = verdict is PullOutcome.TOO_LARGE
            left = status.pending_messages, status.pending_bytes
            if (
                flow_control.ended(number, *left, too_large=too_large)
                and too_large
                and not flow_control.held
            ):
                self._back_off(status)
            elif not too_large:
                self._waits = self._absent = 0
        elif verdict is PullOutcome.LOST:
            await self._lost(status.description)
        elif verdict is PullOutcome.UNPINNED:
            if self._options.pull_options.pin is not None:
                self._options.pull_options.pin.id = ""
            _logger.info("consumer %r: another client is the pinned one", self._consumer)
            self._begin_anew()
        else:
            flow_control.withdraw(number)
            if verdict is PullOutcome.ABSENT:
                self._absent += 1
                if self._fragile:
                    await self._break("the consumer is gone", gone=True)
            self._back_off(status)
        self.ask()

    async def _lost(self, why: str) -> None:
        if self._fragile:
            await self._break(why)
        else:
            _logger.info("consumer %r: %s; pulling again", self._consumer, why)
            self._begin_anew()

    async def _break(self, why: str, *, gone: bool = False) -> None:
        _logger.info("consumer %r: %s", self._consumer, why)
        await self._fail(Broken(why, gone))

    # --- what is not a message -------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def keep(self) -> None:
        """Ask again when pulls are lost, until cancelled."""
        events = self._events
        assert events is not None
        try:
            while True:
                with trio.CancelScope(deadline=self._next_look()) as self._nap:
                    await self._on_event(await events.receive())
                if self._nap.cancelled_caught:
                    await self._look()
        except (Broken, *NO_CONNECTION, trio.EndOfChannel):
            return  # The receiver is told.

    def _next_look(self) -> float:
        # Looking four times in the two intervals of silence that are too long.
        look = trio.current_time() + self._options.heartbeat / 2
        return look if self._wait_until is None else min(look, self._wait_until)

    async def _on_event(self, event: Event) -> None:
        if isinstance(event, Reconnected):
            self._wait_until = None
            await self._lost("connected again")
        elif isinstance(event, ServerError) and isinstance(event.error, PermissionsViolationError):
            error = event.error
            if error.operation == "publish" and error.subject == self._subject:
                await self._fail(error)

    async def _look(self) -> None:
        now = trio.current_time()
        if self._wait_until is not None and now >= self._wait_until:
            if self._absent >= ABSENT_ENOUGH:
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
                "consumer %r: no heartbeat for %g s; pulling again",
                self._consumer,
                now - self._heard_at,
            )
            await self._lost("silent")

    async def _ask_whether_there(self) -> None:
        if self._is_there is None:
            return
        try:
            await self._is_there()
        except ConsumerNotFoundError as error:
            await self._fail(ConsumerDeletedError(error.code, error.description, self._consumer))
        except NatsError as error:
            _logger.debug("consumer %r: %s", self._consumer, str(error))


def _room_for(options: ConsumeOptions, largest: int) -> PendingLimits:
    """What was asked for, and as much again if pulls were taken for lost that were not.

    ``largest`` is how many bytes a message may have.
    """
    most = 2 * options.limit
    if options.by_bytes:
        return PendingLimits(messages=sys.maxsize, bytes=most + SLACK_BYTES)
    size = max(PendingLimits().bytes, most * largest)
    return PendingLimits(messages=most + SLACK_MESSAGES, bytes=size)


def failure_of(status: PullStatus, consumer: str) -> PullError:
    """What to raise for a status."""
    gone = "consumer deleted" in status.description.lower()
    kind = ConsumerDeletedError if gone else PullError
    text = status.description or "refused"
    if status.verdict is PullOutcome.ABSENT:
        text = "nobody answers: the consumer is gone, or has no leader at the moment"
    return kind(status.code, text, consumer)


def note_pin(msg: Msg, pull_options: PullOptions) -> None:
    """Remember the id by which this client is the pinned one."""
    pin = pull_options.pin
    if pin is not None and msg.raw_headers is not None:
        # The server's own stands behind those that a publisher may have given the message.
        ids = msg.headers.get_all("Nats-Pin-Id")
        if ids and len(ids[-1]) <= MAX_PIN_ID:
            pin.id = ids[-1]


def message_size(msg: Msg) -> int:
    """How many bytes of a pull a message takes, as the server counts (ADR-37)."""
    size = len(msg.data) + len(msg.raw_subject) + len(msg.raw_reply or b"")
    return size if msg.raw_headers is None else size + len(msg.raw_headers)
