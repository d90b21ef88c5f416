"""Choose which server to try next, how long to wait before, and when to give up."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable

import trio

from .._transport.connector import AttemptFailed, ServerConnection
from ..errors import AuthorizationError, ConnectAttempt, ConnectError, WebSocketError
from ..events import ReconnectFailed
from ..options import Candidate, ReconnectPolicy
from ..server_info import ServerInfo
from ..servers import Server
from .event_hub import EventHub
from .server_pool import ServerPool

__all__ = ["Reconnector", "connect_error"]

logger = logging.getLogger("trio_nats.reconnect")

_REMEMBERED = 16
"""Number of attempts in the final error: the last ones."""
_MOST_ADDRESSES = 4
"""Number of addresses of a server to try if the server is tried only once."""
_LOGGED_AT_FIRST = 3
_LOG_INTERVAL = 60.0
"""The first ``_LOGGED_AT_FIRST`` failures are logged as INFO, then one every ``_LOG_INTERVAL``
seconds."""
_FIRST_INTERVAL = 1.0
"""Seconds between the first two attempts on a server that refuses the credentials."""


class Reconnector:
    """Applies a :class:`ReconnectPolicy` to a pool of servers."""

    def __init__(
        self,
        pool: ServerPool,
        policy: ReconnectPolicy,
        event_hub: EventHub,
        open_one: Callable[[Server], Awaitable[ServerConnection]],
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._event_hub = event_hub
        self._open_one = open_one
        self._logged_at = -math.inf

    async def first(self) -> ServerConnection:
        """Try every server once. Raises :exc:`ConnectError` if all fail."""
        attempts: list[ConnectAttempt] = []
        for server in self._pool.servers:
            connection = await self.once(server, attempts)
            if connection is not None:
                return connection
        raise connect_error(attempts)

    async def once(self, server: Server, attempts: list[ConnectAttempt]) -> ServerConnection | None:
        """Try one server, at up to ``_MOST_ADDRESSES`` of its addresses.

        Returns ``None`` if all attempts failed, and adds them to ``attempts``.
        """
        for _ in range(_MOST_ADDRESSES):
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
        """Return ``connection``; if the server has been removed, close it and return ``None``."""
        if server in self._pool.servers:
            return connection
        await trio.aclose_forcefully(connection.stream)
        return None

    async def until_connected(self, info: ServerInfo) -> ServerConnection:
        """Try until a server accepts. Raises :exc:`ConnectError` when no server is left to try."""
        attempts: list[ConnectAttempt] = []
        number = 0
        while self._pool.servers:
            server, when = self._choose(info, number + 1)
            if self._exhausted(server):
                self._pool.remove(server)
                continue
            await trio.sleep_until(when)
            if server not in self._pool.servers:
                continue  # it has been replaced
            number += 1
            try:
                connection = await self._if_wanted(server, await self._open_one(server))
            except AttemptFailed as failed:
                attempts = [*attempts[1 - _REMEMBERED :], failed.attempt]
                self._note(server, number, failed.attempt.error)
            else:
                if connection is not None:
                    return connection
        raise connect_error(attempts)

    def _exhausted(self, server: Server) -> bool:
        most = self._policy.max_attempts
        return most is not None and self._pool.failures.get(server, 0) >= most

    def _note(self, server: Server, number: int, error: Exception) -> None:
        repeated = self._pool.failed(server, error)
        self._event_hub.emit(ReconnectFailed(server.url, number, error))
        self._log(server, number, error)
        if _is_refusal(error) and self._policy.refused_credentials_timeout < math.inf:
            self._note_refusal(server, repeated, error)

    def _log(self, server: Server, number: int, error: Exception) -> None:
        now = trio.current_time()
        level = logging.DEBUG
        if number <= _LOGGED_AT_FIRST or now >= self._logged_at + _LOG_INTERVAL:
            level, self._logged_at = logging.INFO, now
        logger.log(level, "attempt %d to connect, to %s, failed: %s", number, server, str(error))

    def _note_refusal(self, server: Server, repeated: bool, error: Exception) -> None:
        """Retry a server that refuses the credentials at doubling intervals, then give it up."""
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
        """Return the server to try next, and when."""
        now, not_before = trio.current_time(), self._pool.not_before
        server = min(self._pool.servers, key=lambda known: max(now, not_before.get(known, now)))
        if self._policy.pick is not None:
            try:
                picked = self._policy.pick(self._candidates(), info)
                if isinstance(picked, tuple):
                    return self._known(picked[0]), now + max(0.0, float(picked[1]))
                if picked is not None:
                    server = self._known(picked)
            except Exception:
                logger.exception("ReconnectPolicy.pick failed; trying the next server instead")
        return server, max(now + self._delay(server, number), not_before.get(server, now))

    def _candidates(self) -> tuple[Candidate, ...]:
        failures = self._pool.failures
        return tuple(Candidate(s, failures.get(s, 0)) for s in self._pool.servers)

    def _known(self, server: Server) -> Server:
        if server not in self._pool.servers:
            raise ValueError(f"pick must return one of the candidates, not {server}")
        return server

    def _delay(self, server: Server, number: int) -> float:
        pool = self._pool
        return self.delay(number, pool.failures.get(server, 0) + pool.short_lives.get(server, 0))

    def delay(self, number: int, failures: int) -> float:
        """Seconds to wait before attempt ``number``, after ``failures`` of the same server."""
        policy = self._policy
        if policy.delay is not None:
            try:
                return max(0.0, float(policy.delay(number)))
            except Exception:
                logger.exception("ReconnectPolicy.delay failed; using wait and max_wait instead")
        ceiling = min(policy.max_wait, policy.wait * 2.0 ** min(failures, 32))
        return ceiling * (1 - policy.jitter * random.random())


def _is_refusal(error: Exception) -> bool:
    """Whether credentials were refused, by the server or by a proxy in front of it."""
    if isinstance(error, WebSocketError):
        return error.status in (401, 403)
    # A timeout is no refusal: a busy server, say one that all clients reconnect to, did not look
    # at the credentials.
    late = "authentication timeout"
    return isinstance(error, AuthorizationError) and late not in error.message.lower()


def connect_error(attempts: list[ConnectAttempt]) -> ConnectError:
    """Return the error for attempts that all failed, with their errors as its cause."""
    error = ConnectError(attempts)
    causes = [attempt.error for attempt in attempts]
    if len(causes) == 1:
        error.__cause__ = causes[0]
    elif causes:
        error.__cause__ = ExceptionGroup("every server failed", causes)
    return error
