"""The results of an examination: plain values without secrets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from ..._transport.tls_info import CertificateInfo
from ...options import PlaintextAuth, TLSMode, TLSOptions
from ...server_info import ServerInfo
from ...servers import Scheme

__all__ = [
    "Asked",
    "Certificates",
    "Dial",
    "Greeted",
    "Greeting",
    "JetStream",
    "Live",
    "Login",
    "Look",
    "Lookup",
    "Outcome",
    "Report",
    "Source",
    "Trial",
    "Trust",
    "Web",
]

Trust: TypeAlias = Literal[
    "ok", "untrusted", "self-signed", "name", "expired", "early", "other", "unknown"
]
"""The first fault of the server's certificate, if it has any."""

Outcome: TypeAlias = Literal["tls", "plaintext", "fails", "refused", "unknown"]
"""The result of a mode. ``"refused"``: the options contradict each other, so it is not tried."""

Greeted: TypeAlias = Literal["info", "error", "foreign", "closed", "silence", "nonsense"]
"""INFO, ``-ERR``, data that is not NATS, a closed connection, nothing, or a malformed INFO."""

Source: TypeAlias = Literal["none", "url", "options"]
"""Where credentials come from."""

JetStream: TypeAlias = Literal["on", "off", "forbidden", "unknown"]
"""Whether this account can use JetStream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The credentials that would be sent, without secrets."""

    method: str = "none"
    """``"none"``, ``"user and password"``, ``"token"``, ``"NKey"``, ``"JWT"``, ..."""
    source: Source = "none"
    user: str = ""
    """A user name or a public key."""
    account: str = ""
    """The public key of the account that issued a JWT."""
    expires: datetime | None = None
    replayable: bool = False
    """Whether an eavesdropper can reuse the credentials."""
    error: str = ""
    """Why the credentials cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options to examine."""

    url: str
    """Without credentials."""
    scheme: Scheme
    host: str
    port: int
    tls: TLSOptions
    acts_as: TLSMode
    """The mode that AUTO and the URL's scheme result in."""
    name: str
    """The name that the server's certificate is checked against."""
    login: Login
    plaintext_auth: PlaintextAuth
    timeout: float
    """``connect_timeout``, in seconds."""
    certificate_expires: datetime | None = None
    """When the client certificate expires, if there is one and it can be decoded."""
    contradiction: str = ""
    """Why the options contradict each other, if they do. Then no connection is attempted."""

    @property
    def is_websocket(self) -> bool:
        """Whether the connection uses WebSocket."""
        return self.scheme in ("ws", "wss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Name resolution."""

    addresses: tuple[str, ...] = ()
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """One address, and whether it accepted a TCP connection."""

    address: str
    seconds: float
    error: str = ""
    local: str = ""
    """The local address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What the peer sends to a client that sends nothing."""

    kind: Greeted
    seconds: float
    """Time from the TCP connection to the first bytes, or to giving up."""
    info: ServerInfo | None = None
    text: str = ""
    """The first bytes, or what was wrong with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """The peer's answer to an HTTP request for a WebSocket."""

    over_tls: bool
    status: str
    """The first line of the answer."""
    is_nats: bool
    """Whether it is the WebSocket port of a NATS server."""
    is_monitoring: bool
    """Whether it looks like the monitoring port of a NATS server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The result of a TLS handshake that checks nothing."""

    version: str = ""
    """Empty if the handshake failed."""
    cipher: str = ""
    asks_for_certificate: bool | None = None
    """``None`` if that could not be observed."""
    info_inside: ServerInfo | None = None
    """INFO, if it came inside TLS only."""
    led_by_info: bool = False
    """Whether INFO came in plaintext before the handshake."""
    error: str = ""
    kind: str = ""
    """The class of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """The server's certificate, its issuers, and whether these options accept it."""

    chain: tuple[CertificateInfo, ...]
    """As sent, the server's own first."""
    trust: Trust
    text: str = ""
    """The fault in OpenSSL's words."""
    name_matches: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The result of one TLS mode with this server, all other options unchanged."""

    mode: TLSMode
    acts_as: TLSMode
    outcome: Outcome
    kind: str = ""
    """The class of the error."""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The result of a real connection with these options."""

    connected: bool
    phase: str = ""
    """Where it failed, see ``ConnectPhase``; ``"options"`` if no connection was attempted."""
    kind: str = ""
    """The class of the error."""
    text: str = ""
    reason: str = ""
    """OpenSSL's name for a TLS error."""
    said: str = ""
    """The text of the server's error, if it refused something."""
    info: ServerInfo | None = None
    tls_version: str = ""
    """Empty on a plaintext connection."""
    cipher: str = ""
    verified_name: str = ""
    certificate_expires: datetime | None = None
    """When the client certificate expires."""
    round_trips: tuple[float, ...] = ()
    """In seconds."""
    jetstream: JetStream = "unknown"
    jetstream_text: str = ""
    lost: str = ""
    """Why the connection was lost, if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything about one server. Steps that were not reached are ``None``."""

    asked: Asked
    examined_at: datetime
    live: Live
    lookup: Lookup
    dials: tuple[Dial, ...] = ()
    greeting: Greeting | None = None
    look: Look | None = None
    certificates: Certificates | None = None
    web: Web | None = None
    trials: tuple[Trial, ...] = ()
    probed_info: ServerInfo | None = None
    """INFO from an attempt that ended before CONNECT."""

    @property
    def reached(self) -> bool:
        """Whether there was a TCP connection."""
        return any(not dial.error for dial in self.dials)

    @property
    def info(self) -> ServerInfo | None:
        """The newest INFO, whichever step received it.

        The nonce comes with the first INFO only. The last one may be all defaults, because a
        connection does not keep what servers before 2.12 send in plaintext, ahead of TLS.
        """
        greeted = self.greeting.info if self.greeting is not None else None
        inside = self.look.info_inside if self.look is not None else None
        sources = (self.live.info, greeted, inside, self.probed_info)
        received = [one for one in sources if one is not None]
        if not received:
            return None
        newest = next((one for one in received if one.server_id), received[0])
        nonce = next((one.nonce for one in received if one.nonce), None)
        return msgspec.structs.replace(newest, nonce=nonce)

    @property
    def speaks_tls(self) -> bool:
        """Whether a TLS handshake with the server succeeds."""
        return self.look is not None and bool(self.look.version)

    @property
    def info_inside(self) -> ServerInfo | None:
        """INFO that came inside TLS."""
        if self.asked.is_websocket:
            return None
        if self.look is not None and self.look.info_inside is not None:
            return self.look.info_inside
        # A server that requires a client certificate sends no INFO to a look without one.
        was_quiet = self.greeting is not None and self.greeting.info is None
        return self.probed_info if was_quiet else None

    @property
    def ends_tls_before_server(self) -> bool:
        """Whether a proxy ends TLS: INFO comes inside TLS, but does not offer TLS."""
        return self.info_inside is not None and not self.info_inside.offers_tls

    @property
    def wants_certificate(self) -> bool:
        """Whether the server requires a client certificate."""
        return self.look is not None and self.look.kind == "ClientCertificateError"

    @property
    def waits_for_handshake(self) -> bool:
        """Whether the server sends nothing before a TLS handshake."""
        is_quiet = self.greeting is not None and self.greeting.kind in ("silence", "closed")
        return is_quiet and (self.info_inside is not None or self.wants_certificate)
