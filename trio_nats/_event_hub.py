"""Pass events to listeners without waiting for them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakSet

import outcome
import trio

from ._async_with import NeedsAsyncWith
from ._constructors import NoPublicConstructor, construct
from .errors import fresh

__all__ = ["EventChannel", "EventHub"]

E = TypeVar("E")


class EventChannel(
    trio.abc.ReceiveChannel[E],
    NeedsAsyncWith,
    Generic[E],
    metaclass=NoPublicConstructor,
    use="nc.events()",
):
    """A Trio channel of events, returned by ``events()``. A slow reader delays nothing.

    Use it with ``async with``. Once its buffer is full, the oldest event is dropped for each new
    one, and counted in :attr:`dropped`. Several tasks may receive; each event goes to one of them.
    If you delete the channel without closing it, it stops listening as well.
    """

    # Not a memory channel: if one is deleted without being closed, its sending end stays in the hub
    # until the next event.

    def __init__(
        self,
        listeners: WeakSet[EventChannel[E]],
        buffer: int,
        check_run: Callable[[], None],
        use: str,
    ) -> None:
        self._async_with = use
        self._listeners = listeners
        self._check_run = check_run
        self._events: deque[E] = deque(maxlen=min(buffer, sys.maxsize))
        self._waiters: dict[trio.lowlevel.Task, None] = {}
        self._ended: Exception | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Number of events dropped because the buffer was full."""
        return self._dropped

    def _push(self, event: E) -> None:
        """Pass an event to a waiting task, or queue it."""
        if self._waiters:
            task = next(iter(self._waiters))
            del self._waiters[task]
            trio.lowlevel.reschedule(task, outcome.Value(event))
        else:
            self._dropped += len(self._events) == self._events.maxlen
            self._events.append(event)

    async def receive(self) -> E:
        """Wait for the next event. If cancelled, no event is lost.

        :returns: the event.
        :raises trio.EndOfChannel: after the last event.
        :raises trio.ClosedResourceError: if the channel was closed.
        """
        self._check_run()
        await trio.lowlevel.checkpoint()
        try:
            return self.receive_nowait()
        except trio.WouldBlock:
            pass
        task = trio.lowlevel.current_task()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            del self._waiters[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiters[task] = None
        event: E = await trio.lowlevel.wait_task_rescheduled(abort)
        return event

    def receive_nowait(self) -> E:
        """Return the next event without waiting.

        :returns: the event.
        :raises trio.WouldBlock: if no event is waiting.
        :raises trio.EndOfChannel: after the last event.
        :raises trio.ClosedResourceError: if the channel was closed.
        """
        if self._events:
            return self._events.popleft()
        if self._ended is not None:
            raise fresh(self._ended)
        raise trio.WouldBlock

    async def aclose(self) -> None:
        """Stop listening and drop waiting events. May be called again.

        If cancelled, it is closed all the same.
        """
        if self._ended is None:
            self._check_run()
        self._listeners.discard(self)
        self._events.clear()
        self._end(trio.ClosedResourceError("this channel of events is closed"))
        await trio.lowlevel.checkpoint()

    def _end(self, error: Exception) -> None:
        """End the channel. Receiving raises ``error`` once no event is left."""
        self._ended = error
        waiters, self._waiters = self._waiters, {}
        for task in waiters:
            trio.lowlevel.reschedule(task, outcome.Error(fresh(error)))


class EventHub(Generic[E]):
    """Passes every event to every open listener.

    Listeners are held weakly, so one that is deleted without being closed is removed as well.

    :param check_run: raises if it is called in another thread or another run of Trio. Default: no
        check.
    :param use: how listeners are used, for error texts; see :class:`~._async_with.NeedsAsyncWith`.
    """

    def __init__(
        self,
        check_run: Callable[[], None] = lambda: None,
        use: str = "nc.events() as events",
    ) -> None:
        self._check_run = check_run
        self._use = use
        self._listeners: WeakSet[EventChannel[E]] = WeakSet()
        self._closed = False

    def __len__(self) -> int:
        """Return the number of listeners."""
        return len(self._listeners)

    def listen(self, buffer: int) -> EventChannel[E]:
        """Return a channel of the events from now on. It ends when the hub is closed.

        :param buffer: number of events that may wait to be received.
        """
        listener = construct(EventChannel, self._listeners, buffer, self._check_run, self._use)
        if self._closed:
            listener._end(trio.EndOfChannel())
        else:
            self._listeners.add(listener)
        return listener

    def emit(self, event: E) -> None:
        """Pass an event to all listeners."""
        for listener in self._listeners:
            listener._push(event)

    def close(self, error: Exception | None = None) -> None:
        """End all listeners. Waiting events can still be received.

        :param error: raised after the last event. Default: :exc:`trio.EndOfChannel`.
        """
        self._closed = True
        for listener in self._listeners:
            listener._end(error or trio.EndOfChannel())
        self._listeners.clear()
