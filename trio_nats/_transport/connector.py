"""One attempt to connect to a server, within one deadline.

Theory of operation. An attempt resolves the name, connects over TCP, reads INFO, adds TLS (before
or after INFO, see :mod:`.tls_policy`) or WebSocket, and sends CONNECT and two PINGs. The first PONG
says that the server has accepted the credentials. What precedes the second one includes the limits
of the account. The attempt either returns a :class:`ServerConnection` or raises
:exc:`AttemptFailed`. If it fails or is cancelled, it leaves no socket open.

INFO that arrives in plaintext ahead of TLS may have been written by anyone on the network path. It
is therefore kept apart, as ``unverified_info``, until an INFO arrives inside TLS.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from .._protocol import commands
from .._protocol.parser import ErrorLine, Event, Parser, Signal
from .._protocol.server_errors import is_too_long, server_error
from ..auth import Answer, AuthLike, prepare_auth
from ..errors import (
    AuthorizationError,
    ConnectAttempt,
    ConnectPhase,
    ConnectTimeoutError,
    CredentialsError,
    NatsError,
    NoInfoError,
    PlaintextAuthError,
    ProtocolError,
    ServerClosedError,
    ServerReportedError,
    TLSConfigurationError,
)
from ..message import Responder
from ..options import (
    PlaintextAuth,
    ProtocolLimits,
    SecretHeaders,
    TLSMode,
    TLSOptions,
    WebSocketOptions,
)
from ..server_info import ServerInfo
from ..servers import Server, is_loopback
from .dial import AddressHistory, DialError, Peer, dial, peer_address, peer_of
from .ssl_context import ClientTLS, load_client_tls
from .tcp import TCPStream
from .tls_errors import (
    Handshake,
    explain_alert,
    explain_closing,
    explain_failed_handshake,
    reason_of,
)
from .tls_handshake import LeadingInfoStream, injected, read_info, start_tls
from .tls_info import CertificateNames, TLSInfo, describe
from .tls_policy import (
    TLSPlan,
    effective_mode,
    plan_tls,
    should_upgrade_to_tls,
    tls_requirement_reason,
)

if TYPE_CHECKING:
    from .websocket import WebSocketStream

__all__ = ["AttemptFailed", "ConnectHistory", "ConnectorSettings", "ServerConnection"]
__all__ += ["connect_fault", "open_server_connection", "run_connector"]

logger = logging.getLogger("trio_nats.connect")

_READ = 64 * 1024
_MAX_EARLY = 1000
"""Maximum number of events between the first two PONGs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorSettings:
    """The options that are the same for all servers."""

    tls: TLSOptions
    auth: AuthLike | None
    name: str | None
    echo: bool
    connect_timeout: float
    plaintext_auth: PlaintextAuth
    limits: ProtocolLimits
    max_control_line: int = commands.MAX_CONTROL_LINE
    version: str
    """The version of this package, sent in CONNECT."""
    websocket: WebSocketOptions


@dataclass(slots=True, eq=False)
class ServerConnection:
    """A connection to one server that has accepted the credentials."""

    server: Server
    stream: trio.abc.Stream
    parser: Parser
    early: list[Event]
    """Events that arrived behind the second PONG, or must be handled with them."""
    info: ServerInfo
    """The server's INFO. Defaults, if INFO has only arrived in plaintext ahead of TLS."""
    tls: TLSInfo | None
    unverified_info: ServerInfo | None = None
    """INFO that arrived in plaintext ahead of TLS, until another one arrives inside TLS. Anyone on
    the network path may have written it."""
    peer: Peer | None = None
    """The server's IP address and port."""
    has_other_addresses: bool = False
    """Whether the server's host name has several addresses."""
    tcp: TCPStream | None = None
    """The TCP stream, which shows whether sending makes progress."""
    in_bytes: int = 0
    """Bytes of the NATS protocol read so far, including INFO in plaintext."""
    out_bytes: int = 0
    """Bytes of the NATS protocol written so far."""


