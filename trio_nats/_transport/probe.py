"""Probe a server with an attempt to connect that ends before CONNECT.

A probe runs the same code as a connection, so it finds what a connection would find. It does not
ask for credentials, so it cannot send any. If the options hold a client certificate, it is
presented as in a connection: during the handshake, to a server whose certificate was accepted.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import trio

from .._protocol.parser import Event, Parser
from ..auth import Answer
from ..codecs import Payload
from ..errors import ConnectPhase, NoInfoError
from ..headers import HeadersLike
from ..message import Publisher
from ..server_info import ServerInfo
from ..servers import Server
from .connector import (
    AttemptFailed,
    ConnectHistory,
    Connector,
    ConnectorSettings,
    ServerConnection,
    lead,
)
from .ssl_context import ClientTLS
from .tls_info import CertificateInfo, TLSInfo, certificate_info

__all__ = ["HandshakeObserver", "ProbeResult", "probe"]

# A debugging hook of CPython's ssl module. Nothing else shows whether a server asks for a client
# certificate, or what a refused certificate contains. Without the hook the result has less detail.
_HOOK = "_msg_callback"
_TICKET, _CERTIFICATE, _REQUEST = 4, 11, 13
_HANDSHAKE_RECORD = 22

VERDICT_TIMEOUT = 1.0
"""Seconds to wait after a handshake for the server to refuse the client certificate."""


@dataclass(slots=True, eq=False)
class HandshakeObserver:
    """Records what is sent in a handshake, whether it succeeds or not."""

    watching: bool = False
    """Whether this Python can observe handshakes."""
    asked: bool = False
    """Whether the server asked for a client certificate."""
    chain: tuple[bytes, ...] = ()
    """The server's certificates as it sent them, in DER, its own first."""
    on_accepted: Callable[[], object] | None = None
    """Called when the server has accepted our side of the handshake and sends a session ticket."""

    def watch(self, context: ssl.SSLContext) -> None:
        """Observe the handshakes of ``context`` from now on."""
        if hasattr(context, _HOOK):
            self.watching = True
            setattr(context, _HOOK, self._message)

    def _message(
        self,
        connection: object,
        direction: str,
        version: object,
        content_type: int,
        message_type: int,
        data: bytes,
    ) -> None:
        if direction != "read" or content_type != _HANDSHAKE_RECORD:
            return
        if message_type == _REQUEST:
            self.asked = True
        elif message_type == _CERTIFICATE:
            self.chain = tuple(certificates_in(data))
        elif message_type == _TICKET and self.on_accepted is not None:
            self.on_accepted()


def certificates_in(message: bytes) -> Iterator[bytes]:
    """Yield the certificates in a Certificate message of a handshake (RFC 5246 and 8446)."""
    at = 4 + 3  # skip the message header and the length of the list, which is the rest
    # The connection does not know its version during the handshake. In TLS 1.3 a context, empty in
    # a server's message, precedes the list, and extensions follow each certificate.
    is_tls13 = int.from_bytes(message[4:7]) != len(message) - 7
    at += is_tls13
    while at + 3 <= len(message):
        end = at + 3 + int.from_bytes(message[at : at + 3])
        yield message[at + 3 : end]
        at = end
        if is_tls13:
            at += 2 + int.from_bytes(message[at : at + 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The result of probing a server without logging in."""

    info: ServerInfo | None
    """INFO, in plaintext or inside TLS."""
    tls: TLSInfo | None
    """Set if the handshake succeeded, even if something failed after it."""
    chain: Sequence[CertificateInfo]
    """The server's certificates as it sent them, trusted or not, its own first."""
    leaf: bytes | None
    """The server's own certificate, in DER."""
    asked: bool | None
    """Whether the server asked for a client certificate; ``None`` if that could not be observed."""
    phase: ConnectPhase
    error: Exception | None
    """Why the attempt failed; ``None`` if CONNECT would have been next."""


async def probe(
    server: Server,
    settings: ConnectorSettings,
    *,
    only_tls: bool = False,
    info_timeout: float = math.inf,
) -> ProbeResult:
    """Open a connection to ``server`` up to CONNECT, then close it.

    Errors are returned in the result. Ignores credentials in ``settings`` and ``server``. Takes at
    most ``connect_timeout``. If cancelled, the connection is closed.

    :param only_tls: stop after the handshake, without waiting for INFO inside TLS.
    :param info_timeout: maximum number of seconds to wait for INFO.
    """
    nobody = replace(server, user=None, password=None, token=None)
    connector = _Probe(nobody, replace(settings, auth=None), _Nobody(), ConnectHistory())
    connector.only_tls, connector.info_timeout = only_tls, info_timeout
    connection: ServerConnection | None = None
    error: Exception | None = None
    try:
        connection = await lead(connector, nobody, settings)
        await trio.aclose_forcefully(connection.stream)
    except AttemptFailed as failed:
        error = failed.attempt.error
    witness = connector.witness
    return ProbeResult(
        info=connection.info if connection is not None else connector.plain_info,
        tls=connector.tls_info,
        chain=tuple(certificate_info(der) for der in witness.chain),
        leaf=witness.chain[0] if witness.chain else None,
        asked=witness.asked if witness.watching else None,
        phase=connector.phase,
        error=error,
    )


class _Nobody:
    """A publisher that is never used, because no messages arrive before a login."""

    async def publish(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None:
        raise NotImplementedError

    async def _checkpoint(self) -> None:
        raise NotImplementedError


class _Probe(Connector):
    """An attempt to connect that ends before the login."""

    def __init__(
        self, server: Server, settings: ConnectorSettings, origin: Publisher, memory: ConnectHistory
    ) -> None:
        super().__init__(server, settings, origin, memory)
        self.witness = HandshakeObserver()
        self.only_tls = False
        self.info_timeout = math.inf

    @property
    def _doctor_hint(self) -> str:
        return ""  # this is the doctor

    async def _load_material(self) -> ClientTLS:
        material = await super()._load_material()
        self.witness.watch(material.context)
        return material

    async def _read_info(self, stream: trio.abc.Stream) -> tuple[ServerInfo, bytes]:
        if self.only_tls and self.tls_info is not None:
            return ServerInfo(), b""
        with trio.move_on_after(self.info_timeout):
            return await super()._read_info(stream)
        raise NoInfoError(f"no INFO within {self.info_timeout:g} s{self._hint(silent=True)}")

    async def _log_in(
        self, stream: trio.abc.Stream, info: ServerInfo, rest: bytes, answer: Answer
    ) -> ServerConnection:
        tls = self.tls_info
        is_unsettled = tls is not None and tls.version == "TLSv1.3" and not self._heard_inside
        if is_unsettled and self.witness.asked:
            await self._await_verdict(stream)
        parser = Parser(self._settings.limits, self._origin)
        early: list[Event] = []
        return ServerConnection(self._server, stream, parser, early, info, self.tls_info)

    async def _await_verdict(self, stream: trio.abc.Stream) -> None:
        """Wait until the server has accepted or refused our certificate.

        Under TLS 1.3 a server checks the client certificate after the handshake. It sends a session
        ticket if it accepts the certificate and ends the connection if not. A server without
        tickets sends nothing if it accepts.
        """
        with trio.move_on_after(VERDICT_TIMEOUT) as scope:
            self.witness.on_accepted = scope.cancel
            try:
                data = await stream.receive_some()
            except trio.BrokenResourceError as error:
                raise self._explained(error) from error
            if not data:
                raise self._closed_early()
