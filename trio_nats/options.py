"""Groups of options for a connection.

All groups are frozen dataclasses that check their values when they are created, so a traceback
leads to the line with the mistake. None of them shows a secret in its ``repr``.
"""

from __future__ import annotations

import enum
import math
import os
import re
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType, NoneType
from typing import Literal, TypeAlias, cast

from ._tracebacks import hides_secrets
from .errors import ConfigurationError, TLSConfigurationError
from .server_info import ServerInfo
from .servers import Server

__all__ = [
    "Candidate",
    "FullPolicy",
    "PendingLimits",
    "Picked",
    "PlaintextAuth",
    "ProtocolLimits",
    "ReconnectPolicy",
    "StrPath",
    "TLSMode",
    "TLSOptions",
    "UnverifiedServers",
    "WebSocketHeaders",
    "WebSocketOptions",
    "check_choice",
    "check_seconds",
    "check_websocket_headers",
]

StrPath: TypeAlias = str | os.PathLike[str]

UnverifiedServers: TypeAlias = Literal["dialled_name", "own_name", "ignore"]
"""Which certificate to accept from a server that was named only in plaintext, ahead of TLS."""

PlaintextAuth: TypeAlias = Literal["warn", "refuse", "allow"]
"""Whether to warn, refuse or continue before a replayable secret is sent unencrypted."""

FullPolicy: TypeAlias = Literal["drop_newest", "drop_oldest", "wait"]
"""Which message to drop when a subscription has reached its limits, or whether to wait."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def check_seconds(name: str, value: float, *, zero: bool = False) -> float:
    """Return ``value`` if it is a positive number of seconds (or zero, with ``zero``)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = "; call its total_seconds()" if isinstance(value, timedelta) else ""
        raise TypeError(f"{name} must be a number of seconds, not {value!r}{hint}")
    if value != value:
        raise ConfigurationError(f"{name} must be a number of seconds, not {value!r}")
    if value < 0 or (value == 0 and not zero):
        least = "zero or more" if zero else "more than zero"
        raise ConfigurationError(f"{name} must be {least} seconds, not {value!r}")
    if sys.float_info.max < value < math.inf:
        raise ConfigurationError(f"{name} is too large; for no limit use math.inf")
    return value


def check_count(name: str, value: int, least: int = 0) -> int:
    """Return ``value`` if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ConfigurationError(f"{name} must be at least {least}, not {value}")
    return value


def check_flag(name: str, value: object) -> None:
    """Raise unless ``value`` is a ``bool``. Otherwise the text "false" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_callable(name: str, value: object) -> None:
    """Raise unless ``value`` is a callable or ``None``."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a callable, not {type(value).__name__}")


def check_instance(
    name: str, value: object, kind: type, expected: str = "", hint: str = ""
) -> None:
    """Raise unless ``value`` is an instance of ``kind``. The error says what is ``expected``."""
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        text = f"an instance of {value.__name__}, not the class itself; use {value.__name__}(...)"
        raise TypeError(f"{name} must be {text}")
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    expected = expected or f"{article} {kind.__name__}"
    raise TypeError(f"{name} must be {expected}, not {type_name(value)}{hint}")


def type_name(value: object) -> str:
    """Return how to name the type of a value in an error about it."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        kind = ConfigurationError if isinstance(value, str) else TypeError
        raise kind(f"{name} must be one of {known}, not {value!r}")


class TLSMode(enum.StrEnum):
    """Whether and how a connection is encrypted.

    A ``tls://`` or ``wss://`` URL sets a minimum that no mode lowers.
    """

    AUTO = "auto"
    """``REQUIRE`` for a ``tls://`` URL or if certificates are given, otherwise ``PREFER``."""
    PREFER = "prefer"
    """Encrypt if the server offers it, otherwise use plaintext. This does not protect from an
    attacker who can change what the server says."""
    REQUIRE = "require"
    """Encrypt, or do not connect. Works with every server that can do TLS, including TLS-first
    servers and proxies that terminate TLS."""
    IMPLICIT = "implicit"
    """As ``REQUIRE``, but begin with the handshake, for servers with ``handshake_first`` (2.10.4 or
    later) and proxies that terminate TLS. Refuse a server that speaks first."""
    DISABLE = "disable"
    """Never encrypt, even if the server offers it. For use behind a proxy that cannot pass TLS
    on."""

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(self.name, spec)


