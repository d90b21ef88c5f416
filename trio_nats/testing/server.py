"""A real nats-server for as long as an ``async with`` block."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import trio

from .._tracebacks import hides_secrets
from ..errors import ConfigurationError
from ._config import render_settings
from ._ports import assign_ports, fixed_ports, taken_ports
from ._process import ServerProcess
from ._system import find_server_binary, get_json, poll
from .errors import ServerReloadError, ServerStartError, ServerWaitError
from .settings import ServerOptions, ServerSettings

__all__ = ["NatsServer"]

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_COMPLAINT = re.compile(r"server\.conf:(\d+)|Parse error on line (\d+)")
_RELOADED = "Reloaded server configuration"
_NOT_RELOADED = "Failed to reload server configuration"
# These are on the command line, which a running server cannot take another look at.
_NOT_RELOADABLE = ("host", "args", "binary")


@hides_secrets
class NatsServer:
    """Runs a nats-server while its ``async with`` block lasts; the block starts when it is ready.

    >>> async with NatsServer(jetstream=True) as server:
    ...     async with open_nats(server.url) as nc:
    ...         ...

    The keyword arguments are the fields of :class:`ServerSettings`. The server listens on free
    ports of the loopback interface unless told otherwise, and keeps them when it is restarted. Its
    configuration, its log and its JetStream store live in a temporary directory that goes away
    with it.

    Leaving the block kills the server, whatever state it is in, cancelled or not. There is no
    background task, so an exception of the block leaves it as itself.

    All times are in seconds of the wall clock: a mock clock does not hurry a process.

    Raises:
        ConfigurationError: for options that contradict each other.
        ServerBinaryNotFoundError: on entering, when there is no nats-server to run.
        ServerStartError: on entering, when the server ended at once or was not ready within
            ``start_timeout``.
    """

    def __init__(self, **options: Unpack[ServerOptions]) -> None:
        self._settings = ServerSettings(**options)
        self._directory: Path | None = None
        self._closed = False
        self._process: ServerProcess | None = None
        self._ports: dict[str, int] = {}
        # The ports of the last successful start: the ones others know the server by.
        self._known_ports: dict[str, int] = {}
        self._last_log = ""

    def __repr__(self) -> str:
        where = self.url if "client" in self._ports else self._settings.host
        return f"<NatsServer {where} {'running' if self.is_running else 'not running'}>"

    async def __aenter__(self) -> Self:
        if self._directory is not None or self._closed:
            raise RuntimeError("a NatsServer can be entered once; make another one")
        self._directory = Path(tempfile.mkdtemp(prefix="trio-nats-"))
        # For blocks that are never left; the process has such an end of its own.
        weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        try:
            await self.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        directory = self._directory
        assert directory is not None
        with trio.CancelScope(shield=True):
            await self.kill()
            self._last_log = self.log
            self._directory = None
            self._closed = True

            def remove() -> bool:
                shutil.rmtree(directory, ignore_errors=True)
                return not directory.exists()

            # At once, except on Windows: there files stay locked for a moment after a kill.
            await poll(remove, 2.0)

    # --- what it is ------------------------------------------------------------------------------

    @property
    def settings(self) -> ServerSettings:
        """What the server was started with, or last told."""
        return self._settings

    @property
    def host(self) -> str:
        """The address to reach it at: loopback when it listens on all interfaces."""
        return _WILDCARDS.get(self._settings.host, self._settings.host)

    @property
    def port(self) -> int:
        """The port for clients. It stays the same when the server is stopped or restarted."""
        return self._port("client")

    @property
    def url(self) -> str:
        """Where clients connect: ``tls://`` when the server insists on TLS, else ``nats://``.

        Credentials are not part of it.
        """
        tls = self._settings.tls
        scheme = "nats" if tls is None or tls.allow_non_tls else "tls"
        return self._url(scheme, "client")

    @property
    def ws_url(self) -> str:
        """Where WebSocket clients connect: ``ws://``, or ``wss://`` when the listener has TLS.

        Raises:
            ConfigurationError: the server has no such listener.
        """
        websocket = self._settings.websocket
        if websocket is None:
            raise ConfigurationError("no WebSocket listener; ask for websocket=ServerWebSocket()")
        return self._url("ws" if websocket.tls is None else "wss", "websocket")

    @property
    def cluster_url(self) -> str:
        """What other servers name in their ``routes``.

        Raises:
            ConfigurationError: the server has no ``cluster`` settings.
        """
        if self._settings.cluster is None:
            raise ConfigurationError("not in a cluster; ask for cluster=ServerCluster(name)")
        return self._url("nats", "cluster")

    @property
    def monitor_url(self) -> str:
        """The root of the server's HTTP monitoring, ``http://host:port``."""
        return self._url("http", "monitor")

    @property
    def pid(self) -> int:
        """The process id. RuntimeError when the server is not running."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists, be it ready, paused or in lame duck mode."""
        return self._process is not None and self._process.is_running

    @property
    def log(self) -> str:
        """Everything logged so far, over all restarts. It survives the block."""
        if self._directory is None:
            return self._last_log
        try:
            return (self._directory / "server.log").read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def is_paused(self) -> bool:
        """Whether :meth:`pause` froze it and nothing has woken or ended it since."""
        return self.is_running and self._running().paused

    def _port(self, what: str) -> int:
        if what not in self._ports:
            raise RuntimeError("the server has no ports before it is entered with `async with`")
        return self._ports[what]

    def _url(self, scheme: str, what: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self._port(what)}"

    def _running(self) -> ServerProcess:
        if self._process is None or not self._process.is_running:
            raise RuntimeError("the server is not running")
        return self._process

    # --- starting and ending ---------------------------------------------------------------------

    async def start(self) -> None:
        """Start it again after :meth:`stop`, :meth:`kill` or its own end; wait until it is ready.

        The ports and the JetStream store are those it had. When cancelled it is not running.
        Nothing happens when it is running already.

        Raises:
            ServerStartError: it ended at once or was not ready within ``start_timeout``.
            RuntimeError: outside of the ``async with`` block.
        """
        if self._directory is None:
            raise RuntimeError("a NatsServer can only run inside its `async with` block")
        await trio.lowlevel.checkpoint()
        if self.is_running:
            return
        deadline = time.monotonic() + self._settings.start_timeout
        while True:
            self._ports = assign_ports(self._settings, self._known_ports)
            try:
                await self._try_start(self._directory, deadline)
                break
            except ServerStartError as exc:
                if time.monotonic() > deadline or not self._may_come_free(taken_ports(exc.log)):
                    raise
            # Another process was faster. If nobody knows our ports yet the next round picks others;
            # a known port will be ours again, as nothing but a passer-by can have taken it.
            await trio.sleep(0.02)
        self._known_ports = dict(self._ports)

    async def stop(self, *, timeout: float = 5.0) -> None:
        """End it in an orderly way (SIGTERM), and by force if that takes longer than ``timeout``.

        When cancelled it has been told to end but may still be running. Windows knows no orderly
        way; there this is :meth:`kill`.
        """
        await trio.lowlevel.checkpoint()
        if self._process is not None:
            await self._process.stop(timeout)

    async def kill(self) -> None:
        """End it as a crash would: no goodbye to clients, nothing flushed."""
        if self._process is not None:
            await self._process.kill()
        await trio.lowlevel.checkpoint()

    async def restart(self, **changes: Unpack[ServerOptions]) -> None:
        """:meth:`stop` it, change the given settings, and :meth:`start` it on the same port.

        Raises:
            ConfigurationError: for changes that cannot work; the server goes on as it was.
            ServerStartError: it does not start with the changes, and is not running now.
        """
        settings = dataclasses.replace(self._settings, **changes)
        await self.stop()
        self._settings = settings
        await self.start()

    def change_routes(self, routes: Sequence[str]) -> None:
        """Set the routes to be used from the next start on; for a server in a cluster.

        Raises:
            ConfigurationError: the server has no ``cluster`` settings.
        """
        cluster = self._settings.cluster
        if cluster is None:
            raise ConfigurationError("not in a cluster; ask for cluster=ServerCluster(name)")
        self._settings = dataclasses.replace(
            self._settings, cluster=dataclasses.replace(cluster, routes=tuple(routes))
        )

    def _may_come_free(self, taken: set[int]) -> bool:
        """Whether another round can help: with other ports, or with the same ones later."""
        fixed = fixed_ports(self._settings)
        chosen = {port for what, port in self._ports.items() if fixed[what] is None}
        return bool(taken & (chosen | set(self._known_ports.values())))

    async def _try_start(self, directory: Path, deadline: float) -> None:
        self._write_config(directory)
        ports = directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        mark = len(self.log)
        argv = self._argv(directory, ports)
        try:
            process = self._process = ServerProcess(argv, directory / "server.log")
        except OSError as exc:
            raise ServerStartError(f"cannot run {argv[0]}: {exc}", "") from exc
        try:
            # The server writes this file once all its listeners accept. A connection would prove
            # less (whose port is it?), and would show in the server's log and counters.
            ready = await poll(
                lambda: any(ports.glob("*.ports")) or not process.is_running,
                deadline - time.monotonic(),
            )
        except BaseException:
            await process.kill()
            raise
        if ready and process.is_running:
            return
        code = process.returncode
        await process.kill()
        raise self._start_error(directory, self.log[mark:], code)

    def _argv(self, directory: Path, ports: Path) -> list[str]:
        # On the command line stands what must be so: it overrides any configuration.
        settings = self._settings
        return [
            os.fspath(settings.binary or find_server_binary()),
            *("--config", str(directory / "server.conf")),
            *("--addr", settings.host),
            *("--port", str(self._ports["client"])),
            *("--http_port", str(self._ports["monitor"])),
            *("--store_dir", str(directory / "store")),
            *("--ports_file_dir", str(ports)),
            *settings.args,
        ]

    def _write_config(self, directory: Path) -> None:
        text = render_settings(
            self._settings,
            websocket_port=self._ports.get("websocket"),
            cluster_port=self._ports.get("cluster"),
        )
        (directory / "server.conf").write_text(text, "utf-8")

    def _start_error(self, directory: Path, log: str, code: int | None) -> ServerStartError:
        if code is None:
            reason = f"nats-server was not ready within {self._settings.start_timeout:g} s"
        else:
            reason = f"nats-server exited with code {code} instead of starting"
        # The file is gone before anybody can look at it, so what it says is quoted.
        lines = (directory / "server.conf").read_text("utf-8").splitlines()
        numbers = {int(in_file or parsing) for in_file, parsing in _COMPLAINT.findall(log)}
        for number in sorted(numbers & set(range(1, len(lines) + 1))):
            reason += f", over line {number} of its configuration, {lines[number - 1].strip()!r}"
        return ServerStartError(reason, log, code)

    # --- while it runs ---------------------------------------------------------------------------

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open and nothing is answered any more.

        Raises:
            ServerSignalError: on Windows.
            RuntimeError: the server is not running.
        """
        self._running().pause()

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT), as if nothing had happened to it.

        Raises:
            ServerSignalError: on Windows.
            RuntimeError: the server is not running.
        """
        self._running().resume()

    async def lame_duck(self, *, timeout: float = 5.0) -> None:
        """Put it into lame duck mode (SIGUSR2); wait until it says so, not until it has ended.

        It stops listening, tells its clients, and closes their connections one by one, beginning
        after ``lame_duck_grace_period`` and over ``lame_duck_duration`` (10 s and 2 min unless
        ``config`` says otherwise; the duration cannot be below 30 s). Then it ends, which without
        clients is at once.

        Raises:
            ServerWaitError: it did not say so within ``timeout``.
            ServerSignalError: on Windows.
            RuntimeError: the server is not running.
        """
        mark = len(self.log)
        self._running().send("SIGUSR2", purpose="lame duck mode")
        await self.wait_for_log("Entering lame duck mode", timeout=timeout, after=mark)

    async def reload(self, *, timeout: float = 5.0, **changes: Unpack[ServerOptions]) -> None:
        """Change settings of the running server (SIGHUP) and wait until they are in force.

        Without changes the server reads its files again, such as certificates. Connections that
        the changed settings would not admit any more are closed by the server.

        Raises:
            ConfigurationError: for changes that cannot work or need :meth:`restart`.
            ServerReloadError: the server refused them. It goes on as it was.
            ServerWaitError: it did not answer within ``timeout``.
            ServerSignalError: on Windows.
            RuntimeError: the server is not running.
        """
        process, directory = self._running(), self._directory
        assert directory is not None
        before, after = self._settings, dataclasses.replace(self._settings, **changes)
        _check_reloadable(before, after)
        mark = len(self.log)
        self._settings = after
        try:
            self._write_config(directory)
            process.send("SIGHUP", purpose="reloading a server")
            line = await self._wait_for_log((_RELOADED, _NOT_RELOADED), timeout, mark)
            if _NOT_RELOADED in line:
                raise ServerReloadError("the server refused the changes", self.log[mark:])
        except BaseException:
            # Without a word from the server the old settings are the better guess.
            self._settings = before
            self._write_config(directory)
            raise

    async def wait_for_log(self, text: str, *, timeout: float = 5.0, after: int = 0) -> str:
        """Wait until ``text`` is in the log, and return the line where it is first found.

        Only the log from position ``after`` on counts: take ``len(server.log)`` before doing
        something to see what comes of it.

        Raises:
            ServerWaitError: it was not there within ``timeout``.
        """
        return await self._wait_for_log((text,), timeout, after)

    async def _wait_for_log(self, texts: tuple[str, ...], timeout: float, after: int) -> str:
        found = ""

        def search() -> bool:
            nonlocal found
            for line in self.log[after:].splitlines():
                if any(text in line for text in texts):
                    found = line
                    return True
            return False

        if not await poll(search, timeout):
            wanted = " or ".join(repr(text) for text in texts)
            reason = f"the server did not log {wanted} within {timeout:g} s"
            raise ServerWaitError(reason, self.log[after:])
        return found

    async def monitor(self, path: str) -> Mapping[str, object]:
        """What the server's HTTP monitoring says at ``path``: ``"varz"``, ``"connz?subs=1"``...

        Raises:
            NatsError: it said nothing, or something that is no JSON object.
        """
        return await get_json(self.host, self._port("monitor"), path)


def _check_reloadable(before: ServerSettings, after: ServerSettings) -> None:
    for name in _NOT_RELOADABLE:
        if getattr(before, name) != getattr(after, name):
            raise ConfigurationError(f"{name} cannot be changed by a reload; use restart()")
    if fixed_ports(before) != fixed_ports(after):
        raise ConfigurationError("listeners cannot be changed by a reload; use restart()")
