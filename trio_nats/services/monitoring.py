"""Respond to discovery requests: PING, INFO and STATS on ``$SRV`` (ADR-32).

The asking side is in :mod:`.discovery`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ..connection_base import BaseConnection
from ..errors import ConnectionLostError, MaxPayloadError, NatsError
from ..message import Msg
from ..subscription import Subscription
from .errors import ServiceError
from .schemas import (
    PREFIX,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    encode_stats,
    monitoring_subject,
)

__all__ = ["Monitor", "create_monitors"]

_logger = logging.getLogger("trio_nats.services")


class Monitor:
    """Responds to the requests on one subject.

    :param service: the name of the service, for the log.
    :param sub: the subscription, which the caller enters and closes.
    :param response: returns the response to a request.
    """

    def __init__(self, service: str, sub: Subscription, response: Callable[[], bytes]) -> None:
        self.sub = sub
        sub._helpers = frozenset()
        self._service = service
        self._response = response

    async def run(self) -> None:
        """Respond to requests.

        Return if the server forbids the subscription: endpoints work without it.

        :raises ConnectionLostError: if the connection is gone for good.
        :raises trio.ClosedResourceError: if the connection or the subscription is closed.
        :raises trio.EndOfChannel: if the connection or the subscription has been drained.
        """
        while True:
            try:
                msg = await self.sub.receive()
            except ConnectionLostError:
                raise
            except NatsError as error:
                _logger.warning(
                    "service %r cannot respond to discovery on %r: %s",
                    self._service,
                    self.sub.subject,
                    str(error),
                )
                return
            if msg.reply is not None:
                self.sub._being_handled += 1
                try:
                    await self._respond(msg)
                finally:
                    self.sub._note_handled()

    async def _respond(self, msg: Msg) -> None:
        try:
            try:
                await msg.respond(self._response())
            except MaxPayloadError as error:
                self._warn(msg, error)
                failure = ServiceError(500, "the response is too large")
                await msg.respond(headers=failure.headers)
        except NatsError as error:
            self._warn(msg, error)

    def _warn(self, msg: Msg, error: NatsError) -> None:
        _logger.warning("service %r: no response on %r: %s", self._service, msg.subject, str(error))


def create_monitors(
    nc: BaseConnection,
    ping: ServicePing,
    info: Callable[[], ServiceInfo],
    stats: Callable[[], ServiceStats],
) -> list[Monitor]:
    """Return monitors for all subjects: of all services, of this one, and of this instance."""
    encoded_ping = msgspec.json.encode(ping)
    responses: dict[str, Callable[[], bytes]] = {
        "PING": lambda: encoded_ping,
        "INFO": lambda: msgspec.json.encode(info()),
        "STATS": lambda: encode_stats(stats()),
    }
    return [
        Monitor(ping.name, nc.subscribe(monitoring_subject(PREFIX, verb, *whose)), response)
        for verb, response in responses.items()
        for whose in ((None, None), (ping.name, None), (ping.name, ping.id))
    ]
