"""All options of a connection, checked and complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .._transport.connector import ConnectorSettings
from ..options import PendingLimits, ReconnectPolicy
from ..servers import Server

__all__ = ["Settings", "WhenOutboxFull"]

_PING_INTERVAL = 120.0
# Proxies in front of WebSocket servers close connections that have been idle for a minute. At this
# interval, two PINGs are sent in that time.
_WEBSOCKET_PING_INTERVAL = 25.0

WhenOutboxFull: TypeAlias = Literal["wait", "raise"]
"""What ``publish`` does while ``outbox_size`` bytes are waiting to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options, which ``open_nats`` documents."""

    servers: Sequence[Server]
    connector: ConnectorSettings
    randomize: bool
    ignore_discovered: bool
    reconnect: ReconnectPolicy
    pending_limits: PendingLimits
    outbox_size: int
    when_outbox_full: WhenOutboxFull
    ping_interval: float | None
    max_pings_out: int
    inbox_prefix: str
    request_timeout: float
    close_timeout: float
    jetstream_domain: str | None = None
    """The domain of the context, used by :meth:`Connection.jetstream` without domain and prefix."""
    jetstream_prefix: str | None = None

    def ping_interval_of(self, server: Server) -> float:
        """Return the seconds between PINGs to ``server``."""
        if self.ping_interval is not None:
            return self.ping_interval
        return _WEBSOCKET_PING_INTERVAL if server.is_websocket else _PING_INTERVAL
