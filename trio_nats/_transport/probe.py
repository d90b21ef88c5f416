"""Probe a server with an attempt to connect that ends before CONNECT.

A probe runs the code of a real attempt, so it finds the same problems. It never loads credentials,
so it cannot send any. A client certificate is presented as in a real attempt: during the handshake,
to a server whose certificate was accepted.
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
from ..message import Responder
from ..server_info import ServerInfo
from ..servers import Server
from .connector import (
    AttemptFailed,
    ConnectHistory,
    Connector,
    ConnectorSettings,
    ServerConnection,
    run_connector,
)
from .ssl_context import ClientTLS
from .tls_info import CertificateInfo, TLSInfo, certificate_info

__all__ = ["HandshakeObserver", "ProbeResult", "probe"]

# A debugging hook of CPython's ssl module. There is no other way to see whether a server requests a
# client certificate, or the contents of a certificate that is refused. Without the hook, the result
# has less detail.
_HOOK = "_msg_callback"
_TICKET, _CERTIFICATE, _REQUEST = 4, 11, 13
_HANDSHAKE_RECORD = 22

CERTIFICATE_CHECK_TIMEOUT = 1.0
"""Seconds to wait after a handshake for the server to refuse the client certificate."""


@dataclass(slots=True, eq=False)
class HandshakeObserver:
    """Records the server's messages in a handshake, whether it succeeds or not."""

    watching: bool = False
    """Whether this Python can observe handshakes."""
    asked: bool = False
    """Whether the server requested a client certificate."""
    chain: tuple[bytes, ...] = ()
    """The server's certificates as it sent them, in DER, its own first."""
    on_accepted: Callable[[], object] | None = None
    """Called when the server sends a session ticket, which means that it accepts the client."""

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
    position = 4 + 3  # behind the message header and the length of the list
    # During the handshake the version is not available yet. In TLS 1.3 a context, which is empty in
    # a server's message, precedes the list, so the length is elsewhere. Extensions follow each
    # certificate.
    is_tls13 = int.from_bytes(message[4:7]) != len(message) - 7
    position += is_tls13
    while position + 3 <= len(message):
        end = position + 3 + int.from_bytes(message[position : position + 3])
        yield message[position + 3 : end]
        position = end
        if is_tls13:
            position += 2 + int.from_bytes(message[position : position + 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The result of probing a server without logging in."""

    info: ServerInfo | None
    """INFO, received in plaintext or inside TLS, or ``None``."""
    tls: TLSInfo | None
    """Set if the handshake succeeded, even if the attempt failed later."""
    chain: Sequence[CertificateInfo]
    """The server's certificates as it sent them, trusted or not, its own first."""
    leaf: bytes | None
    """The server's own certificate, in DER."""
    asked: bool | None
    """Whether the server requested a client certificate, or ``None`` if that is not known."""
    phase: ConnectPhase
    error: Exception | None
    """Why the attempt failed, or ``None`` if CONNECT would have been next."""


async def probe(
    server: Server,
    settings: ConnectorSettings,
    *,
    only_tls: bool = False,
    info_timeout: float = math.inf,
) -> ProbeResult:
    """Open a connection to a server up to CONNECT, then close it.

    Errors are returned in the result. Credentials in ``settings`` and ``server`` are ignored. Takes
    at most ``connect_timeout``. If cancelled, the connection is closed.

    :param only_tls: stop after the handshake, without waiting for INFO inside TLS.
    :param info_timeout: maximum number of seconds to wait for INFO.
    """
    anonymous = replace(server, user=None, password=None, token=None)
    connector = _Probe(anonymous, replace(settings, auth=None), _NoResponder(), ConnectHistory())
    connector.only_tls, connector.info_timeout = only_tls, info_timeout
    connection: ServerConnection | None = None
    error: Exception | None = None
    try:
        connection = await run_connector(connector, anonymous, settings)
        await trio.aclose_forcefully(connection.stream)
    except AttemptFailed as failed:
        error = failed.attempt.error
    observer = connector.observer
    return ProbeResult(
        info=connection.info if connection is not None else connector.plain_info,
        tls=connector.tls_info,
        chain=tuple(certificate_info(der) for der in observer.chain),
        leaf=observer.chain[0] if observer.chain else None,
        asked=observer.asked if observer.watching else None,
        phase=connector.phase,
        error=error,
    )


class _NoResponder:
    """A connection that is never responded through, because no messages arrive before CONNECT."""

    async def _respond(self, reply: bytes, payload: Payload, headers: HeadersLike | None) -> None:
        raise NotImplementedError

    async def _checkpoint(self) -> None:
        raise NotImplementedError


class _Probe(Connector):
    """An attempt that ends before CONNECT."""

    def __init__(
        self,
        server: Server,
        settings: ConnectorSettings,
        origin: Responder,
        history: ConnectHistory,
    ) -> None:
        super().__init__(server, settings, origin, history)
        self.observer = HandshakeObserver()
        self.only_tls = False
        self.info_timeout = math.inf

    @property
    def _doctor_hint(self) -> str:
        return ""  # this is the doctor

    async def _load_client_tls(self) -> ClientTLS:
        material = await super()._load_client_tls()
        self.observer.watch(material.context)
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
        is_tls13 = tls is not None and tls.version == "TLSv1.3"
        if is_tls13 and not self._received_inside_tls and self.observer.asked:
            await self._await_certificate_check(stream)
        parser = Parser(self._settings.limits, self._origin)
        early: list[Event] = []
        return ServerConnection(self._server, stream, parser, early, info, self.tls_info)

    async def _await_certificate_check(self, stream: trio.abc.Stream) -> None:
        """Wait until the server has accepted or refused the client certificate.

        Under TLS 1.3 a server checks the client certificate after the handshake. It then sends a
        session ticket or, if it refuses, ends the connection. A server without session tickets
        sends nothing if it accepts.
        """
        with trio.move_on_after(CERTIFICATE_CHECK_TIMEOUT) as scope:
            self.observer.on_accepted = scope.cancel
            try:
                data = await stream.receive_some()
            except trio.BrokenResourceError as error:
                raise self._explain(error) from error
            if not data:
                raise self._closed_early()
