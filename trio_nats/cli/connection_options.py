"""The connection options of all commands: the flags and variables of the ``nats`` command.

A command that connects is decorated with :func:`connects` and gets them as its first argument::

    @app.command()
    @connects
    def rtt(options: ConnectionOptions, count: int = 5) -> None: ...

You may also write them before the command's name. The command line takes precedence over the
environment, and the environment over the context.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypedDict

import trio
import typer

import trio_nats
from trio_nats import (
    Auth,
    ConfigurationError,
    Connection,
    ConnectionState,
    Context,
    TLSMode,
    TLSOptions,
    events,
    load_context,
    open_nats,
)
from trio_nats.contexts import selected_context
from trio_nats.servers import parse_servers

from .durations import parse_wait
from .runner import Program, note, plain_errors

__all__ = [
    "ConnectionOptions",
    "OpenArguments",
    "connected",
    "connects",
    "leave_if_lost",
    "named_context",
    "root_connects",
]

P = ParamSpec("P")

_PANEL = "Connection"
_SECRET = "TEXT"


class OpenArguments(TypedDict):
    """Keyword arguments of ``open_nats``."""

    servers: str | None
    tls: TLSOptions | None
    auth: Auth | None
    inbox_prefix: str | None
    name: str
    connect_timeout: float
    request_timeout: float


@dataclass(frozen=True)
class ConnectionOptions:
    """The options in effect, including those of the context. The ``repr`` shows no secrets."""

    servers: str | None = dataclasses.field(repr=False)
    """May contain passwords. ``None`` means the default of ``open_nats``."""
    auth: Auth | None
    tls: TLSOptions | None
    inbox_prefix: str | None
    name: str
    timeout: float
    """Maximum number of seconds to wait for a connection or a reply."""
    context: Context | None
    """The context in use, if any."""
    debug: bool

    def arguments(self) -> OpenArguments:
        """Return the keyword arguments for ``open_nats``."""
        return OpenArguments(
            servers=self.servers,
            tls=self.tls,
            auth=self.auth,
            inbox_prefix=self.inbox_prefix,
            name=self.name,
            connect_timeout=self.timeout,
            request_timeout=self.timeout,
        )


@asynccontextmanager
async def connected(
    program: Program, options: ConnectionOptions, **more: Any
) -> AsyncGenerator[Connection, None]:
    """Call ``open_nats`` with these options, and report events of the connection on stderr."""
    arguments: dict[str, Any] = {**options.arguments(), **more}
    async with open_nats(**arguments) as nc:
        await program.nursery.start(_report, nc)
        yield nc


async def leave_if_lost(program: Program, nc: Connection) -> None:
    """After a signal, end now if there is no connection, because waiting may take forever."""
    if program.signal is not None and nc.state is not ConnectionState.OPEN:
        program.body.cancel()
        await trio.lowlevel.checkpoint()


async def _report(
    nc: Connection, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with nc.events() as happening:
        task_status.started()
        async for event in happening:
            match event:
                case events.Disconnected(server, reason):
                    note(f"disconnected from {server}: {reason}", style="yellow")
                case events.Reconnected(server):
                    note(f"reconnected to {server}", style="green")
                case _:
                    pass  # Some of the other events are logged.


# --- flags ---------------------------------------------------------------------------------------


def _flag(*names: str, help: str, envvar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=help, envvar=envvar, rich_help_panel=_PANEL, **more)


def _options(
    server: Annotated[
        str | None,
        _flag(
            "--server", "-s", help="Server URLs, comma-separated.", envvar="NATS_URL", metavar="URL"
        ),
    ] = None,
    user: Annotated[
        str | None,
        _flag("--user", help="User name; without --password a token.", envvar="NATS_USER"),
    ] = None,
    password: Annotated[
        str | None, _flag("--password", help="Password.", envvar="NATS_PASSWORD", metavar=_SECRET)
    ] = None,
    token: Annotated[
        str | None, _flag("--token", help="Token.", envvar="NATS_TOKEN", metavar=_SECRET)
    ] = None,
    creds: Annotated[
        str | None, _flag("--creds", help="Credentials file.", envvar="NATS_CREDS", metavar="FILE")
    ] = None,
    nkey: Annotated[
        str | None,
        _flag("--nkey", help="File with an NKey seed.", envvar="NATS_NKEY", metavar="FILE"),
    ] = None,
    jwt: Annotated[
        str | None, _flag("--jwt", help="User JWT.", envvar="NATS_JWT", metavar=_SECRET)
    ] = None,
    seed: Annotated[
        str | None,
        _flag(
            "--seed",
            help="Seed of the key that --jwt was issued to.",
            envvar="NATS_SEED",
            metavar=_SECRET,
        ),
    ] = None,
    tlscert: Annotated[
        str | None,
        _flag("--tlscert", help="Client certificate.", envvar="NATS_CERT", metavar="FILE"),
    ] = None,
    tlskey: Annotated[
        str | None,
        _flag(
            "--tlskey",
            help="Private key of the client certificate.",
            envvar="NATS_KEY",
            metavar="FILE",
        ),
    ] = None,
    tlsca: Annotated[
        str | None,
        _flag(
            "--tlsca", help="Certificate authorities to trust.", envvar="NATS_CA", metavar="FILE"
        ),
    ] = None,
    tlsfirst: Annotated[
        bool,
        _flag(
            "--tlsfirst", "--tls-first", help="Begin with the TLS handshake: --tls-mode implicit."
        ),
    ] = False,
    tls_mode: Annotated[
        TLSMode | None, _flag("--tls-mode", help="When to encrypt.", case_sensitive=False)
    ] = None,
    tls_server_name: Annotated[
        str | None,
        _flag("--tls-server-name", help="Name to expect in the certificate.", metavar="NAME"),
    ] = None,
    insecure: Annotated[
        bool, _flag("--insecure", help="Accept any certificate. For experiments only.")
    ] = False,
    context: Annotated[
        str | None,
        _flag("--context", help="Context (or its file).", envvar="NATS_CONTEXT", metavar="NAME"),
    ] = None,
    no_context: Annotated[
        bool, _flag("--no-context", help="Do not use the selected context.")
    ] = False,
    timeout: Annotated[
        float,
        _flag(
            "--timeout",
            help="Time to wait for a connection or a reply.",
            envvar="NATS_TIMEOUT",
            parser=parse_wait,
            metavar="DURATION",
        ),
    ] = 5.0,
    inbox_prefix: Annotated[
        str | None,
        _flag("--inbox-prefix", help="Prefix of reply subjects.", metavar="PREFIX"),
    ] = None,
    connection_name: Annotated[
        str | None,
        _flag("--connection-name", help="Name for the server's monitoring.", metavar="NAME"),
    ] = None,
    debug: Annotated[
        bool,
        _flag("--debug", help="Log everything, and show tracebacks.", envvar="TRIO_NATS_DEBUG"),
    ] = False,
) -> ConnectionOptions:
    base = _context(context, no_context)
    chosen = dataclasses.replace(
        base or Context(),
        **_given(
            url=_checked_url(server),
            cert=tlscert,
            key=tlskey,
            ca=tlsca,
            inbox_prefix=inbox_prefix,
            tls_first=tlsfirst,
        ),
        **_auth_fields(user, password, token, creds, nkey, jwt, seed),
    )
    chosen.check_supported()
    if insecure:
        note(
            "warning: --insecure: certificates are not verified; anyone on the network path "
            "can read and change everything",
            style="bold red",
        )
    return ConnectionOptions(
        servers=chosen.servers if chosen.url or base else None,
        auth=chosen.auth(),
        tls=_tls(chosen.tls(), tlsfirst, tls_mode, tls_server_name, insecure),
        inbox_prefix=chosen.inbox_prefix or None,
        name=connection_name or f"trio-nats {trio_nats.__version__}",
        timeout=timeout,
        context=base,
        debug=debug,
    )


def _context(given: str | None, forbidden: bool) -> Context | None:
    if forbidden:
        if given:
            raise ConfigurationError("--context and --no-context contradict each other")
        return None
    name = given or selected_context()
    if name is None:
        return None
    return named_context(name)


def named_context(name: str) -> Context:
    """Load a context by its name or from a file."""
    is_file = "/" in name or (name.endswith(".json") and Path(name).exists())
    return load_context(Path(name) if is_file else name)


def _given(**flags: str | bool | None) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value}


def _checked_url(url: str | None) -> str | None:
    if url:
        parse_servers(url)  # Checked here, so that the error does not blame the context.
    return url


def _auth_fields(
    user: str | None,
    password: str | None,
    token: str | None,
    creds: str | None,
    nkey: str | None,
    jwt: str | None,
    seed: str | None,
) -> dict[str, Any]:
    """Return the fields of the context that the flags replace: all, unless only a part is given."""
    if user and not password:
        if token:
            raise ConfigurationError(
                "--user without --password means a token, so it cannot be combined with --token"
            )
        user, token = None, user
    whole = _given(user=user, token=token, creds=creds, nkey=nkey, user_jwt=jwt)
    parts = _given(password=password, user_seed=seed)
    if not whole:
        return parts
    nothing = dict.fromkeys(
        ("user", "password", "token", "creds", "nkey", "user_jwt", "user_seed"), ""
    )
    return nothing | whole | parts


def _tls(
    options: TLSOptions | None,
    first: bool,
    mode: TLSMode | None,
    server_name: str | None,
    insecure: bool,
) -> TLSOptions | None:
    if first and mode not in (None, TLSMode.IMPLICIT):
        raise ConfigurationError(
            f"--tlsfirst is --tls-mode implicit, which contradicts --tls-mode {mode.value}"
        )
    changes: dict[str, Any] = {}
    if mode is not None:
        changes["mode"] = mode
    if server_name:
        changes["server_hostname"] = server_name
    if insecure:
        changes["insecure_skip_verify"] = True
    return dataclasses.replace(options or TLSOptions(), **changes) if changes else options


# --- adding them to commands ---------------------------------------------------------------------

_PARAMETERS = tuple(inspect.signature(_options, eval_str=True).parameters.values())
_CONTEXT = inspect.Parameter(
    "typer_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context
)


def connects(
    command: Callable[Concatenate[ConnectionOptions, P], None],
) -> Callable[..., None]:
    """Add the connection flags to a command, and pass their values as its first argument.

    Invalid values end the program with one line and exit code 2.
    """

    @wraps(command)
    def with_options(*, typer_context: typer.Context, **values: Any) -> None:
        flags = {one.name: values.pop(one.name) for one in _PARAMETERS}
        _take_from_root(typer_context, flags)
        with plain_errors(flags["debug"]):
            options = _options(**flags)
        command(options, **values)  # type: ignore[call-arg]  # typer passes what its signature says

    own = tuple(inspect.signature(command, eval_str=True).parameters.values())[1:]
    _sign(with_options, (*own, *_PARAMETERS, _CONTEXT))
    return with_options


def root_connects(callback: Callable[P, None]) -> Callable[..., None]:
    """Make the callback of the program accept the flags too, for commands to read them."""

    @wraps(callback)
    def without_options(**values: Any) -> None:
        for one in _PARAMETERS:
            values.pop(one.name)
        callback(**values)  # type: ignore[call-arg]  # typer passes what its signature says

    own = tuple(inspect.signature(callback, eval_str=True).parameters.values())
    _sign(without_options, (*own, *(_hidden(one) for one in _PARAMETERS)))
    return without_options


def _take_from_root(typer_context: typer.Context, flags: dict[str, Any]) -> None:
    root = typer_context.find_root()
    if root is typer_context:
        return
    for name in flags:
        if not _on_command_line(typer_context, name) and _on_command_line(root, name):
            flags[name] = root.params[name]


def _on_command_line(typer_context: Any, name: str) -> bool:
    # Compared by name, because newer versions of typer have their own copy of click's classes.
    source: Any = typer_context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    flag = copy.copy(parameter.annotation.__metadata__[0])
    flag.hidden = True
    return parameter.replace(annotation=Annotated[parameter.annotation.__origin__, flag])


def _sign(function: Callable[..., None], parameters: tuple[inspect.Parameter, ...]) -> None:
    keywords = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    function.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in keywords}
