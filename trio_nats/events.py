"""What can happen to a connection, as handed out by ``Connection.events()``."""

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
    """Where a connection stands."""

    CONNECTING = "connecting"
    """Not connected yet."""
    OPEN = "open"
    """Connected to a server."""
    RECONNECTING = "reconnecting"
    """The server was lost; another one, or the same, is being looked for."""
    DRAINING = "draining"
    """Subscriptions have ended; what arrived is being dealt with. Publishing still works."""
    CLOSING = "closing"
    """Finishing what was begun; takes nothing new."""
    CLOSED = "closed"
    """Ended, on purpose or because no server could be reached any more."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The first connection is up. ``server`` is the URL without credentials.

    It is told where the block was entered before that, with ``retry_on_initial_connect``; otherwise
    nobody can be listening yet.
    """

    server: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to ``server`` was lost; ``reason`` says why."""

    server: str
    reason: Exception


@dataclass(frozen=True, slots=True)
class Reconnected:
    """Connected again, to ``server``; subscriptions have been restored."""

    server: str


@dataclass(frozen=True, slots=True)
class ReconnectFailed:
    """One attempt to reconnect failed. ``attempt`` counts from 1 since the connection was lost."""

    server: str
    attempt: int
    error: Exception


@dataclass(frozen=True, slots=True)
class LameDuck:
    """``server`` has announced that it is about to shut down (ADR-5)."""

    server: str


@dataclass(frozen=True, slots=True)
class ServersDiscovered:
    """The server named cluster members not known before, as URLs."""

    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlowConsumer:
    """A subscription reached its limits. Once per episode, however many messages are affected."""

    subject: str
    pending_messages: int
    pending_bytes: int
    dropped: int
    """Messages dropped from this subscription so far."""


@dataclass(frozen=True, slots=True)
class MessagesDiscarded:
    """Messages that waited to be written were taken out: ``server`` takes no such messages.

    They are larger than its ``max_payload``, or have headers that it does not know. Sending one
    would end the connection, and take the messages around it along. Requests among them fail with
    the same error.
    """

    server: str
    messages: int
    """How many were taken out."""
    subjects: tuple[str, ...]
    """Where they would have gone: the first few of these subjects."""
    reason: NatsError
    """What is wrong with the first of them."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """The server complained about something that no single operation is waiting on."""

    error: ServerReportedError


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection has ended; ``reason`` is ``None`` when it was closed on purpose."""

    reason: NatsError | None


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
"""Any of them."""
