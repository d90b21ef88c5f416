"""A nats-server that runs for the duration of an ``async with`` block."""

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

from .._async_with import NeedsAsyncWith
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
# These are on the command line, which a running server does not read again.
_NOT_RELOADABLE = ("host", "args", "binary")


@hides_secrets
class NatsServer(NeedsAsyncWith):
    """Runs a nats-server for the duration of an ``async with`` block, which begins when it is
    ready.

    >>> async with NatsServer(jetstream=True) as server:
    ...     async with open_nats(server.url) as nc:
    ...         ...

    By default the server listens on free ports of the loopback interface, and keeps them when it is
    restarted. Its configuration, log and JetStream store are in a temporary directory that is
    removed at the end of the block.

    Leaving the block kills the server, also when cancelled. There is no background task, so an
    exception leaves the block unchanged.

    All times are in seconds of the wall clock, and a mock clock does not change them.

    :param options: the fields of :class:`ServerSettings`.
    :raises ConfigurationError: if options contradict each other.
    :raises ServerBinaryNotFoundError: on entering, if there is no nats-server to run.
    :raises ServerStartError: on entering, if the server exited or was not ready within
        ``start_timeout``.
    """

    _async_with = "NatsServer(...) as server"

    def __init__(self, **options: Unpack[ServerOptions]) -> None:
        self._settings = ServerSettings(**options)
        self._directory: Path | None = None
        self._closed = False
        self._process: ServerProcess | None = None
        self._ports: dict[str, int] = {}
        # The ports of the last successful start, which clients and other servers may know.
        self._known_ports: dict[str, int] = {}
        self._last_log = ""

    def __repr__(self) -> str:
        where = self.url if "client" in self._ports else self._settings.host
        return f"<NatsServer {where} {'running' if self.is_running else 'not running'}>"

    async def __aenter__(self) -> Self:
        if self._directory is not None or self._closed:
            raise RuntimeError("a NatsServer can be entered once; make another one")
        self._directory = Path(tempfile.mkdtemp(prefix="trio-nats-"))
        # For blocks that are never left. ServerProcess has its own finalizer.
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

            # Only on Windows may this take a moment, because files stay locked after a kill.
            await poll(remove, 2.0)

    # --- properties ------------------------------------------------------------------------------

    @property
    def settings(self) -> ServerSettings:
        """The settings in effect."""
        return self._settings

    @property
    def host(self) -> str:
        """The address to connect to: loopback if the server listens on all interfaces."""
        return _WILDCARDS.get(self._settings.host, self._settings.host)

    @property
    def port(self) -> int:
        """The port for clients. It does not change when the server is restarted."""
        return self._port("client")

    @property
    def url(self) -> str:
        """The URL for clients, without credentials: ``tls://`` if the server requires TLS, else
        ``nats://``.
        """
        tls = self._settings.tls
        scheme = "nats" if tls is None or tls.allow_non_tls else "tls"
        return self._url(scheme, "client")

    @property
    def ws_url(self) -> str:
        """The URL for WebSocket clients: ``wss://`` if that listener has TLS, else ``ws://``.

        :raises ConfigurationError: if the server has no ``websocket`` settings.
        """
        websocket = self._settings.websocket
        if websocket is None:
            raise ConfigurationError(
                "the server has no WebSocket listener; pass websocket=ServerWebSocket()"
            )
        return self._url("ws" if websocket.tls is None else "wss", "websocket")

    @property
    def cluster_url(self) -> str:
        """The URL for the ``routes`` of other servers.

        :raises ConfigurationError: if the server has no ``cluster`` settings.
        """
        if self._settings.cluster is None:
            raise ConfigurationError(
                "the server is not in a cluster; pass cluster=ServerCluster(name)"
            )
        return self._url("nats", "cluster")

    @property
    def monitor_url(self) -> str:
        """The root of the server's HTTP monitoring, ``http://host:port``."""
        return self._url("http", "monitor")

    @property
    def pid(self) -> int:
        """The process ID.

        :raises RuntimeError: if the server is not running.
        """
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists. It may be ready, paused or in lame duck mode."""
        return self._process is not None and self._process.is_running

    @property
    def log(self) -> str:
        """Everything that the server has logged, over all restarts. Kept after the block."""
        if self._directory is None:
            return self._last_log
        try:
            return (self._directory / "server.log").read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def is_paused(self) -> bool:
        """Whether the server is paused; see :meth:`pause`."""
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
        """Start the server again after :meth:`stop`, :meth:`kill` or its own exit; wait until it is
        ready.

        It keeps its ports and its JetStream store. Does nothing if it is running. If cancelled, it
        is not running.

        :raises ServerStartError: if it exited or was not ready within ``start_timeout``.
        :raises RuntimeError: outside of the ``async with`` block.
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
            # Another process took a port. Choose new ports if nobody knows them yet. Otherwise try
            # the same again, because other processes use them only briefly.
            await trio.sleep(0.02)
        self._known_ports = dict(self._ports)

    async def stop(self, *, timeout: float = 5.0) -> None:
        """Stop the server in an orderly way (SIGTERM).

        On Windows there is no such signal, and this is :meth:`kill`. If cancelled, the server has
        been told to stop but may still be running.

        :param timeout: seconds after which it is killed. Default: 5.
        """
        await trio.lowlevel.checkpoint()
        if self._process is not None:
            await self._process.stop(timeout)

    async def kill(self) -> None:
        """Kill the server, as a crash would: clients are not notified, and nothing is flushed.

        If cancelled, the server has been killed.
        """
        if self._process is not None:
            await self._process.kill()
        await trio.lowlevel.checkpoint()

    async def restart(self, **changes: Unpack[ServerOptions]) -> None:
        """Stop the server, change settings, and start it on the same ports.

        If cancelled, the server is stopping or not running; :meth:`start` starts it with the
        changes if it had stopped.

        :param changes: fields of :class:`ServerSettings` to change.
        :raises ConfigurationError: if the changes are invalid; the server keeps running.
        :raises ServerStartError: if it does not start with the changes; it is not running then.
        """
        settings = dataclasses.replace(self._settings, **changes)
        await self.stop()
        self._settings = settings
        await self.start()

    def change_routes(self, routes: Sequence[str]) -> None:
        """Set the routes that a server in a cluster uses from its next start on.

        :param routes: URLs of other servers, see :attr:`cluster_url`.
        :raises ConfigurationError: if the server has no ``cluster`` settings.
        """
        cluster = self._settings.cluster
        if cluster is None:
            raise ConfigurationError(
                "the server is not in a cluster; pass cluster=ServerCluster(name)"
            )
        self._settings = dataclasses.replace(
            self._settings, cluster=dataclasses.replace(cluster, routes=tuple(routes))
        )

    def _may_come_free(self, taken: set[int]) -> bool:
        """Return whether another attempt may help, with other ports or with the same ones later."""
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
            # The server writes this file once all its listeners accept connections. Connecting
            # would prove less, as another process may have the port, and show in the log.
            ready = await poll(
                lambda: _names_ports(ports) or not process.is_running,
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
        # The command line overrides the configuration.
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
        # Quote the lines, because the file will be deleted.
        lines = (directory / "server.conf").read_text("utf-8").splitlines()
        numbers = {int(in_file or parsing) for in_file, parsing in _COMPLAINT.findall(log)}
        for number in sorted(numbers & set(range(1, len(lines) + 1))):
            reason += f"; line {number} of its configuration: {lines[number - 1].strip()!r}"
        return ServerStartError(reason, log, code)

    # --- while it runs ---------------------------------------------------------------------------

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, and nothing is answered.

        :raises ServerSignalError: on Windows.
        :raises RuntimeError: if the server is not running.
        """
        self._running().pause()

    def resume(self) -> None:
        """Resume a paused process (SIGCONT).

        :raises ServerSignalError: on Windows.
        :raises RuntimeError: if the server is not running.
        """
        self._running().resume()

    async def lame_duck(self, *, timeout: float = 5.0) -> None:
        """Put the server into lame duck mode (SIGUSR2), and wait until it has logged that.

        It stops listening, notifies its clients, and closes their connections one by one, beginning
        after ``lame_duck_grace_period`` and over ``lame_duck_duration`` (by default 10 s and 2 min;
        set them with ``config``, the duration to at least 30 s). Then it exits; without clients, at
        once. If cancelled, the server has received the signal.

        :param timeout: seconds to wait for the log. Default: 5.
        :raises ServerWaitError: if it did not log that within ``timeout``.
        :raises ServerSignalError: on Windows.
        :raises RuntimeError: if the server is not running.
        """
        mark = len(self.log)
        self._running().send("SIGUSR2", purpose="lame duck mode")
        await self.wait_for_log("Entering lame duck mode", timeout=timeout, after=mark)

    async def reload(self, *, timeout: float = 5.0, **changes: Unpack[ServerOptions]) -> None:
        """Change settings of the running server (SIGHUP), and wait until they are in effect.

        Without changes the server reads its files, such as certificates, again. It closes
        connections that the new settings do not allow. If cancelled, the server may have
        reloaded; :attr:`settings` has the previous ones.

        :param timeout: seconds to wait for the server. Default: 5.
        :param changes: fields of :class:`ServerSettings` to change.
        :raises ConfigurationError: if the changes are invalid or need :meth:`restart`.
        :raises ServerReloadError: if the server rejected them; it keeps its settings.
        :raises ServerWaitError: if it did not answer within ``timeout``.
        :raises ServerSignalError: on Windows.
        :raises RuntimeError: if the server is not running.
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
                raise ServerReloadError("the server rejected the changes", self.log[mark:])
        except BaseException:
            # If the server did not answer, it most likely still has the old settings.
            self._settings = before
            self._write_config(directory)
            raise

    async def wait_for_log(self, text: str, *, timeout: float = 5.0, after: int = 0) -> str:
        """Wait until the log contains a text. If cancelled, nothing changes.

        :param text: the text to look for.
        :param timeout: seconds to wait. Default: 5.
        :param after: position in the log to search from. Take ``len(server.log)`` before an action
            to see what it causes.
        :returns: the first line that contains the text.
        :raises ServerWaitError: if the text did not appear within ``timeout``.
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
        """Get a page of the server's HTTP monitoring. If cancelled, nothing changes.

        :param path: the path, such as ``"varz"`` or ``"connz?subs=1"``.
        :returns: the JSON object in the answer.
        :raises NatsError: if there is no answer, or if it is not a JSON object.
        """
        return await get_json(self.host, self._port("monitor"), path)


def _names_ports(directory: Path) -> bool:
    return any(name.endswith(".ports") for name in os.listdir(directory))


def _check_reloadable(before: ServerSettings, after: ServerSettings) -> None:
    for name in _NOT_RELOADABLE:
        if getattr(before, name) != getattr(after, name):
            raise ConfigurationError(f"{name} cannot be changed by a reload; use restart()")
    if fixed_ports(before) != fixed_ports(after):
        raise ConfigurationError("listeners cannot be changed by a reload; use restart()")
