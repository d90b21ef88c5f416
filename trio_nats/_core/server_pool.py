"""The servers that a connection may use, and the failures of each."""

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
"""Maximum number of servers to take from an INFO that an attacker may have written. Each one that
does not exist delays reconnecting by a ``connect_timeout``."""


class ServerPool:
    """The servers given by the user, and those discovered from the cluster.

    Discovered servers are removed when the cluster no longer names them. A server without
    credentials in its URL uses those of the first URL that has some.
    """

    _userinfo: Server | None
    _servers: list[Server]

    def __init__(self, seeds: Sequence[Server], *, randomize: bool) -> None:
        self._randomize = randomize
        self._use_seeds(seeds)
        self.failures: dict[Server, int] = {}
        """Number of failed attempts in a row."""
        self.short_lives: dict[Server, int] = {}
        """Number of short connections in a row. They delay reconnecting as failures do, because a
        client that reconnects at once each time would burden the server."""
        self.refused_since: dict[Server, float] = {}
        """Time of the first of several refusals of the credentials in a row with the same error."""
        self.not_before: dict[Server, float] = {}
        """Time before which not to try a server again."""
        self._last_error: dict[Server, str] = {}
        self._unverified: set[Server] = set()
        """Servers that were only named in plaintext, before the TLS handshake."""

    def _use_seeds(self, seeds: Sequence[Server]) -> None:
        self._userinfo = next((seed for seed in seeds if seed.has_userinfo), None)
        self._servers = [with_userinfo(seed, self._userinfo) for seed in seeds]
        if self._randomize:
            random.shuffle(self._servers)

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers, in the order in which they are tried."""
        return tuple(self._servers)

    def successors(
        self, current: Server, peer: Peer | None, *, include_current: bool
    ) -> Iterator[Server]:
        """Yield the servers to which a connection to ``current`` can move, each once.

        The servers may be replaced between two steps.

        :param peer: the address of ``current``, which may be another server of the pool.
        :param include_current: whether to yield ``current`` at the end.
        """
        tried = {current, *self._at(peer)}
        while left := [server for server in self._servers if server not in tried]:
            tried.add(left[0])
            yield left[0]
        if include_current and current in self._servers:
            yield current

    def failed(self, server: Server, error: Exception) -> bool:
        """Count a failure, and move the server to the end.

        :returns: whether its last failure had the same error.
        """
        self.failures[server] = self.failures.get(server, 0) + 1
        self._move_to_end(server)
        before, now = self._last_error.get(server), f"{type(error).__name__}: {error}"
        self._last_error[server] = now
        return before == now

    def connected(self, server: Server) -> None:
        """Note that a server is in use: reset all failures, and move it to the end."""
        self._reset_failures()
        self._move_to_end(server)

    def lost(self, server: Server, peer: Peer | None, *, soon: bool) -> None:
        """Note that the connection to a server has ended, and move it to the end.

        :param peer: its address, which may be another server of the pool.
        :param soon: whether the connection was short.
        """
        for known in (*self._at(peer), server):
            self._move_to_end(known)
        count = self.short_lives.pop(server, 0)
        # Forget servers that are no longer in the pool.
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

        Credentials in the URLs of the previous servers are not used for the new ones.
        """
        self._use_seeds(seeds)
        self._unverified.clear()
        self.short_lives.clear()
        self._reset_failures()

    def _reset_failures(self) -> None:
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
        """Add the members of the cluster that INFO lists, and remove those that it does not list.

        They get the scheme of the server that named them. If one is an IP address, its certificate
        must be for the name of that server.

        :returns: servers not known before.
        """
        urls = info.connect_urls
        if named_by.is_websocket and info.ws_connect_urls is not None:
            # nats-server itself sends the WebSocket addresses as connect_urls.
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
        """Add addresses from an INFO that anyone on the network path may have written.

        They are only used over TLS, and their certificate must be for ``tls_name`` or, if that is
        ``None``, for their own name. Servers known from elsewhere are not changed.

        :returns: servers not known before.
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

        :returns: the servers with a new address.
        """
        before = {_address(server) for server in self._servers}
        outdated.discard(named_by)
        self._servers = [server for server in self._servers if server not in outdated]
        known = {_address(server) for server in self._servers}
        added = [server for address, server in named.items() if address not in known]
        if self._randomize:
            random.shuffle(added)
        self._servers += added
        self._move_to_end(named_by)  # because it is in use
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
