"""Events to whoever listens, without ever waiting for them."""

from __future__ import annotations

import trio

from ..events import Event

__all__ = ["EventHub"]


class EventHub:
    """Hands every event to every open listener; a listener that is full loses its oldest ones."""

    def __init__(self) -> None:
        self._listeners: list[
            tuple[trio.MemorySendChannel[Event], trio.MemoryReceiveChannel[Event]]
        ] = []
        self._closed = False

    def listen(self, buffer: int) -> trio.MemoryReceiveChannel[Event]:
        """A channel of the events from now on, ending with the connection."""
        send: trio.MemorySendChannel[Event]
        receive: trio.MemoryReceiveChannel[Event]
        send, receive = trio.open_memory_channel(buffer)
        if self._closed:
            send.close()
        else:
            self._listeners.append((send, receive))
        return receive

    def emit(self, event: Event) -> None:
        """Hand out one event."""
        for listener in self._listeners.copy():
            send, receive = listener
            try:
                send.send_nowait(event)
            except trio.BrokenResourceError:
                self._listeners.remove(listener)
            except trio.WouldBlock:
                try:
                    receive.receive_nowait()
                except trio.ClosedResourceError:
                    continue  # a clone of it listens on, and loses the newest instead
                send.send_nowait(event)

    def close(self) -> None:
        """No more events: listeners end once they have read what they have."""
        self._closed = True
        for send, _ in self._listeners:
            send.close()
        self._listeners.clear()
