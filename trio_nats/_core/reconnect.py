"""Choose which server to try next, how long to wait before, and when to give up.

Theory of operation. Servers are tried in the order of the pool, which moves each one to the end
after it was tried. The delay doubles with the failures and short connections in a row of the server
to be tried, up to ``max_wait``; ``ReconnectPolicy.delay`` and ``pick`` can replace that. A server
is removed after ``max_attempts`` failures in a row, or when it has refused the credentials with the
same error for ``refused_credentials_timeout``. When no server is left, reconnecting has failed.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable

import trio

from .._event_hub import EventHub
from .._transport.connector import AttemptFailed, ServerConnection
from ..errors import AuthorizationError, ConnectAttempt, ConnectError, WebSocketError
from ..events import Event, ReconnectFailed
from ..options import Candidate, ReconnectPolicy
from ..server_info import ServerInfo
from ..servers import Server
from .server_pool import ServerPool

__all__ = ["Reconnector", "connect_error"]

logger = logging.getLogger("trio_nats.reconnect")

_MAX_ATTEMPTS = 16
"""Number of attempts that the final error lists: the last ones."""
_MAX_ADDRESSES = 4
"""Maximum number of a server's addresses to try where each server is tried only once."""
_LOGGED_AT_FIRST = 3
"""Number of failures that are logged as INFO before ``_LOG_INTERVAL`` applies."""
_LOG_INTERVAL = 60.0
"""Seconds between further failures that are logged as INFO. The others are logged as DEBUG."""
_FIRST_INTERVAL = 1.0
"""Minimum number of seconds between attempts at a server that refuses the credentials."""


