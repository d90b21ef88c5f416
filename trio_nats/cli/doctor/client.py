"""The options of the client whose connection is examined."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...auth import AuthLike
from ...options import PlaintextAuth, TLSOptions

__all__ = ["Client"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The options of ``open_nats`` that affect connecting."""

    tls: TLSOptions = field(default_factory=TLSOptions)
    auth: AuthLike | None = None
    name: str | None = None
    connect_timeout: float = 5.0
    info_timeout: float = 3.0
    """Seconds to wait for a peer's first bytes. Some peers send none; nats-server closes a
    connection without a handshake after two seconds."""
    plaintext_auth: PlaintextAuth = "warn"
    inbox_prefix: str = "_INBOX"
