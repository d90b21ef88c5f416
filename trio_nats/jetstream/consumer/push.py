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
from .config import ConsumerConfig
from .message import AckContext, JetStreamMsg
from .message_source import NO_CONNECTION, MessageSource
from .pull_status import read_status

__all__ = ["PushSubscription"]

_logger = logging.getLogger("trio_nats.jetstream")

SILENCE = 3
"""Number of intervals without a heartbeat that count as silence (ADR-15)."""
QUIET = 30.0
"""Seconds of silence after which to ask for a consumer that sends no heartbeats."""


class PushSubscription(MessageSource):
    """Subscribes to the deliver subject, and replies to flow control."""

    def __init__(
        self,
        nc: BaseConnection,
        consumer: str,
        config: ConsumerConfig,
        ack_context: AckContext,
        kept: deque[JetStreamMsg],
        is_there: Callable[[], Awaitable[object]],
    ) -> None:
        sub = nc.subscribe(config.deliver_subject, queue=config.deliver_group or None)
        super().__init__(sub, ack_context, kept)
        self._nc = nc
        self._consumer = consumer
        self._heartbeat = config.idle_heartbeat
        self._is_there = is_there
        self._heard = 0
        self._stalled: str | None = None

    async def open(self) -> None:
        """Subscribe. If cancelled, nothing has happened."""
        await self._sub.__aenter__()

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
                    return JetStreamMsg(msg, self._ack_context)
                self._log_stray(msg)
            else:
                self._on_status(msg)

    def _on_status(self, msg: Msg) -> None:
        """Reply to flow control: all messages before the status have been taken out."""
        wanted = msg.reply or msg.headers.get("Nats-Consumer-Stalled")
        # A stalled consumer repeats this with each heartbeat; one reply is enough.
        if wanted is None or (wanted == self._stalled and msg.raw_reply is None):
            return
        if not self._ack_context.replies.is_flow_control(wanted):
            self._log_stray(msg)
            return
        try:
            self._nc.publish_nowait(wanted)
        except OutboxFullError:
            return  # The next heartbeat repeats the request.
        except NO_CONNECTION as error:
            _logger.debug(
                "consumer %r: could not reply to flow control: %s", self._consumer, str(error)
            )
            return
        self._stalled = wanted

    @trio.lowlevel.enable_ki_protection
    async def keep(self) -> None:
        """Ask for the consumer after a reconnect and when there is silence, until cancelled."""
        longest = SILENCE * self._heartbeat if self._heartbeat else QUIET
        seen, since = -1, trio.current_time()
        try:
            async with self._nc.events() as events:
                while not self._stopping:
                    with trio.move_on_after(longest / 6) as nap:
                        while not isinstance(await events.receive(), Reconnected):
                            pass
                    if not nap.cancelled_caught:
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
                        await self._ask_whether_there()
        except (*NO_CONNECTION, trio.EndOfChannel):
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
