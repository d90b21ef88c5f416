"""Single pull requests, for ``next`` and ``fetch`` (ADR-13, 37).

Each takes an inbox from the pool of the connection, so that a call needs no new subscription. The
inbox is returned to the pool if nothing more can come to it: all messages have arrived, or the
server has reported the end. Otherwise it is closed, and the server drops the pull request because
nobody is interested.
"""

from __future__ import annotations

import logging
import sys
from collections import deque

import trio

from ...events import ConnectionState
from ...message import Msg
from ..api import API
from .inboxes import Inbox
from .message import AckContext, JetStreamMsg
from .message_source import LONGEST_CLOSE, exceeds, message_size, nak_all_nowait
from .options import PullOptions
from .pull import failure_of, note_pin, too_large_error, wait_for_requested
from .pull_status import PullOutcome, PullStatus, read_status

__all__ = ["Fetch"]

_logger = logging.getLogger("trio_nats.jetstream")

LOOK = 0.5
"""Seconds between checks whether the connection was replaced since the request was sent."""
MAX_TAKEN_AT_ONCE = 1000
"""Maximum number of messages to take without a checkpoint."""
PAUSE = 0.1
"""Seconds before a pull request that the server has given up is repeated."""
GRACE = 0.5
"""Seconds to wait for the server's report after the time is over. Without one, wait as long again
for messages on their way."""


