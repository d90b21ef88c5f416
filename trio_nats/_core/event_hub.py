"""Pass events to listeners without waiting for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from weakref import WeakSet

import outcome
import trio

from .._async_with import NeedsAsyncWith
from ..events import Event

__all__ = ["EventHub", "EventListener"]


class EventListener(trio.abc.ReceiveChannel[Event], NeedsAsyncWith):
    """A channel of events that drops the oldest ones when it is full.

    It is not a memory channel, because the sending end of one that was dropped without being closed
    would stay in the hub until the next event.
    """

    _async_with = "nc.events() as events"

    def __init__(
        self, listeners: WeakSet[EventListener], buffer: int, check_run: Callable[[], None]
    ) -> None:
        self._listeners = listeners
        self._check_run = check_run
        self._events: deque[Event] = deque(maxlen=buffer)
        self._waiters: dict[trio.lowlevel.Task, None] = {}
        self._ended: type[Exception] | None = None

    def push(self, event: Event) -> None:
        """Pass an event to a waiting task, or queue it."""
        if self._waiters:
            task = next(iter(self._waiters))
            del self._waiters[task]
            trio.lowlevel.reschedule(task, outcome.Value(event))
        else:
            self._events.append(event)

    async def receive(self) -> Event:
        """Wait for the next event. If cancelled, no event is lost.

        :raises trio.EndOfChannel: after the last event of the connection.
        :raises trio.ClosedResourceError: if the listener was closed.
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
        event: Event = await trio.lowlevel.wait_task_rescheduled(abort)
        return event

    def receive_nowait(self) -> Event:
        """Return the next event.

        :raises trio.WouldBlock: if no event is waiting.
        """
        if self._events:
            return self._events.popleft()
        if self._ended is not None:
            raise self._ended
        raise trio.WouldBlock

    async def aclose(self) -> None:
        """Stop listening and drop waiting events. Stops even if cancelled. May be called again."""
        if self._ended is None:
            self._check_run()
        self._listeners.discard(self)
        self._events.clear()
        self.end(trio.ClosedResourceError)
        await trio.lowlevel.checkpoint()

    def end(self, error: type[Exception]) -> None:
        """End the channel. Receiving raises ``error`` once no event is left."""
        self._ended = error
        waiters, self._waiters = self._waiters, {}
        for task in waiters:
            trio.lowlevel.reschedule(task, outcome.Error(error()))


class EventHub:
    """Passes every event to every open listener.

    Listeners are held weakly, so one that is dropped without being closed is removed as well.
    """

    def __init__(self, check_run: Callable[[], None] = lambda: None) -> None:
        self._check_run = check_run
        self._listeners: WeakSet[EventListener] = WeakSet()
        self._closed = False

    def __len__(self) -> int:
        """Return the number of listeners."""
        return len(self._listeners)

    def listen(self, buffer: int) -> EventListener:
        """Return a channel of the events from now on. It ends with the connection."""
        listener = EventListener(self._listeners, buffer, self._check_run)
        if self._closed:
            listener.end(trio.EndOfChannel)
        else:
            self._listeners.add(listener)
        return listener

    def emit(self, event: Event) -> None:
        """Pass an event to all listeners."""
        for listener in self._listeners:
            listener.push(event)

    def close(self) -> None:
        """End all listeners. Waiting events can still be received."""
        self._closed = True
        for listener in self._listeners:
            listener.end(trio.EndOfChannel)
        self._listeners.clear()
