"""Subscriptions: channels of messages."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Set
from inspect import CORO_CLOSED, getcoroutinestate
from threading import get_ident
from typing import TYPE_CHECKING, NoReturn, Self
from weakref import WeakSet

import outcome
import trio
from trio.lowlevel import checkpoint_if_cancelled

from ._core.pending import PendingQueue, pending_size
from ._core.supervisor import Supervisor
from .errors import fresh, timed_out
from .events import ConnectionState
from .message import Msg
from .options import PendingLimits, check_count, check_seconds

__all__ = ["Subscription"]

_TURN = 63
"""Number of messages to receive before other tasks get their turn."""


class Subscription(PendingQueue, trio.abc.ReceiveChannel[Msg]):
    """The messages of a subscription, as a Trio channel.

    Made by :meth:`Connection.subscribe` and used with ``async with``: entering subscribes, leaving
    unsubscribes, also when cancelled. Several tasks may receive from it at the same time, as a pool
    of workers. Each message goes to exactly one of them, in the order of arrival, to the task that
    has waited longest.

    It ends with :exc:`trio.EndOfChannel`, which ends an ``async for``, once ``stop_after`` messages
    have been received; with :exc:`PermissionsViolationError` if the server forbids it, or another
    :exc:`ServerReportedError` if it allows no more subscriptions; with :exc:`ConnectionLostError`
    if the connection is gone for good; and with :exc:`trio.ClosedResourceError` if the channel or
    the connection is closed.
    """

    def __init__(
        self,
        core: Supervisor,
        subject: str,
        raw_subject: bytes,
        queue: str | None,
        raw_queue: bytes | None,
        stop_after: int | None,
        limits: PendingLimits,
    ) -> None:
        super().__init__(core, subject, limits)
        self._core = core
        self._queue_group = queue
        self._raw_subject = raw_subject
        self._raw_queue = raw_queue
        self._remaining = stop_after
        self._sid: bytes | None = None
        self._waiters: dict[trio.lowlevel.Task, None] = {}
        # How many messages may be taken out before others get their turn. None at first: who
        # receives is noted at the end of a turn.
        self._left = 0
        self._receivers: WeakSet[trio.lowlevel.Task] | None = None
        self._thread = core.thread
        self._helpers: Set[trio.lowlevel.Task] = frozenset()
        """Tasks that deal with messages, and that the receiving one may be waiting for."""
        self._ended: Exception | None = None

    # --- what it is ------------------------------------------------------------------------------

    @property
    def queue(self) -> str | None:
        """The queue group, or ``None``."""
        return self._queue_group

    def __repr__(self) -> str:
        queue = f", queue={self._queue_group!r}" if self._queue_group else ""
        state = "not entered" if self._sid is None else "open" if self._ended is None else "ended"
        return f"<Subscription {self._subject!r}{queue} {state}, {len(self._queue)} pending>"

    # --- entering and leaving --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Subscribe. If cancelled, nothing has happened.

        :raises trio.ClosedResourceError: if the connection is closed or draining.
        :raises ConnectionLostError: if the connection is gone for good.
        """
        await self._core.light_checkpoint()
        if self._sid is not None or self._ended is not None:
            raise RuntimeError("a subscription can be entered only once; subscribe again")
        self._core.check_usable()
        if self._core.state is ConnectionState.DRAINING:
            raise trio.ClosedResourceError("this NATS connection is draining")
        self._sid = self._core.router.add(self)
        return self

    async def aclose(self) -> None:
        """Unsubscribe and drop waiting messages. You may call it repeatedly.

        If cancelled, it is unsubscribed.
        """
        if self._ended is None:
            self._core.check_run()
        self._leave(trio.ClosedResourceError("this subscription is closed"))
        self._clear()
        await trio.lowlevel.checkpoint()

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise TypeError(
                "a subscription cannot be awaited; use 'async with nc.subscribe(...) as sub:'"
            )

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe, but keep the messages that the server has sent until then.

        Returns when no more messages will come. You can receive those that have arrived, and then
        the subscription ends. If cancelled or timed out, it is unsubscribed nevertheless.

        :param timeout: seconds to wait for the server. Default: no limit.
        :raises RequestTimeoutError: if the server did not confirm within ``timeout``.
        """
        self._core.check_run()
        await trio.lowlevel.checkpoint()
        if self._sid is None:
            raise RuntimeError("a subscription that has not been entered cannot be drained")
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        with trio.move_on_after(seconds) as scope:
            await self._core.drain([self._sid])
        if scope.cancelled_caught:
            raise timed_out(
                f"drain: the server did not answer within {seconds:g} s",
                self._core.disconnected_for,
            )

    def _waits_for(self, task: trio.lowlevel.Task) -> bool:
        """Whether nobody can take out a message unless ``task`` goes on."""
        if self._is_handled_by(task):
            return True
        receivers = self._receivers or ()
        alive = {one for one in receivers if getcoroutinestate(one.coro) != CORO_CLOSED}
        return alive == {task}

    def _is_handled_by(self, task: trio.lowlevel.Task) -> bool:
        """Return whether ``task`` processes a message for the task that receives."""
        return task in self._helpers

    def _leave(self, error: Exception) -> None:
        if self._sid is not None:
            self._core.router.remove(self._sid)
        self._end(error)

    # --- the core's side -------------------------------------------------------------------------

    def _push(self, msg: Msg) -> None:
        """Called with each message. It goes to the task that has waited longest, or is kept."""
        waiters = self._waiters
        if waiters:
            task = next(iter(waiters))
            del waiters[task]
            trio.lowlevel.reschedule(task, outcome.Value(msg))
        else:
            # The same as _keep(), again, for a call less per message counts.
            queue = self._queue
            size = pending_size(msg)
            if queue:
                size += self._bytes
            if len(queue) >= self._max_messages or size > self._max_bytes:
                self._keep_at_limit(msg)
            else:
                queue.append(msg)
                self._bytes = size
        if self._remaining is not None:
            self._remaining -= 1
            if self._remaining <= 0:
                self._leave(trio.EndOfChannel())

    def _push_burst(self, messages: list[Msg], size: int) -> None:
        """Called with messages that arrived together; the same as :meth:`_push` for each."""
        queue = self._queue
        if self._waiters or self._watched or self._remaining is not None:
            # One by one as long as it makes a difference which.
            for taken, msg in enumerate(messages, 1):
                self._push(msg)
                if self._ended is not None:
                    return
                if not (self._waiters or self._watched or self._remaining is not None):
                    messages = messages[taken:]
                    break
            else:
                return
        if queue:
            size += self._bytes
        if len(queue) + len(messages) > self._max_messages or size > self._max_bytes:
            for msg in messages:
                self._push(msg)
        else:
            queue.extend(messages)
            self._bytes = size

    def _end(self, error: Exception) -> None:
        """No more messages will come. Those that did can still be received, unless closed."""
        if self._ended is None or isinstance(error, trio.ClosedResourceError):
            self._ended = error
        if isinstance(error, trio.ClosedResourceError):
            self._clear()
            self._let_go()
        waiters, self._waiters = self._waiters, {}
        for task in waiters:
            trio.lowlevel.reschedule(task, outcome.Error(fresh(error)))

    # --- the user's side -------------------------------------------------------------------------

    async def receive(self) -> Msg:
        """Wait for the next message. If cancelled, no message is lost.

        Raises what :class:`Subscription` says about its end.
        """
        if get_ident() != self._thread:
            self._core.check_run()
        queue = self._queue
        if queue:
            if self._left:
                self._left -= 1
                await checkpoint_if_cancelled()
            else:
                await self._next_turn()
        if queue:  # another task may have been quicker
            msg = queue.popleft()
            if self._watched:
                self._forget(msg)
            return msg
        return await self._wait()

    async def _next_turn(self) -> None:
        """Let others run."""
        self._left = _TURN
        self._note_receiver()
        await trio.lowlevel.checkpoint()

    async def receive_batch(self, max_messages: int | None = None) -> list[Msg]:
        """Receive all messages that have arrived; wait for the first one.

        Receiving many messages at once costs a fraction of receiving them one by one. Raises what
        :meth:`receive` raises. If cancelled, no message is lost.

        :param max_messages: maximum number of messages. Default: all.
        :returns: a list of at least one message.
        :raises ConfigurationError: if ``max_messages`` is invalid.
        """
        most = sys.maxsize if max_messages is None else check_count("max_messages", max_messages, 1)
        if get_ident() != self._thread:
            self._core.check_run()
        if self._queue:
            # A batch is never more than one turn.
            self._left -= min(len(self._queue), most, self._left)
            if self._left:
                await checkpoint_if_cancelled()
            else:
                await self._next_turn()
        if self._queue:  # another task may have been quicker
            return self._take(most)
        first = await self._wait()
        return [first, *self._take(most - 1)]

    def _take(self, most: int) -> list[Msg]:
        queue = self._queue
        if self._watched or most < len(queue):
            return [self._pop() for _ in range(min(most, len(queue)))]
        batch = list(queue)
        queue.clear()
        return batch

    def iter_batches(self, max_messages: int | None = None) -> AsyncIterator[list[Msg]]:
        """Iterate over batches of messages with ``async for``; see :meth:`receive_batch`.

        .. code-block:: python

            async for batch in sub.iter_batches():
                for msg in batch:
                    ...

        :param max_messages: maximum number of messages in a batch. Default: all that have arrived.
        """
        return _Batches(self, max_messages)

    def receive_nowait(self) -> Msg:
        """Receive the next message if one has arrived.

        :raises trio.WouldBlock: if none has.
        """
        if get_ident() != self._thread:
            self._core.check_run()
        queue = self._queue
        if queue:
            msg = queue.popleft()
            if self._watched:
                self._forget(msg)
            return msg
        self._check_entered()
        if self._ended is not None:
            raise fresh(self._ended)
        raise trio.WouldBlock

    async def _wait(self) -> Msg:
        self._check_entered()
        if self._ended is not None:
            await trio.lowlevel.checkpoint()
            raise fresh(self._ended)
        task = self._note_receiver()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            del self._waiters[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiters[task] = None
        msg: Msg = await trio.lowlevel.wait_task_rescheduled(abort)
        return msg

    def _note_receiver(self) -> trio.lowlevel.Task:
        """Remember the present task: it takes messages out."""
        task = trio.lowlevel.current_task()
        if self._receivers is None:
            self._receivers = WeakSet()
        if task not in self._receivers:
            self._core.check_run()
            self._receivers.add(task)
        return task

    def _check_entered(self) -> None:
        if self._sid is None and self._ended is None:
            raise RuntimeError(
                "this subscription has not been entered; use it as "
                "'async with nc.subscribe(...) as sub:'"
            )

    def __aiter__(self) -> Self:
        self._core.check_run()
        return self

    async def __anext__(self) -> Msg:
        # The same as receive(), again, for a call less per message is a tenth of the time.
        queue = self._queue
        if queue and self._left:
            self._left -= 1
            await checkpoint_if_cancelled()
            msg = queue.popleft()
            if self._watched:
                self._forget(msg)
            return msg
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class _Batches(AsyncIterator[list[Msg]]):
    """An asynchronous iterator, and not a generator, which would have to be closed."""

    def __init__(self, sub: Subscription, max_messages: int | None) -> None:
        if max_messages is not None:
            check_count("max_messages", max_messages, 1)
        self._sub = sub
        self._max_messages = max_messages

    async def __anext__(self) -> list[Msg]:
        try:
            return await self._sub.receive_batch(self._max_messages)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
