"""Events of a consumer, as yielded by :meth:`Messages.events`.

They report what ``consume`` handles by itself, such as a refused pull request. An error that ends
it is raised where you receive messages. The loss of a connection is an event of the connection; see
:mod:`trio_nats.events`. Descriptions come from the server; control characters in them are escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..errors import NatsError

__all__ = [
    "ConsumerEvent",
    "ConsumerRecreated",
    "FlowControlStalled",
    "HeartbeatsMissed",
    "LeaderChanged",
    "PullRefused",
    "RecreateFailed",
    "StreamReplaced",
    "Unpinned",
]


@dataclass(frozen=True, slots=True)
class HeartbeatsMissed:
    """The server sent neither messages nor heartbeats for at least two intervals.

    A pull consumer requests messages again. A push consumer waits for three intervals, and asks the
    server whether it still exists.
    """

    stream: str
    """The name of the stream."""
    consumer: str
    """The name of the consumer."""
    seconds: float
    """Seconds since the server last sent something."""


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """The consumer moved to another server, which does not know the pull requests.

    They are sent again.
    """

    stream: str
    """The name of the stream."""
    consumer: str
    """The name of the consumer."""
    description: str
    """The text of the server, such as "Leadership Change"."""


@dataclass(frozen=True, slots=True)
class PullRefused:
    """A pull request was refused. It is sent again after a delay."""

    stream: str
    """The name of the stream."""
    consumer: str
    """The name of the consumer."""
    code: int
    """The status: mostly 409 for a limit; 503 if no server has the consumer at the moment."""
    description: str
    """The text of the server, such as "Exceeded MaxWaiting"; may be empty."""
    retry_in: float
    """Seconds until the next request."""


@dataclass(frozen=True, slots=True)
class Unpinned:
    """Another client of the priority group is pinned now (ADR-42)."""

    stream: str
    """The name of the stream."""
    consumer: str
    """The name of the consumer."""
    group: str
    """The name of the priority group."""


@dataclass(frozen=True, slots=True)
class FlowControlStalled:
    """Replies to the flow control of a push consumer do not reach the server.

    So the server sends only heartbeats. The user may lack the permission to publish to
    ``$JS.FC.>``, or the account does not import it. Emitted once.
    """

    stream: str
    """The name of the stream."""
    consumer: str
    """The name of the consumer."""


@dataclass(frozen=True, slots=True)
class ConsumerRecreated:
    """An ordered consumer continues with a new consumer on the server.

    No message is missed. Many of these in a row show that it reads too slowly for the connection's
    limits of pending messages, or that the network loses connections.
    """

    stream: str
    """The name of the stream."""
    consumer: str
    """The name of the new consumer."""
    reason: str
    """Why the previous consumer was given up."""
    next_seq: int | None
    """The sequence number from which it continues; ``None`` if it begins as configured."""


@dataclass(frozen=True, slots=True)
class RecreateFailed:
    """The new consumer of an ordered consumer could not be created. It is tried again."""

    stream: str
    """The name of the stream."""
    error: NatsError
    """Why it could not be created."""
    retry_in: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, slots=True)
class StreamReplaced:
    """The stream of an ordered consumer was deleted and created again, or has lost messages.

    Emitted only with ``on_stream_replaced="restart"``. The ordered consumer begins again with the
    messages of the new stream, which has sequence numbers of its own.
    """

    stream: str
    """The name of the stream."""
    reason: str
    """How this was noticed."""


ConsumerEvent: TypeAlias = (
    HeartbeatsMissed
    | LeaderChanged
    | PullRefused
    | Unpinned
    | FlowControlStalled
    | ConsumerRecreated
    | RecreateFailed
    | StreamReplaced
)
"""Any event of a consumer."""
