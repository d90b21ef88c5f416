"""Subscriptions: channels of received messages."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from inspect import CORO_CLOSED, getcoroutinestate
from threading import get_ident
from typing import Generic, Self, TypeVar
from weakref import WeakSet

import outcome
import trio
from trio.lowlevel import checkpoint_if_cancelled

from ._async_with import NeedsAsyncFor, NeedsAsyncWith
from ._constructors import NoPublicConstructor
from ._core.pending import PendingQueue, pending_size
from ._core.supervisor import Supervisor
from .errors import fresh, timed_out
from .events import ConnectionState
from .message import Msg
from .options import PendingLimits, check_count, check_seconds

__all__ = ["BatchIterator", "Subscription"]

T = TypeVar("T")

_MESSAGES_PER_YIELD = 63
"""Number of messages that a task may receive before it yields to other tasks."""


class Subscription(
    PendingQueue,
    trio.abc.ReceiveChannel[Msg],
    NeedsAsyncWith,
    metaclass=NoPublicConstructor,
    use="nc.subscribe()",
):
    """A subscription, as a Trio channel of its messages.

    Made by :meth:`Connection.subscribe` and used with ``async with``. Entering the block
    subscribes; leaving it unsubscribes, even if cancelled. Messages come in the order in which they
    arrived. Several tasks may receive at the same time, as a pool of workers: each message goes to
    exactly one of them, the one that has waited longest.

    Methods that receive raise one of these once the subscription has ended and, except after
    closing, all its messages have been received:

    - :exc:`trio.EndOfChannel`, which ends an ``async for`` loop: after ``stop_after`` messages, or
      after :meth:`drain`.
    - :exc:`PermissionsViolationError`: if the server forbids the subscription.
    - :exc:`ServerReportedError`: if the server allows no more subscriptions.
    - :exc:`ConnectionLostError`: if the connection is gone for good.
    - :exc:`trio.ClosedResourceError`: if the subscription or the connection was closed.
    """

    _async_with = "nc.subscribe(...) as sub"

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
        # Number of messages that may still be received before yielding. It begins with 0, because
        # the receiving task is only remembered when it yields.
        self._before_yield = 0
        self._receivers: WeakSet[trio.lowlevel.Task] | None = None
        self._thread = core.thread
        self._helpers: Set[trio.lowlevel.Task] | None = None
        """Tasks that handle messages on behalf of the receiving task, which may wait for them."""
        self._being_handled = 0
        """Number of received messages that are being handled, for which draining waits."""
        self._ended: Exception | None = None

    # --- properties ------------------------------------------------------------------------------

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
        """Subscribe. If cancelled, it has not subscribed.

        :raises trio.ClosedResourceError: if the connection is closed or draining.
        :raises ConnectionLostError: if the connection is gone for good.
        """
        await self._core.light_checkpoint()
        if self._sid is not None or self._ended is not None:
            raise RuntimeError("a subscription can be entered only once; subscribe again")
        self._core.check_usable()
        if self._core.state is ConnectionState.DRAINING:
            raise trio.ClosedResourceError(
                "this NATS connection is draining, so it cannot subscribe any more"
            )
        self._sid = self._core.router.add(self)
        return self

    async def aclose(self) -> None:
        """Unsubscribe, and drop messages that were not received.

        You may call it repeatedly. If cancelled, it is unsubscribed all the same.
        """
        if self._ended is None:
            self._core.check_run()
        self._leave(trio.ClosedResourceError("this subscription is closed"))
        self._clear()
        await trio.lowlevel.checkpoint()

    async def drain(self, *, timeout: float | None = None) -> None:
        """Unsubscribe, but keep messages that the server has already sent.

        Returns once no more messages can arrive. The remaining ones can still be received; then the
        subscription ends with :exc:`trio.EndOfChannel`. Until then it holds at most what
        ``pending_limits`` allow and, in addition, what the default limits allow.

        If cancelled, or if the time is over, it is unsubscribed all the same.

        :param timeout: seconds to wait for the server. Default: no limit.
        :raises RequestTimeoutError: if the server does not answer in time.
        :raises ConfigurationError: if ``timeout`` is not more than zero.
        :raises RuntimeError: if the subscription has not been entered.
        """
        self._core.check_run()
        if self._sid is None:
            raise RuntimeError("this subscription has not been entered, so it cannot be drained")
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        with trio.move_on_after(seconds) as scope:
            await self._core.drain([self._sid])
        if scope.cancelled_caught:
            raise timed_out(
                f"drain: the server did not answer within {seconds:g} s",
                self._core.disconnected_for,
            )

    async def _close_collecting(
        self, timeout: float, finish: Callable[[list[Msg]], Awaitable[bool]] | None = None
    ) -> list[Msg]:
        """Unsubscribe, and return messages that were not received, also those on their way.

        Receiving ends at once, with :exc:`trio.ClosedResourceError`. May be called again. If
        cancelled, it is unsubscribed all the same.

        :param timeout: seconds to wait for messages on their way.
        :param finish: awaited before the interest ends. It gets the list of messages, can add those
            from :meth:`_take` to it, and returns whether more may arrive. Default: none.
        """
        closed = trio.ClosedResourceError("this subscription is closed")
        sid = self._sid
        left = self._take(sys.maxsize)
        is_open = self._ended is None
        self._end(closed)
        try:
            if sid is not None and is_open:
                with trio.move_on_after(timeout):
                    if finish is None or await finish(left):
                        await self._core.drain([sid])
        finally:
            left += self._take(sys.maxsize)
            self._leave(closed)
        return left

    def _waits_for(self, task: trio.lowlevel.Task) -> bool:
        """Whether no other task can receive messages, so that waiting in ``task`` would hang."""
        if self._is_handled_by(task):
            return True
        receivers = self._receivers or ()
        alive = {one for one in receivers if getcoroutinestate(one.coro) != CORO_CLOSED}
        return alive == {task}

    def _is_handled_by(self, task: trio.lowlevel.Task) -> bool:
        """Whether ``task`` handles messages on behalf of the task that receives them.

        This includes tasks that such a task has started, because it waits for them.
        """
        current: trio.lowlevel.Task | None = task
        while current is not None and self._helpers:
            if current in self._helpers:
                return True
            nursery = current.parent_nursery
            current = None if nursery is None else nursery.parent_task
        return False

    @property
    def _has_helpers(self) -> bool:
        return self._helpers is not None

    def _is_empty(self) -> bool:
        return not self._queue and not self._being_handled

    async def _wait_handled(self) -> None:
        """After :meth:`_wait_empty`, wait until no message is being handled."""
        await trio.lowlevel.checkpoint()
        if self._being_handled and self._core.state is not ConnectionState.CLOSED:
            await self._empty_waiters.park()

    def _note_handled(self) -> None:
        """Count a message that was being handled as handled."""
        self._being_handled -= 1
        if self._is_empty():
            self._wake_waiters()

    def _leave(self, error: Exception) -> None:
        if self._sid is not None:
            self._core.router.remove(self._sid)
        self._end(error)

    # --- called by the core ----------------------------------------------------------------------

    def _push(self, msg: Msg) -> None:
        """Pass a message to the task that has waited longest, or queue it."""
        waiters = self._waiters
        if waiters:
            task = next(iter(waiters))
            del waiters[task]
            trio.lowlevel.reschedule(task, outcome.Value(msg))
        else:
            # A copy of _enqueue(), because a method call for each message would be too slow.
            queue = self._queue
            size = pending_size(msg)
            if queue:
                size += self._bytes
            if len(queue) >= self._max_messages or size > self._max_bytes:
                self._enqueue_at_limit(msg)
            else:
                queue.append(msg)
                self._bytes = size
        if self._remaining is not None:
            self._remaining -= 1
            if self._remaining <= 0:
                self._leave(trio.EndOfChannel())

    def _push_burst(self, messages: list[Msg], size: int) -> None:
        """Do what :meth:`_push` does for each message, faster if they can be queued at once."""
        queue = self._queue
        if self._waiters or self._bytes_exact or self._remaining is not None:
            # One by one, as long as each message may change how the next is handled.
            for pushed, msg in enumerate(messages, 1):
                self._push(msg)
                if self._ended is not None:
                    return
                if not (self._waiters or self._bytes_exact or self._remaining is not None):
                    messages = messages[pushed:]
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
        """End the subscription. Unless it is closed, queued messages can still be received."""
        if self._ended is None or isinstance(error, trio.ClosedResourceError):
            self._ended = error
        if isinstance(error, trio.ClosedResourceError):
            self._clear()
            self._wake_waiters()
        waiters, self._waiters = self._waiters, {}
        for task in waiters:
            trio.lowlevel.reschedule(task, outcome.Error(fresh(error)))

    # --- receiving -------------------------------------------------------------------------------

    async def receive(self) -> Msg:
        """Wait for the next message.

        If cancelled, no message is lost.

        :returns: the message.
        :raises trio.EndOfChannel: if the subscription has ended. See :class:`Subscription` for
            other errors.
        :raises RuntimeError: if the subscription has not been entered.
        """
        if get_ident() != self._thread:
            self._core.check_run()
        queue = self._queue
        if queue and self._before_yield:
            self._before_yield -= 1
            await checkpoint_if_cancelled()
            msg = queue.popleft()
            if self._bytes_exact:
                self._uncount(msg)
            return msg
        if queue:
            await self._yield()
            if queue:  # another task may have received it
                return self._pop()
        return await self._wait()

    async def _yield(self) -> None:
        """Yield to other tasks, and remember the current one as a receiver."""
        self._before_yield = _MESSAGES_PER_YIELD
        self._remember_receiver()
        await trio.lowlevel.checkpoint()

    async def receive_batch(self, max_messages: int | None = None) -> list[Msg]:
        """Receive all waiting messages at once; wait if there are none.

        This is much faster than receiving many messages one by one. If cancelled, no message is
        lost.

        :param max_messages: the most messages to return. Default: no limit.
        :returns: the messages, at least one.
        :raises ConfigurationError: if ``max_messages`` is less than 1.

        It also raises what :meth:`receive` raises.
        """
        most = sys.maxsize if max_messages is None else check_count("max_messages", max_messages, 1)
        if get_ident() != self._thread:
            self._core.check_run()
        if self._queue:
            # However large a batch is, it is followed by at most one yield.
            self._before_yield -= min(len(self._queue), most, self._before_yield)
            if self._before_yield:
                await checkpoint_if_cancelled()
            else:
                await self._yield()
        if self._queue:  # another task may have received them
            return self._take(most)
        first = await self._wait()
        return [first, *self._take(most - 1)]

    def _take(self, most: int) -> list[Msg]:
        queue = self._queue
        if self._bytes_exact or most < len(queue):
            return [self._pop() for _ in range(min(most, len(queue)))]
        batch = list(queue)
        queue.clear()
        return batch

    def iter_batches(self, max_messages: int | None = None) -> AsyncIterator[list[Msg]]:
        """Iterate over batches of messages; see :meth:`receive_batch`.

        Use it if receiving messages one by one is too slow. The iteration ends with the
        subscription.

        .. code-block:: python

            async for batch in sub.iter_batches():
                for msg in batch:
                    ...

        :param max_messages: the most messages of a batch. Default: no limit.
        :returns: an iterator of lists of messages, none of them empty.
        :raises ConfigurationError: if ``max_messages`` is less than 1.
        """
        return BatchIterator(self.receive_batch, max_messages)

    def receive_nowait(self) -> Msg:
        """Receive a message without waiting.

        :returns: the next message.
        :raises trio.WouldBlock: if no message is waiting.

        It also raises what :meth:`receive` raises.
        """
        if get_ident() != self._thread:
            self._core.check_run()
        queue = self._queue
        if queue:
            msg = queue.popleft()
            if self._bytes_exact:
                self._uncount(msg)
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
        task = self._remember_receiver()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            del self._waiters[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiters[task] = None
        msg: Msg = await trio.lowlevel.wait_task_rescheduled(abort)
        return msg

    def _remember_receiver(self) -> trio.lowlevel.Task:
        """Remember the current task as one that receives messages."""
        task = trio.lowlevel.current_task()
        if self._receivers is None:
            self._receivers = WeakSet()
        if task not in self._receivers:
            self._core.check_run()
            self._receivers.add(task)
        return task

    def _check_entered(self) -> None:
        if self._sid is None and self._ended is None:
            raise self._not_entered_error("this subscription")

    def __aiter__(self) -> Self:
        self._core.check_run()
        return self

    async def __anext__(self) -> Msg:
        # A copy of receive(), because calling it would be a tenth slower.
        queue = self._queue
        if queue and self._before_yield:
            self._before_yield -= 1
            await checkpoint_if_cancelled()
            msg = queue.popleft()
            if self._bytes_exact:
                self._uncount(msg)
            return msg
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class BatchIterator(AsyncIterator[list[T]], NeedsAsyncFor, Generic[T]):
    """Iterate over what ``receive_batch`` returns, until the channel ends.

    It is not an async generator, because you would have to close that.
    """

    def __init__(
        self,
        receive_batch: Callable[[int | None], Awaitable[list[T]]],
        max_messages: int | None,
    ) -> None:
        if max_messages is not None:
            check_count("max_messages", max_messages, 1)
        self._receive_batch = receive_batch
        self._max_messages = max_messages

    async def __anext__(self) -> list[T]:
        try:
            return await self._receive_batch(self._max_messages)
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
