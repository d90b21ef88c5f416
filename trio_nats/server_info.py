"""The information that a server sends about itself."""

from __future__ import annotations

import msgspec

__all__ = ["ServerInfo"]


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The last ``INFO`` of a server.

    A field that the server does not send has its default, and unknown fields are ignored, so this
    works with any version of the server.
    """

    server_id: str = ""
    """The public key that the server generates at each start."""
    server_name: str = ""
    """The configured name of the server, or else its ``server_id``."""
    version: str = ""
    """The server's version, such as ``"2.12.0"``."""
    proto: int = 0
    """The version of the client protocol."""
    host: str = ""
    """The address that the server listens on. Clients may have to use another one."""
    port: int = 0
    """The port that the server listens on."""
    max_payload: int = 1024 * 1024
    """Maximum size of a message, headers included, in bytes."""
    headers: bool = False
    """Whether the server supports message headers."""
    auth_required: bool = False
    """Whether clients must authenticate."""
    tls_required: bool = False
    """Whether the server requires TLS."""
    tls_available: bool = False
    """Whether the server accepts TLS as well as plaintext."""
    tls_verify: bool = False
    """Whether the server verifies client certificates."""
    nonce: str | None = None
    """The challenge to sign, if the server accepts NKeys or JWTs."""
    connect_urls: tuple[str, ...] | None = None
    """Servers of the cluster as ``host:port``. If this server was reached over WebSocket, their
    WebSocket addresses."""
    ws_connect_urls: tuple[str, ...] | None = None
    """WebSocket addresses of the servers of the cluster, as sent."""
    ldm: bool = False
    """Whether the server is in lame duck mode and about to shut down (ADR-5)."""
    cluster: str | None = None
    """Name of the cluster."""
    domain: str | None = None
    """JetStream domain."""
    jetstream: bool = False
    """Whether JetStream is enabled."""
    api_lvl: int = 0
    """Level of the JetStream API (ADR-44); 0 if the server does not send it."""
    remote_account: str | None = None
    """The account of this connection. Sent since 2.12."""
    acc_is_sys: bool = False
    """Whether that is the system account. Sent since 2.12."""
    xkey: str | None = None
    """The public curve key for encrypting to an auth callout (ADR-26)."""
    client_id: int = 0
    """The server's number for this connection, as in its log and monitoring."""
    client_ip: str = ""
    """The address from which the server sees this connection."""
    git_commit: str = ""
    """The commit that the server was built from."""
    go: str = ""
    """The version of Go that the server was built with."""

    @property
    def offers_tls(self) -> bool:
        """Whether the server can speak TLS on this port."""
        return self.tls_required or self.tls_available
