"""The options of a connection, validated and with defaults filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .._transport.connector import ConnectorSettings
from ..options import PendingLimits, ReconnectPolicy
from ..servers import Server

__all__ = ["Settings", "WhenOutboxFull"]

_PING_INTERVAL = 120.0
# Proxies in front of WebSocket servers often close connections that are idle for a minute. At this
# interval, two PINGs are sent in that time.
_WEBSOCKET_PING_INTERVAL = 25.0

WhenOutboxFull: TypeAlias = Literal["wait", "raise"]
"""Whether ``publish`` waits or raises while ``outbox_size`` bytes are waiting to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of a connection. ``open_nats`` documents them."""

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
    """The domain of the NATS context, the default of :meth:`Connection.jetstream`."""
    jetstream_prefix: str | None = None
    jetstream_event_prefix: str | None = None

    def ping_interval_of(self, server: Server) -> float:
        """Return the seconds between PINGs to ``server``."""
        if self.ping_interval is not None:
            return self.ping_interval
        return _WEBSOCKET_PING_INTERVAL if server.is_websocket else _PING_INTERVAL
