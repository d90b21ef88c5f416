"""What pull and push subscriptions have in common: how the messages of a consumer arrive."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Concatenate, NoReturn, ParamSpec

import trio

from ..._event_hub import EventHub
from ...errors import NatsError, fresh
from ...message import Msg
from ...options import PendingLimits
from ...subscription import Subscription
from ..events import ConsumerEvent
from .message import AckContext, JetStreamMsg

__all__ = [
    "LONGEST_CLOSE",
    "NO_CONNECTION",
    "Broken",
    "MessageSource",
    "exceeds",
    "message_size",
    "nak_all_nowait",
]

_logger = logging.getLogger("trio_nats.jetstream")

P = ParamSpec("P")

NO_CONNECTION = (NatsError, trio.ClosedResourceError)
"""What a connection raises if it is closed or lost."""
LONGEST_CLOSE = 2.0
"""Seconds to wait, after unsubscribing, for messages on their way."""


class Broken(Exception):
    """Messages for an ordered consumer may have been lost.

    :param reason: a text for people.
    :param gone: whether the consumer does not exist any more.
    """

    def __init__(self, reason: str, gone: bool) -> None:
        super().__init__(reason, gone)
        self.reason = reason
        self.gone = gone


class MessageSource(ABC):
    """The subscription for the messages of a consumer.

    :param sub: the subscription; :meth:`open` enters it.
    :param ack_context: what messages need for their acknowledgements.
    :param kept: messages that arrived, were not received, and are not delivered again, because the
        consumer has ``AckPolicy.NONE``, or because it was their last delivery. The calls of a
        :class:`Consumer` share it.
    """

    def __init__(
        self, sub: Subscription, ack_context: AckContext, kept: deque[JetStreamMsg]
    ) -> None:
        self._sub = sub
        self._ack_context = ack_context
        self._kept = kept
        self._failure: Exception | None = None
        self._stopping = False
        self.last_seq: int | None = None
        """Number of the last delivery that was received; kept for ordered consumers."""
        self._closed: trio.Event | None = None  # set once closing has finished
        self.hub: EventHub[ConsumerEvent] | None = None
        """The listeners of the channel's events; set by the channel."""

    @property
    def waiting(self) -> int:
        """Number of messages, and statuses, that wait to be received."""
        return len(self._sub._queue)  # `pending` would count their bytes as well

    @property
    @abstractmethod
    def has_delivered(self) -> bool:
        """Whether a message has been received."""

    @abstractmethod
    async def open(self) -> None:
        """Subscribe. If cancelled, nothing has happened."""

    @property
    def receiver(self) -> Callable[[], Awaitable[JetStreamMsg]]:
        """The method to receive with."""
        return self.receive

    @abstractmethod
    async def receive(self) -> JetStreamMsg:
        """Wait for the next message. If cancelled, no message is lost."""

    async def take_waiting(
        self, most: int, follows: Callable[[JetStreamMsg], bool | None] | None = None
    ) -> list[JetStreamMsg]:
        """Take the waiting messages, up to the first item that only :meth:`receive` can handle.

        Such as a status. It cannot be cancelled.

        :param most: the most messages to take.
        :param follows: returns whether a message is the next one; the first that is not ends the
            batch. Default: take any.
        """
        came: list[JetStreamMsg] = []
        if self._closed is not None:
            return came
        while self._kept and len(came) < most:
            came.append(self._kept.popleft())
        kept = len(came)
        context = self._ack_context
        is_ack = context.replies.is_ack
        for msg in islice(self._sub._queue, most - kept):
            if not is_ack(msg.raw_reply):  # a status, or from elsewhere
                break
            one = JetStreamMsg(msg, context)
            if follows is not None and not follows(one):
                break
            came.append(one)
        taken = len(self._sub._take(len(came) - kept))
        # Yield at most once for all of them.
        self._sub._before_yield -= min(taken, self._sub._before_yield)
        return came

    @abstractmethod
    async def keep(self) -> None:
        """Handle what is not a message, such as silence. Runs as a task, until cancelled."""

    def stop_asking(self) -> None:
        """Send no more pull requests from now on."""
        self._stopping = True

    async def drain(self) -> None:
        """Unsubscribe, keeping what has arrived. Receiving ends after that."""
        self.stop_asking()
        try:
            await self._sub.drain()
        except NO_CONNECTION:
            return  # It has ended already.

    async def close(self) -> None:
        """Unsubscribe, and return messages that were not received to the server.

        Harmless when repeated. If cancelled, it is done all the same; it may take up to two
        seconds, to wait for messages on their way.
        """
        self._stopping = True
        with trio.CancelScope(shield=True):
            if self._closed is not None:
                await self._closed.wait()
                return
            self._closed = trio.Event()
            try:
                # The interest must end first: otherwise messages that are returned are delivered
                # to this subscription again.
                left = await self._sub._close_collecting(
                    self._close_timeout(), self._finish_requests
                )
                self._keep(nak_all_nowait(left, self._ack_context))
            finally:
                self._closed.set()

    def _keep(self, messages: list[JetStreamMsg]) -> None:
        """Keep messages for the next call, at most as many as may wait in one subscription.

        Pull requests never exceed that. A push consumer could add as many at each use.
        """
        limits = self._sub._limits
        size = sum(message_size(msg.raw) for msg in self._kept)
        for kept, msg in enumerate(messages):
            size += message_size(msg.raw)
            if len(self._kept) >= limits.messages or size > limits.bytes:
                _logger.warning(
                    "consumer %r: dropped %d messages, because %d are kept for the next call",
                    self._ack_context.consumer,
                    len(messages) - kept,
                    len(self._kept),
                )
                return
            self._kept.append(msg)

    async def _finish_requests(self, left: list[Msg]) -> bool:
        """Wait for requested messages, and add them to ``left``. Return whether more may arrive."""
        return True

    def _close_timeout(self) -> float:
        """Return how many seconds to wait for messages on their way when it is closed."""
        return LONGEST_CLOSE

    def _why_closed(self, error: trio.ClosedResourceError) -> Exception:
        """Return the reason why the subscription was closed: the failure, or ``error``."""
        return error if self._failure is None else fresh(self._failure)

    def _emit(
        self,
        kind: Callable[Concatenate[str, str, P], ConsumerEvent],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Pass an event to the listeners; do nothing if there are none."""
        if self.hub:
            context = self._ack_context
            self.hub.emit(kind(context.stream, context.consumer, *args, **kwargs))

    def _log_stray(self, msg: Msg) -> None:
        """Log a message that does not come from the consumer. It is dropped."""
        _logger.debug(
            "consumer %r: dropped a message from elsewhere on %s, with reply subject %.200a",
            self._ack_context.consumer,
            self._sub.subject,
            msg.raw_reply,
        )

    async def _fail(self, failure: Exception) -> NoReturn:
        """End with an error, for all tasks that receive."""
        if self._failure is None:
            self._failure = failure
        await self.close()
        raise fresh(self._failure)


def nak_all_nowait(messages: Iterable[Msg], ack_context: AckContext) -> list[JetStreamMsg]:
    """Return messages to the server, to be delivered again; return those that would not be."""
    kept: list[JetStreamMsg] = []
    for msg in messages:
        if ack_context.replies.is_ack(msg.raw_reply):
            one = JetStreamMsg(msg, ack_context)
            try:
                if not one._nak_nowait():
                    kept.append(one)
            except NO_CONNECTION as error:
                _logger.debug("%s could not be returned to the server: %s", repr(one), str(error))
    if kept and ack_context.acks:
        _logger.warning(
            "consumer %r: the server will not deliver %d messages again that were not received "
            "(max_deliver); keeping them for the next call on the same Consumer",
            ack_context.consumer,
            len(kept),
        )
    return kept


def message_size(msg: Msg) -> int:
    """Return the size in bytes of a message, as the server counts ``max_bytes`` (ADR-37)."""
    size = len(msg.data) + len(msg.raw_subject) + len(msg.raw_reply or b"")
    return size if msg.raw_headers is None else size + len(msg.raw_headers)


def exceeds(limits: PendingLimits, messages: Sequence[Msg]) -> bool:
    """Whether there are more messages than may wait in one subscription."""
    return len(messages) > limits.messages or sum(map(message_size, messages)) > limits.bytes
