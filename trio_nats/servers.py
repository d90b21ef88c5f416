"""Parse and check the URLs of servers, and show them without credentials."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, cast
from urllib.parse import unquote

from ._printable import has_unprintable
from ._tracebacks import takes_secrets
from .errors import ConfigurationError

__all__ = ["Scheme", "Server", "parse_servers"]

Scheme: TypeAlias = Literal["nats", "tls", "ws", "wss"]

DEFAULT_PORTS: dict[str, int] = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
_UNDECODED = re.compile("[\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PATH_START = re.compile(r"[/?#]")
_FORBIDDEN_IN_PATH = re.compile(r"[\x00-\x20\x7f]")
_HOST_FAULT = re.compile(r"[\x00-\x20\x7f/\\?#@\[\]]")


@dataclass(frozen=True, slots=True)
class Server:
    """The address of one server. ``str()`` and ``repr()`` leave out the credentials.

    :param user: the user name in the URL, if it has one.
    :param password: the password in the URL, if it has one.
    :param token: the token in the URL, if it has one.
    """

    scheme: Scheme
    """``"nats"``, ``"tls"``, ``"ws"`` or ``"wss"``."""
    host: str
    """Host name or IP address, IPv6 without brackets."""
    port: int
    """TCP port."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    path: str = field(default="", repr=False)
    """Path and query of a WebSocket URL. They may carry a secret, so they are not shown."""
    tls_name: str | None = None
    """The name to verify in the certificate of a discovered server that is only known by its IP
    address."""
    discovered: bool = False
    """Whether another server announced this one, rather than the user."""
    userinfo_needs_tls: bool = field(default=False, repr=False)
    """Whether the credentials come from a ``tls://`` or ``wss://`` URL. They are then sent over TLS
    only, whatever the scheme of this address."""

    @property
    def url(self) -> str:
        """The URL without credentials."""
        return f"{self.scheme}://{self.address}"

    @property
    def address(self) -> str:
        """``host:port``, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_websocket(self) -> bool:
        """Whether the scheme is ``ws`` or ``wss``."""
        return self.scheme in ("ws", "wss")

    @property
    def has_userinfo(self) -> bool:
        """Whether the URL had credentials."""
        return self.user is not None or self.token is not None

    def __str__(self) -> str:
        return self.url


@takes_secrets
def parse_servers(servers: str | Sequence[str]) -> tuple[Server, ...]:
    """Parse one URL, a comma-separated list, or a sequence of either.

    :raises ConfigurationError: if an address is not usable; the error does not quote credentials.
    """
    texts = [text for part in _entries(servers) for one in part.split(",") if (text := one.strip())]
    if not texts:
        raise ConfigurationError(
            'no server given; pass a URL such as "nats://localhost:4222", or set NATS_URL'
        )
    parsed = tuple(dict.fromkeys(parse_server(text) for text in texts))
    if len({server.is_websocket for server in parsed}) > 1:
        raise ConfigurationError(
            "ws:// and wss:// servers cannot be mixed with nats:// and tls:// ones "
            "in one connection; use one kind"
        )
    return parsed


def _entries(servers: object) -> list[str]:
    if isinstance(servers, str):
        return [servers]
    if isinstance(servers, (bytes, bytearray)) or not isinstance(servers, Iterable):
        raise TypeError(f"servers must be a str or a sequence of str, not {type(servers).__name__}")
    entries = list(servers)
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(
                f"servers must be a str or a sequence of str, not of {type(entry).__name__}"
            )
    return entries


@takes_secrets
def parse_server(text: str) -> Server:
    """Parse one URL or ``host:port``."""
    if _UNDECODED.search(text):
        # Not left to an encoding error, whose context would quote all of the text.
        raise ConfigurationError("a server's URL must be valid Unicode text")
    scheme = "nats"
    prefix = ""
    if found := _SCHEME.match(text):
        scheme, prefix, text = found[1].lower(), found.group(), text[found.end() :]
    # A URL without a path may have an unencoded slash in its password.
    searched = text.rfind("@") + 1 if scheme in ("nats", "tls") else 0
    found = _PATH_START.search(text, searched)
    end = found.start() if found else len(text)
    authority, path = text[:end], text[end:]
    shown = repr(prefix + _presentable(authority, path))
    if scheme not in DEFAULT_PORTS:
        known = ", ".join(f"{name}://" for name in DEFAULT_PORTS)
        raise ConfigurationError(f"unknown scheme in {shown}; use one of {known}")
    path = _check_path(path, scheme, shown)
    userinfo, at, address = authority.rpartition("@")
    host, port = _split_address(address, DEFAULT_PORTS[scheme], shown)
    user, password, token = _credentials(userinfo, shown) if at else (None, None, None)
    return Server(cast("Scheme", scheme), host, port, user, password, token, path)


def _presentable(authority: str, path: str) -> str:
    """Return the part of a URL that an error may show, which cannot be part of a secret.

    If a password with a comma, slash, question mark or hash sign is not percent-encoded, the URL is
    split in the wrong place. So only a plain address is shown.
    """
    _, at, address = authority.rpartition("@")
    port = address.rpartition(":")[2] if ":" in address else ""
    if "@" in path or (port and not port.isdigit() and not address.endswith("]")):
        return "..."
    return ("...@" if at else "") + address[:200]


def _check_path(path: str, scheme: str, shown: str) -> str:
    if scheme in ("ws", "wss"):
        if _FORBIDDEN_IN_PATH.search(path):
            raise ConfigurationError(
                f"{shown}: white space and control characters in a URL must be percent-encoded"
            )
        return path.partition("#")[0]
    if path not in ("", "/"):
        raise ConfigurationError(
            f"{shown}: a {scheme}:// URL has no path, query or fragment "
            "('/', '?' and '#' in a password must be percent-encoded)"
        )
    return ""


def _split_address(address: str, default_port: int, shown: str) -> tuple[str, int]:
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigurationError(f"{shown}: an IPv6 address must be written as [address]:port")
        # RFC 6874 requires the percent sign before a zone to be encoded, but hardly anyone does it.
        host = host.replace("%25", "%", 1)
        _check_ipv6(host, shown)
        port_text = rest[1:] if rest else None
    elif address.count(":") > 1:
        raise ConfigurationError(f"{shown}: write an IPv6 address in brackets, as in [::1]:4222")
    else:
        host, colon, after = address.partition(":")
        port_text = after if colon else None
    if not host:
        raise ConfigurationError(f"{shown}: the host is missing")
    if _HOST_FAULT.search(host) or has_unprintable(host):
        raise ConfigurationError(
            f"{shown}: the host contains a character that is not allowed in host names"
        )
    return host, default_port if port_text is None else _port(port_text, shown)


def _check_ipv6(host: str, shown: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        # Not shown, because in a ws:// URL it may be part of a password that is not
        # percent-encoded.
        raise ConfigurationError(f"{shown}: the brackets must hold an IPv6 address") from None


def _port(text: str, shown: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        # Other text is not shown, because it may be part of a password that contains a comma.
        given = f", not {text!r}" if text.isdigit() or not text else ""
        raise ConfigurationError(
            f"{shown}: the port must be a number from 1 to 65535{given} "
            "(',', '/', '?' and '#' in a password must be percent-encoded)"
        )
    return int(text)


def _credentials(userinfo: str, shown: str) -> tuple[str | None, str | None, str | None]:
    name, colon, password = userinfo.partition(":")
    if not name:
        raise ConfigurationError(
            f"{shown}: the part before '@' is empty; use user:password@ or token@"
        )
    # A strict unquote() would raise an error that contains the credentials.
    name = unquote(name, errors="surrogateescape")
    password = unquote(password, errors="surrogateescape")
    if _UNDECODED.search(name + password):
        raise ConfigurationError(f"{shown}: percent-encoded credentials must be UTF-8 text")
    return (name, password, None) if colon else (None, None, name)


def with_userinfo(server: Server, other: Server | None) -> Server:
    """Return ``server`` with the credentials of ``other``, unless it has its own."""
    if other is None or not other.has_userinfo or server.has_userinfo:
        return server
    return replace(
        server,
        user=other.user,
        password=other.password,
        token=other.token,
        userinfo_needs_tls=other.userinfo_needs_tls or other.scheme in ("tls", "wss"),
    )


def over_tls(server: Server) -> Server:
    """Return ``server`` with the scheme that requires TLS."""
    return replace(server, scheme="wss" if server.is_websocket else "tls")


def is_ip_address(host: str) -> bool:
    """Return whether ``host`` is an IP address, not a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Return whether an IP address stays on this machine."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