@hides_secrets
@dataclass(frozen=True, kw_only=True)
class TLSOptions:
    """Options for TLS. Files are read again at every attempt to connect.

    :raises TLSConfigurationError: if a value is not allowed, or options contradict each other.
    :raises TypeError: if a value has a wrong type.
    """

    mode: TLSMode = TLSMode.AUTO
    """A :class:`TLSMode` or its value as a string."""
    ca_file: StrPath | None = None
    """PEM file with the certificate authorities to trust *instead of* the system's."""
    ca_data: str | bytes | None = field(default=None, repr=False)
    """The same as text (PEM) or bytes (DER)."""
    cert_file: StrPath | None = None
    """PEM file with the client certificate and any intermediates after it; all are sent. May also
    hold the private key."""
    key_file: StrPath | None = None
    """PEM file with the private key of the client certificate."""
    key_password: str | None = field(default=None, repr=False)
    """Password of the private key, if it is encrypted."""
    bundle_file: StrPath | None = None
    """PKCS#12 file with certificate, chain and key. Needs the ``pkcs12`` extra."""
    bundle_password: str | None = field(default=None, repr=False)
    """Password of the bundle, if it has one."""
    server_hostname: str | None = None
    """The name to send as SNI and to expect in the server's certificate. Default: the URL's
    host."""
    unverified_servers: UnverifiedServers = "dialled_name"
    """Which certificate to accept from servers of the cluster that were named in plaintext only, as
    nats-server before 2.12 does unless ``handshake_first`` is set. Anyone on the network path
    may have named them, so they are used over TLS only and must show a certificate for the name
    that you connected to (``"dialled_name"``). ``"own_name"`` accepts a certificate for their
    own name instead: use it if each server has its own certificate, issued by an authority of
    yours given as ``ca_file``. ``"ignore"`` does not use them. Without verification they are
    never used."""
    insecure_skip_verify: bool = False
    """Accept any certificate: encrypted, but not protected from an attacker in between. Logs a
    warning."""
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    """The lowest version of TLS to use. Default: 1.2."""
    context: ssl.SSLContext | None = None
    """An :class:`ssl.SSLContext` to use as it is, in place of all other options except ``mode`` and
    ``server_hostname``."""
    configure: Callable[[ssl.SSLContext], None] | None = field(default=None, repr=False)
    """Called in a worker thread with each context just before it is used."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "mode", TLSMode(self.mode))
        except ValueError:
            known = ", ".join(repr(mode.value) for mode in TLSMode)
            kind = TLSConfigurationError if isinstance(self.mode, str) else TypeError
            raise kind(f"unknown TLS mode {self.mode!r}; use a TLSMode or one of {known}") from None
        self._check_types()
        self._check_client_certificate()
        if self.context is not None:
            self._check_ready_context(self.context)
        if self.server_hostname == "":
            raise TLSConfigurationError(
                "server_hostname must not be empty; leave it out or give a host name"
            )
        if not isinstance(self.minimum_version, ssl.TLSVersion):
            raise TypeError(
                f"minimum_version must be an ssl.TLSVersion, not {self.minimum_version!r}"
            )

    def _check_types(self) -> None:
        try:
            check_flag("insecure_skip_verify", self.insecure_skip_verify)
            check_callable("configure", self.configure)
            choices = ("dialled_name", "own_name", "ignore")
            check_choice("unverified_servers", self.unverified_servers, choices)
        except ConfigurationError as error:
            raise TLSConfigurationError(str(error)) from None
        for name in ("ca_file", "cert_file", "key_file", "bundle_file"):
            if not isinstance(getattr(self, name), (str, os.PathLike, NoneType)):
                kind = type(getattr(self, name)).__name__
                raise TypeError(f"{name} must be a path, a str or a Path, not {kind}")
        for name in ("server_hostname", "key_password", "bundle_password"):
            if not isinstance(getattr(self, name), (str, NoneType)):
                kind = type(getattr(self, name)).__name__
                raise TypeError(f"{name} must be a str, not {kind}")
        for name in ("key_password", "bundle_password"):
            # Encoding it would raise an error that quotes it.
            if _SURROGATE.search(getattr(self, name) or ""):
                raise TLSConfigurationError(f"{name} must be valid Unicode text")
        if not isinstance(self.ca_data, (str, bytes, NoneType)):
            kind = type(self.ca_data).__name__
            raise TypeError(f"ca_data must be a str (PEM) or bytes (DER), not {kind}")

    def _check_client_certificate(self) -> None:
        if self.key_file is not None and self.cert_file is None:
            raise TLSConfigurationError(
                "key_file is given without cert_file; a client certificate needs both"
            )
        if self.key_password is not None and self.cert_file is None:
            raise TLSConfigurationError(
                "key_password is given without cert_file; the key belongs to a client certificate"
            )
        if self.bundle_file is not None and self.cert_file is not None:
            raise TLSConfigurationError(
                "cert_file and bundle_file both hold a client certificate; give one of them"
            )
        if self.bundle_password is not None and self.bundle_file is None:
            raise TLSConfigurationError("bundle_password is given without bundle_file")

    def _check_ready_context(self, context: ssl.SSLContext) -> None:
        check_instance("context", context, ssl.SSLContext, "an ssl.SSLContext")
        if context.protocol is ssl.PROTOCOL_TLS_SERVER:
            raise TLSConfigurationError(
                "context must be one for clients; make it with ssl.PROTOCOL_TLS_CLIENT or "
                "ssl.create_default_context()"
            )
        clashing = [
            name
            for name in ("ca_file", "ca_data", "cert_file", "bundle_file")
            if getattr(self, name) is not None
        ]
        if self.insecure_skip_verify:
            clashing.append("insecure_skip_verify")
        if self.minimum_version is not ssl.TLSVersion.TLSv1_2:
            clashing.append("minimum_version")
        if clashing:
            raise TLSConfigurationError(
                f"context is used as it is; {', '.join(clashing)} would have no effect: "
                "configure the context itself, or leave context out"
            )

    @property
    def has_material(self) -> bool:
        """Whether any option is given that only makes sense with TLS."""
        material = (
            self.ca_file,
            self.ca_data,
            self.cert_file,
            self.bundle_file,
            self.context,
            self.configure,
        )
        return any(item is not None for item in material)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that may be tried next, as passed to :attr:`ReconnectPolicy.pick`."""

    server: Server
    """The server."""
    failures: int
    """Number of failed attempts in a row."""


