"""Settings of :class:`~trio_nats.testing.NatsServer`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias, TypedDict

from .._tracebacks import hides_secrets
from ..errors import ConfigurationError
from ..options import check_instance

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
"""A value in a NATS configuration. Durations are strings such as ``"2s"``; sizes are integers."""

# The address to listen on is set by arguments only, so that the URLs are correct.
_RESERVED = {"host": "host=", "net": "host=", "port": "port=", "listen": "host= and port="}


def _check_port(port: int | None) -> None:
    if port is None:
        return
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be a whole number, not {port!r}")
    if not 0 < port < 65536:
        raise ConfigurationError(
            f"port must be between 1 and 65535, or None for a free port, not {port}"
        )


def _check_group(name: str, value: object, kind: type) -> None:
    if value is not None:
        check_instance(name, value, kind)


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """A ``tls`` block. The server reads the files.

    :param cert_file: PEM file with the server's certificate.
    :param key_file: PEM file with its private key.
    :param ca_file: PEM file with the authorities for client certificates.
    :param verify: require a client certificate issued by an authority in ``ca_file``.
    :param verify_and_map: the same, and map the certificate to a user.
    :param allow_non_tls: also accept clients without TLS.
    :param handshake_first: ``True`` to begin with the TLS handshake. ``"auto"``, or a duration such
        as ``"300ms"``, sends INFO in plaintext to clients that send nothing for that long.
    :param timeout: seconds that a handshake may take. Default: the server's, 2.
    :param min_version: the lowest version of TLS to accept. Default: the server's.
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
    """A ``websocket`` block.

    :param port: the port to listen on. Default: a free one.
    :param tls: TLS settings for ``wss://``. Default: none, for ``ws://``.
    :param compression: whether to accept compression. Default: false.
    :raises ConfigurationError: if ``port`` is out of range, or ``tls`` has ``allow_non_tls`` or
        ``handshake_first``.
    """

    port: int | None = None
    _: KW_ONLY
    tls: ServerTLS | None = None
    compression: bool = False

    def __post_init__(self) -> None:
        _check_port(self.port)
        _check_group("tls", self.tls, ServerTLS)
        if self.tls is not None and (self.tls.allow_non_tls or self.tls.handshake_first):
            raise ConfigurationError(
                "a WebSocket listener supports neither allow_non_tls nor handshake_first"
            )


@dataclass(frozen=True, slots=True)
class ServerCluster:
    """A ``cluster`` block. :class:`NatsCluster` creates them; create your own for other topologies.

    :param name: the name of the cluster.
    :param port: the port for routes from other servers. Default: a free one.
    :param routes: URLs of other servers, such as ``"nats://127.0.0.1:6222"``. The server's own URL
        may be among them.
    :raises ConfigurationError: if ``port`` is out of range.
    """

    name: str
    port: int | None = None
    routes: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _check_port(self.port)


@hides_secrets
@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of a server. Its fields are the keyword arguments of :class:`NatsServer`.

    :raises ConfigurationError: if settings contradict each other.
    """

    config: str | Mapping[str, ConfigValue] | None = field(default=None, repr=False)
    """More configuration. Text is appended to what the other fields generate; a mapping is merged
    into it, and takes precedence. The addresses to listen on and the directory of the store
    cannot be set here."""
    host: str = "127.0.0.1"
    """The address to listen on for clients, monitoring and routes."""
    port: int | None = None
    """The port for clients. Default: a free one."""
    jetstream: bool = False
    """Whether to enable JetStream. Its store is a temporary directory that is removed with the
    server, unless ``args=["--store_dir", path]`` names another."""
    user: str | None = None
    """A user name that clients must present, together with ``password``."""
    password: str | None = field(default=None, repr=False)
    """The password of ``user``."""
    token: str | None = field(default=None, repr=False)
    """A token that clients must present, instead of ``user`` and ``password``."""
    tls: ServerTLS | None = None
    """TLS settings for clients. Default: no TLS."""
    websocket: ServerWebSocket | None = None
    """An additional WebSocket listener. Default: none."""
    cluster: ServerCluster | None = None
    """The cluster that the server is part of. Default: none."""
    name: str | None = None
    """``server_name``. Default: the server's generated ID."""
    args: Sequence[str] = field(default=(), repr=False)
    """More command line arguments, such as ``["-V"]`` to trace the protocol."""
    start_timeout: float = 10.0
    """Seconds of the wall clock that starting may take."""
    debug: bool = False
    """Whether the server logs debugging messages."""
    binary: StrPath | None = None
    """The nats-server to run. Default: see :func:`~trio_nats.testing.find_server_binary`."""

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise ConfigurationError("user and password must be passed together")
        if self.token is not None and self.user is not None:
            raise ConfigurationError("token cannot be combined with user and password")
        _check_port(self.port)
        _check_group("tls", self.tls, ServerTLS)
        _check_group("websocket", self.websocket, ServerWebSocket)
        _check_group("cluster", self.cluster, ServerCluster)
        if isinstance(self.config, Mapping):
            for key in self.config:
                if key.lower() in _RESERVED:
                    raise ConfigurationError(
                        f"{key!r} cannot be set in config; pass {_RESERVED[key.lower()]}"
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
