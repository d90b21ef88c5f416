"""``open_nats``: check the options, and run a connection for the duration of a block."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

import trio

from . import __version__
from ._async_with import NeedsAsyncWith
from ._constructors import construct
from ._core.settings import Settings, WhenOutboxFull
from ._core.supervisor import Supervisor
from ._nursery import open_nursery
from ._protocol.commands import MAX_CONTROL_LINE
from ._tracebacks import takes_secrets
from ._transport.connector import ConnectorSettings, connect_fault
from ._transport.tls_policy import check_servers
from .auth import Auth, AuthLike, is_callback, prepare
from .connection import Connection
from .contexts import DEFAULT_SERVER, ContextLike, load_context
from .errors import ConfigurationError, CredentialsError
from .options import (
    PendingLimits,
    PlaintextAuth,
    ProtocolLimits,
    ReconnectPolicy,
    TLSMode,
    TLSOptions,
    WebSocketOptions,
    check_choice,
    check_count,
    check_flag,
    check_instance,
    check_seconds,
)
from .servers import Server, parse_servers
from .subjects import check_inbox_length, check_inbox_prefix

__all__ = ["NotEntered", "open_nats"]

_logger = logging.getLogger("trio_nats.tls")

_SIGNATURE = 86
"""Length of a signature of the nonce, in characters."""
_HINTS = {
    "tls": "; to demand TLS, use a tls:// URL or TLSOptions(mode=TLSMode.REQUIRE)",
    "reconnect": "; to give up when the connection is lost, use ReconnectPolicy(max_attempts=0)",
}
"""Hints for a bool that is passed in place of an option group."""

_T = TypeVar("_T")
_C = TypeVar("_C")


@takes_secrets
def open_nats(
    servers: str | Sequence[str] | None = None,
    *,
    tls: TLSOptions | None = None,
    auth: AuthLike | None = None,
    context: ContextLike | None = None,
    name: str | None = None,
    connect_timeout: float = 5.0,
    randomize: bool = True,
    ignore_discovered: bool = False,
    reconnect: ReconnectPolicy | None = None,
    pending_limits: PendingLimits | None = None,
    outbox_size: int = 8 * 1024 * 1024,
    when_outbox_full: WhenOutboxFull = "wait",
    ping_interval: float | None = None,
    max_pings_out: int = 2,
    inbox_prefix: str | None = None,
    echo: bool = True,
    request_timeout: float = 5.0,
    close_timeout: float = 5.0,
    plaintext_auth: PlaintextAuth = "warn",
    limits: ProtocolLimits | None = None,
    max_control_line: int = MAX_CONTROL_LINE,
    websocket: WebSocketOptions | None = None,
) -> AbstractAsyncContextManager[Connection]:
    """Connect to NATS, for the duration of an ``async with`` block.

    ``async with open_nats("nats://localhost:4222") as nc:`` gives a :class:`Connection`. Everything
    that the connection starts ends with the block. Leaving the block normally closes the connection
    in an orderly way, see :meth:`Connection.aclose`. Leaving it by an exception closes it at once,
    and the exception propagates unchanged. If cancelled while connecting, nothing stays open.

    :param servers: one URL, a comma-separated list, or a sequence of either: ``nats://``,
        ``tls://`` or just ``host:port``, with port 4222 by default; or ``ws://`` and ``wss://``,
        with ports 80 and 443, which need the ``ws`` extra. ``user:password@`` or ``token@``,
        percent-encoded, may precede the host. Default: the environment variable ``NATS_URL``, else
        ``nats://localhost:4222``. All servers are tried before giving up.
    :param tls: encryption, see :class:`TLSOptions`. By default the connection is encrypted if the
        server offers it; a ``tls://`` URL requires it.
    :param auth: :class:`UserPassword`, :class:`Token`, :class:`NKey`, :class:`JWT`,
        :class:`Credentials`, :class:`Combined`, or a callable, synchronous or not, that is called
        with the :class:`Server` at every attempt to connect and returns one of these. Takes
        precedence over credentials in the URL.
    :param context: a context of the ``nats`` command line: its name, the absolute path of its file,
        or a :class:`Context`. It is read at the call, and provides ``servers``, ``tls``, ``auth``
        and ``inbox_prefix`` unless they are given here, and the domain and prefixes for
        :meth:`Connection.jetstream`.
    :param name: a name for the connection, shown by the server's monitoring.
    :param connect_timeout: seconds for one attempt on one address of a server, from name resolution
        to the server's answer to the credentials. Default: 5.
    :param randomize: try the servers, and the addresses of a host name, in random order, to spread
        clients. Default: true.
    :param ignore_discovered: use only ``servers``, and not the members of the cluster that servers
        announce. Default: false.
    :param reconnect: when and how often to reconnect, see :class:`ReconnectPolicy`.
    :param pending_limits: how much may wait in each subscription, see :class:`PendingLimits`.
    :param outbox_size: bytes of published messages that may wait to be sent. Default: 8 MiB.
    :param when_outbox_full: whether ``publish`` waits at that limit (``"wait"``, the default) or
        raises :exc:`OutboxFullError` (``"raise"``).
    :param ping_interval: seconds between PINGs, which detect dead connections and keep proxies from
        closing idle ones. Default: 120; 25 over ``ws://`` and ``wss://``, because proxies commonly
        close after 60 seconds.
    :param max_pings_out: number of unanswered PINGs after which the connection counts as dead.
        Default: 2.
    :param inbox_prefix: prefix of reply subjects. The connection needs the permission to subscribe
        below it. Default: ``_INBOX``.
    :param echo: whether subscriptions receive messages that this connection publishes itself.
        Default: true.
    :param request_timeout: seconds that a request waits for a reply, unless it has its own timeout.
        Default: 5.
    :param close_timeout: seconds that closing the connection in an orderly way may take. Default:
        5.
    :param plaintext_auth: what to do before a password, token or bearer JWT crosses the network
        unencrypted: ``"warn"`` in the log (the default), ``"refuse"``, or ``"allow"``.
    :param limits: maximum sizes to accept from a server, see :class:`ProtocolLimits`.
    :param max_control_line: maximum length in bytes of a line of the protocol, as configured on the
        server, which closes the connection if a line is longer. Subjects, queue groups, the name
        and credentials that would exceed it are refused at the call. Default: 4096.
    :param websocket: headers and compression for ``ws://`` and ``wss://`` servers, see
        :class:`WebSocketOptions`.
    :returns: a context manager that gives the connection.
    :raises ConfigurationError: at the call, if an option is invalid or the context does not exist.
    :raises InvalidSubjectError: at the call, if ``inbox_prefix`` is not allowed.
    :raises CredentialsError: on entering, if ``auth`` cannot be used.
    :raises ConnectError: on entering, if no server could be connected to; it has an entry for each
        attempt.
    """
    domain = prefix = event_prefix = None
    if context is not None:
        found = load_context(context)
        domain, prefix = found.jetstream_domain or None, found.jetstream_api_prefix or None
        event_prefix = found.jetstream_event_prefix or None
        found.check_supported()
        servers = found.servers if servers is None else servers
        tls = found.tls() if tls is None else tls
        auth = found.auth() if auth is None else auth
        inbox_prefix = (found.inbox_prefix or None) if inbox_prefix is None else inbox_prefix
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if name is not None and not name.isprintable():
        raise ConfigurationError("name must contain printable characters only")
    for flag, value in {
        "randomize": randomize,
        "ignore_discovered": ignore_discovered,
        "echo": echo,
    }.items():
        check_flag(flag, value)
    if auth is not None and not is_callback(auth):
        check_instance("auth", auth, Auth, "an Auth such as UserPassword, or a callable")
    check_choice("plaintext_auth", plaintext_auth, ("warn", "refuse", "allow"))
    check_choice("when_outbox_full", when_outbox_full, ("wait", "raise"))
    tls = _given("tls", tls, TLSOptions)
    if tls.mode is TLSMode.DISABLE and tls.has_material:
        _logger.warning("TLS mode DISABLE: the certificates and other TLS options have no effect")
    parsed = parse_servers(_default_servers() if servers is None else servers)
    parsed = check_servers(parsed, tls)
    connector = ConnectorSettings(
        tls=tls,
        auth=auth,
        name=name,
        echo=echo,
        connect_timeout=check_seconds("connect_timeout", connect_timeout),
        plaintext_auth=plaintext_auth,
        limits=_given("limits", limits, ProtocolLimits),
        max_control_line=check_count("max_control_line", max_control_line, 512),
        version=__version__,
        websocket=_given("websocket", websocket, WebSocketOptions),
    )
    _check_connect_line(connector, parsed)
    inbox_prefix = check_inbox_prefix("_INBOX" if inbox_prefix is None else inbox_prefix)
    check_inbox_length(inbox_prefix, max_control_line)
    return _Open(
        Settings(
            servers=parsed,
            connector=connector,
            randomize=randomize,
            ignore_discovered=ignore_discovered,
            reconnect=_given("reconnect", reconnect, ReconnectPolicy),
            pending_limits=_given("pending_limits", pending_limits, PendingLimits),
            outbox_size=check_count("outbox_size", outbox_size, 1),
            when_outbox_full=when_outbox_full,
            ping_interval=(
                None if ping_interval is None else check_seconds("ping_interval", ping_interval)
            ),
            max_pings_out=check_count("max_pings_out", max_pings_out, 1),
            inbox_prefix=inbox_prefix,
            request_timeout=check_seconds("request_timeout", request_timeout),
            close_timeout=check_seconds("close_timeout", close_timeout, zero=True),
            jetstream_domain=domain,
            # As in jsm.go, the domain takes precedence.
            jetstream_prefix=prefix if domain is None else None,
            jetstream_event_prefix=event_prefix,
        )
    )


def _check_connect_line(connector: ConnectorSettings, servers: Sequence[Server]) -> None:
    """Raise if the name, or the credentials in a URL, are too long for the server."""
    for server in servers:
        fields = {"user": server.user, "pass": server.password, "auth_token": server.token}
        given = {name: text for name, text in fields.items() if text is not None}
        fault = connect_fault(connector, {} if connector.auth is not None else given)
        if fault is not None:
            raise ConfigurationError(fault)


def _default_servers() -> str:
    return os.environ.get("NATS_URL", "").strip() or DEFAULT_SERVER


def _given(name: str, value: _T | None, kind: Callable[[], _T]) -> _T:
    """Return an option group, or its default."""
    if value is None:
        return kind()
    hint = _HINTS.get(name, "") if isinstance(value, bool) else ""
    check_instance(name, value, cast("type[_T]", kind), hint=hint)
    return value


class NotEntered(AbstractAsyncContextManager[_C], NeedsAsyncWith):
    """The return value of ``open_nats()``, which explains every wrong way of using it."""

    _async_with = "open_nats(...) as nc"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if hasattr(Connection, name):
                text = (
                    f"open_nats() must be entered before {name!r} can be used: "
                    f"'async with open_nats(...) as nc:', and then nc.{name}"
                )
            raise AttributeError(text, name=name, obj=self)


class _Open(NotEntered[Connection]):
    """The context manager around a connection and its nursery."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection | None = None

    def _make_core(self, connection: Connection) -> Supervisor:
        self._core = Supervisor(self._settings, connection)
        return self._core

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Connection:
        if not trio.lowlevel.in_trio_task():
            raise RuntimeError(
                "trio_nats.open_nats() must be entered in a task of Trio: run the program with "
                "trio.run(main). In asyncio, use trio_nats.anyio.open_nats() instead "
                "(pip install 'trio-nats[anyio]')"
            )
        if self._connection is not None:
            raise RuntimeError("open_nats() can be entered only once; call it again")
        self._connection = connection = construct(Connection, self._make_core)
        await self._check_credentials()
        self._manager = open_nursery(self._close)
        nursery = await self._manager.__aenter__()
        try:
            error = await nursery.start(self._core.run)
            if error is not None:
                raise error
        except BaseException as failure:
            await self._manager.__aexit__(type(failure), failure, failure.__traceback__)
            raise
        return connection

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._manager.__aexit__(exc_type, exc, traceback)

    async def _close(self, exc: BaseException | None) -> None:
        """Close the connection: in an orderly way, unless the block has raised an exception."""
        connection = self._connection
        assert connection is not None
        try:
            if exc is None:
                await connection.aclose()
        finally:
            self._core.stop()
            self._core.end(None)

    async def _check_credentials(self) -> None:
        """Check the credentials before dialling, so that mistakes are reported at once."""
        auth = self._settings.connector.auth
        if isinstance(auth, Auth):
            seconds = self._settings.connector.connect_timeout
            with trio.move_on_after(seconds) as scope:
                try:
                    answer = await prepare(auth)
                except CredentialsError as error:
                    # The file may appear later. Each attempt reads it again.
                    if error.unreadable and self._settings.reconnect.retry_on_initial_connect:
                        return
                    raise
                fields = await answer.connect_fields(None)
                if answer.sign is not None:
                    fields["sig"] = "-" * _SIGNATURE
                fault = connect_fault(self._settings.connector, fields)
                del answer, fields
                if fault is not None:
                    raise CredentialsError(fault)
            if scope.cancelled_caught:
                raise CredentialsError(
                    f"the credentials could not be read within {seconds:g} s (connect_timeout)"
                )
