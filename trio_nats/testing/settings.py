"""What a server can be told: the options of :class:`~trio_nats.testing.NatsServer`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias, TypedDict

from .._tracebacks import hides_secrets
from ..errors import ConfigurationError

__all__ = [
    "ConfigValue",
    "ServerCluster",
    "ServerOptions",
    "ServerSettings",
    "ServerTLS",
    "ServerWebSocket",
    "StrPath",
]

StrPath: TypeAlias = str | os.PathLike[str]

ConfigValue: TypeAlias = (
    str
    | bool
    | int
    | float
    | os.PathLike[str]
    | Sequence["ConfigValue"]
    | Mapping[str, "ConfigValue"]
)
"""A value of a NATS configuration. Durations are strings such as ``"2s"``; sizes are integers."""

# They decide where the server is found, so they come from arguments and not from the configuration.
_RESERVED = {"host": "host=", "net": "host=", "port": "port=", "listen": "host= and port="}


def _check_port(port: int | None) -> None:
    if port is not None and not 0 < port < 65536:
        raise ConfigurationError(f"{port} is no port: give 1 to 65535, or None for a free one")


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """A ``tls`` block. Files are PEM and are read by the server, not here.

    ``verify`` asks clients for a certificate that ``ca_file`` vouches for; ``verify_and_map`` takes
    the user from it too. ``allow_non_tls`` accepts clients without TLS beside those with it.
    ``handshake_first`` is True for TLS before ``INFO`` only, or ``"auto"`` or a duration such as
    ``"300ms"`` after which a client that stayed silent is sent ``INFO`` in plaintext. ``timeout``
    is how long a handshake may take, in seconds; None is the server's default of 2.
    """

    cert_file: StrPath
    key_file: StrPath
    _: KW_ONLY
    ca_file: StrPath | None = None
    verify: bool = False
    verify_and_map: bool = False
    allow_non_tls: bool = False
    handshake_first: bool | str = False
    timeout: float | None = None
    min_version: Literal["1.2", "1.3"] | None = None


@dataclass(frozen=True, slots=True)
class ServerWebSocket:
    """A ``websocket`` block; without ``tls`` the listener speaks plain ``ws://``.

    ``port`` None picks a free one.
    """

    port: int | None = None
    _: KW_ONLY
    tls: ServerTLS | None = None
    compression: bool = False

    def __post_init__(self) -> None:
        _check_port(self.port)
        if self.tls is not None and (self.tls.allow_non_tls or self.tls.handshake_first):
            raise ConfigurationError(
                "a WebSocket listener knows neither allow_non_tls nor handshake_first"
            )


@dataclass(frozen=True, slots=True)
class ServerCluster:
    """A ``cluster`` block. :class:`NatsCluster` writes them; by hand they make other topologies.

    ``port`` is where routes from other nodes arrive; None picks a free one. ``routes`` are URLs
    such as ``"nats://127.0.0.1:6222"``; a node's own among them is harmless.
    """

    name: str
    port: int | None = None
    routes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _check_port(self.port)


@hides_secrets
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Everything that makes a server what it is, with the defaults.

    The fields are the keyword arguments of :class:`~trio_nats.testing.NatsServer`.

    Raises:
        ConfigurationError: for settings that contradict each other.
    """

    config: str | Mapping[str, ConfigValue] | None = field(default=None, repr=False)
    """More configuration: text is appended verbatim to what the other fields generate; a mapping is
    merged into it, and wins. Where the server listens and stores is not taken from here."""
    host: str = "127.0.0.1"
    """The address to listen on, for clients of all kinds, monitoring and routes."""
    port: int | None = None
    """The port for clients; None picks a free one."""
    jetstream: bool = False
    """Whether JetStream is on. Its store is a temporary directory that is removed with the server,
    unless ``args=["--store_dir", path]`` names another."""
    user: str | None = None
    """With ``password``, what clients must present."""
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    """What clients must present, instead of ``user`` and ``password``."""
    tls: ServerTLS | None = None
    websocket: ServerWebSocket | None = None
    """A WebSocket listener beside the ordinary one."""
    cluster: ServerCluster | None = None
    name: str | None = None
    """``server_name``; None lets the server take its generated id."""
    args: Sequence[str] = field(default=(), repr=False)
    """More command line arguments, such as ``["-V"]`` for a trace of the protocol."""
    start_timeout: float = 10.0
    """How long starting may take, in seconds, by the wall clock."""
    debug: bool = False
    """Whether the server logs debugging messages."""
    binary: StrPath | None = None
    """The nats-server to run; None lets :func:`~trio_nats.testing.find_server_binary` find one."""

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise ConfigurationError("user and password go together: give both or none")
        if self.token is not None and self.user is not None:
            raise ConfigurationError("a server asks for a token or for user and password, not both")
        _check_port(self.port)
        if isinstance(self.config, Mapping):
            for key in self.config:
                if key.lower() in _RESERVED:
                    raise ConfigurationError(
                        f"{key!r} does not belong in config; use {_RESERVED[key.lower()]}"
                    )


class ServerOptions(TypedDict, total=False):
    """The fields of :class:`ServerSettings`, for functions that pass some of them on."""

    config: str | Mapping[str, ConfigValue] | None
    host: str
    port: int | None
    jetstream: bool
    user: str | None
    password: str | None
    token: str | None
    tls: ServerTLS | None
    websocket: ServerWebSocket | None
    cluster: ServerCluster | None
    name: str | None
    args: Sequence[str]
    start_timeout: float
    debug: bool
    binary: StrPath | None
