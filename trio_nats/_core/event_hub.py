"""Hand events to listeners, without ever waiting for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from weakref import WeakSet

import outcome
import trio

from ..events import Event

__all__ = ["EventHub", "EventListener"]


class EventListener(trio.abc.ReceiveChannel[Event]):
    """The events from some moment on; when it is full it loses the oldest ones.

    Not a memory channel, for the sender of one learns only at the next event that its receiver is
    gone.
    """

    def __init__(
        self, listeners: WeakSet[EventListener], buffer: int, check_run: Callable[[], None]
    ) -> None:
        self._listeners = listeners
        self._check_run = check_run
        self._events: deque[Event] = deque(maxlen=buffer)
        self._waiters: dict[trio.lowlevel.Task, None] = {}
        self._ended: type[Exception] | None = None

    def push(self, event: Event) -> None:
        """Hand over one event."""
        if self._waiters:
            task = next(iter(self._waiters))
            del self._waiters[task]
            trio.lowlevel.reschedule(task, outcome.Value(event))
        else:
            self._events.append(event)

    async def receive(self) -> Event:
        """The next event; waits for it. If cancelled, no event is lost."""
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
        """The next event if there is one, otherwise :exc:`trio.WouldBlock`."""
        if self._events:
            return self._events.popleft()
        if self._ended is not None:
            raise self._ended
        raise trio.WouldBlock

    async def aclose(self) -> None:
        """Listen no more. Done even if cancelled, or repeated."""
        if self._ended is None:
            self._check_run()
        self._listeners.discard(self)
        self._events.clear()
        self.end(trio.ClosedResourceError)
        await trio.lowlevel.checkpoint()

    def end(self, error: type[Exception]) -> None:
        """There will be no more events."""
        self._ended = error
        waiters, self._waiters = self._waiters, {}
        for task in waiters:
            trio.lowlevel.reschedule(task, outcome.Error(error()))


class EventHub:
    """Hands every event to every open listener.

    Listeners are held weakly: one that is forgotten without being closed is gone as well.
    """

    def __init__(self, check_run: Callable[[], None] = lambda: None) -> None:
        self._check_run = check_run
        self._listeners: WeakSet[EventListener] = WeakSet()
        self._closed = False

    def __len__(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def listen(self, buffer: int) -> EventListener:
        """A channel of the events from now on, ending with the connection."""
        listener = EventListener(self._listeners, buffer, self._check_run)
        if self._closed:
            listener.end(trio.EndOfChannel)
        else:
            self._listeners.add(listener)
        return listener

    def emit(self, event: Event) -> None:
        """Hand out one event."""
        for listener in self._listeners:
            listener.push(event)

    def close(self) -> None:
        """No more events: listeners end once they have read what they have."""
        self._closed = True
        for listener in self._listeners:
            listener.end(trio.EndOfChannel)
        self._listeners.clear()
