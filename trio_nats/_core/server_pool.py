"""The servers that a connection may use, and how often each has failed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from .._transport.dial import Peer
from ..errors import ConfigurationError
from ..server_info import ServerInfo
from ..servers import Scheme, Server, is_ip_address, parse_server, with_userinfo

__all__ = ["ServerPool"]

_Address: TypeAlias = tuple[str, int]

_MAX_UNVERIFIED = 32
"""Maximum number of servers taken from an INFO that an attacker may have written. Each one that
does not exist costs a ``connect_timeout`` before the next one is tried."""


class ServerPool:
    """The servers given by the user, and the ones discovered from the cluster.

    Those given stay; those discovered are removed when the cluster no longer names them. A server
    without credentials in its URL uses those of the first URL that has some.
    """

    _userinfo: Server | None
    _servers: list[Server]

    def __init__(self, seeds: Sequence[Server], *, randomize: bool) -> None:
        self._randomize = randomize
        self._take(seeds)
        self.failures: dict[Server, int] = {}
        """Failed attempts in a row."""
        self.short_lives: dict[Server, int] = {}
        """Number of short connections in a row. They are not failures to connect, but a client that
        reconnects at once each time would be a burden."""
        self.refused_since: dict[Server, float] = {}
        """When a server first refused the credentials, with the same error ever since."""
        self.not_before: dict[Server, float] = {}
        """When to try each of these servers again."""
        self._last_error: dict[Server, str] = {}
        self._unverified: set[Server] = set()
        """Servers that were named only in plaintext, before the TLS handshake."""

    def _take(self, seeds: Sequence[Server]) -> None:
        self._userinfo = next((seed for seed in seeds if seed.has_userinfo), None)
        self._servers = [with_userinfo(seed, self._userinfo) for seed in seeds]
        if self._randomize:
            random.shuffle(self._servers)

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers, in the order in which they would be tried."""
        return tuple(self._servers)

    def successors(self, current: Server, peer: Peer | None, *, itself: bool) -> Iterator[Server]:
        """Yield the servers to move to from ``current``, each once.

        The servers may be replaced while one of them is being tried.

        :param peer: the address of ``current``, which may be in the pool, too.
        :param itself: whether to yield ``current`` at the end.
        """
        tried = {current, *self._at(peer)}
        while left := [server for server in self._servers if server not in tried]:
            tried.add(left[0])
            yield left[0]
        if itself and current in self._servers:
            yield current

    def failed(self, server: Server, error: Exception) -> bool:
        """Count a failure, and move the server to the end.

        :returns: whether its previous failure was the same.
        """
        self.failures[server] = self.failures.get(server, 0) + 1
        self._move_to_end(server)
        before, now = self._last_error.get(server), f"{type(error).__name__}: {error}"
        self._last_error[server] = now
        return before == now

    def connected(self, server: Server) -> None:
        """Note that a server is in use: reset all failures, and move it to the end."""
        self._forgive()
        self._move_to_end(server)

    def lost(self, server: Server, peer: Peer | None, *, soon: bool) -> None:
        """Note that the connection to a server has ended, and move it to the end.

        :param peer: its address, which may be in the pool, too.
        :param soon: whether the connection was short.
        """
        for known in (*self._at(peer), server):
            self._move_to_end(known)
        count = self.short_lives.pop(server, 0)
        # Forget servers that the cluster has withdrawn.
        lives = self.short_lives.items()
        self.short_lives = {known: lived for known, lived in lives if known in self._servers}
        if soon:
            self.short_lives[server] = count + 1

    def remove(self, server: Server) -> None:
        """Remove a server. The cluster may add it again."""
        if server in self._servers:
            self._servers.remove(server)

    def replace(self, seeds: Sequence[Server]) -> None:
        """Replace all servers, including discovered ones.

        Credentials of the previous servers are not used for the new ones, nor the other way round.
        """
        self._take(seeds)
        self._unverified.clear()
        self.short_lives.clear()
        self._forgive()

    def _forgive(self) -> None:
        self.failures.clear()
        self.refused_since.clear()
        self.not_before.clear()
        self._last_error.clear()

    def _at(self, peer: Peer | None) -> list[Server]:
        return [server for server in self._servers if (server.host, server.port) == peer]

    def _move_to_end(self, server: Server) -> None:
        if server in self._servers:
            self._servers.remove(server)
            self._servers.append(server)

    def discover(self, info: ServerInfo, named_by: Server, scheme: Scheme) -> list[Server]:
        """Take the members of the cluster from INFO; return those not known before.

        They get the scheme of the server that named them. If one is an IP address, its certificate
        must be for the name of that server.
        """
        urls = info.connect_urls
        if named_by.is_websocket and info.ws_connect_urls is not None:
            # nats-server itself names them as connect_urls to clients that use WebSocket.
            urls = info.ws_connect_urls
        if urls is None:
            return []
        named = dict(self._parsed(urls, named_by, scheme))
        unverified, self._unverified = self._unverified, set()
        outdated = {
            server
            for server in self._servers
            if server.discovered and (_address(server) not in named or server in unverified)
        }
        return self._exchange(outdated, named, named_by)

    def discover_unverified(
        self, info: ServerInfo, named_by: Server, tls_name: str | None
    ) -> list[Server]:
        """Take addresses from an INFO that anyone on the network path may have written.

        They are only used over TLS, with a certificate for ``tls_name`` or, if that is ``None``,
        for their own name. Servers known from elsewhere are not changed. Returns those not known
        before.
        """
        urls = (info.connect_urls or ())[:_MAX_UNVERIFIED]
        parsed = self._parsed(urls, named_by, "tls")
        named = {address: replace(server, tls_name=tls_name) for address, server in parsed}
        outdated = {server for server in self._unverified if _address(server) not in named}
        new = self._exchange(outdated, named, named_by)
        self._unverified = (self._unverified - outdated) | set(new)
        return new

    def _exchange(
        self, outdated: set[Server], named: Mapping[_Address, Server], named_by: Server
    ) -> list[Server]:
        """Remove ``outdated`` servers, except the one in use, and add the ``named`` ones.

        :returns: those with a new address.
        """
        before = {_address(server) for server in self._servers}
        outdated.discard(named_by)
        self._servers = [server for server in self._servers if server not in outdated]
        known = {_address(server) for server in self._servers}
        added = [server for address, server in named.items() if address not in known]
        if self._randomize:
            random.shuffle(added)
        self._servers += added
        self._move_to_end(named_by)  # It is the one in use.
        return [server for server in added if _address(server) not in before]

    def _parsed(
        self, urls: Iterable[str], named_by: Server, scheme: Scheme
    ) -> Iterable[tuple[_Address, Server]]:
        name = named_by.tls_name or (None if is_ip_address(named_by.host) else named_by.host)
        userinfo = self._userinfo if named_by in self._servers else named_by
        for url in urls:
            try:
                found = parse_server(f"{scheme}://{url}")
            except ConfigurationError:
                continue  # one invalid address is no reason to reject the others
            server = replace(
                with_userinfo(found, userinfo),
                path=named_by.path,
                tls_name=name if is_ip_address(found.host) else None,
                discovered=True,
            )
            yield _address(server), server


def _address(server: Server) -> _Address:
    return server.host, server.port
