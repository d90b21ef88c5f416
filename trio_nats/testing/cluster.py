"""Several servers that form a NATS cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, Unpack

import msgspec
import trio

from .._async_with import NeedsAsyncWith
from .._tracebacks import hides_secrets
from ..errors import ConfigurationError, NatsError
from ._ports import free_port, taken_ports
from .errors import ServerStartError, ServerWaitError
from .server import NatsServer
from .settings import ServerCluster, ServerOptions, ServerSettings

__all__ = ["NatsCluster"]

_ATTEMPTS = 5
# Between two looks at all servers. They grow longer, because an election takes seconds.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.1


@hides_secrets
class NatsCluster(NeedsAsyncWith):
    """Runs a cluster of servers for the duration of an ``async with`` block.

    >>> async with NatsCluster(3, jetstream=True) as cluster:
    ...     async with open_nats(cluster.urls) as nc:
    ...         await cluster[0].kill()

    The block begins when every server is connected to every other and, with JetStream, when they
    have elected a leader (which takes most of a second). Each server can be stopped, paused or
    restarted on its own. Leaving the block kills them all.

    :param n: the number of servers. Default: 3.
    :param options: those of :class:`NatsServer`, for every server. ``name`` is the name of the
        cluster; its servers are called ``name-1``, ``name-2`` and so on.
    :raises ConfigurationError: if options contradict each other, or cannot be shared by servers.
    :raises ServerBinaryNotFoundError: on entering, as for :class:`NatsServer`.
    :raises ServerStartError: on entering, as for :class:`NatsServer`.
    :raises ServerWaitError: on entering, if the servers did not connect within ``start_timeout``.
    """

    _async_with = "NatsCluster(...) as cluster"

    def __init__(self, n: int = 3, **options: Unpack[ServerOptions]) -> None:
        settings = ServerSettings(**options)
        if n < 1:
            raise ConfigurationError(f"a cluster needs at least one server, not {n}")
        if n == 1 and settings.jetstream:
            raise ConfigurationError(
                "JetStream in a cluster needs two servers to elect a leader; use NatsServer for one"
            )
        if settings.port is not None or (settings.websocket and settings.websocket.port):
            raise ConfigurationError("the servers of a cluster cannot share a port; leave it out")
        if settings.cluster is not None:
            raise ConfigurationError("NatsCluster makes the cluster settings itself")
        self._n = n
        self._options = options
        self._settings = settings
        self._name = settings.name or "trio-nats"
        self._servers: list[NatsServer] = []
        self._stack: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        if self._servers:
            raise RuntimeError("a NatsCluster can be entered once; make another one")
        for attempt in range(1, _ATTEMPTS + 1):
            ports = [free_port(self._settings.host) for _ in range(self._n)]
            try:
                await self._start_all(ports)
                break
            except ServerStartError as exc:
                # Every server knows the ports of all, so if one is taken, all need new ports.
                if attempt == _ATTEMPTS or not taken_ports(exc.log) & set(ports):
                    raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None
        await stack.aclose()

    async def _start_all(self, ports: Sequence[int]) -> None:
        # A server with JetStream expects as many peers as it has routes, so all routes are known
        # before the first server starts. A route to itself does no harm.
        routes = tuple(self._route(port) for port in ports)
        async with AsyncExitStack() as stack:
            self._servers = []
            for port in ports:
                await self._start_one(stack, port, routes, {})
            await self.wait_until_ready(timeout=self._settings.start_timeout)
            self._stack = stack.pop_all()

    async def _start_one(
        self,
        stack: AsyncExitStack,
        port: int | None,
        routes: tuple[str, ...],
        changes: ServerOptions,
    ) -> NatsServer:
        options = self._options | changes
        options["name"] = changes.get("name") or f"{self._name}-{len(self._servers) + 1}"
        options["cluster"] = ServerCluster(self._name, port, routes)
        server = await stack.enter_async_context(NatsServer(**options))
        self._servers.append(server)
        return server

    def _route(self, port: int) -> str:
        host = self._settings.host
        return f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"

    # --- the servers -----------------------------------------------------------------------------

    @property
    def servers(self) -> tuple[NatsServer, ...]:
        """All servers, running or not, in the order in which they were first started."""
        return tuple(self._servers)

    @property
    def urls(self) -> list[str]:
        """The URLs for clients, one per server, running or not."""
        return [server.url for server in self._servers]

    def __len__(self) -> int:
        return len(self._servers)

    def __iter__(self) -> Iterator[NatsServer]:
        return iter(self.servers)

    def __getitem__(self, index: int) -> NatsServer:
        return self._servers[index]

    async def add_node(self, **changes: Unpack[ServerOptions]) -> NatsServer:
        """Start another server, and wait until all know it.

        If cancelled, the server is not part of the cluster, or it is and the others may not know it
        yet.

        :param changes: options that differ from those of the other servers.
        :returns: the server.
        :raises ConfigurationError: if options contradict each other, or ``cluster`` is among them.
        :raises ServerStartError: as on entering.
        :raises ServerWaitError: as on entering; the server is part of the cluster nevertheless.
        :raises RuntimeError: outside of the ``async with`` block.
        """
        if self._stack is None:
            raise RuntimeError("a NatsCluster can only grow inside its `async with` block")
        if "cluster" in changes:
            raise ConfigurationError("NatsCluster makes the cluster settings itself")
        routes = tuple(server.cluster_url for server in self._servers)
        server = await self._start_one(self._stack, None, routes, changes)
        # Running servers learn of it by gossip, but those that are down do not.
        all_routes = (*routes, server.cluster_url)
        for other in self._servers:
            other.change_routes(all_routes)
        await self.wait_until_ready(timeout=self._settings.start_timeout)
        return server

    async def wait_until_ready(self, *, timeout: float = 10.0) -> None:
        """Wait until all running servers are connected to each other.

        With JetStream, also wait until they agree on a leader that has heard from all of them.
        Servers that are stopped or paused do not count. If cancelled, nothing changes.

        :param timeout: seconds to wait. Default: 10.
        :raises ServerWaitError: if they are not ready within ``timeout``.
        """
        deadline = time.monotonic() + timeout
        missing: str | None = "an answer on every monitoring port"
        pause = _FIRST_PAUSE
        while (left := deadline - time.monotonic()) > 0:
            with trio.move_on_after(left):
                missing = await self._missing()
                if missing is None:
                    return
                await trio.sleep(pause)
                pause = min(pause * 1.2, _LONGEST_PAUSE)
        logs = "".join(server.log for server in self._servers)
        raise ServerWaitError(f"the cluster still lacks {missing} after {timeout:g} s", logs)

    async def _missing(self) -> str | None:
        """Describe what the cluster lacks to be ready; return ``None`` if it is ready."""
        up = [server for server in self._servers if server.is_running and not server.is_paused]
        names = {server.settings.name or "" for server in up}
        await trio.lowlevel.checkpoint()
        try:
            for server in up:
                others = names - {server.settings.name or ""}
                if unknown := others - await routed_servers(server):
                    return f"routes from {server.settings.name} to {', '.join(sorted(unknown))}"
            if self._settings.jetstream:
                return await _missing_leader(up, names)
        except NatsError as exc:
            # It exited after the check above, or is still starting.
            return f"a server: {exc}"
        return None


# --- the servers' monitoring -------------------------------------------------------------------


class _Route(msgspec.Struct):
    remote_name: str = ""
    account: str = ""


class _Routez(msgspec.Struct):
    routes: list[_Route] = []


class _ClusterVarz(msgspec.Struct):
    pool_size: int = 0


class _Varz(msgspec.Struct):
    cluster: _ClusterVarz


class _Replica(msgspec.Struct):
    name: str
    current: bool = False
    offline: bool = False


class _MetaGroup(msgspec.Struct):
    leader: str = ""
    replicas: list[_Replica] = []


class _Jsz(msgspec.Struct):
    meta_cluster: _MetaGroup | None = None


class _Healthz(msgspec.Struct):
    status: str


async def routed_servers(server: NatsServer) -> set[str]:
    """Return the names of the servers that ``server`` has all its routes to.

    Two servers are connected by a pool of routes, each of which carries some of the accounts. An
    account may also have a route of its own. A message passes only if its account's route is up.
    """
    varz = msgspec.convert(await server.monitor("varz"), _Varz)
    routez = msgspec.convert(await server.monitor("routez"), _Routez)
    pooled = Counter(route.remote_name for route in routez.routes if not route.account)
    return {name for name, count in pooled.items() if count >= varz.cluster.pool_size}


async def _missing_leader(up: Sequence[NatsServer], names: set[str]) -> str | None:
    groups: dict[str, _MetaGroup] = {}
    for server in up:
        jsz = msgspec.convert(await server.monitor("jsz"), _Jsz)
        groups[server.settings.name or ""] = jsz.meta_cluster or _MetaGroup()
    leaders = {group.leader for group in groups.values()}
    leader = leaders.pop()
    if leaders or leader not in groups:
        return "a JetStream leader that all agree on"
    current = {peer.name for peer in groups[leader].replicas if peer.current and not peer.offline}
    if unheard := names - {leader} - current:
        return f"{', '.join(sorted(unheard))} among the JetStream servers"
    for server in up:
        health = msgspec.convert(await server.monitor("healthz"), _Healthz)
        if health.status != "ok":
            return f"a healthy JetStream on {server.settings.name}"
    return None
