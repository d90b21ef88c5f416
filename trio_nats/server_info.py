"""What a server says about itself."""

from __future__ import annotations

import msgspec

__all__ = ["ServerInfo"]


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the server last said about itself.

    Fields a server does not send have their defaults, and those this class does not know are
    ignored, so any server version will do.
    """

    server_id: str = ""
    """The public key that it makes for itself at each start."""
    server_name: str = ""
    """Its name in the configuration, or else its ``server_id``."""
    version: str = ""
    """Such as ``"2.12.0"``."""
    proto: int = 0
    host: str = ""
    """The address it listens on, which need not be one to reach it at."""
    port: int = 0
    max_payload: int = 1024 * 1024
    """The largest message the server takes, headers included, in bytes."""
    headers: bool = False
    """Whether the server knows message headers."""
    auth_required: bool = False
    """Whether it wants credentials."""
    tls_required: bool = False
    """Whether it insists on TLS."""
    tls_available: bool = False
    """Whether it takes TLS as well as plaintext."""
    tls_verify: bool = False
    """Whether the server checks client certificates."""
    nonce: str | None = None
    """What the server wants signed, where it takes NKeys or JWTs."""
    connect_urls: tuple[str, ...] | None = None
    """The servers of the cluster, as ``host:port``; where they listen for WebSocket, if that is
    how this one was reached."""
    ws_connect_urls: tuple[str, ...] | None = None
    ldm: bool = False
    """Whether the server is in lame duck mode, about to shut down (ADR-5)."""
    cluster: str | None = None
    """The cluster's name."""
    domain: str | None = None
    """The JetStream domain."""
    jetstream: bool = False
    """Whether JetStream is switched on."""
    api_lvl: int = 0
    """The level of the JetStream API (ADR-44); 0 where the server does not tell."""
    remote_account: str | None = None
    """The account this connection is in. Known since 2.12."""
    acc_is_sys: bool = False
    """Whether that is the system account. Known since 2.12."""
    xkey: str | None = None
    """The public curve key that auth callouts can be encrypted for (ADR-26)."""
    client_id: int = 0
    """The server's number of this connection, as its log and its monitoring show it."""
    client_ip: str = ""
    """The address that it sees this connection come from."""
    git_commit: str = ""
    go: str = ""

    @property
    def offers_tls(self) -> bool:
        """Whether the server can speak TLS on this port."""
        return self.tls_required or self.tls_available
