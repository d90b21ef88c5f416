"""Events of a connection, as yielded by ``Connection.events()``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from .errors import NatsError, ServerReportedError

__all__ = [
    "Closed",
    "Connected",
    "ConnectionState",
    "Disconnected",
    "Event",
    "LameDuck",
    "MessagesDiscarded",
    "ReconnectFailed",
    "Reconnected",
    "ServerError",
    "ServersDiscovered",
    "SlowConsumer",
]


class ConnectionState(enum.StrEnum):
    """State of a connection."""

    CONNECTING = "connecting"
    """Connecting for the first time."""
    OPEN = "open"
    """Connected to a server."""
    RECONNECTING = "reconnecting"
    """The connection to the server was lost; connecting to this server again or to another one."""
    DRAINING = "draining"
    """Subscriptions have ended, and messages that arrived are being processed. You can still
    publish."""
    CLOSING = "closing"
    """Sending what was published; new operations are refused."""
    CLOSED = "closed"
    """Closed by the program, or because no server could be reached any more."""


@dataclass(frozen=True, slots=True)
class Connected:
    """Connected to a server for the first time.

    Emitted only with ``retry_on_initial_connect``: otherwise the ``open_nats`` block begins when
    the connection is already open.
    """

    server: str
    """The server's URL without credentials."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to a server was lost."""

    server: str
    """The server's URL without credentials."""
    reason: Exception
    """Why it was lost."""


@dataclass(frozen=True, slots=True)
class Reconnected:
    """Connected again. Subscriptions have been restored."""

    server: str
    """The server's URL without credentials."""


@dataclass(frozen=True, slots=True)
class ReconnectFailed:
    """An attempt to reconnect failed."""

    server: str
    """The server's URL without credentials."""
    attempt: int
    """The number of the attempt since the connection was lost, from 1."""
    error: Exception
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class LameDuck:
    """The server announced that it is about to shut down (ADR-5)."""

    server: str
    """The server's URL without credentials."""


@dataclass(frozen=True, slots=True)
class ServersDiscovered:
    """The server announced members of the cluster that were not known before."""

    servers: tuple[str, ...]
    """Their URLs."""


@dataclass(frozen=True, slots=True)
class SlowConsumer:
    """A subscription reached its limits. Emitted once until it has caught up."""

    subject: str
    """The subject of the subscription."""
    pending_messages: int
    """Number of messages waiting in it."""
    pending_bytes: int
    """Their size in bytes."""
    dropped: int
    """Number of messages dropped from this subscription so far."""


@dataclass(frozen=True, slots=True)
class MessagesDiscarded:
    """Messages waiting to be sent were discarded because the new server does not accept them.

    They are larger than its ``max_payload``, or have headers that it does not support. Sending one
    would end the connection, and lose the messages around it. Requests among them raise ``reason``.
    """

    server: str
    """The server's URL without credentials."""
    messages: int
    """Number of messages discarded."""
    subjects: tuple[str, ...]
    """The first few of their subjects."""
    reason: NatsError
    """Why the first of them cannot be sent."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """The server reported an error that no operation is waiting for."""

    error: ServerReportedError
    """The error."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is closed."""

    reason: NatsError | None
    """Why no server could be reached, or ``None`` if the program closed it."""


Event: TypeAlias = (
    Connected
    | Disconnected
    | Reconnected
    | ReconnectFailed
    | LameDuck
    | ServersDiscovered
    | SlowConsumer
    | MessagesDiscarded
    | ServerError
    | Closed
)
"""Any event of a connection."""
