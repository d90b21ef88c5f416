"""The messages of a push consumer (ADR-15)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from ...connection_base import BaseConnection
from ...errors import NatsError, OutboxFullError
from ...events import ConnectionState, Reconnected
from ...message import Msg
from ..errors import ConsumerDeletedError, ConsumerNotFoundError, StreamNotFoundError
from ..events import FlowControlStalled, HeartbeatsMissed
from .config import ConsumerConfig
from .message import AckContext, JetStreamMsg
from .message_source import NO_CONNECTION, Broken, MessageSource
from .options import LEAST_INTERVAL
from .pull_status import PullOutcome, read_status

__all__ = ["PushSubscription"]

_logger = logging.getLogger("trio_nats.jetstream")

SILENCE = 3
"""Number of intervals without a heartbeat that count as silence (ADR-15)."""
SILENCE_WITHOUT_HEARTBEATS = 30.0
"""Seconds of silence after which to ask for a consumer that sends no heartbeats."""


class PushSubscription(MessageSource):
    """Subscribes to the deliver subject, and replies to flow control.

    With ``fragile``, it raises :exc:`~.message_source.Broken` as soon as a message may have been
    lost, for ordered consumers.
    """

    def __init__(
        self,
        nc: BaseConnection,
        consumer: str,
        config: ConsumerConfig,
        ack_context: AckContext,
        kept: deque[JetStreamMsg],
        is_there: Callable[[], Awaitable[object]],
        *,
        fragile: bool = False,
    ) -> None:
        sub = nc.subscribe(config.deliver_subject, queue=config.deliver_group or None)
        super().__init__(sub, ack_context, kept)
        self._nc = nc
        self._consumer = consumer
        self._heartbeat = config.idle_heartbeat
        self._is_there = is_there
        self._fragile = fragile
        self._delivered = False
        self.is_stalled: bool = False
        """Whether the server goes on asking for a reply to flow control that was sent."""
        self._heard = 0
        self._stalled: str | None = None
        self._sent_before_reply = 0  # what `_heard` is once all that had arrived is taken out

    @property
    def has_delivered(self) -> bool:
        """Whether a message has been received."""
        return self._delivered

    def _close_timeout(self) -> float:
        return 0.0 if self._fragile else super()._close_timeout()

    async def open(self) -> None:
        """Subscribe. If cancelled, nothing has happened."""
        await self._sub.__aenter__()

    def belong_to(self, consumer: str, ack_context: AckContext) -> None:
        """Receive messages of another consumer, which delivers to the same subject."""
        self._consumer, self._ack_context = consumer, ack_context

    async def receive(self) -> JetStreamMsg:
        """Wait for the next message. If cancelled, no message is lost."""
        if self._kept and self._closed is None:
            await trio.lowlevel.checkpoint()
            if self._kept:  # another task may have been quicker
                return self._kept.popleft()
        is_ack = self._ack_context.replies.is_ack
        while True:
            try:
                msg = await self._sub.receive()
            except trio.ClosedResourceError as error:
                raise self._why_closed(error) from None
            self._heard += 1
            if msg.data or read_status(msg) is None:
                if is_ack(msg.raw_reply):
                    self._delivered = True
                    return JetStreamMsg(msg, self._ack_context)
                self._log_stray(msg)
            else:
                self._on_status(msg)
                if self._fragile:
                    await self._check(msg)

    async def take_waiting(
        self, most: int, follows: Callable[[JetStreamMsg], bool | None] | None = None
    ) -> list[JetStreamMsg]:
        """Take messages that wait to be received, and count them as heard."""
        kept = len(self._kept)
        came = await super().take_waiting(most, follows)
        self._heard += len(came) - (kept - len(self._kept))
        return came

    async def _check(self, msg: Msg) -> None:
        """Check that a status gives no sign of a loss."""
        status = read_status(msg)
        if status is not None and status.outcome is PullOutcome.ABSENT:
            self.is_stalled = True  # nobody receives the replies to flow control
        elif status is not None and (status.last_consumer_seq or 0) > (self.last_seq or 0):
            await self._break("a message that was delivered did not arrive")
        if self.is_stalled:
            await self._break("replies to flow control do not arrive")

    async def _break(self, reason: str) -> None:
        _logger.info("consumer %r: %s", self._consumer, reason)
        await self._fail(Broken(reason, gone=False))

    def _on_status(self, msg: Msg) -> None:
        """Reply to flow control: all messages before the status have been taken out."""
        wanted = msg.reply or msg.headers.get("Nats-Consumer-Stalled")
        if wanted is None:
            return
        # A stalled consumer repeats this with each heartbeat; one reply is enough.
        if wanted == self._stalled and msg.raw_reply is None:
            # Those that had arrived before the reply was sent prove nothing.
            if self._heard > self._sent_before_reply and not self.is_stalled:
                self.is_stalled = True
                self._emit(FlowControlStalled)
            return
        if not self._ack_context.replies.is_flow_control(wanted):
            self._log_stray(msg)
            return
        try:
            # The server reports at the reply subject if nobody receives it, as happens if an
            # account does not import these subjects.
            self._nc.publish_nowait(wanted, reply=self._sub.subject if self._fragile else None)
        except OutboxFullError:
            return  # The next heartbeat repeats the request.
        except NO_CONNECTION as error:
            _logger.debug(
                "consumer %r: could not reply to flow control: %s", self._consumer, str(error)
            )
            return
        self._stalled = wanted
        self._sent_before_reply = self._heard + self.waiting

    @trio.lowlevel.enable_ki_protection
    async def keep(self) -> None:
        """Ask for the consumer after a reconnect and when there is silence, until cancelled."""
        longest = SILENCE * self._heartbeat if self._heartbeat else SILENCE_WITHOUT_HEARTBEATS
        seen, since = -1, trio.current_time()
        try:
            async with self._nc.events() as events:
                while not self._stopping:
                    with trio.move_on_after(max(longest / 6, LEAST_INTERVAL)) as nap:
                        while not isinstance(await events.receive(), Reconnected):
                            pass
                    if not nap.cancelled_caught:
                        if self._fragile:
                            await self._break("reconnected")
                        await self._ask_whether_there()
                    now = trio.current_time()
                    is_open = self._nc.state is ConnectionState.OPEN
                    if seen != self._heard or self.waiting or not is_open:
                        seen, since = self._heard, now
                    elif now - since >= longest:
                        since = now
                        if self._heartbeat:
                            _logger.warning(
                                "consumer %r: no heartbeat for %g s", self._consumer, longest
                            )
                            self._emit(HeartbeatsMissed, longest)
                        if self._fragile:
                            await self._break("no heartbeat")
                        await self._ask_whether_there()
        except (Broken, *NO_CONNECTION, trio.EndOfChannel):
            return  # `receive` raises it.

    async def _ask_whether_there(self) -> None:
        try:
            await self._is_there()
        except ConsumerNotFoundError as error:
            await self._fail(ConsumerDeletedError(error.code, error.description, self._consumer))
        except StreamNotFoundError as error:
            await self._fail(error)
        except NatsError as error:
            _logger.debug("consumer %r: %s", self._consumer, str(error))