@dataclass(slots=True)
class ConnectHistory:
    """State that a connection keeps from one attempt to the next."""

    was_tls: bool = False
    """Whether an earlier connection was encrypted. If so, plaintext is not accepted any more."""
    warned_of_plaintext: bool = False
    addresses: AddressHistory = field(default_factory=lambda: AddressHistory(randomize=False))


class AttemptFailed(Exception):
    """An attempt failed with ``attempt.error``. Internal: users never see this exception."""

    def __init__(self, attempt: ConnectAttempt) -> None:
        super().__init__(str(attempt))
        self.attempt = attempt
        self.another_address = False
        """Whether the server has another address, which has not failed since the last
        connection."""


async def open_server_connection(
    server: Server, settings: ConnectorSettings, origin: Responder, history: ConnectHistory
) -> ServerConnection:
    """Connect to a server.

    :param origin: the connection that received messages respond through.
    :param history: updated with the result.
    :raises AttemptFailed: if any step fails.
    """
    connector = Connector(server, settings, origin, history)
    try:
        connection = await run_connector(connector, server, settings)
    except AttemptFailed as failed:
        if connector.peer is not None:
            failed.another_address = history.addresses.failed(server, connector.peer)
        raise
    connection.peer, connection.has_other_addresses = (
        connector.peer,
        history.addresses.has_others(server),
    )
    history.addresses.clear()
    return connection


async def run_connector(
    connector: Connector, server: Server, settings: ConnectorSettings
) -> ServerConnection:
    """Run a connector within ``connect_timeout``.

    :raises AttemptFailed: for every failure.
    """
    try:
        with trio.fail_after(settings.connect_timeout):
            return await connector.run()
    except (NatsError, DialError) as raised:  # first, because some are a TooSlowError, too
        error: Exception = raised
    except trio.TooSlowError:
        error = connector.too_slow()
    except trio.BrokenResourceError as raised:
        error = ServerClosedError(f"the connection to {server} broke: {reason_of(raised)}")
    except Exception as raised:
        logger.exception("unexpected error while connecting to %s", server)
        error = raised
    logger.debug("%s: %s: %s", server, connector.phase, str(error))
    attempt = ConnectAttempt(server.url, connector.phase, error, connector.address)
    raise AttemptFailed(attempt) from error


