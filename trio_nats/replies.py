"""Receive several replies to a request (ADR-47)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

import trio

from ._async_with import NeedsAsyncWith
from ._constructors import NoPublicConstructor
from ._core.pending import PendingOwner, PendingQueue
from ._core.request_mux import is_no_responders
from .errors import NoRespondersError, timed_out
from .message import Msg
from .options import PendingLimits

__all__ = ["Replies", "empty_sentinel"]


def empty_sentinel(msg: Msg) -> bool:
    """Return whether a reply is empty, which is the usual sign for the end (ADR-47).

    For the ``sentinel`` of :meth:`Connection.request_many`.

    :param msg: the reply.
    :returns: whether it has no data.
    """
    return not msg.data


class Replies(
    PendingQueue,
    trio.abc.ReceiveChannel[Msg],
    NeedsAsyncWith,
    metaclass=NoPublicConstructor,
    use="nc.request_many()",
):
    """The replies to a request, as a Trio channel.

    Made by :meth:`Connection.request_many` and used with ``async with``. Entering the block
    publishes the request; replies that arrive after leaving it are dropped. The replies end as
    described at :meth:`Connection.request_many`.
    """

    _async_with = "nc.request_many(...) as replies"

    def __init__(
        self,
        owner: PendingOwner,
        subject: str,
        limits: PendingLimits,
        timeout: float,
        stop_after: int | None,
        stall: float | None,
        sentinel: Callable[[Msg], bool] | None,
        *,
        send: Callable[[Replies], Awaitable[None]],
        forget: Callable[[], None],
        check_run: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(owner, subject, limits)
        self._timeout = timeout
        self._stop_after = stop_after
        self._stall = stall
        self._sentinel = sentinel
        self._send = send
        self._forget_slot = forget
        self._check_run = check_run
        self._deadline: float | None = None
        self._arrived = 0
        self._last_reply_at: float | None = None
        self._ended: Exception | None = None
        self._waiting = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Replies to {self.subject!r}, {len(self._queue)} pending>"

    async def __aenter__(self) -> Self:
        """Publish the request. If cancelled, it was not sent.

        :raises RequestTimeoutError: if it could not be queued for sending within ``timeout``.
        """
        if self._deadline is not None:
            raise RuntimeError("a request can be entered only once; call request_many() again")
        self._deadline = trio.current_time() + self._timeout
        with trio.CancelScope(deadline=self._deadline) as scope:
            await self._send(self)
        if scope.cancelled_caught:
            raise timed_out(
                f"the request to {self.subject!r} could not be sent within {self._timeout:g} s",
                self._owner.disconnected_for,
            )
        return self

    async def aclose(self) -> None:
        """Drop the replies that were not received, and all further ones.

        You may call it repeatedly. If cancelled, it is closed all the same.
        """
        if self._ended is None:
            self._check_run()
        self._clear()
        self._ended = None
        self._finish(trio.ClosedResourceError("these replies are closed"))
        await trio.lowlevel.checkpoint()

    def _push(self, msg: Msg) -> None:
        """Queue a reply."""
        now = trio.current_time()
        if self._ended is not None:
            return
        if is_no_responders(msg):
            # The server sends it as the only reply. A later one comes from a peer; ignore it.
            if not self._arrived:
                self._finish(NoRespondersError(self.subject))
        elif self._deadline is not None and now >= self._deadline:
            # Otherwise replies that arrive faster than they are received would never end.
            self._finish(trio.EndOfChannel())
        else:
            self._last_reply_at = now
            self._arrived += 1
            self._enqueue(msg)
            self._waiting.unpark()
            if self._arrived == self._stop_after:
                self._finish(trio.EndOfChannel())

    def _end(self, error: Exception) -> None:
        """End the replies because of ``error``."""
        self._finish(error)

    def _finish(self, error: Exception) -> None:
        self._forget_slot()
        self._owner.router.unstall(self)
        if self._ended is None:
            self._ended = error
        self._waiting.unpark_all()

    async def receive(self) -> Msg:
        """Wait for the next reply.

        If cancelled, no reply is lost.

        :returns: the reply.
        :raises trio.EndOfChannel: if the replies have ended.
        :raises NoRespondersError: if nobody is subscribed to the subject of the request.
        :raises RequestTimeoutError: if the time is over while there is no connection, so replies
            may be missing.
        :raises PermissionsViolationError: if the server forbids publishing to the subject.
        :raises RuntimeError: if the block has not been entered.
        """
        self._check_run()
        await trio.lowlevel.checkpoint()
        if self._deadline is None:
            raise self._not_entered_error("this request")
        begun = trio.current_time()
        while not self._queue and self._ended is None:
            deadline = self._next_deadline(self._deadline, begun)
            with trio.CancelScope(deadline=deadline):
                await self._waiting.park()
            # Another task may have received a reply, which extends the deadline.
            if trio.current_time() >= self._next_deadline(self._deadline, begun):
                break
        if self._queue:
            return self._take()
        if self._ended is None:
            self._finish(self._timeout_error())
        assert self._ended is not None
        raise self._ended.with_traceback(None)

    def _timeout_error(self) -> Exception:
        """Return the error to end with after ``timeout`` or ``stall``."""
        disconnected_for = self._owner.disconnected_for
        if disconnected_for is None:
            return trio.EndOfChannel()
        return timed_out(f"replies from {self.subject!r} may be missing", disconnected_for)

    def _next_deadline(self, deadline: float, begun: float) -> float:
        if self._stall is None or self._last_reply_at is None:
            return deadline
        return min(deadline, max(begun, self._last_reply_at) + self._stall)

    def _take(self) -> Msg:
        msg = self._pop()
        if self._sentinel is not None and self._sentinel(msg):
            self._clear()
            self._finish(trio.EndOfChannel())
            raise trio.EndOfChannel
        return msg