class Reconnector:
    """Applies a :class:`ReconnectPolicy` to a pool of servers."""

    def __init__(
        self,
        pool: ServerPool,
        policy: ReconnectPolicy,
        event_hub: EventHub[Event],
        open_one: Callable[[Server], Awaitable[ServerConnection]],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._event_hub = event_hub
        self._open_one = open_one
        self._logged_at = -math.inf

    async def first(self) -> ServerConnection:
        """Try every server once.

        :raises ConnectError: if all of them fail.
        """
        attempts: list[ConnectAttempt] = []
        for server in self._pool.servers:
            connection = await self.once(server, attempts)
            if connection is not None:
                return connection
        raise connect_error(attempts)

    async def once(self, server: Server, attempts: list[ConnectAttempt]) -> ServerConnection | None:
        """Try one server, at up to ``_MAX_ADDRESSES`` of its addresses.

        :param attempts: failed attempts are added to this list.
        :returns: the connection, or ``None`` if all attempts failed.
        """
        for _ in range(_MAX_ADDRESSES):
            try:
                connection = await self._open_one(server)
            except AttemptFailed as failed:
                attempts.append(failed.attempt)
                if not failed.another_address:
                    break
            else:
                return await self._if_wanted(server, connection)
        return None

    async def _if_wanted(
        self, server: Server, connection: ServerConnection
    ) -> ServerConnection | None:
        """Close ``connection`` and return ``None`` if the server has been removed."""
        if server in self._pool.servers:
            return connection
        await trio.aclose_forcefully(connection.stream)
        return None

    async def until_connected(self, info: ServerInfo) -> ServerConnection:
        """Try servers until one accepts.

        :param info: the last INFO of the previous server, for ``ReconnectPolicy.pick``.
        :raises ConnectError: when no server is left to try.
        """
        attempts: list[ConnectAttempt] = []
        number = 0
        while self._pool.servers:
            server, when = self._choose(info, number + 1)
            if self._exhausted(server):
                self._pool.remove(server)
                continue
            await trio.sleep_until(when)
            if server not in self._pool.servers:
                continue  # removed while waiting
            number += 1
            try:
                connection = await self._if_wanted(server, await self._open_one(server))
            except AttemptFailed as failed:
                attempts = [*attempts[1 - _MAX_ATTEMPTS :], failed.attempt]
                self._record_failure(server, number, failed.attempt.error)
            else:
                if connection is not None:
                    return connection
        raise connect_error(attempts)

    def _exhausted(self, server: Server) -> bool:
        limit = self._policy.max_attempts
        return limit is not None and self._pool.failures.get(server, 0) >= limit

    def _record_failure(self, server: Server, number: int, error: Exception) -> None:
        repeated = self._pool.failed(server, error)
        self._event_hub.emit(ReconnectFailed(server.url, number, error))
        self._log(server, number, error)
        if _is_refusal(error) and self._policy.refused_credentials_timeout < math.inf:
            self._record_refusal(server, repeated, error)

    def _log(self, server: Server, number: int, error: Exception) -> None:
        now = trio.current_time()
        level = logging.DEBUG
        if number <= _LOGGED_AT_FIRST or now >= self._logged_at + _LOG_INTERVAL:
            level, self._logged_at = logging.INFO, now
        logger.log(level, "attempt %d to connect, to %s, failed: %s", number, server, str(error))

    def _record_refusal(self, server: Server, repeated: bool, error: Exception) -> None:
        """Double the interval of a server that refuses the credentials, and finally remove it."""
        now, since = trio.current_time(), self._pool.refused_since
        if not repeated:
            since[server] = now
        end = since[server] + self._policy.refused_credentials_timeout
        if repeated and now >= end:
            logger.warning(
                "giving up on %s, which keeps refusing the credentials: %s", server, str(error)
            )
            self._pool.remove(server)
        else:
            interval = max(now - since[server], _FIRST_INTERVAL)
            self._pool.not_before[server] = min(now + interval, end)

    def _choose(self, info: ServerInfo, number: int) -> tuple[Server, float]:
        """Return the server to try next, and the time at which to try it."""
        now, not_before = trio.current_time(), self._pool.not_before
        server = min(self._pool.servers, key=lambda known: max(now, not_before.get(known, now)))
        if self._policy.pick is not None:
            try:
                picked = self._policy.pick(self._candidates(), info)
                if isinstance(picked, tuple):
                    return self._candidate(picked[0]), now + max(0.0, float(picked[1]))
                if picked is not None:
                    server = self._candidate(picked)
            except Exception:
                logger.exception("ReconnectPolicy.pick failed; trying the next server instead")
        return server, max(now + self._delay(server, number), not_before.get(server, now))

    def _candidates(self) -> tuple[Candidate, ...]:
        failures = self._pool.failures
        return tuple(Candidate(s, failures.get(s, 0)) for s in self._pool.servers)

    def _candidate(self, server: Server) -> Server:
        if server not in self._pool.servers:
            raise ValueError(f"pick must return one of the candidates, not {server}")
        return server

    def _delay(self, server: Server, number: int) -> float:
        pool = self._pool
        return self.delay(number, pool.failures.get(server, 0) + pool.short_lives.get(server, 0))

    def delay(self, number: int, failures: int) -> float:
        """Return the seconds to wait before an attempt.

        :param number: counts attempts at all servers, from 1.
        :param failures: failures in a row of the server to be tried.
        """
        policy = self._policy
        if policy.delay is not None:
            try:
                return max(0.0, float(policy.delay(number)))
            except Exception:
                logger.exception("ReconnectPolicy.delay failed; using wait and max_wait instead")
        ceiling = min(policy.max_wait, policy.wait * 2.0 ** min(failures, 32))
        return ceiling * (1 - policy.jitter * random.random())


def _is_refusal(error: Exception) -> bool:
    """Return whether the server, or a proxy in front of it, has refused the credentials."""
    if isinstance(error, WebSocketError):
        return error.status in (401, 403)
    # After a timeout the server has not checked the credentials. It may just be busy, for example
    # because all clients reconnect to it.
    timeout = "authentication timeout"
    return isinstance(error, AuthorizationError) and timeout not in error.message.lower()


def connect_error(attempts: list[ConnectAttempt]) -> ConnectError:
    """Return the error for failed attempts, with their errors as its cause."""
    error = ConnectError(attempts)
    causes = [attempt.error for attempt in attempts]
    if len(causes) == 1:
        error.__cause__ = causes[0]
    elif causes:
        error.__cause__ = ExceptionGroup("every server failed", causes)
    return error