class Connector:
    """One attempt. Its attributes record its progress, from which errors are explained."""

    def __init__(
        self,
        server: Server,
        settings: ConnectorSettings,
        origin: Responder,
        history: ConnectHistory,
    ) -> None:
        self._server = server
        self._origin = origin
        self._settings = settings
        tls = settings.tls
        policy = (server.scheme, tls.mode, tls.has_material, history.was_tls)
        self._mode = effective_mode(*policy)
        self._tls_reason = tls_requirement_reason(*policy)
        self._history = history
        self._client_tls: ClientTLS | None = None
        self._loading = False
        self.plain_info: ServerInfo | None = None
        self.tls_info: TLSInfo | None = None
        self._presented_names: CertificateNames | None = None
        self._received_inside_tls = False
        self._credentials_ready = False
        self._headers: SecretHeaders | None = None
        self._websocket: WebSocketStream | None = None
        self._tcp: TCPStream | None = None
        self._info_bytes = 0
        self.phase: ConnectPhase = "tls"
        self.peer: Peer | None = None

    @property
    def address(self) -> str | None:
        """The address that was used, if the server's host name has several."""
        if self.peer is None or not self._history.addresses.has_others(self._server):
            return None
        host, port = self.peer
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def run(self) -> ServerConnection:
        tls = self._settings.tls
        plan = plan_tls(
            self._server.scheme,
            tls.mode,
            has_material=tls.has_material,
            sticky=self._history.was_tls,
        )
        self.phase = "auth"
        answer = await prepare_auth(self._settings.auth, self._server)
        if plan is TLSPlan.BY_SCHEME:
            # Imported here and below, because it needs an extra and takes time.
            from .websocket_handshake import load_headers

            self.phase = "websocket"
            self._headers = await load_headers(self._settings.websocket, self._server)
        self.phase = "tls"
        if self._will_encrypt(plan) or (tls.has_material and plan is TLSPlan.IF_OFFERED):
            # Before dialling, so that a certificate that cannot be loaded is reported early.
            self._client_tls = await self._load_client_tls()
        stream = await self._dial()
        try:
            return await self._establish(stream, plan, answer)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    def _will_encrypt(self, plan: TLSPlan) -> bool:
        return plan.promises_tls or self._server.scheme == "wss"

    async def _load_client_tls(self) -> ClientTLS:
        self._loading = True
        try:
            material = await load_client_tls(self._settings.tls)
            self._loading = False
            return material
        except NatsError:
            raise
        except Exception as error:
            raise TLSConfigurationError(
                f"creating the TLS context failed: {type(error).__name__}: {error}"
            ) from error

    async def _dial(self) -> TCPStream:
        self.phase = "dial"
        try:
            stream = await dial(self._server, self._history.addresses)
            self.peer = peer_of(stream)
            self._tcp = TCPStream(stream)
            return self._tcp
        except DialError as error:
            if error.resolving:
                self.phase = "resolve"
            raise

    async def _establish(self, raw: TCPStream, plan: TLSPlan, answer: Answer) -> ServerConnection:
        """Turn a TCP connection into a NATS connection."""
        stream: trio.abc.Stream = raw
        if plan is TLSPlan.BY_SCHEME:
            stream = await self._open_websocket(raw)
            info, rest = await self._read_info(stream)
        elif plan.promises_tls:
            stream = await self._handshake(raw)
            if self.plain_info is None:
                info, rest = await self._read_info(stream)
            else:
                info, rest = self.plain_info, b""
        else:
            info, rest = await self._read_info(raw)
            self.phase = "tls"
            if should_upgrade_to_tls(plan, info, self._server):
                if rest:
                    raise injected(self._server.url, rest)
                self.plain_info = info
                stream, rest = await self._handshake(raw), b""
        self.phase = "auth"
        if self.tls_info is None and self._server.userinfo_needs_tls and not self._settings.auth:
            raise PlaintextAuthError(
                f"the credentials of a {'wss' if self._server.is_websocket else 'tls'}:// URL must "
                f"not be sent to {self._server} in plaintext; nothing was sent. Give it "
                "credentials of its own, or use TLS for all servers"
            )
        if self.tls_info is None and answer.replayable:
            self._check_plaintext_secret(answer.method, raw)
        return await self._log_in(stream, info, rest, answer)

    async def _handshake(self, raw: trio.abc.Stream) -> trio.abc.Stream:
        self.phase = "tls"
        material = self._client_tls or await self._load_client_tls()
        leading = LeadingInfoStream(
            raw,
            server=self._server.url,
            mode=self._mode,
            tls_reason=self._tls_reason,
            limit=self._settings.limits.info,
            info=self.plain_info,
        )
        try:
            stream, issuers = await start_tls(
                leading, material.context, self._name_to_verify(), self._record_names
            )
        except trio.BrokenResourceError as error:
            self.plain_info = leading.info
            raise explain_failed_handshake(error, self._handshake_facts()) from error
        self.plain_info = leading.info
        self._info_bytes += leading.info_size
        self.tls_info = describe(
            stream, issuers, material.expires, info_inside_tls=leading.info is None
        )
        return stream

    def _name_to_verify(self) -> str:
        server = self._server
        name = self._settings.tls.server_hostname or server.tls_name
        # The trailing dot of a fully qualified name is for the resolver; certificates omit it.
        return (name or server.host.partition("%")[0]).removesuffix(".")

    async def _open_websocket(self, raw: TCPStream) -> trio.abc.Stream:
        """Open a WebSocket, over TLS if the scheme is ``wss``."""
        from .websocket_handshake import may_carry_secrets, upgrade

        assert self._headers is not None
        stream: trio.abc.Stream = raw
        if self._server.scheme == "wss":
            stream = await self._handshake_below_http(raw)
        elif may_carry_secrets(self._headers):
            self.phase = "websocket"
            self._check_plaintext_secret("the headers in WebSocketOptions", raw)
        self.phase = "websocket"
        try:
            self._websocket = await upgrade(
                stream,
                self._server,
                self._headers,
                compression=self._settings.websocket.compression,
                user_agent=f"trio-nats/{self._settings.version}",
            )
        except trio.BrokenResourceError as error:
            raise self._explain(error) from error
        self._received_inside_tls = self.tls_info is not None
        return self._websocket

    async def _handshake_below_http(self, raw: TCPStream) -> trio.abc.Stream:
        from .websocket_handshake import RecordingStream, not_tls

        self.phase = "tls"
        assert self._client_tls is not None
        below = RecordingStream(raw)
        context = self._client_tls.context
        try:
            stream, issuers = await start_tls(
                below, context, self._name_to_verify(), self._record_names
            )
        except trio.BrokenResourceError as error:
            wrong = not_tls(error, below.beginning, self._server)
            raise wrong or explain_failed_handshake(error, self._handshake_facts()) from error
        self.tls_info = describe(stream, issuers, self._client_tls.expires, info_inside_tls=True)
        return stream

    def _handshake_facts(self) -> Handshake:
        tls = self._settings.tls
        certificate = tls.cert_file or tls.bundle_file or tls.context
        return Handshake(
            self._server.url,
            self._mode,
            certificate is not None,
            self.plain_info,
            self._presented_names,
        )

    def _record_names(self, names: CertificateNames | None) -> None:
        self._presented_names = names

    async def _read_info(self, stream: trio.abc.Stream) -> tuple[ServerInfo, bytes]:
        self.phase = "info"
        try:
            info, rest, size = await read_info(stream, self._settings.limits.info)
            self._info_bytes += size
            self._received_inside_tls = self.tls_info is not None
            return info, rest
        except NoInfoError as error:
            if error.closed and self.tls_info is not None:
                raise explain_closing(self._handshake_facts()) from error
            raise NoInfoError(
                f"{error}{self._hint(silent=error.closed)}", closed=error.closed
            ) from None
        except trio.BrokenResourceError as error:
            raise self._explain(error) from error

    def _hint(self, *, silent: bool) -> str:
        hint = ". Is this the port of a NATS server?"
        waits_for_info = self._mode in (TLSMode.PREFER, TLSMode.DISABLE)
        in_plaintext = self.tls_info is None and not self._server.is_websocket
        if silent and in_plaintext and waits_for_info:
            asked = self._settings.tls.mode
            acts_as = "" if asked is self._mode else f", which acts as {self._mode} here,"
            hint += (
                f" TLS mode {asked}{acts_as} waits for INFO in plaintext; if the server or a proxy "
                "in front of it expects the TLS handshake first, use REQUIRE or IMPLICIT."
            )
        return hint + self._doctor_hint

    @property
    def _doctor_hint(self) -> str:
        return f" To find out what listens there, run: trio-nats doctor {self._server}"

    def _explain(self, error: trio.BrokenResourceError) -> NatsError:
        explained: NatsError | None = None
        if isinstance(error.__cause__, ssl.SSLError):
            explained = explain_alert(error.__cause__, self._handshake_facts())
        elif self.tls_info is not None and not self._received_inside_tls:
            # A reset right after the handshake has the same causes as an end of file.
            explained = explain_closing(self._handshake_facts())
        return explained or ServerClosedError(
            f"the connection to {self._server} broke: {reason_of(error)}"
        )

    def _check_plaintext_secret(self, secret: str, raw: TCPStream) -> None:
        policy = self._settings.plaintext_auth
        if policy == "allow" or is_loopback(peer_address(raw.stream)):
            return
        text = (
            f"{secret} for {self._server} would be sent over the network in plaintext, where "
            "anyone listening can read and reuse it"
        )
        if policy == "refuse":
            raise PlaintextAuthError(
                f'{text}; nothing was sent. Use TLS, or plaintext_auth="allow" if you accept that'
            )
        if not self._history.warned_of_plaintext:
            self._history.warned_of_plaintext = True
            logger.warning('%s. Use TLS, or plaintext_auth="allow" if you accept that', text)

    async def _log_in(
        self, stream: trio.abc.Stream, info: ServerInfo, rest: bytes, answer: Answer
    ) -> ServerConnection:
        parser = Parser(self._settings.limits, self._origin)
        # A PONG that arrived before our PING does not answer it.
        early: list[Event] = [event for event in parser.feed(rest) if event is not Signal.PONG]
        connection = ServerConnection(
            self._server, stream, parser, early, info, self.tls_info, tcp=self._tcp
        )
        connection.in_bytes = self._info_bytes + len(rest)
        if self.plain_info is not None:
            # A server without headers refuses a CONNECT with no_responders, so this is safe.
            connection.info, connection.unverified_info = ServerInfo(headers=info.headers), info
        if self._websocket is not None:
            self._websocket.max_payload = lambda: connection.info.max_payload
        try:
            # Only as a memoryview, whose repr shows no contents: error reporters print variables.
            line, fault = await self._connect_line(info, answer)
            if fault is not None:
                raise CredentialsError(fault)
            await stream.send_all(line)
            connection.out_bytes += len(line)
            while not await self._handle_until_pong(connection, answer):
                connection.early = await self._read_events(connection)
            await self._await_second_pong(connection)
        except trio.BrokenResourceError as error:
            raise self._explain(error) from error
        self._history.was_tls = self._history.was_tls or self.tls_info is not None
        return connection

    async def _await_second_pong(self, connection: ServerConnection) -> None:
        """Wait for the PONG to our second PING, and handle the INFO that precedes it.

        After its first PONG, a server may send an INFO with the limits of the account, such as
        ``max_payload``. If the first INFO arrived in plaintext, this is the first one that can be
        trusted. nats-server 2.12 and later always send it.
        """
        events, connection.early = connection.early, []
        while True:
            for position, event in enumerate(events):
                if event is Signal.PONG:
                    connection.early += events[position + 1 :]
                    return
                if isinstance(event, ServerInfo):
                    connection.info, connection.unverified_info = event, None
                elif isinstance(event, ProtocolError):
                    raise event
                elif isinstance(event, (Signal, ErrorLine)):
                    connection.early.append(event)
                # Messages are ignored, because there are no subscriptions yet.
            if len(connection.early) > _MAX_EARLY:
                raise ProtocolError(
                    f"{self._server} sent more than {_MAX_EARLY} lines without answering a PING"
                )
            events = await self._read_events(connection)

    async def _read_events(self, connection: ServerConnection) -> list[Event]:
        data = await connection.stream.receive_some(_READ)
        if not data:
            raise self._closed_early()
        self._received_inside_tls = self.tls_info is not None
        connection.in_bytes += len(data)
        return connection.parser.feed(bytes(data))

    async def _connect_line(
        self, info: ServerInfo, answer: Answer
    ) -> tuple[memoryview, str | None]:
        """Return CONNECT and two PINGs, and an error text if CONNECT is too long.

        The text is returned rather than raised, because a traceback would show CONNECT.
        """
        fields = await self._connect_fields(info, answer)
        fault = commands.connect_fault(fields, self._settings.max_control_line)
        return memoryview(commands.connect(fields) + commands.PING * 2), fault

    async def _connect_fields(
        self, info: ServerInfo, answer: Answer
    ) -> dict[str, str | int | bool]:
        self._check_info(info, answer)
        fields = _own_fields(self._settings, tls=self.tls_info is not None, headers=info.headers)
        credentials = await answer.connect_fields(info.nonce)
        self._credentials_ready = True
        return fields | credentials

    def _check_info(self, info: ServerInfo, answer: Answer) -> None:
        """Refuse an INFO that would make us log in as another user, or without headers."""
        is_plain = self.tls_info is None or self.plain_info is not None
        if answer.must_sign and not info.nonce:
            tampered = ", or someone on the network path removed it" if is_plain else ""
            raise CredentialsError(
                f"{self._server} sent no usable nonce in its "
                f"{'plaintext ' if is_plain else ''}INFO, so {answer.method} has nothing to sign "
                f"and cannot be used. The server accepts no keys{tampered}. If the server needs "
                "no credentials, leave auth out"
            )
        if is_plain and not info.headers and (self.tls_info or answer.method != "none"):
            raise ProtocolError(
                f"{self._server} claims in plaintext that it does not support message headers. "
                "Someone on the network path may have written that, so nothing was sent. Enable "
                "headers on the server, or let it send INFO inside TLS (handshake_first) and use "
                "TLS mode IMPLICIT"
            )

    async def _handle_until_pong(self, connection: ServerConnection, answer: Answer) -> bool:
        """Handle events up to the first PONG, and leave the later ones in ``connection.early``.

        :returns: whether there was a PONG.
        """
        for position, event in enumerate(connection.early):
            if event is Signal.PONG:
                connection.early = connection.early[position + 1 :]
                return True
            if event is Signal.PING:
                await connection.stream.send_all(commands.PONG)
                connection.out_bytes += len(commands.PONG)
            elif isinstance(event, ServerInfo):
                connection.info, connection.unverified_info = event, None
            elif isinstance(event, ErrorLine):
                raise self._refusal(event.text, answer)
            elif isinstance(event, ProtocolError):
                raise event
        connection.early = []
        return False

    def _refusal(self, text: str, answer: Answer) -> NatsError:
        error = server_error(text)
        if isinstance(error, AuthorizationError):
            return type(error)(text, f"{error.explanation} ({answer.refusal_hint()})")
        if isinstance(error, ServerReportedError) and is_too_long(error):
            # The credentials or the name are too long, so every further attempt would be refused.
            return AuthorizationError(
                text, "CONNECT, with the name and credentials, is longer than its max_control_line"
            )
        return error

    def _closed_early(self) -> NatsError:
        if self.tls_info is not None and not self._received_inside_tls:
            return explain_closing(self._handshake_facts())
        return ServerClosedError(
            f"{self._server} closed the connection after CONNECT without giving a reason"
        )

    def too_slow(self) -> NatsError:
        within = f"within {self._settings.connect_timeout:g} s (connect_timeout)"
        if self.phase == "info":
            return NoInfoError(f"no INFO {within}{self._hint(silent=True)}")
        if self.phase == "auth" and not self._credentials_ready:
            return ConnectTimeoutError(f"the credentials were not ready {within}")
        if self._loading:
            return ConnectTimeoutError(f"the certificates and TLS options were not ready {within}")
        if self.phase == "websocket" and self._headers is None:
            return ConnectTimeoutError(f"the headers for the upgrade were not ready {within}")
        what = {
            "dial": "no TCP connection, name resolution included,",
            "tls": "the TLS handshake was not completed",
            "websocket": "no answer to the WebSocket upgrade",
            "auth": "no answer to CONNECT",
        }.get(self.phase, "not connected")
        return ConnectTimeoutError(f"{what} {within}")


def _own_fields(
    settings: ConnectorSettings, *, tls: bool, headers: bool
) -> dict[str, str | int | bool]:
    """Return the fields of CONNECT without the credentials."""
    fields: dict[str, str | int | bool] = {
        "verbose": False,
        "pedantic": False,
        "tls_required": tls,
        "lang": "python-trio",
        "version": settings.version,
        "protocol": 1,
        "echo": settings.echo,
        "headers": headers,
        "no_responders": headers,
    }
    if settings.name is not None:
        fields["name"] = settings.name
    return fields


def connect_fault(settings: ConnectorSettings, credentials: Mapping[str, str]) -> str | None:
    """Return why CONNECT is too long, as far as known before dialling, or ``None``."""
    fields = _own_fields(settings, tls=False, headers=False)
    return commands.connect_fault({**fields, **credentials}, settings.max_control_line)