class Fetch:
    """One pull request, which is repeated if it is lost."""

    def __init__(
        self,
        api: API,
        subject: str,
        ack_context: AckContext,
        kept: deque[JetStreamMsg] | None,
        pull_options: PullOptions,
        *,
        batch: int,
        max_bytes: int,
        timeout: float,
        heartbeat: float,
        no_wait: bool,
    ) -> None:
        self._nc = api.nc
        self._inboxes = api.inboxes
        self._subject = subject
        self._ack_context = ack_context
        self._kept = kept
        self._pull_options = pull_options
        self._batch = batch
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._no_wait = no_wait
        self._came: list[JetStreamMsg] = []
        self._bytes = 0
        self._reply = b""
        self._repeated = False
        self._absent: PullStatus | None = None
        self.ended: PullStatus | None = None
        """The status that ended it, or ``None``."""
        self.told: bool = False
        """Whether the server sent a status."""
        self.complete: bool = False
        """Whether all requested messages have arrived."""
        self.clean: bool = False
        """Whether no message can have been lost, so that what arrived is all there is."""

    async def run(self) -> list[JetStreamMsg]:
        """Return the messages that arrive in time.

        If cancelled, messages that have arrived are returned to the server. Those that it would not
        deliver again (``AckPolicy.NONE``, or ``max_deliver`` reached) are kept for the next call.
        Cancelling may take up to two seconds, to wait for messages on their way.
        """
        self._take_kept()
        try:
            if self.complete:
                await trio.lowlevel.checkpoint()
            else:
                await self._ask()
        except BaseException:
            if self._kept is not None:
                kept = nak_all_nowait([msg.raw for msg in self._came], self._ack_context)
                self._kept.extendleft(reversed(kept))
            raise
        return self._came

    def _take_kept(self) -> None:
        """Take messages that an earlier call has left, up to the limits.

        :raises PullError: if the first one is larger than ``max_bytes``.
        """
        kept = self._kept
        while kept and not self.complete:
            if self._max_bytes and self._bytes + message_size(kept[0].raw) > self._max_bytes:
                if not self._came:
                    raise too_large_error(self._nc, self._ack_context.consumer, self._max_bytes)
                self.complete = True  # The next call returns it, so that the order is kept.
                return
            self._add(kept.popleft())

    async def _ask(self) -> None:
        inbox = await self._inboxes.take()
        timeout = LONGEST_CLOSE
        try:
            await self._collect(inbox)
            self.clean = self._is_over() and not self._repeated
            timeout = 0.0 if self.clean else GRACE
        finally:
            if not (self.clean and self._inboxes.keep(inbox)):
                # An ordered consumer requests again the messages that it has not returned.
                await self._leave(inbox, 0.0 if self._kept is None else timeout)

    async def _leave(self, inbox: Inbox, timeout: float) -> None:
        """Close the inbox, and take the requested messages that arrive until then."""
        excess: list[Msg] = []
        limits = inbox.sub._limits
        is_over = self._is_over()

        async def finish(left: list[Msg]) -> bool:
            def count() -> int | None:
                nonlocal is_over
                left.extend(inbox.sub._take(sys.maxsize))
                came = len(left)
                is_over = self._take_left(left, excess) or is_over
                left.clear()
                if exceeds(limits, excess):  # Only a misbehaving server sends so many.
                    return None
                return None if is_over and not self._repeated else came

            await wait_for_requested(self._nc, self._subject, count)
            return not is_over or self._repeated

        left: list[Msg] = []
        with trio.CancelScope(shield=True):
            left = await inbox.sub._close_collecting(timeout, finish)
        self._take_left(left, excess)
        if self._kept is not None:  # Before the interest has ended, they would come back here.
            self._kept.extend(nak_all_nowait(excess, self._ack_context))

    def _take_left(self, left: list[Msg], excess: list[Msg]) -> bool:
        """Take requested messages; add others to ``excess``. Return whether the request is over.

        It is not repeated, so it does not matter how it ended.
        """
        ended = False
        for msg in left:
            if self._ack_context.replies.is_ack(msg.raw_reply):
                if self.complete:
                    excess.append(msg)
                else:
                    note_pin(msg, self._pull_options)
                    self._add(JetStreamMsg(msg, self._ack_context))
            elif (status := read_status(msg)) is not None and status.subject == self._reply:
                ended = ended or status.outcome is not PullOutcome.ALIVE
        return ended or self.complete

    async def _collect(self, inbox: Inbox) -> None:
        deadline = trio.current_time() + self._timeout
        seen = await self._pull(inbox, deadline)
        heard_at = trio.current_time()
        while not self._is_over():
            now = trio.current_time()
            if now >= deadline + (GRACE if self._is_connected() else 0):
                self.ended = self._absent
                return
            msg: Msg | None = None
            with trio.CancelScope(deadline=now + self._patience(deadline, now)):
                msg = await inbox.sub.receive()
            now = trio.current_time()
            if msg is not None:
                if self._take_all(msg, inbox):
                    heard_at = now
                if self._is_lost():
                    await trio.sleep(PAUSE)
                    seen = await self._pull(inbox, deadline)
                continue
            if now >= deadline or not self._is_connected():
                heard_at = now
            elif seen != self._connection():
                seen, heard_at = await self._pull(inbox, deadline), now
            elif self._heartbeat and now - heard_at >= 2 * self._heartbeat:
                _logger.warning(
                    "consumer %r: no heartbeat for %g s; requesting again",
                    self._ack_context.consumer,
                    now - heard_at,
                )
                seen, heard_at = await self._pull(inbox, deadline), now

    def _is_lost(self) -> bool:
        """Whether the request ended too early, and should be repeated."""
        status = self.ended
        if status is None:
            return False
        # No responders: expected for a repeated request, while a server restarts; else the end.
        again = status.outcome in (PullOutcome.LOST, PullOutcome.UNPINNED)
        if again or (status.outcome is PullOutcome.ABSENT and self._repeated):
            self.ended, self._absent = None, None if again else status
            return True
        return False

    def _patience(self, deadline: float, now: float) -> float:
        if now >= deadline:
            return deadline + GRACE - now
        return min(LOOK, deadline - now)

    def _is_connected(self) -> bool:
        return self._nc.state in (ConnectionState.OPEN, ConnectionState.DRAINING)

    def _connection(self) -> int:
        """Return the number of the connection. A pull request is lost with its connection."""
        return self._nc._core.counters.connects  # `stats` would also count all pending messages

    def _is_over(self) -> bool:
        return self.complete or self.ended is not None

    async def _pull(self, inbox: Inbox, deadline: float) -> int | None:
        """Request what is missing. Return the number of the connection used, or ``None``."""
        if not self._is_connected():
            return None
        if self._reply:
            self._repeated = True
        self._reply = inbox.next_reply()
        left = deadline - trio.current_time()
        if left <= 0:
            return None
        request = self._pull_options.request(
            self._batch - len(self._came),
            max(1, self._max_bytes - self._bytes) if self._max_bytes else 0,
            0 if self._no_wait else left,
            # There must be at least two heartbeats in the time that is left.
            0 if self._no_wait else min(self._heartbeat, left / 2.1),
            no_wait=self._no_wait,
        )
        seen, nc = self._connection(), self._nc
        payload, reply = request.encode(), self._reply.decode()
        if nc._outbox.has_space():  # Otherwise it may have to wait, which needs a time limit.
            await nc.publish(self._subject, payload, reply=reply)
        else:
            with trio.move_on_at(deadline):
                await nc.publish(self._subject, payload, reply=reply)
        return seen

    def _add(self, msg: JetStreamMsg) -> None:
        self._came.append(msg)
        self._bytes += message_size(msg.raw)
        full = bool(self._max_bytes) and self._bytes >= self._max_bytes
        self.complete = len(self._came) >= self._batch or full

    def _take_all(self, msg: Msg, inbox: Inbox) -> bool:
        """Take a message or status and those waiting behind it, until the request is over.

        Entering a cancel scope for each would cost more than everything else. Return whether any
        came from the consumer.
        """
        sub = inbox.sub
        heard = self._take(msg)
        taken = 0
        while sub._queue and taken < MAX_TAKEN_AT_ONCE and not self._is_over():
            heard = self._take(sub._pop()) or heard
            taken += 1
        sub._before_yield -= min(taken, sub._before_yield)  # Yield at most once for all of them.
        return heard

    def _take(self, msg: Msg) -> bool:
        """Take a message or status. Return whether it came from the consumer."""
        if msg.data or (status := read_status(msg)) is None:
            if not self._ack_context.replies.is_ack(msg.raw_reply):
                return False
            note_pin(msg, self._pull_options)
            self._add(JetStreamMsg(msg, self._ack_context))
            return True
        if status.subject != self._reply:
            return False
        self.told = True
        if status.outcome is not PullOutcome.ALIVE:
            if status.outcome is PullOutcome.UNPINNED and self._pull_options.pin is not None:
                self._pull_options.pin.id = ""
            self.ended = status
        return True

    def check_came(self) -> None:
        """Raise the error of the server, if no message has arrived."""
        status = self.ended
        if self._came or status is None or status.outcome is PullOutcome.DONE:
            return
        if status.outcome is PullOutcome.TOO_LARGE:
            raise too_large_error(self._nc, self._ack_context.consumer, self._max_bytes)
        raise failure_of(status, self._ack_context.consumer)
