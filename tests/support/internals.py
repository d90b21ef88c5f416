"""What tests have to know about a connection that its public interface does not tell.

No other test looks at private attributes of what users get, see ``tests/test_layers.py``. So a
change of the implementation changes this module only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import trio

from trio_nats import Connection, Msg, Subscription
from trio_nats._core import session

__all__ = [
    "event_listeners",
    "has_waiters",
    "is_moving",
    "largest_read",
    "open_requests",
    "push",
    "set_handover_limits",
    "socket_of",
    "stalled",
]


def set_handover_limits(nc: Connection, **changes: Any) -> None:
    """Set fields of the ``HandoverLimits`` that apply from the next change of servers on."""
    moves = nc._core.moves
    moves.limits = replace(moves.limits, **changes)


def is_moving(nc: Connection) -> bool:
    """Whether two connections are open, or duplicates from the old one are still filtered."""
    return nc._core.moves.handover is not None


def open_requests(nc: Connection) -> int:
    """How many requests wait for replies, ``request_many`` included."""
    return len(nc._core.requests.slots)


def stalled(nc: Connection) -> set[object]:
    """The subscriptions that are full and have stopped the reading."""
    return nc._core.router.stalled


def event_listeners(nc: Connection) -> int:
    """How many channels of ``nc.events()`` are open."""
    return len(nc._core.event_hub)


def socket_of(nc: Connection) -> trio.SocketStream:
    """The socket of the connection in use, below TLS and WebSocket."""
    assert nc._core.session is not None
    stream: Any = nc._core.session.connection.stream
    while not isinstance(stream, trio.SocketStream):
        names = ("transport_stream", "_transport", "_stream", "stream")
        stream = next(getattr(stream, name) for name in names if hasattr(stream, name))
    return stream


def largest_read() -> int:
    """How many bytes are taken from the stream at once, at most."""
    return session._LARGE_READ


# --- subscriptions --------------------------------------------------------------------------------


def push(sub: Subscription, messages: list[Msg]) -> None:
    """Hand ``messages`` to a subscription, as a session does with those that came together."""
    if len(messages) == 1:
        sub._push(messages[0])
    else:
        sizes = [len(msg.data) + len(msg.raw_headers or b"") for msg in messages]
        sub._push_burst(messages.copy(), sum(sizes))


def has_waiters(sub: Subscription) -> bool:
    """Whether a task waits in ``receive`` for a message."""
    return bool(sub._waiters)