Picked: TypeAlias = Server | tuple[Server, float] | None
"""The types that ``ReconnectPolicy.pick`` may return."""


@dataclass(frozen=True, kw_only=True)
class ReconnectPolicy:
    """When and how often to reconnect after losing the server.

    Before every attempt, including the first, the connection waits a random time between zero and a
    ceiling. The ceiling starts at ``wait`` and doubles per server up to ``max_wait`` ("full
    jitter"), so that the clients of a cluster do not all come back at the same instant. Host names
    are resolved again at each attempt. A successful connection resets the ceilings.

    :raises ConfigurationError: if a value is out of range.
    :raises TypeError: if a value has a wrong type.
    """

    wait: float = 0.25
    """The first ceiling, in seconds."""
    max_wait: float = 4.0
    """The highest ceiling, in seconds."""
    max_attempts: int | None = None
    """Failed attempts in a row after which a server is given up. ``None`` (the default) never gives
    up; 0 does not reconnect at all."""
    jitter: float = 1.0
    """The fraction of each wait that is random, from 0 (none) to 1 (all of it)."""
    delay: Callable[[int], float] | None = None
    """Returns the seconds to wait before the n-th attempt since the loss, counted from 1. Takes the
    place of ``wait``, ``max_wait`` and ``jitter``."""
    pick: Callable[[Sequence[Candidate], ServerInfo], Picked] | None = None
    """Picks the server to try next among the candidates, given the last :class:`ServerInfo`
    (ADR-40). Returns a server, a pair of server and seconds to wait, or ``None`` to leave the
    choice to the connection."""
    retry_on_initial_connect: bool = False
    """Enter the ``open_nats`` block at once, and connect in the background by this policy."""
    refused_credentials_timeout: float = 30.0
    """Seconds after which a server that keeps refusing the credentials with the same error is given
    up, so that clients with stale credentials do not load it for ever. New credentials may take
    a while to reach every server, so a server that refuses is tried again after 1 s, and then at
    intervals that double: by default 1, 2, 4, 8, 16 and 30 s after the first refusal. 0 gives up
    at the second refusal in a row (ADR-40); ``math.inf`` never gives up, and waits as for any
    other failure."""
    requests: Literal["wait", "fail"] = "wait"
    """What happens to pending requests when the connection is lost: ``"wait"`` keeps waiting for
    the reply, which may still arrive over the next connection; ``"fail"`` raises
    :exc:`ConnectionLostError` at once."""

    def __post_init__(self) -> None:
        check_callable("ReconnectPolicy.delay", self.delay)
        check_callable("ReconnectPolicy.pick", self.pick)
        check_flag("ReconnectPolicy.retry_on_initial_connect", self.retry_on_initial_connect)
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, (int, float)):
            raise TypeError(
                f"ReconnectPolicy.jitter must be a number from 0 to 1, not {self.jitter!r}"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(
                f"ReconnectPolicy.jitter must be a number from 0 to 1, not {self.jitter!r}"
            )
        check_choice("ReconnectPolicy.requests", self.requests, ("wait", "fail"))
        timeout = self.refused_credentials_timeout
        check_seconds("ReconnectPolicy.refused_credentials_timeout", timeout, zero=True)
        check_seconds("ReconnectPolicy.wait", self.wait, zero=True)
        check_seconds("ReconnectPolicy.max_wait", self.max_wait, zero=True)
        if self.max_wait < self.wait:
            raise ConfigurationError(
                f"ReconnectPolicy.max_wait must be at least wait ({self.wait}), not {self.max_wait}"
            )
        if self.max_attempts is not None:
            check_count("ReconnectPolicy.max_attempts", self.max_attempts)


@dataclass(frozen=True, kw_only=True)
class PendingLimits:
    """Limits of the messages that wait in one subscription, and what to do when they are reached.

    :raises ConfigurationError: if a value is out of range.
    :raises TypeError: if a value has a wrong type.
    """

    messages: int = 500_000
    """Maximum number of messages waiting."""
    bytes: int = 64 * 1024 * 1024
    """Maximum size of the messages waiting, payloads and headers, in bytes."""
    when_full: FullPolicy = "drop_newest"
    """``"drop_newest"`` drops the message that arrives, ``"drop_oldest"`` the one that has waited
    longest. ``"wait"`` stops reading from the server: this stalls *every* subscription of the
    connection and its keep-alive, and in the end the server disconnects it as a slow consumer."""

    def __post_init__(self) -> None:
        check_count("PendingLimits.messages", self.messages, 1)
        check_count("PendingLimits.bytes", self.bytes, 1)
        check_choice(
            "PendingLimits.when_full", self.when_full, ("drop_newest", "drop_oldest", "wait")
        )


@dataclass(frozen=True, kw_only=True)
class ProtocolLimits:
    """Maximum sizes to accept from a server, in bytes. The connection is closed if one is exceeded.

    :raises ConfigurationError: if a value is out of range.
    :raises TypeError: if a value has a wrong type.
    """

    payload: int = 64 * 1024 * 1024
    """Size of one message, headers included."""
    headers: int = 4 * 1024 * 1024
    """Size of the headers of one message."""
    control_line: int = 64 * 1024
    """Length of one line of the protocol."""
    info: int = 1024 * 1024
    """Length of the INFO line, which grows with the cluster."""

    def __post_init__(self) -> None:
        check_count("ProtocolLimits.payload", self.payload, 1)
        check_count("ProtocolLimits.headers", self.headers, 16)
        check_count("ProtocolLimits.control_line", self.control_line, 512)
        check_count("ProtocolLimits.info", self.info, 512)


WebSocketHeaders: TypeAlias = (
    Mapping[str, str] | Callable[[Server], Mapping[str, str] | Awaitable[Mapping[str, str]]]
)
"""HTTP headers by name, or a callable that returns them for one attempt to connect."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")
# Headers that the handshake sets itself, that announce a body, or that change the framing.
_OWN_HEADERS = frozenset(
    {"connection", "content-length", "expect", "host", "nats-no-masking", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)


@hides_secrets
@dataclass(frozen=True, kw_only=True)
class WebSocketOptions:
    """Options for ``ws://`` and ``wss://`` servers.

    There are no size limits to set here: frames and compressed messages are processed piece by
    piece, so :class:`ProtocolLimits` bounds memory as it does over TCP.

    :raises ConfigurationError: if a header cannot be sent.
    :raises TypeError: if a value has a wrong type.
    """

    headers: WebSocketHeaders = field(default_factory=dict, repr=False, hash=False)
    """Headers of the HTTP request, such as ``{"Authorization": "Bearer ..."}``. A callable,
    synchronous or not, is called with the :class:`Server` at every attempt to connect, so that
    it can renew what expires; ``connect_timeout`` limits its time."""
    compression: bool = False
    """Offer compression (permessage-deflate). Servers accept it only if configured to."""

    def __post_init__(self) -> None:
        check_flag("WebSocketOptions.compression", self.compression)
        if not callable(self.headers):
            checked = check_websocket_headers("WebSocketOptions.headers", self.headers)
            object.__setattr__(self, "headers", MappingProxyType(checked))


class SecretHeaders(dict[str, str]):
    """Headers whose ``repr`` shows only names, because error reporters print variables."""

    def __repr__(self) -> str:
        return f"<headers: {', '.join(self)}>"


def check_websocket_headers(what: str, headers: object) -> SecretHeaders:
    """Return a copy of ``headers`` if they can be sent."""
    error, checked = _read_headers(what, headers)
    # Values may be secrets, so neither the error nor its traceback may contain them.
    del headers
    if error is not None:
        raise error
    return checked


def _read_headers(what: str, headers: object) -> tuple[Exception | None, SecretHeaders]:
    checked = SecretHeaders()
    if not isinstance(headers, Mapping):
        text = f"must be a mapping of names to values, not {type_name(headers)}"
        return TypeError(f"{what} {text}"), checked
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str):
            text = f"must have names that are str, not {type_name(name)}"
            return TypeError(f"{what} {text}"), checked
        if not _HEADER_NAME.fullmatch(name):
            return ConfigurationError(f"{what} has a name that is not allowed in HTTP"), checked
        if name.lower() in _OWN_HEADERS or name.lower().startswith("sec-websocket-"):
            text = f"{name} belongs to the WebSocket handshake; leave it out"
            return ConfigurationError(f"{what}: {text}"), checked
        if not isinstance(value, str):
            return TypeError(f"{what}: {name} must be a str, not {type_name(value)}"), checked
        if not _HEADER_VALUE.fullmatch(value):
            text = (
                f"the value of {name} must be printable ASCII without line breaks, and without "
                "white space at its ends"
            )
            return ConfigurationError(f"{what}: {text}"), checked
        checked[name] = value
    return None, checked
