"""What tests know and change of the implementation, beyond the public interface.

No other module of the tests uses private attributes of the package, see ``tests/test_layers.py``.
So renaming one changes a single file. Unit tests may construct internal classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from trio_nats import Connection, Msg, Replies, Subscription
from trio_nats._core import session
from trio_nats._core.outbox import Chunk, Outbox
from trio_nats._core.request_mux import ReplySlot
from trio_nats._core.router import Router, Unconfirmed
from trio_nats.events import Event

if TYPE_CHECKING:  # they need packages that the connection does not
    from trio_nats._transport.websocket import WebSocketStream
    from trio_nats.jetstream import Consumer, JetStreamMsg, Messages, Publisher
    from trio_nats.jetstream.consumer.message_source import MessageSource
    from trio_nats.objectstore import ObjectInfo

__all__ = [
    "chunks_of",
    "emit",
    "end",
    "event_listeners",
    "failing",
    "failing_metadata",
    "farewell",
    "has_decoded_metadata",
    "has_session",
    "has_waiters",
    "inbox_limits",
    "is_moving",
    "is_overlapping",
    "is_torn",
    "kept_by",
    "largest_read",
    "let_publish",
    "looking_after",
    "nursery_of",
    "open_requests",
    "outbox_of",
    "push",
    "quiesced",
    "remembered_subjects",
    "set_handover_limits",
    "socket_of",
    "source_of",
    "spare_inboxes",
    "stalled",
    "state_waiters",
    "subscriptions",
    "unconfirmed",
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


def push(sink: Subscription | Replies | ReplySlot, *messages: Msg) -> None:
    """Hand messages to a subscription or to replies, as a session does if they came together."""
    if len(messages) == 1:
        sink._push(messages[0])
    else:
        assert isinstance(sink, Subscription)
        sizes = [len(msg.data) + len(msg.raw_headers or b"") for msg in messages]
        sink._push_burst(list(messages), sum(sizes))


def end(sink: Subscription | Replies, error: Exception) -> None:
    """End a subscription or replies, as the connection does when it ends."""
    sink._end(error)


def has_waiters(sub: Subscription) -> bool:
    """Whether a task waits in ``receive`` for a message."""
    return bool(sub._waiters)


def quiesced(router: Router) -> set[bytes]:
    """The subscriptions that the server no longer has, and that end when nothing more can come."""
    return router._draining


@contextmanager
def failing(sub: Subscription, error: Exception) -> Iterator[None]:
    """Raise ``error`` in the session for every message that comes to ``sub``."""

    def fail(_: object) -> None:
        raise error

    sub._push = fail  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del sub._push


# --- the outbox -----------------------------------------------------------------------------------


def outbox_of(nc: Connection) -> Outbox:
    """What waits to be written."""
    return nc._core.outbox


def chunks_of(outbox: Outbox) -> list[Chunk]:
    """What is in an outbox that nothing is being written from."""
    return [*outbox._chunks, outbox.open_chunk]


def let_publish(nc: Connection, size: int) -> None:
    """Accept ``size`` bytes without looking at anything else, as while the writer is busy."""
    outbox = outbox_of(nc)
    outbox.fast_path_limit = outbox.size + size


def unconfirmed(sent: Unconfirmed) -> int:
    """How many subscriptions are remembered because the server may still refuse them."""
    return len(sent._sids)


# --- the whole connection -------------------------------------------------------------------------


def subscriptions(nc: Connection) -> int:
    """How many subscriptions there are, that to the replies included."""
    return len(nc._core.router.sinks)


def has_session(nc: Connection) -> bool:
    """Whether there is a server to send to, and whether changes of subscriptions go there."""
    core = nc._core
    assert (core.session is not None) == core.router.live
    return core.router.live


def state_waiters(nc: Connection) -> int:
    """How many tasks wait for a change of the connection's state."""
    return len(nc._core._changed)


def is_overlapping(nc: Connection) -> bool:
    """Whether messages still come over two connections, or some are held back."""
    handover = nc._core.moves.handover
    return handover is not None and not handover.concluded.is_set()


def emit(nc: Connection, event: Event) -> None:
    """Tell all channels of ``nc.events()`` something."""
    nc._core.event_hub.emit(event)


# --- JetStream and WebSocket ----------------------------------------------------------------------


def inbox_limits(publisher: Publisher) -> tuple[int, int]:
    """How many acknowledgements, and how many bytes of them, may wait to be looked at."""
    return publisher._sub._max_messages, publisher._sub._max_bytes


def nursery_of(publisher: Publisher) -> trio.Nursery:
    """What a publisher's background task runs in."""
    return publisher._nursery


def is_torn(stream: WebSocketStream) -> bool:
    """Whether sending has been cancelled in the middle of a frame."""
    return stream._incomplete


def farewell() -> float:
    """How many seconds the closing of a WebSocket may take."""
    from trio_nats._transport import websocket

    return websocket._CLOSE_TIMEOUT


@contextmanager
def failing_metadata(error: Exception, *, stored: bool) -> Iterator[None]:
    """Raise ``error`` the first time an object's metadata is stored, before or after that."""
    from trio_nats.objectstore.backend import ObjectBackend

    store = ObjectBackend.store

    async def fail(backend: ObjectBackend, info: ObjectInfo, expected: int) -> ObjectInfo:
        ObjectBackend.store = store  # type: ignore[method-assign]
        if stored:
            await store(backend, info, expected)
        raise error

    ObjectBackend.store = fail  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ObjectBackend.store = store  # type: ignore[method-assign]


@contextmanager
def looking_after(seconds: float) -> Iterator[None]:
    """Look a chunk up that has not come for ``seconds``."""
    from trio_nats.objectstore import backend

    before = backend.FIRST_LOOK
    backend.FIRST_LOOK = seconds
    try:
        yield
    finally:
        backend.FIRST_LOOK = before


def source_of(messages: Messages) -> MessageSource:
    """Where the messages of a consumer's channel come from."""
    from trio_nats.jetstream.consumer.message_channel import ConsumerMessages

    assert isinstance(messages, ConsumerMessages)
    return messages._source


def spare_inboxes(nc: Connection) -> int:
    """How many subscriptions are kept for the next pull requests of ``next`` and ``fetch``."""
    pool = nc._inboxes
    return 0 if pool is None else len(pool._spare)


def kept_by(consumer: Consumer) -> int:
    """Return how many messages are kept for the next call."""
    return len(consumer._kept)


def remembered_subjects(nc: Connection) -> int:
    """Return the number of subjects that the connection remembers to publish to."""
    return len(nc._pub_lines.known) + len(nc._pub_lines._subjects)


def has_decoded_metadata(msg: JetStreamMsg) -> bool:
    """Whether the metadata in the reply subject of a message was decoded."""
    return msg._metadata is not None
