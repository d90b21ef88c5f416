"""A subscription that a consumer's messages come in by, however they came to be sent."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import NoReturn

import trio

from ...errors import NatsError, fresh
from ...message import Msg
from ...subscription import Subscription
from .message import AckContext, JetStreamMsg

__all__ = ["NO_CONNECTION", "MessageSource", "nak_all_nowait"]

_logger = logging.getLogger("trio_nats.jetstream")

NO_CONNECTION = (NatsError, trio.ClosedResourceError)
"""What using a connection may raise, once arguments are right."""


class MessageSource(ABC):
    """What messages come out of.

    ``kept`` is for what was delivered, not received, and cannot go back.
    """

    def __init__(
        self, sub: Subscription, ack_context: AckContext, kept: deque[JetStreamMsg]
    ) -> None:
        self._sub = sub
        self._ack_context = ack_context
        self._kept = kept
        self._failure: Exception | None = None
        self._stopping = False

    @property
    def waiting(self) -> int:
        """How many messages, and statuses, wait to be received."""
        return self._sub.pending[0]

    @abstractmethod
    async def open(self) -> None:
        """Begin. If cancelled, nothing has happened."""

    @abstractmethod
    async def receive(self) -> JetStreamMsg:
        """The next message; waits for it. If cancelled, no message is lost."""

    @abstractmethod
    async def keep(self) -> None:
        """Look after what is no message, until cancelled or there is nothing more to look after."""

    def stop_asking(self) -> None:
        """Ask for no more, from now on."""
        self._stopping = True

    async def drain(self) -> None:
        """What has come by then can be received, and then it ends."""
        self.stop_asking()
        try:
            await self._sub.drain()
        except NO_CONNECTION:
            return  # So it has ended anyway.

    async def close(self) -> None:
        """Unsubscribe. What was not received goes back. Done even if cancelled, or repeated."""
        self._stopping = True
        self._kept.extend(nak_all_nowait(self._take_nowait, self._ack_context))
        with trio.CancelScope(shield=True):
            await self._sub.aclose()

    def _take_nowait(self) -> Msg | None:
        try:
            return self._sub.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel, RuntimeError, *NO_CONNECTION):
            return None

    def _why_closed(self, error: trio.ClosedResourceError) -> Exception:
        """What the subscription was closed for, if not because its user has closed it."""
        return error if self._failure is None else fresh(self._failure)

    def _log_stray(self, msg: Msg) -> None:
        """Somebody else than the consumer may publish there; such messages are dropped."""
        _logger.debug(
            "consumer %r: a message that it did not deliver came to %s, with reply subject %.200a",
            self._ack_context.consumer,
            self._sub.subject,
            msg.raw_reply,
        )

    async def _fail(self, failure: Exception) -> NoReturn:
        """End for all that receive."""
        if self._failure is None:
            self._failure = failure
        await self.close()
        raise fresh(self._failure)


def nak_all_nowait(take: Callable[[], Msg | None], ack_context: AckContext) -> list[JetStreamMsg]:
    """Have all that ``take`` gives delivered again. Returns what cannot be."""
    kept: list[JetStreamMsg] = []
    while (msg := take()) is not None:
        if ack_context.replies.is_ack(msg.raw_reply):
            one = JetStreamMsg(msg, ack_context)
            try:
                if not one._nak_nowait():
                    kept.append(one)
            except NO_CONNECTION as error:
                _logger.debug("%s could not be handed back: %s", repr(one), str(error))
    return kept
