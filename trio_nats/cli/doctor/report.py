"""What an examination found out: plain values, free of secrets, for advice and output to read."""

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
"""What was found wrong first about the server's certificate, if anything."""

Outcome: TypeAlias = Literal["tls", "plaintext", "fails", "refused", "unknown"]
"""What a mode comes to. ``"refused"``: the options contradict each other, nothing is dialled."""

Greeted: TypeAlias = Literal["info", "error", "foreign", "closed", "silence", "nonsense"]
"""INFO, an ``-ERR``, words that are not NATS, the end, nothing at all, or a broken INFO."""

Source: TypeAlias = Literal["none", "url", "options"]
"""Where credentials come from."""

JetStream: TypeAlias = Literal["on", "off", "forbidden", "unknown"]
"""Whether this account has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The credentials that would be sent, as far as they may be shown."""

    method: str = "none"
    """``"none"``, ``"user and password"``, ``"token"``, ``"NKey"``, ``"JWT"``, ..."""
    source: Source = "none"
    user: str = ""
    """A user name or a public key."""
    account: str = ""
    """The account that a JWT was issued by: its public key."""
    expires: datetime | None = None
    replayable: bool = False
    """Whether somebody who hears it can use it."""
    error: str = ""
    """Why they cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user asked for."""

    url: str
    """Without credentials."""
    scheme: Scheme
    host: str
    port: int
    tls: TLSOptions
    acts_as: TLSMode
    """The mode after AUTO and the floor of a ``tls://`` URL."""
    name: str
    """What the server's certificate is checked against."""
    login: Login
    plaintext_auth: PlaintextAuth
    timeout: float
    """``connect_timeout``, in seconds."""
    certificate_expires: datetime | None = None
    """When our own certificate ends, where there is one and that can be read."""
    contradiction: str = ""
    """Why the options cannot be meant, if so. Nothing is dialled with such options."""

    @property
    def is_websocket(self) -> bool:
        """Whether NATS is spoken inside of HTTP."""
        return self.scheme in ("ws", "wss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Name resolution."""

    addresses: tuple[str, ...] = ()
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """One address, and whether it took a TCP connection."""

    address: str
    seconds: float
    error: str = ""
    local: str = ""
    """The address of our end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What the peer says to somebody who says nothing."""

    kind: Greeted
    seconds: float
    """From the TCP connection to what it said, or to giving up."""
    info: ServerInfo | None = None
    text: str = ""
    """Its first words, or what was wrong with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """What the peer says to an HTTP request for a WebSocket."""

    over_tls: bool
    status: str
    """The first line of its answer."""
    is_nats: bool
    """It is a NATS server's WebSocket port."""
    is_monitoring: bool
    """It looks like a NATS server's monitoring port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a TLS handshake shows to somebody who begins one and checks nothing."""

    version: str = ""
    """Empty where the handshake failed."""
    cipher: str = ""
    asks_for_certificate: bool | None = None
    """``None`` where it could not be seen."""
    info_inside: ServerInfo | None = None
    """INFO, where it came inside TLS only."""
    led_by_info: bool = False
    """INFO came in plaintext, before the handshake."""
    error: str = ""
    kind: str = ""
    """The class of the error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """The server's certificate, its issuers, and what these options make of it."""

    chain: tuple[CertificateInfo, ...]
    """As sent, the server's own first."""
    trust: Trust
    text: str = ""
    """The fault in OpenSSL's words."""
    name_matches: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one TLS mode comes to with this server, all other options unchanged."""

    mode: TLSMode
    acts_as: TLSMode
    outcome: Outcome
    kind: str = ""
    """The class of the error."""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The verdict: what became of a real connection with these options."""

    connected: bool
    phase: str = ""
    """Where it ended, see ``ConnectPhase``; ``"options"`` if nothing was dialled."""
    kind: str = ""
    """The class of the error."""
    text: str = ""
    reason: str = ""
    """OpenSSL's name for a TLS error."""
    said: str = ""
    """The server's own words, where it refused something."""
    info: ServerInfo | None = None
    tls_version: str = ""
    """Empty on a plaintext connection."""
    cipher: str = ""
    verified_name: str = ""
    certificate_expires: datetime | None = None
    """When our own certificate ends."""
    round_trips: tuple[float, ...] = ()
    """In seconds."""
    jetstream: JetStream = "unknown"
    jetstream_text: str = ""
    lost: str = ""
    """Why the connection did not last, if it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything about one server. ``None`` is what was not reached."""

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
    told: ServerInfo | None = None
    """INFO as an opening that ended before CONNECT got it."""

    @property
    def reached(self) -> bool:
        """Whether there was a TCP connection."""
        return any(not dial.error for dial in self.dials)

    @property
    def info(self) -> ServerInfo | None:
        """What the server says about itself, wherever it said so, newest first.

        Its nonce comes with the first INFO only. The last one may be all defaults: a connection
        does not keep what servers before 2.12 say in plaintext, ahead of TLS.
        """
        greeted = self.greeting.info if self.greeting is not None else None
        inside = self.look.info_inside if self.look is not None else None
        said = [one for one in (self.live.info, greeted, inside, self.told) if one is not None]
        if not said:
            return None
        newest = next((one for one in said if one.server_id), said[0])
        nonce = next((one.nonce for one in said if one.nonce), None)
        return msgspec.structs.replace(newest, nonce=nonce)

    @property
    def speaks_tls(self) -> bool:
        """Whether a handshake can be finished with it."""
        return self.look is not None and bool(self.look.version)

    @property
    def info_inside(self) -> ServerInfo | None:
        """INFO that came inside TLS only, or at least there too."""
        if self.asked.is_websocket:
            return None
        if self.look is not None and self.look.info_inside is not None:
            return self.look.info_inside
        # A server that wants a client certificate has nothing to say to those who only look.
        was_quiet = self.greeting is not None and self.greeting.info is None
        return self.told if was_quiet else None

    @property
    def ends_tls_before_server(self) -> bool:
        """INFO that comes inside TLS and knows nothing of it: something before it does the TLS."""
        return self.info_inside is not None and not self.info_inside.offers_tls

    @property
    def wants_certificate(self) -> bool:
        """The server lets nobody in who shows no client certificate."""
        return self.look is not None and self.look.kind == "ClientCertificateError"

    @property
    def waits_for_handshake(self) -> bool:
        """The server says nothing before a TLS handshake, ever."""
        is_quiet = self.greeting is not None and self.greeting.kind in ("silence", "closed")
        return is_quiet and (self.info_inside is not None or self.wants_certificate)
