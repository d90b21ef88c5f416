"""Server addresses: parsed, checked, and never shown with their credentials."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast
from urllib.parse import unquote

from .errors import ConfigurationError

__all__ = ["Scheme", "Server", "parse_servers"]

Scheme: TypeAlias = Literal["nats", "tls", "ws", "wss"]

DEFAULT_PORTS: dict[str, int] = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HOST_FAULT = re.compile(r"[\x00-\x20\x7f/\\?#@\[\]]")


@dataclass(frozen=True, slots=True)
class Server:
    """One server's address. ``str()`` and ``repr()`` leave the credentials out."""

    scheme: Scheme
    host: str
    """A name or an address, IPv6 without brackets."""
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    path: str = field(default="", repr=False)
    """Path and query of a WebSocket URL. The query may carry a secret, so it is not shown."""
    tls_name: str | None = None
    """The name to verify, where a discovered server is known by address only."""
    discovered: bool = False
    """Whether another server named it, rather than the user."""

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
        """Whether the URL came with credentials."""
        return self.user is not None or self.token is not None

    def __str__(self) -> str:
        return self.url


def parse_servers(servers: str | Sequence[str]) -> tuple[Server, ...]:
    """Read one URL, a comma-separated list, or a sequence of either.

    Raises :exc:`ConfigurationError` for what is not a usable address, never quoting credentials.
    """
    given = [servers] if isinstance(servers, str) else list(servers)
    texts: list[str] = []
    for entry in given:
        if not isinstance(entry, str):
            raise ConfigurationError(f"a server is given as a str, not {type(entry).__name__}")
        texts += [text for part in entry.split(",") if (text := part.strip())]
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


def parse_server(text: str) -> Server:
    """Read one URL or ``host:port``."""
    shown = repr(_without_userinfo(text))
    scheme = "nats"
    if found := _SCHEME.match(text):
        scheme = found[1].lower()
        text = text[found.end() :]
    if scheme not in DEFAULT_PORTS:
        known = ", ".join(f"{name}://" for name in DEFAULT_PORTS)
        raise ConfigurationError(f"unknown scheme in {shown}; use one of {known}")
    authority, path = _split_path(text, scheme, shown)
    userinfo, at, address = authority.rpartition("@")
    host, port = _split_address(address, DEFAULT_PORTS[scheme], shown)
    user, password, token = _credentials(userinfo, shown) if at else (None, None, None)
    return Server(cast("Scheme", scheme), host, port, user, password, token, path)


def _without_userinfo(text: str) -> str:
    """For error texts: whatever precedes the last ``@`` may be a secret, and so may a query."""
    head, at, tail = text.rpartition("@")
    scheme = _SCHEME.match(head)
    shown = (f"{scheme.group()}...@" if scheme else "...@") + tail if at else text
    return shown.partition("?")[0][:200]


def _split_path(text: str, scheme: str, shown: str) -> tuple[str, str]:
    # A slash in a password must be percent-encoded, as in any URL; but people forget, and the
    # part behind the last "@" is unambiguous, so look for the path only there.
    head, at, tail = text.rpartition("@")
    found = re.search(r"[/?#]", tail)
    if found is None:
        return text, ""
    authority, path = head + at + tail[: found.start()], tail[found.start() :]
    if scheme in ("ws", "wss"):
        return authority, path.partition("#")[0]
    if path != "/":
        raise ConfigurationError(f"{shown}: a {scheme}:// URL has no path, query or fragment")
    return authority, ""


def _split_address(address: str, default_port: int, shown: str) -> tuple[str, int]:
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigurationError(f"{shown}: an IPv6 address is written [address]:port")
        _check_ipv6(host, shown)
        port_text = rest[1:] if rest else None
    elif address.count(":") > 1:
        raise ConfigurationError(f"{shown}: write an IPv6 address in brackets, as in [::1]:4222")
    else:
        host, colon, after = address.partition(":")
        port_text = after if colon else None
    if not host:
        raise ConfigurationError(f"{shown}: the host is missing")
    if _HOST_FAULT.search(host):
        raise ConfigurationError(f"{shown}: the host holds a character no host name has")
    return host, default_port if port_text is None else _port(port_text, shown)


def _check_ipv6(host: str, shown: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ConfigurationError(f"{shown}: {host!r} is not an IPv6 address") from None


def _port(text: str, shown: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise ConfigurationError(f"{shown}: a port is a number from 1 to 65535, not {text!r}")
    return int(text)


def _credentials(userinfo: str, shown: str) -> tuple[str | None, str | None, str | None]:
    name, colon, password = userinfo.partition(":")
    if not name:
        raise ConfigurationError(
            f"{shown}: the part before '@' is empty; use user:password@ or token@"
        )
    if colon:
        return unquote(name), unquote(password), None
    return None, None, unquote(name)


def is_ip_address(host: str) -> bool:
    """Whether ``host`` is an address rather than a name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether an IP address stays on this machine."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
